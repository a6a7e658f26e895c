"""The garbage collector of an answerer: it holds nobody up, and what only it can free is freed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from zkdns.daemon.loading import collect_all, collect_only_what_is_new


class Cycle:
    """What reference counts do not free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def full_collections() -> int:
    return int(gc.get_stats()[2]["collections"])


def test_new_cycles_are_freed_and_no_full_collection_comes_by_itself() -> None:
    gc.collect()
    collect_only_what_is_new()
    before = full_collections()
    made = [weakref.ref(Cycle()) for _ in range(20_000)]
    kept = [[number] for number in range(200_000)]
    assert full_collections() == before
    assert sum(one() is not None for one in made) < 5_000
    assert kept


def test_what_lived_long_is_freed_when_everything_is_looked_at() -> None:
    gc.collect()
    collect_only_what_is_new()
    old = Cycle()
    gone = weakref.ref(old)
    kept = [[number] for number in range(50_000)]  # so it is not new any more
    del old
    kept += [[number] for number in range(50_000)]
    assert gone() is not None
    collect_all()
    assert gone() is None
    assert gc.get_freeze_count() > 0
