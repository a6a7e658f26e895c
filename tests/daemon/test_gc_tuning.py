"""What the garbage collector does, and that it has nothing to do where it does nothing."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from collections.abc import Iterator

import pytest

from tests.dns.helpers import Server, many, put
from tests.robustness.mutations import Mutator, ordinary_messages
from zkdns.daemon.gc_tuning import collect_all, collect_young_generations_only

SERVICES = 10


@pytest.fixture
def _threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    """What reference counts do not free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.usefixtures("_threshold")
def test_no_full_collection_comes_by_itself() -> None:
    collected: set[int] = set()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collected.add(info["generation"])

    gc.freeze()  # or what others have left behind decides when there is enough for a full one
    gc.collect()
    gc.callbacks.append(note)
    try:
        for seen in ({0, 1, 2}, {0, 1}):
            collected.clear()
            kept = [[number] for number in range(300_000)]
            assert collected == seen
            kept.clear()
            collect_young_generations_only()
    finally:
        gc.callbacks.remove(note)


def test_neither_a_table_nor_an_answer_has_cycles() -> None:
    names = [f"s{number}.staging" for number in range(SERVICES)]
    server = Server({name: many(12) for name in names})
    seeds = ordinary_messages([f"{name}.discovery" for name in names])
    messages = list(itertools.islice(Mutator(seeds, random.Random(1)), 5000))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for message in messages:
            for stream in (False, True):
                server.respond(message, stream=stream)
        assert len(server.datagrams) > 500
        for number, name in enumerate(names):
            server.apply(put(name, many(number)))
        server.authority.forget_all()
        gc.collect()
        assert [entry for entry in gc.garbage if type(entry).__module__.startswith("zkdns.")] == []
        assert len(gc.garbage) < 100  # of which none is an answer's
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


@pytest.mark.usefixtures("_threshold")
def test_a_cycle_that_lived_long_is_freed_when_everything_is_looked_at() -> None:
    gc.collect()
    collect_young_generations_only()
    old = Cycle()
    gone = weakref.ref(old)
    kept = [[number] for number in range(50_000)]  # so it is not new any more
    del old
    kept += [[number] for number in range(50_000)]
    assert gone() is not None
    collect_all()
    assert gone() is None
    assert gc.get_freeze_count() >= len(kept)
