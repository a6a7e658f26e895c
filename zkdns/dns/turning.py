"""Whose turn it is for one question, whichever way it is asked, told with as little as possible.

Most questions are asked in one way only. Their responses stand in a circle, which is all that an answer has
to look at; what must be looked at is what an answer costs (measured: a twentieth of it). As soon as somebody
asks in another way, both count the same turns:

    asked in one way      next(circle) ──▶ response
    asked in several      next(counted) ──▶ turn ──▶ rotation[turn] ──▶ response
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from zkdns.dns.rotation import Rotation

# Of more turns than that the numbers would take more memory than counting takes time.
_LONGEST_CYCLE = 256


class _Alone(msgspec.Struct):
    """The only answer to a question that is remembered: where, and its responses by turn."""

    answers: dict[bytes, Iterator[bytes]]
    key: bytes
    rotation: Rotation
    circle: Iterator[bytes]
    responses: tuple[bytes, ...]

    def turn(self) -> int:
        """Take the next turn."""
        return self.responses.index(next(self.circle))


class RotationCounter:
    """The turns of a question, from 0 to below the period, for ever.

    Attributes:
        period: after how many turns the order of its records is the same again.

    Args:
        first: the turn to begin with.
        period: as above.
    """

    __slots__ = ("_alone", "_counted", "_kept", "period")

    def __init__(self, first: int, period: int) -> None:
        self.period = period
        self._counted = _counted(first, period)
        self._kept = 0
        self._alone: _Alone | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        return self._alone.turn() if self._alone is not None else next(self._counted)

    def answer(self, answers: dict[bytes, Iterator[bytes]], key: bytes, rotation: Rotation) -> None:
        """Put the responses of that rotation there, each time the one whose turn it is; until `leave`."""
        self._kept += 1
        if self._kept == 1 and (responses := rotation.all_kept(self.period)):
            first = next(self._counted)
            circle = itertools.cycle(responses[first:] + responses[:first])
            self._alone = _Alone(answers, key, rotation, circle, responses)
            answers[key] = circle
            return
        if self._alone is not None:
            before = self._alone
            self._count()
            before.rotation.update(enumerate(before.responses))
            before.answers[before.key] = map(before.rotation.__getitem__, self._counted)
        answers[key] = map(rotation.__getitem__, self._counted)

    def leave(self) -> None:
        """Take notice that one of the answers is not there any more."""
        self._kept -= 1
        self._count()

    def _count(self) -> None:
        """Go on by numbers where the circle is."""
        if self._alone is not None:
            self._counted = _counted(self._alone.turn(), self.period)
            self._alone = None


def _counted(first: int, period: int) -> Iterator[int]:
    """Turns from there on, for ever."""
    if period == 1:
        return itertools.repeat(0)
    if period > _LONGEST_CYCLE:
        return map(operator.mod, itertools.count(first), itertools.repeat(period))
    return itertools.cycle([*range(first, period), *range(first)])
