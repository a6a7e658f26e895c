"""The responses to one query, turn by turn: each is a stretch of the RRset's ring in the query's envelope."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from zkdns.dns.turning import RotationCounter
from zkdns.dns.rrset import PackedRRset
from zkdns.dns.message import ResponseTemplate

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

    __slots__ = ("_budget", "kept", "turns")

    def __init__(self, turns: RotationCounter) -> None:
        self.kept = 0
        self.turns = turns
        self._budget: MemoryBudget | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        raise NotImplementedError

    def make(self, turn: int) -> bytes:
        """The response of the turn with that number."""
        raise NotImplementedError

    def keep_in(self, budget: MemoryBudget) -> None:
        """Keep responses from now on, as far as this has room."""
        self._budget = budget

    def all_kept(self, period: int) -> tuple[bytes, ...]:
        """The responses of all turns, if there are few, no two are equal, and there is room; else none."""
        if self._budget is None or period > _FEW:
            return ()
        first = self.make(0)
        expected = period * (len(first) + _OVERHEAD)
        if self.kept + expected > _MOST_KEPT or not self._budget.has_room(expected):
            return ()
        responses = (first, *map(self.make, range(1, period)))
        size = sum(map(len, responses)) + period * _OVERHEAD
        if len(set(responses)) < period or not self._budget.take(size):
            return ()
        self.kept += size
        return responses

    def __missing__(self, turn: int) -> bytes:
        response = self.make(turn)
        size = len(response) + _OVERHEAD
        if self._budget is not None and self.kept + size <= _MOST_KEPT and self._budget.take(size):
            self.kept += size
            self[turn] = response
        return response


class FullRotation(Rotation):
    """Where every response holds all records and all glue, between the same two ends.

    Args:
        rings: the records; none is held.
        turns: whose turn it is.
        before: what stands before the records.
        behind: what stands behind them.
    """

    __slots__ = ("_before", "_behind", "_rings")

    def __init__(self, rings: PackedRRset, turns: RotationCounter, before: bytes, behind: bytes) -> None:
        super().__init__(turns)
        # The glue stands in what is behind; its own rings may go.
        self._rings = msgspec.structs.replace(rings, leading_glue=None)
        self._before, self._behind = before, behind

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        return self._rings.size + len(self._before) + len(self._behind)

    def make(self, turn: int) -> bytes:
        """All records, from the one whose turn it is."""
        stretch = self._rings.leading.going_round(self._rings.leader(turn))
        return b"".join((self._before, *stretch, self._behind))


class PartialRotation(Rotation):
    """Where responses hold as many records as they may, and what there is room for.

    Args:
        rings: the records.
        turns: whose turn it is.
        envelope: what is around them.
        room: how many bytes of records there may be.
        most: how many records there may be; no more than there are.
        wrap: makes of a response after its id what is to be handed out.
        on_cut: called for each response made that lacks records of the answer.
    """

    __slots__ = ("_envelope", "_most", "_on_cut", "_rings", "_room", "_wrap")

    def __init__(
        self,
        rings: PackedRRset,
        turns: RotationCounter,
        envelope: ResponseTemplate,
        *,
        room: int,
        most: int,
        wrap: Callable[[bytes], bytes],
        on_cut: Callable[[], None],
    ) -> None:
        super().__init__(turns)
        self._rings, self._envelope, self._wrap, self._on_cut = rings, envelope, wrap, on_cut
        self._room, self._most = room, most

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        return self._rings.size + len(self._envelope.question) + len(self._envelope.opt)

    def make(self, turn: int) -> bytes:
        """As many records as fit (RFC 2181 §9), and glue where they all do."""
        rings, most, room = self._rings, self._most, self._room
        first = rings.leader(turn)
        answers, leading, _ = rings.leading.take(first, min(most, rings.leading.count), room)
        room -= len(answers)
        behind = 0
        if rings.held is not None and leading == rings.leading.count:
            wanted = min(most - leading, rings.held.count)
            more, behind, _ = rings.held.take(turn % rings.held.count, wanted, room)
            answers, room = answers + more, room - len(more)
        count = leading + behind
        if count < most:
            self._on_cut()
            return self._wrap(self._envelope.around(answers, count, 0, 0, truncated=True))
        glue, glued = self._glue(turn, leading, behind, room)
        return self._wrap(self._envelope.around(answers + glue, count, 0, glued))

    def _glue(self, turn: int, leading: int, behind: int, room: int) -> tuple[bytes, int]:
        """The glue of so many records that lead and stand behind, as far as there is room, and its number."""
        rings = self._rings
        glue, glued = b"", 0
        if rings.leading_glue is not None:
            glue, pieces, glued = rings.leading_glue.take(rings.leader(turn), leading, room)
            if pieces < leading:
                return glue, glued
        if behind and rings.held_glue is not None:
            first = turn % rings.held_glue.count
            more, _, records = rings.held_glue.take(first, behind, room - len(glue))
            glue, glued = glue + more, glued + records
        return glue, glued


def make_rotation(
    rings: PackedRRset,
    turns: RotationCounter,
    envelope: ResponseTemplate,
    *,
    limit: int,
    most: int | None,
    wrap: Callable[[bytes], bytes],
    on_cut: Callable[[], None],
) -> Rotation:
    """The responses with these records.

    Args:
        rings: the records.
        turns: whose turn it is.
        envelope: what is around them.
        limit: bytes of the longest message.
        most: of how many records a response may consist; None: of all.
        wrap: makes of a response after its id what is to be handed out.
        on_cut: called for each response made that lacks records of the answer.
    """
    room = envelope.room_within(limit)
    answers, count = rings.leading.whole
    glue, glued = rings.leading_glue.whole if rings.leading_glue is not None else (b"", 0)
    if rings.held is None and (most is None or most >= count) and len(answers) + len(glue) <= room:
        response = wrap(envelope.around(answers + glue, count, 0, glued))
        end = len(response) - len(glue) - len(envelope.opt)
        return FullRotation(rings, turns, response[: end - len(answers)], response[end:])
    most = rings.count if most is None else min(most, rings.count)
    return PartialRotation(rings, turns, envelope, room=room, most=most, wrap=wrap, on_cut=on_cut)
