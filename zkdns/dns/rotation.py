"""Rotation: the responses to a query, one for each starting member, and the counter that picks the next one.

All query forms of one question (UDP and TCP, with and without EDNS) share a `RotationCounter`, so that
successive queries get successive members in whatever form they arrive. Most questions arrive in one form
only. The cache entry of such a question is a plain cycle over its responses, which saves the counter (a
twentieth of a response; measured). When a second form of the question is cached, both entries use the counter
from then on:

    one cache entry        next(cycle)   ──────────────────────────────▶ response
    several entries        next(indexes) ──▶ index ──▶ rotation[index] ──▶ response

The cache owns its entries: `Rotation.join` returns the iterator for a new entry, and calls `on_shared` when
the cache must replace an earlier one.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeAlias

import msgspec

from zkdns.dns.message import ResponseTemplate
from zkdns.dns.rrset import PackedRRset

OnShared: TypeAlias = Callable[[bytes, Iterator[bytes]], None]
"""Called with the key of a cache entry and its new iterator, when its question gets a second entry."""

# Maximum bytes of responses that one rotation keeps: enough for a service of some fifty members over UDP. The
# responses of larger services are built each time (in some microseconds), so that they do not fill the
# memory.
_MAX_KEPT_BYTES = 1 << 16
_RESPONSE_OVERHEAD = 50  # bytes for each kept response, in addition to its own
# If a rotation has at most this many responses, all are built at the first query. Most services are that
# small.
_MAX_BUILT_TOGETHER = 16
# Up to this period, indexes are read from a list, which is faster; above it they are computed, to save
# memory.
_MAX_LISTED_PERIOD = 256


class MemoryBudget:
    """A limit on memory, and how much of it is reserved.

    Attributes:
        used: bytes that are reserved.

    Args:
        limit: bytes that can be reserved.
    """

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit

    def has_room(self, size: int) -> bool:
        """Whether this many bytes can be reserved."""
        return self.used + size <= self._limit

    def reserve(self, size: int) -> bool:
        """Reserve bytes; return False if the limit would be exceeded."""
        if not self.has_room(size):
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Give reserved bytes back."""
        self.used -= size


class _SoleEntry(msgspec.Struct):
    """The only cache entry of a question, and the cycle that the cache reads for it."""

    key: bytes
    on_shared: OnShared
    rotation: Rotation
    responses: tuple[bytes, ...]
    cycle: Iterator[bytes]

    def next_index(self) -> int:
        """Advance the cycle and return the index of that response. The responses are all different."""
        return self.responses.index(next(self.cycle))


class RotationCounter:
    """The rotation indexes of a question, endlessly: 0 to `period` - 1, then 0 again.

    Attributes:
        period: number of indexes after which the order of the records repeats.

    Args:
        first: the index to start with.
        period: as above.
    """

    __slots__ = ("_entries", "_indexes", "_sole", "period")

    def __init__(self, first: int, period: int) -> None:
        self.period = period
        self._indexes = _indexes_from(first, period)
        self._entries = 0
        self._sole: _SoleEntry | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        return self._sole.next_index() if self._sole is not None else next(self._indexes)

    @property
    def has_entries(self) -> bool:
        """Whether a cache entry uses this counter."""
        return self._entries > 0

    def lend_cycle(
        self, key: bytes, rotation: Rotation, responses: tuple[bytes, ...], on_shared: OnShared
    ) -> Iterator[bytes]:
        """The iterator for the only cache entry of the question: a cycle over all responses.

        It is in use until a second entry joins (then `on_shared` is called) or the entry is removed.
        """
        self._entries += 1
        first = next(self._indexes)
        cycle = itertools.cycle(responses[first:] + responses[:first])
        self._sole = _SoleEntry(key, on_shared, rotation, responses, cycle)
        return cycle

    def join(self, rotation: Rotation) -> Iterator[bytes]:
        """The iterator for a cache entry that counts with this counter. A lent cycle ends."""
        self._entries += 1
        sole = self._sole
        if sole is not None:
            self._end_cycle()
            sole.rotation.update(enumerate(sole.responses))
            sole.on_shared(sole.key, map(sole.rotation.__getitem__, self._indexes))
        # Neither Python code nor a frame per response: `map`, `__getitem__` and the iterator are all in C.
        return map(rotation.__getitem__, self._indexes)

    def leave(self) -> None:
        """Record that a cache entry of the question was removed."""
        self._entries -= 1
        self._end_cycle()

    def _end_cycle(self) -> None:
        """Let the counter continue with the response that the lent cycle would return next."""
        if self._sole is not None:
            self._indexes = _indexes_from(self._sole.next_index(), self.period)
            self._sole = None


