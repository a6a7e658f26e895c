"""RRsets in wire format, in any rotation.

Most clients connect to the first address of an answer. A record therefore leads (comes first) in proportion
to its weight. Records of held members come after all others.

Every order of an RRset is a rotation of the same sequence of records. The sequence is packed once, and each
response copies consecutive records from it, which may wrap around at the end.
"""

from __future__ import annotations

import functools
import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec

WEIGHT_ONE = 100
"""The SRV weight (RFC 2782) of a member with weight 1. SRV weights thus have a resolution of 0.01."""

MAX_WEIGHT = 65535  # an SRV weight has 16 bits

# Maximum length of a cycle of leaders. Weights that would need a longer cycle are rounded.
_MAX_CYCLE = 1000
# An RRset of more than some hundred records may have a longer cycle, with two places for each record on
# average.
_PLACES_PER_RECORD = 2


class Weighting(msgspec.Struct, frozen=True):
    """The weight of a record, and whether its member is held."""

    weight: float = 1.0
    held: bool = False

    @property
    def srv_weight(self) -> int:
        """The weight in an SRV record; at least 1, because clients do not balance over weights of 0."""
        return min(max(round(WEIGHT_ONE * self.weight), 1), MAX_WEIGHT)

    def merged(self, other: Weighting) -> Weighting:
        """The weighting of a record that two members share: the higher weight, and held only if both are."""
        return Weighting(max(self.weight, other.weight), self.held and other.held)


class Record(msgspec.Struct, frozen=True):
    """A record of an answer with its additional records, in wire format."""

    answer: bytes
    additional: tuple[bytes, ...] = ()
    weighting: Weighting = Weighting()


class PackedRecords:
    """Groups of records in wire format. Any number of consecutive groups can be taken, also past the end.

    Attributes:
        count: number of groups.
        size: approximate bytes of memory.

    Args:
        groups: the records of each group; a group may be empty.
    """

    __slots__ = ("_data", "_offsets", "_records", "count", "size")

    def __init__(self, groups: Sequence[Sequence[bytes]]) -> None:
        joined = [b"".join(group) for group in groups]
        self.count = len(groups)
        self._data = b"".join(joined)
        self._offsets = _running_sums([len(group) for group in joined])
        self._records = _running_sums([len(group) for group in groups])
        self.size = 200 + len(self._data) + _size_of(self._offsets) + _size_of(self._records)

    @property
    def whole(self) -> tuple[bytes, int]:
        """All groups from the first one on, and their number of records."""
        return self._data, self._records[-1]

    def rotated(self, first: int) -> tuple[bytes, bytes]:
        """All groups from number `first` on, in two pieces: that group and later ones, and earlier ones."""
        at = self._offsets[first]
        return self._data[at:], self._data[:at]

    def take(self, first: int, limit: int, room: int) -> tuple[bytes, int, int]:
        """Take consecutive groups, starting with number `first`.

        Args:
            first: number of the first group, from 0.
            limit: maximum number of groups; at most `count`.
            room: maximum number of bytes.

        Returns:
            the bytes, the number of groups, and the number of records.
        """
        end, over = min(first + limit, self.count), max(first + limit - self.count, 0)
        start = self._offsets[first]
        size = self._offsets[end] - start
        if size > room:
            end, over = bisect_right(self._offsets, start + room, first, end) - 1, 0
        elif over and size + self._offsets[over] > room:
            over = bisect_right(self._offsets, room - size, 0, over) - 1
        taken = self._data[start : self._offsets[end]]
        records = self._records[end] - self._records[first]
        if over:
            taken, records = taken + self._data[: self._offsets[over]], records + self._records[over]
        return taken, end - first + over, records


def _running_sums(numbers: Sequence[int]) -> Sequence[int]:
    """The sums of the first 0, 1, 2 … numbers."""
    first = numbers[0]
    if first and numbers.count(first) == len(numbers):  # most records of an RRset have the same size
        return range(0, first * len(numbers) + 1, first)
    return array("I", accumulate(numbers, initial=0))


def _size_of(sums: Sequence[int]) -> int:
    return 0 if isinstance(sums, range) else 80 + 4 * len(sums)


