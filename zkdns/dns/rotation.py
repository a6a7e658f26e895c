"""The responses to one query, turn by turn: each is a stretch of the RRset's ring in the query's envelope."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Self

import msgspec

from zkdns.dns.message import ResponseTemplate
from zkdns.dns.rrset import PackedRRset

# What one rotation keeps of its responses: as much as a set of some fifty members needs over UDP. Those of
# larger sets are made anew each time (some microseconds), lest a few of them fill the memory.
_MOST_KEPT = 1 << 16
_OVERHEAD = 50  # bytes beside each kept response
# So many responses at most are made as soon as one is asked for: those of most sets.
_FEW = 16


class MemoryBudget:
    """How many bytes may be taken in all, and how many are."""

    def __init__(self, most: int) -> None:
        self.used = 0
        self._most = most

    def has_room(self, size: int) -> bool:
        """Whether there is room for so many bytes more."""
        return self.used + size <= self._most

    def take(self, size: int) -> bool:
        """Take so many bytes, if there is room for them."""
        if not self.has_room(size):
            return False
        self.used += size
        return True


class Rotation(dict[int, bytes]):
    """The responses by turn, each made when its turn first comes.

    They are kept only after `keep_in` has said where, and while there is room.

    Attributes:
        kept: bytes of the responses that are kept.
        turns: whose turn it is.
    """

    __slots__ = ("_budget", "kept_bytes", "turns")

    def __init__(self, turns: RotationCounter) -> None:
        self.kept_bytes = 0
        self.turns = turns
        self._budget: MemoryBudget | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        raise NotImplementedError

    def make(self, index: int) -> bytes:
        """The response of the turn with that number."""
        raise NotImplementedError

    def keep_within(self, budget: MemoryBudget) -> None:
        """Keep responses from now on, as far as this has room."""
        self._budget = budget

    def keep_all(self, period: int) -> tuple[bytes, ...]:
        """The responses of all turns, if there are few, no two are equal, and there is room; else none."""
        if self._budget is None or period > _FEW:
            return ()
        first = self.make(0)
        expected = period * (len(first) + _OVERHEAD)
        if self.kept_bytes + expected > _MOST_KEPT or not self._budget.has_room(expected):
            return ()
        responses = (first, *map(self.make, range(1, period)))
        size = sum(map(len, responses)) + period * _OVERHEAD
        if len(set(responses)) < period or not self._budget.take(size):
            return ()
        self.kept_bytes += size
        return responses

    def __missing__(self, index: int) -> bytes:
        response = self.make(index)
        size = len(response) + _OVERHEAD
        if self._budget is not None and self.kept_bytes + size <= _MOST_KEPT and self._budget.take(size):
            self.kept_bytes += size
            self[index] = response
        return response


class FullRotation(Rotation):
    """Where every response holds all records and all glue, between the same two ends.

    Args:
        packed: the records; none is held.
        turns: whose turn it is.
        before: what stands before the records.
        behind: what stands behind them.
    """

    __slots__ = ("_before", "_behind", "_packed")

    def __init__(self, packed: PackedRRset, turns: RotationCounter, before: bytes, held_count: bytes) -> None:
        super().__init__(turns)
        # The glue stands in what is behind; its own rings may go.
        self._packed = msgspec.structs.replace(packed, leading_additional=None)
        self._before, self._behind = before, held_count

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        return self._packed.size + len(self._before) + len(self._behind)

    def make(self, index: int) -> bytes:
        """All records, from the one whose turn it is."""
        stretch = self._packed.leading.rotated(self._packed.leader(index))
        return b"".join((self._before, *stretch, self._behind))


class PartialRotation(Rotation):
    """Where responses hold as many records as they may, and what there is room for.

    Args:
        packed: the records.
        turns: whose turn it is.
        template: what is around them.
        room: how many bytes of records there may be.
        most: how many records there may be; no more than there are.
        encode: makes of a response after its id what is to be handed out.
        on_cut: called for each response made that lacks records of the answer.
    """

    __slots__ = ("_encode", "_most", "_on_cut", "_packed", "_room", "_template")

    def __init__(
        self,
        packed: PackedRRset,
        turns: RotationCounter,
        template: ResponseTemplate,
        *,
        room: int,
        most: int,
        encode: Callable[[bytes], bytes],
        on_cut: Callable[[], None],
    ) -> None:
        super().__init__(turns)
        self._packed, self._template, self._encode, self._on_cut = packed, template, encode, on_cut
        self._room, self._most = room, most

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        return self._packed.size + len(self._template.question) + len(self._template.opt)

    def make(self, index: int) -> bytes:
        """As many records as fit (RFC 2181 §9), and glue where they all do."""
        packed, most, room = self._packed, self._most, self._room
        first = packed.leader(index)
        answers, leading, _ = packed.leading.take(first, min(most, packed.leading.count), room)
        room -= len(answers)
        held_count = 0
        if packed.held is not None and leading == packed.leading.count:
            wanted = min(most - leading, packed.held.count)
            more, held_count, _ = packed.held.take(index % packed.held.count, wanted, room)
            answers, room = answers + more, room - len(more)
        count = leading + held_count
        if count < most:
            self._on_cut()
            return self._encode(self._template.build(answers, count, 0, 0, truncated=True))
        additional, additional_count = self._additional(index, leading, held_count, room)
        return self._encode(self._template.build(answers + additional, count, 0, additional_count))

    def _additional(self, index: int, leading: int, held_count: int, room: int) -> tuple[bytes, int]:
        """The glue of so many records that lead and stand behind, as far as there is room, and its number."""
        packed = self._packed
        additional, additional_count = b"", 0
        if packed.leading_additional is not None:
            additional, pieces, additional_count = packed.leading_additional.take(
                packed.leader(index), leading, room
            )
            if pieces < leading:
                return additional, additional_count
        if held_count and packed.held_additional is not None:
            first = index % packed.held_additional.count
            more, _, records = packed.held_additional.take(first, held_count, room - len(additional))
            additional, additional_count = additional + more, additional_count + records
        return additional, additional_count


def make_rotation(
    packed: PackedRRset,
    turns: RotationCounter,
    template: ResponseTemplate,
    *,
    limit: int,
    most: int | None,
    encode: Callable[[bytes], bytes],
    on_cut: Callable[[], None],
) -> Rotation:
    """The responses with these records.

    Args:
        packed: the records.
        turns: whose turn it is.
        template: what is around them.
        limit: bytes of the longest message.
        most: of how many records a response may consist; None: of all.
        encode: makes of a response after its id what is to be handed out.
        on_cut: called for each response made that lacks records of the answer.
    """
    room = template.room_for_records(limit)
    answers, count = packed.leading.whole
    additional, additional_count = (
        packed.leading_additional.whole if packed.leading_additional is not None else (b"", 0)
    )
    if packed.held is None and (most is None or most >= count) and len(answers) + len(additional) <= room:
        response = encode(template.build(answers + additional, count, 0, additional_count))
        end = len(response) - len(additional) - len(template.opt)
        return FullRotation(packed, turns, response[: end - len(answers)], response[end:])
    most = packed.count if most is None else min(most, packed.count)
    return PartialRotation(packed, turns, template, room=room, most=most, encode=encode, on_cut=on_cut)


# Of more turns than that the numbers would take more memory than counting takes time.
_LONGEST_CYCLE = 256


class _Alone(msgspec.Struct):
    """The only answer to a question that is remembered: where, and its responses by turn."""

    answers: dict[bytes, Iterator[bytes]]
    key: bytes
    rotation: Rotation
    circle: Iterator[bytes]
    responses: tuple[bytes, ...]

    def index(self) -> int:
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
        return self._alone.index() if self._alone is not None else next(self._counted)

    def answer(self, answers: dict[bytes, Iterator[bytes]], key: bytes, rotation: Rotation) -> None:
        """Put the responses of that rotation there, each time the one whose turn it is; until `leave`."""
        self._kept += 1
        if self._kept == 1 and (responses := rotation.keep_all(self.period)):
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
            self._counted = _counted(self._alone.index(), self.period)
            self._alone = None


def _counted(first: int, period: int) -> Iterator[int]:
    """Turns from there on, for ever."""
    if period == 1:
        return itertools.repeat(0)
    if period > _LONGEST_CYCLE:
        return map(operator.mod, itertools.count(first), itertools.repeat(period))
    return itertools.cycle([*range(first, period), *range(first)])