def _indexes_from(first: int, period: int) -> Iterator[int]:
    """Endless indexes below the period, starting with `first`."""
    if period == 1:
        return itertools.repeat(0)
    if period > _MAX_LISTED_PERIOD:
        return map(operator.mod, itertools.count(first), itertools.repeat(period))
    return itertools.cycle([*range(first, period), *range(first)])


class Rotation(dict[int, bytes]):
    """The responses to one query by rotation index. Each is built when it is first needed.

    A response is kept only if the query has a cache entry (after `join`) and its memory budget has room.

    Attributes:
        counter: the rotation index, shared by all query forms of the question.
        kept_bytes: bytes of kept responses.
    """

    __slots__ = ("_budget", "counter", "kept_bytes")

    is_built_together = True
    """Whether all responses are built at the first query, if they are few."""

    def __init__(self, counter: RotationCounter) -> None:
        self.kept_bytes = 0
        self.counter = counter
        self._budget: MemoryBudget | None = None

    @property
    def size(self) -> int:
        """Approximate bytes in addition to those of kept responses."""
        raise NotImplementedError

    def build(self, index: int) -> bytes:
        """Build the response for a rotation index."""
        raise NotImplementedError

    def build_others(self) -> Iterable[bytes]:
        """Build the responses for all rotation indexes from 1 on."""
        return map(self.build, range(1, self.counter.period))

    def join(self, key: bytes, budget: MemoryBudget, on_shared: OnShared) -> Iterator[bytes]:
        """The responses for a new cache entry, in the order of the rotation.

        Args:
            key: the entry's key.
            budget: the memory for kept responses, which all entries of the cache share.
            on_shared: called if another entry joins the counter and this one needs another iterator.
        """
        self._budget = budget
        responses = () if self.counter.has_entries else self._keep_all()
        if responses:
            return self.counter.lend_cycle(key, self, responses, on_shared)
        return self.counter.join(self)

    def leave(self) -> None:
        """The cache entry was removed: release the memory of its responses."""
        self.counter.leave()
        if self._budget is not None:
            self._budget.release(self.kept_bytes)

    def _keep_all(self) -> tuple[bytes, ...]:
        """All responses, if they are few, all different, and fit into the budget; otherwise none."""
        period = self.counter.period
        if self._budget is None or period > _MAX_BUILT_TOGETHER or not self.is_built_together:
            return ()
        first = self.build(0)
        expected = period * (len(first) + _RESPONSE_OVERHEAD)
        if self.kept_bytes + expected > _MAX_KEPT_BYTES or not self._budget.has_room(expected):
            return ()
        responses = (first, *self.build_others())
        size = sum(map(len, responses)) + period * _RESPONSE_OVERHEAD
        if len(set(responses)) < period or not self._budget.reserve(size):
            return ()
        self.kept_bytes += size
        return responses

    def __missing__(self, index: int) -> bytes:
        response = self.build(index)
        size = len(response) + _RESPONSE_OVERHEAD
        if (
            self._budget is not None
            and self.kept_bytes + size <= _MAX_KEPT_BYTES
            and self._budget.reserve(size)
        ):
            self.kept_bytes += size
            self[index] = response
        return response


class FullRotation(Rotation):
    """A rotation whose responses all have every record; only the order of the answers differs.

    Args:
        packed: the records. No member is held.
        counter: the rotation index.
        before: bytes of the response before the records.
        after: bytes of the response after the records.
    """

    __slots__ = ("_after", "_before", "_packed")

    def __init__(self, packed: PackedRRset, counter: RotationCounter, before: bytes, after: bytes) -> None:
        super().__init__(counter)
        # `after` contains the additional records.
        self._packed = msgspec.structs.replace(packed, leading_additional=None)
        self._before, self._after = before, after

    @property
    def size(self) -> int:
        """Approximate bytes in addition to those of kept responses."""
        return self._packed.size + len(self._before) + len(self._after)

    def build(self, index: int) -> bytes:
        """All records, starting with the one that leads at this index."""
        answers = self._packed.leading.rotated(self._packed.leader(index))
        return b"".join((self._before, *answers, self._after))

    def build_others(self) -> Iterable[bytes]:
        """As in the base class, in a third of the time."""
        starts = self._packed.leaders[1:] or range(1, self.counter.period)
        return [self._before + answers + self._after for answers in self._packed.leading.rotations(starts)]


