"""The rotation index, whether cache entries read a cycle or count, and across changes between both."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.dns.rotation import MemoryBudget, Rotation, RotationCounter

MANY = 17  # more than are built together


class Letters(Rotation):
    """A response for each index, different for each query form."""

    def __init__(self, counter: RotationCounter, form: int) -> None:
        super().__init__(counter)
        self.form = form
        self.built = 0

    @property
    def size(self) -> int:
        return 1

    def build(self, index: int) -> bytes:
        self.built += 1
        return b"%d of form %d" % (index, self.form)


class Entries(dict[bytes, Iterator[bytes]]):
    """Cache entries, written by this class alone."""

    def add(self, key: bytes, rotation: Rotation, room: int = 1000) -> None:
        self[key] = rotation.join(key, MemoryBudget(room), self.__setitem__)


def index_of(response: bytes) -> int:
    return int(response.split()[0])


@given(
    period=st.integers(1, MANY),
    first=st.integers(0, MANY),
    steps=st.lists(st.tuples(st.sampled_from(("join", "leave", "query", "uncached")), st.integers(0, 2))),
    room=st.sampled_from((0, 200, 1 << 20)),
)
def test_an_index_is_never_skipped_or_repeated(
    period: int, first: int, steps: list[tuple[str, int]], room: int
) -> None:
    counter = RotationCounter(first % period, period)
    entries, rotations = Entries(), dict[bytes, Rotation]()
    expected = first % period
    for step, form in steps:
        key = b"%d" % form
        if step == "join" and key not in entries:
            rotations[key] = Letters(counter, form)
            entries.add(key, rotations[key], room)
        elif step == "leave" and key in entries:
            del entries[key]
            rotations.pop(key).leave()
        elif step == "query" and key in entries:
            assert next(entries[key]) == b"%d of form %d" % (expected, form)
            expected = (expected + 1) % period
        elif step == "uncached":
            assert next(counter) == expected
            expected = (expected + 1) % period


def test_a_sole_entry_reads_a_cycle_and_no_response_is_built_twice() -> None:
    counter = RotationCounter(2, 5)
    entries = Entries()
    one, other = Letters(counter, 1), Letters(counter, 2)
    entries.add(b"1", one)
    assert [index_of(next(entries[b"1"])) for _ in range(12)] == [2, 3, 4, 0, 1] * 2 + [2, 3]
    assert (one.built, len(one)) == (5, 0)
    entries.add(b"2", other)
    assert [index_of(next(entries[key])) for key in (b"1", b"2", b"2", b"1")] == [4, 0, 1, 2]
    assert one.built == 5


@pytest.mark.parametrize("room", [0, 5 * (10 + 50) - 1])
def test_without_room_for_all_responses_each_is_built_when_needed(room: int) -> None:
    counter = RotationCounter(0, 5)
    entries = Entries()
    rotation = Letters(counter, 1)
    entries.add(b"1", rotation, room)
    assert rotation.built <= 1
    assert [index_of(next(entries[b"1"])) for _ in range(6)] == [0, 1, 2, 3, 4, 0]


def test_equal_responses_are_counted_instead_of_cycled() -> None:
    counter = RotationCounter(0, 4)
    entries = Entries()

    class Weighted(Letters):
        def build(self, index: int) -> bytes:
            return b"%d" % (index // 2)

    entries.add(b"1", Weighted(counter, 1))
    taken = [next(entries[b"1"]) for _ in range(random.Random(1).randrange(8))]
    assert next(counter) == len(taken) % 4


def test_leaving_releases_the_memory_of_kept_responses() -> None:
    counter, budget = RotationCounter(0, 3), MemoryBudget(1000)
    rotation = Letters(counter, 1)
    rotation.join(b"1", budget, Entries().__setitem__)
    assert budget.used == rotation.kept_bytes > 0
    rotation.leave()
    assert budget.used == 0
