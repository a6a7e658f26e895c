"""`StepRunner.release`: large objects are freed in pieces, and what is in use elsewhere remains."""

from __future__ import annotations

from collections.abc import Callable

from zkdns.dns.steps import RELEASED_AT_ONCE, StepRunner

COUNT = 5 * RELEASED_AT_ONCE


class Counted:
    """Counts the objects that exist."""

    alive = 0

    def __init__(self) -> None:
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1


class Owner:
    """Has a container of many objects, and perhaps another owner."""

    def __init__(self, count: int, owned: object = None) -> None:
        self.by_number = {number: Counted() for number in range(count)}
        self.owned = owned


def freed_by_each_piece(owner: list[Owner]) -> list[int]:
    """Release the only object of the list, which becomes empty; return how many objects each piece frees."""
    pieces: list[Callable[[], None]] = []
    runner = StepRunner()
    runner.defer, runner.containers = pieces.append, (Owner,)
    runner.release(owner.pop())
    freed = []
    while pieces:
        before = Counted.alive
        pieces.pop()()
        freed.append(before - Counted.alive)
    return freed


def test_a_large_object_is_freed_in_pieces() -> None:
    freed = freed_by_each_piece([Owner(COUNT, Owner(COUNT))])
    assert sum(freed) == 2 * COUNT
    assert max(freed) <= RELEASED_AT_ONCE


def test_parts_in_use_elsewhere_remain() -> None:
    owner = Owner(COUNT)
    kept = owner.by_number
    owners = [owner]
    del owner
    assert sum(freed_by_each_piece(owners)) == 0
    assert len(kept) == COUNT


def test_a_second_object_waits_for_the_pieces_of_the_first() -> None:
    pieces: list[Callable[[], None]] = []
    runner = StepRunner()
    runner.defer, runner.containers = pieces.append, (Owner,)
    for _ in range(2):
        runner.release(Owner(COUNT))
    assert len(pieces) == 1
    while pieces:
        pieces.pop()()
    assert Counted.alive == 0


def test_without_an_event_loop_it_is_freed_at_once() -> None:
    StepRunner().release(Owner(COUNT))
    assert Counted.alive == 0