class PartialRotation(Rotation):
    """A rotation whose responses may lack records, because of a size limit or a maximum number of answers.

    Args:
        packed: the records.
        counter: the rotation index.
        template: header, question and OPT record of the response.
        room: bytes for records.
        limit: maximum number of answer records, not above `packed.count`.
        encode: makes a response after its id ready to send.
        on_truncated: called for each response that lacks records of the answer.
    """

    __slots__ = ("_encode", "_limit", "_on_truncated", "_packed", "_room", "_template")

    is_built_together = False  # each takes longer, and many clients repeat the query over TCP at once

    def __init__(
        self,
        packed: PackedRRset,
        counter: RotationCounter,
        template: ResponseTemplate,
        *,
        room: int,
        limit: int,
        encode: Callable[[bytes], bytes],
        on_truncated: Callable[[], None],
    ) -> None:
        super().__init__(counter)
        self._packed, self._template = packed, template
        self._encode, self._on_truncated = encode, on_truncated
        self._room, self._limit = room, limit

    @property
    def size(self) -> int:
        """Approximate bytes in addition to those of kept responses."""
        return self._packed.size + len(self._template.question) + len(self._template.opt)

    def build(self, index: int) -> bytes:
        """As many records as fit (RFC 2181 §9), and additional records only if all answers fit."""
        packed, limit, room = self._packed, self._limit, self._room
        first = packed.leader(index)
        answers, leading_count, _ = packed.leading.take(first, min(limit, packed.leading.count), room)
        room -= len(answers)
        held_count = 0
        if packed.held is not None and leading_count == packed.leading.count:
            wanted = min(limit - leading_count, packed.held.count)
            more, held_count, _ = packed.held.take(index % packed.held.count, wanted, room)
            answers, room = answers + more, room - len(more)
        count = leading_count + held_count
        if count < limit:
            self._on_truncated()
            return self._encode(self._template.build(answers, count, 0, 0, truncated=True))
        additional, additional_count = self._additional(index, leading_count, held_count, room)
        return self._encode(self._template.build(answers + additional, count, 0, additional_count))

    def _additional(self, index: int, leading_count: int, held_count: int, room: int) -> tuple[bytes, int]:
        """The additional records of these leading and held records that fit, and their number."""
        packed = self._packed
        additional, additional_count = b"", 0
        if packed.leading_additional is not None:
            first = packed.leader(index)
            additional, pieces, additional_count = packed.leading_additional.take(first, leading_count, room)
            if pieces < leading_count:
                return additional, additional_count
        if held_count and packed.held_additional is not None:
            first = index % packed.held_additional.count
            more, _, records = packed.held_additional.take(first, held_count, room - len(additional))
            additional, additional_count = additional + more, additional_count + records
        return additional, additional_count


def make_rotation(
    packed: PackedRRset,
    counter: RotationCounter,
    template: ResponseTemplate,
    *,
    max_message: int,
    limit: int | None,
    encode: Callable[[bytes], bytes],
    on_truncated: Callable[[], None],
) -> Rotation:
    """Make the rotation for the responses with these records.

    Args:
        packed: the records.
        counter: the rotation index.
        template: header, question and OPT record of the responses.
        max_message: maximum bytes of a message.
        limit: maximum number of answer records; None means no limit.
        encode: makes a response after its id ready to send.
        on_truncated: called for each response that lacks records of the answer.
    """
    room = template.room_for_records(max_message)
    if packed.held is None and (limit is None or limit >= packed.count):
        whole = _whole(packed, room)
        if whole is not None:
            answers, count, additional, additional_count = whole
            response = encode(template.build(answers + additional, count, 0, additional_count))
            end = len(response) - len(additional) - len(template.opt)
            return FullRotation(packed, counter, response[: end - len(answers)], response[end:])
    limit = packed.count if limit is None else min(limit, packed.count)
    return PartialRotation(
        packed, counter, template, room=room, limit=limit, encode=encode, on_truncated=on_truncated
    )


def _whole(packed: PackedRRset, room: int) -> tuple[bytes, int, bytes, int] | None:
    """All answer and additional records without held ones, with their numbers. None: they do not fit."""
    answers = packed.leading.whole(room)
    if answers is None:
        return None
    if packed.leading_additional is None:
        return (*answers, b"", 0)
    additional = packed.leading_additional.whole(room - len(answers[0]))
    return None if additional is None else (*answers, *additional)
