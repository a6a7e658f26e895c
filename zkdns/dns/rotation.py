"""The responses to one query, turn by turn: each is a stretch of the RRset's ring in the query's envelope."""

from __future__ import annotations

from collections.abc import Callable

from zkdns.dns.turns import Rings
from zkdns.dns.wire import Envelope

# What one rotation keeps of its responses: as much as a set of some fifty members needs over UDP. Those of
# larger sets are made anew each time (some microseconds), lest a few of them fill the memory.
_MOST_KEPT = 1 << 16
_OVERHEAD = 50  # bytes beside each kept response


class Budget:
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

    Args:
        rings: the records.
        envelope: what is around them.
        limit: bytes of the longest message.
        most: of how many records a response may consist.
        wrap: makes of a response after its id what is to be handed out.
        on_cut: called for each response made that lacks records of the answer.
    """

    __slots__ = ("_around", "_budget", "_envelope", "_most", "_on_cut", "_rings", "_room", "_wrap", "kept")

    def __init__(
        self,
        rings: Rings,
        envelope: Envelope,
        *,
        limit: int,
        most: int | None,
        wrap: Callable[[bytes], bytes],
        on_cut: Callable[[], None],
    ) -> None:
        self.kept = 0
        self._rings, self._envelope, self._wrap = rings, envelope, wrap
        self._room = envelope.room_within(limit)
        self._most = rings.count if most is None else min(most, rings.count)
        self._on_cut = on_cut
        self._around = self._parts()
        self._budget: Budget | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less, beside the responses that it keeps."""
        return self._rings.size + len(self._envelope.question) + len(self._envelope.opt)

    def keep_in(self, budget: Budget) -> None:
        """Keep responses from now on, as far as this has room."""
        self._budget = budget

    def __missing__(self, turn: int) -> bytes:
        if self._around is not None:
            before, behind = self._around
            first = self._rings.leader(turn)
            response = b"".join((before, *self._rings.leading.going_round(first), behind))
        else:
            response = self._wrap(self._make(turn))
        size = len(response) + _OVERHEAD
        if self._budget is not None and self.kept + size <= _MOST_KEPT and self._budget.take(size):
            self.kept += size
            self[turn] = response
        return response

    def _parts(self) -> tuple[bytes, bytes] | None:
        """What stands before and behind the records in every response, where each holds all of them."""
        rings = self._rings
        answers, count = rings.leading.whole
        glue, glued = rings.leading_glue.whole if rings.leading_glue is not None else (b"", 0)
        if rings.held is not None or self._most < count or len(answers) + len(glue) > self._room:
            return None
        response = self._wrap(self._envelope.around(answers + glue, count, 0, glued))
        behind = len(response) - len(glue) - len(self._envelope.opt)
        return response[: behind - len(answers)], response[behind:]

    def _make(self, turn: int) -> bytes:
        """The response of a turn: as many records as fit (RFC 2181 §9), and glue where they all do."""
        rings, most, room = self._rings, self._most, self._room
        first = rings.leader(turn)
        answers, count, _ = rings.leading.take(first, min(most, rings.leading.count), room)
        room -= len(answers)
        leading, behind = count, 0
        if rings.held is not None and count == rings.leading.count:
            wanted = min(most - count, rings.held.count)
            more, behind, _ = rings.held.take(turn % rings.held.count, wanted, room)
            answers, count, room = answers + more, count + behind, room - len(more)
        if count < most:
            self._on_cut()
            return self._envelope.around(answers, count, 0, 0, truncated=True)
        glue, glued = b"", 0
        if rings.leading_glue is not None:
            glue, pieces, glued = rings.leading_glue.take(first, leading, room)
            if pieces < leading:
                behind = 0
        if rings.held_glue is not None and behind and rings.held is not None:
            more, _, records = rings.held_glue.take(turn % rings.held.count, behind, room - len(glue))
            glue, glued = glue + more, glued + records
        return self._envelope.around(answers + glue, count, 0, glued)