class PackedRRset(msgspec.Struct, frozen=True):
    """An RRset in wire format: leading and held records, and the additional records of both.

    `leaders` is as in `RRset`.
    """

    leading: PackedRecords
    held: PackedRecords | None
    leading_additional: PackedRecords | None
    held_additional: PackedRecords | None
    leaders: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of answer records."""
        return self.leading.count + (self.held.count if self.held else 0)

    @property
    def size(self) -> int:
        """Approximate bytes of memory."""
        parts = (self.leading, self.held, self.leading_additional, self.held_additional)
        return sum(part.size for part in parts if part is not None) + 8 * len(self.leaders)

    def leader(self, index: int) -> int:
        """The position of the record that leads at a rotation index."""
        return self.leaders[index % len(self.leaders)] if self.leaders else index % self.leading.count


class RRset(msgspec.Struct, frozen=True, dict=True):
    """Records of one name and type, ready to be ordered.

    `leading` rotate; `held` come after them. `leaders` is a cycle of positions in `leading`, in which each
    position occurs in proportion to its weight; it is empty if all weights are equal.
    """

    leading: tuple[Record, ...] = ()
    held: tuple[Record, ...] = ()
    leaders: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leading)

    @functools.cached_property
    def packed(self) -> PackedRRset:
        """The records in wire format."""
        seen: set[bytes] = set()
        return PackedRRset(
            leading=PackedRecords([(record.answer,) for record in self.leading]),
            held=PackedRecords([(record.answer,) for record in self.held]) if self.held else None,
            leading_additional=_pack_additional(self.leading, seen),
            held_additional=_pack_additional(self.held, seen),
            leaders=self.leaders,
        )

    @property
    def period(self) -> int:
        """Number of rotation indexes after which the order repeats, with held records if that stays short."""
        period = len(self.leaders) or len(self.leading)
        both = math.lcm(period, max(len(self.held), 1))
        return both if both <= _MAX_CYCLE else period

    def shuffled(self, rng: random.Random) -> list[Record]:
        """The records in random order; the first one is drawn by weight."""
        ordered = rng.sample(self.leading, len(self.leading))
        if self.leaders:
            leader = self.leading[rng.choice(self.leaders)]
            ordered.remove(leader)
            ordered.insert(0, leader)
        return ordered + rng.sample(self.held, len(self.held))


def arrange(records: Iterable[Record]) -> RRset:
    """Make an RRset of records. Records of weight 0 are left out unless all others are held."""
    all_records = tuple(records)
    served = tuple(record for record in all_records if record.weighting.weight > 0)
    if all(record.weighting.held for record in served):  # unlike a held member, a drained one is registered
        served = all_records
    leading = tuple(record for record in served if not record.weighting.held)
    held = tuple(record for record in served if record.weighting.held) if leading else ()
    leading = leading or served
    return RRset(leading, held, _cycle_of([record.weighting.srv_weight for record in leading]))


def _pack_additional(records: Sequence[Record], seen: set[bytes]) -> PackedRecords | None:
    """The additional records of each record, each only once."""
    groups = []
    for record in records:
        groups.append([additional for additional in record.additional if additional not in seen])
        seen.update(record.additional)
    return PackedRecords(groups) if any(groups) else None


def _cycle_of(weights: Sequence[int]) -> tuple[int, ...]:
    """A cycle in which each position occurs in proportion to its weight; empty if all weights are equal."""
    if len(set(weights)) <= 1:
        return ()
    divisor = math.gcd(*weights)
    counts = [weight // divisor for weight in weights]
    max_length = max(_MAX_CYCLE - len(counts), _PLACES_PER_RECORD * len(counts))
    if sum(counts) > max_length:
        scale = max_length / sum(counts)
        counts = [max(round(count * scale), 1) for count in counts]
    # The occurrences of each position are evenly spaced on a circle; each position starts a little later than
    # the position before it.
    places = (
        ((occurrence + (position + 0.5) / len(counts)) / count, position)
        for position, count in enumerate(counts)
        for occurrence in range(count)
    )
    return tuple(position for _, position in sorted(places))
