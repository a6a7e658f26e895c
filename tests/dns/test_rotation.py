"""Turns are the same whether they are told by a circle or by numbers, and go on from each to each."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.dns.rotation import MemoryBudget, Rotation, RotationCounter

MANY = 17  # more than are made at once


class Letters(Rotation):
    """A response for each turn, in a way of its own."""

    def __init__(self, turns: RotationCounter, way: int) -> None:
        super().__init__(turns)
        self.way = way
        self.made = 0

    @property
    def size(self) -> int:
        return 1

    def make(self, turn: int) -> bytes:
        self.made += 1
        return b"%d of way %d" % (turn, self.way)


def turn_of(response: bytes) -> int:
    return int(response.split()[0])


@given(
    period=st.integers(1, MANY),
    first=st.integers(0, MANY),
    steps=st.lists(st.tuples(st.sampled_from(("join", "leave", "ask", "one-off")), st.integers(0, 2))),
    room=st.sampled_from((0, 200, 1 << 20)),
)
def test_a_turn_is_never_left_out_or_taken_twice(
    period: int, first: int, steps: list[tuple[str, int]], room: int
) -> None:
    turns = RotationCounter(first % period, period)
    answers: dict[bytes, Iterator[bytes]] = {}
    expected = first % period
    for step, way in steps:
        key = b"%d" % way
        if step == "join" and key not in answers:
            rotation = Letters(turns, way)
            rotation.keep_within(MemoryBudget(room))
            turns.answer(answers, key, rotation)
        elif step == "leave" and key in answers:
            del answers[key]
            turns.leave()
        elif step == "ask" and key in answers:
            assert next(answers[key]) == b"%d of way %d" % (expected, way)
            expected = (expected + 1) % period
        elif step == "one-off":
            assert next(turns) == expected
            expected = (expected + 1) % period


def test_who_is_alone_stands_in_a_circle_and_nothing_is_made_twice() -> None:
    turns = RotationCounter(2, 5)
    answers: dict[bytes, Iterator[bytes]] = {}
    one, other = Letters(turns, 1), Letters(turns, 2)
    for rotation in (one, other):
        rotation.keep_within(MemoryBudget(1000))
    turns.answer(answers, b"1", one)
    assert [turn_of(next(answers[b"1"])) for _ in range(12)] == [2, 3, 4, 0, 1] * 2 + [2, 3]
    assert (one.made, len(one)) == (5, 0)
    turns.answer(answers, b"2", other)
    assert [turn_of(next(answers[key])) for key in (b"1", b"2", b"2", b"1")] == [4, 0, 1, 2]
    assert one.made == 5


@pytest.mark.parametrize("room", [0, 5 * (10 + 50) - 1])
def test_where_there_is_no_room_for_all_responses_none_is_made_before_its_turn(room: int) -> None:
    turns = RotationCounter(0, 5)
    answers: dict[bytes, Iterator[bytes]] = {}
    rotation = Letters(turns, 1)
    rotation.keep_within(MemoryBudget(room))
    turns.answer(answers, b"1", rotation)
    assert rotation.made <= 1
    assert [turn_of(next(answers[b"1"])) for _ in range(6)] == [0, 1, 2, 3, 4, 0]


def test_responses_that_cannot_be_told_apart_are_counted() -> None:
    turns = RotationCounter(0, 4)
    answers: dict[bytes, Iterator[bytes]] = {}

    class Weighted(Letters):
        def make(self, turn: int) -> bytes:
            return b"%d" % (turn // 2)

    rotation = Weighted(turns, 1)
    rotation.keep_within(MemoryBudget(1000))
    turns.answer(answers, b"1", rotation)
    taken = [next(answers[b"1"]) for _ in range(random.Random(1).randrange(8))]
    assert next(turns) == len(taken) % 4
