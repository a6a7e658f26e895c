"""Whose turn it is: in which order the records of one RRset are answered, time after time.

Who leads an answer is who gets the request of most clients, so how often a record leads follows its weight.
Records of members that are held (they have left, or seem to have) stand behind all others. Pure: a turn is a
number that whoever answers counts.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterable, Sequence

import msgspec

from zkdns.dns.rings import PackedRecords

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

    def joined(self, other: Weighting) -> Weighting:
        """The standing of what two members have in common: the better of each."""
        return Weighting(max(self.weight, other.weight), self.held and other.held)


class Record(msgspec.Struct, frozen=True):
    """A record of an answer, and the address records that help whoever follows it."""

    answer: bytes
    glue: tuple[bytes, ...] = ()
    standing: Weighting = Weighting()


class PackedRRset(msgspec.Struct, frozen=True):
    """An RRset laid out: the records that lead by turns, those behind them, and the glue of both."""

    leading: PackedRecords
    held: PackedRecords | None
    leading_glue: PackedRecords | None
    held_glue: PackedRecords | None
    leaders: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many records there are."""
        return self.leading.count + (self.held.count if self.held else 0)

    @property
    def size(self) -> int:
        """Bytes that it takes, more or less."""
        rings = (self.leading, self.held, self.leading_glue, self.held_glue)
        return sum(ring.size for ring in rings if ring is not None) + 8 * len(self.leaders)

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
    def rings(self) -> PackedRRset:
        """The records, ready to be answered with in any turn."""
        seen: set[bytes] = set()
        return PackedRRset(
            leading=PackedRecords([(record.answer,) for record in self.leading]),
            held=PackedRecords([(record.answer,) for record in self.held]) if self.held else None,
            leading_glue=_glue_of(self.leading, seen),
            held_glue=_glue_of(self.held, seen),
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
    served = tuple(record for record in everyone if record.standing.weight > 0)
    if all(record.standing.held for record in served):  # who is drained is there at least
        served = everyone
    leading = tuple(record for record in served if not record.standing.held)
    held = tuple(record for record in served if record.standing.held) if leading else ()
    leading = leading or served
    return RRset(leading, held, _cycle_of([record.standing.srv_weight for record in leading]))


def _glue_of(records: Sequence[Record], seen: set[bytes]) -> PackedRecords | None:
    """What helps with each record, but for what another one has brought already."""
    pieces = []
    for record in records:
        pieces.append([glue for glue in record.glue if glue not in seen])
        seen.update(record.glue)
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
