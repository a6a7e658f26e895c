"""Whose turn it is: in which order the records of one RRset are answered, time after time.

Who leads an answer is who gets the request of most clients, so how often a record leads follows its weight.
Records of members that are held (they have left, or seem to have) stand behind all others. Pure: a turn is a
number that whoever answers counts.
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
"""A weight of 1 as SRV records write it (RFC 2782): weights are told apart by hundredths."""

MAX_WEIGHT = 65535  # an SRV weight has 16 bits

# The longest cycle of leaders up to some hundred records, and how many turns each of more has on average;
# where the weights would need a longer one, they are rounded to what this one can tell apart.
_CYCLE, _TURNS_EACH = 1000, 2


class Weighting(msgspec.Struct, frozen=True):
    """How a record stands among the others of its RRset."""

    weight: float = 1.0
    held: bool = False

    @property
    def srv_weight(self) -> int:
        """The weight in an SRV record; never 0, since among weights of 0 clients go by order alone."""
        return min(max(round(WEIGHT_ONE * self.weight), 1), MAX_WEIGHT)

    def merged(self, other: Weighting) -> Weighting:
        """The standing of what two members have in common: the better of each."""
        return Weighting(max(self.weight, other.weight), self.held and other.held)


class Record(msgspec.Struct, frozen=True):
    """A record of an answer, and the address records that help whoever follows it."""

    answer: bytes
    additional: tuple[bytes, ...] = ()
    weighting: Weighting = Weighting()


class PackedRecords:
    """Pieces of a message one behind the other, of which any stretch can be taken, past their end too.

    Attributes:
        count: how many pieces.
        size: bytes that it takes, more or less.

    Args:
        pieces: each of some records, perhaps of none, ready to send.
    """

    __slots__ = ("_at", "_data", "_records", "count", "size")

    def __init__(self, pieces: Sequence[Sequence[bytes]]) -> None:
        joined = [b"".join(piece) for piece in pieces]
        self.count = len(pieces)
        self._data = b"".join(joined)
        self._at = _sums([len(piece) for piece in joined])
        self._records = _sums([len(piece) for piece in pieces])
        self.size = 200 + len(self._data) + _size_of(self._at) + _size_of(self._records)

    @property
    def whole(self) -> tuple[bytes, int]:
        """All pieces from the first on, and how many records they are."""
        return self._data, self._records[-1]

    def rotated(self, first: int) -> tuple[bytes, bytes]:
        """All pieces, from the one with the number `first` on: those behind it, and those before it."""
        at = self._at[first]
        return self._data[at:], self._data[:at]

    def take(self, first: int, most: int, room: int) -> tuple[bytes, int, int]:
        """The piece with the number `first` and those behind it.

        Args:
            first: from 0 on.
            most: how many pieces at most; no more than there are.
            room: how many bytes at most.

        Returns:
            the bytes, and of how many pieces and records they are.
        """
        end, over = min(first + most, self.count), max(first + most - self.count, 0)
        start = self._at[first]
        size = self._at[end] - start
        if size > room:
            end, over = bisect_right(self._at, start + room, first, end) - 1, 0
        elif over and size + self._at[over] > room:
            over = bisect_right(self._at, room - size, 0, over) - 1
        taken = self._data[start : self._at[end]]
        records = self._records[end] - self._records[first]
        if over:
            taken, records = taken + self._data[: self._at[over]], records + self._records[over]
        return taken, end - first + over, records


def _sums(numbers: Sequence[int]) -> Sequence[int]:
    """The sums of the first of these numbers: of none, of one, and so on."""
    first = numbers[0]
    if first and numbers.count(first) == len(numbers):  # most records of an RRset have one size
        return range(0, first * len(numbers) + 1, first)
    return array("I", accumulate(numbers, initial=0))


def _size_of(sums: Sequence[int]) -> int:
    return 0 if isinstance(sums, range) else 80 + 4 * len(sums)


class PackedRRset(msgspec.Struct, frozen=True):
    """An RRset laid out: the records that lead by turns, those behind them, and the glue of both."""

    leading: PackedRecords
    held: PackedRecords | None
    leading_additional: PackedRecords | None
    held_additional: PackedRecords | None
    leaders: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many records there are."""
        return self.leading.count + (self.held.count if self.held else 0)

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less."""
        packed = (self.leading, self.held, self.leading_additional, self.held_additional)
        return sum(ring.size for ring in packed if ring is not None) + 8 * len(self.leaders)

    def leader(self, turn: int) -> int:
        """The place of who leads in the turn with that number."""
        return self.leaders[turn % len(self.leaders)] if self.leaders else turn % self.leading.count


class RRset(msgspec.Struct, frozen=True, dict=True):
    """Records of one name and type, ready to be put into order.

    `leading` take turns; `held` stand behind them. `leaders` is a cycle of places in `leading` in which each
    occurs as often as its weight says; empty where all weights are equal.
    """

    leading: tuple[Record, ...] = ()
    held: tuple[Record, ...] = ()
    leaders: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leading)

    @functools.cached_property
    def packed(self) -> PackedRRset:
        """The records, ready to be answered with in any turn."""
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
        """After how many turns the order is the same again; the held go along as far as they can."""
        period = len(self.leaders) or len(self.leading)
        both = math.lcm(period, max(len(self.held), 1))
        return both if both <= _CYCLE else period

    def shuffled(self, rng: random.Random) -> list[Record]:
        """The records in an order drawn by lot, in which the leader's chance is its weight."""
        ordered = rng.sample(self.leading, len(self.leading))
        if self.leaders:
            leader = self.leading[rng.choice(self.leaders)]
            ordered.remove(leader)
            ordered.insert(0, leader)
        return ordered + rng.sample(self.held, len(self.held))


def arrange(records: Iterable[Record]) -> RRset:
    """Make an RRset ready for its turns; what weighs nothing is left out while there is anything else."""
    everyone = tuple(records)
    served = tuple(record for record in everyone if record.weighting.weight > 0)
    if all(record.weighting.held for record in served):  # who is drained is there at least
        served = everyone
    leading = tuple(record for record in served if not record.weighting.held)
    held = tuple(record for record in served if record.weighting.held) if leading else ()
    leading = leading or served
    return RRset(leading, held, _cycle_of([record.weighting.srv_weight for record in leading]))


def _pack_additional(records: Sequence[Record], seen: set[bytes]) -> PackedRecords | None:
    """What helps with each record, but for what another one has brought already."""
    pieces = []
    for record in records:
        pieces.append([additional for additional in record.additional if additional not in seen])
        seen.update(record.additional)
    return PackedRecords(pieces) if any(pieces) else None


def _cycle_of(weights: Sequence[int]) -> tuple[int, ...]:
    """A cycle in which each place occurs as often as its weight says; none where all weights are equal."""
    if len(set(weights)) <= 1:
        return ()
    divisor = math.gcd(*weights)
    turns = [weight // divisor for weight in weights]
    longest = max(_CYCLE - len(turns), _TURNS_EACH * len(turns))
    if sum(turns) > longest:
        scale = longest / sum(turns)
        turns = [max(round(count * scale), 1) for count in turns]
    # Each one's turns at equal distances on a circle, begun a little later than those of the one before it.
    places = (
        ((turn + (at + 0.5) / len(turns)) / count, at)
        for at, count in enumerate(turns)
        for turn in range(count)
    )
    return tuple(at for _, at in sorted(places))
