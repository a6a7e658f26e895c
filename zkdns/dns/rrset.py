"""RRsets in wire format, in any rotation.

Most clients connect to the first address of an answer. A record therefore leads (comes first) in proportion
to its weight. Records of held members come after all others.

Every order of an RRset is a rotation of the same sequence of records. Each response copies consecutive
records from it, which may wrap around at the end. Records are rendered when a response first needs them, and
joined in blocks, so that a response of twenty records costs the same whether there are fifty or ten thousand.
"""

from __future__ import annotations

import functools
import math
import operator
import random
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import accumulate, compress, repeat
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar, overload

import msgspec

from zkdns.dns.steps import COMPARISON, run_at_once

WEIGHT_ONE = 100
"""The SRV weight (RFC 2782) of a member with weight 1. SRV weights thus have a resolution of 0.01."""

MAX_WEIGHT = 65535  # an SRV weight has 16 bits

_MAX_WEIGHTINGS = 1024  # different ones that are found quickly; any others are made each time

# Maximum length of a list of leaders. Weights that would need a longer list are rounded.
_MAX_CYCLE = 1000
# Up to this number of records, leaders are listed, with two places for each record on average.
_MAX_SPACED = 500
_GOLDEN_SECTION = (math.sqrt(5) - 1) / 2

# Number of records that are joined together. All records of most RRsets are in one block.
_BLOCK = 64
# Bytes of memory: of the objects around packed records, and for each record of an RRset with several blocks,
# whose records are rendered later.
_PACKED_OVERHEAD = 200
_LARGE_RECORD = 100
# Number of forgotten items whose records a renderer keeps, in addition to half as many as it has items.
_MAX_FORGOTTEN = 64


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
        return (
            self if self is other else weighting_of(max(self.weight, other.weight), self.held and other.held)
        )


@functools.lru_cache(_MAX_WEIGHTINGS)
def weighting_of(weight: float, held: bool) -> Weighting:
    """A weighting. Equal ones are the same object, so that they are compared quickly."""
    return Weighting(weight, held)


EQUAL_WEIGHT = weighting_of(1.0, False)
"""The weighting of members without a weight."""


class Record(msgspec.Struct, frozen=True):
    """A record of an answer with its additional records, in wire format."""

    answer: bytes
    additional: tuple[bytes, ...] = ()
    weighting: Weighting = Weighting()


class Item(Protocol):
    """One record of an RRset before it is rendered, such as an SRV target. Compared by identity."""

    @property
    def weighting(self) -> Weighting:
        """The weight of the record, and whether its member is held."""


ItemT = TypeVar("ItemT", bound=Item)
RenderedT = TypeVar("RenderedT")


class Renderer(Generic[ItemT]):
    """Renders the records of one name and type, each when it is first needed, and only once.

    A renderer outlives changes of its service: the records of all items that remain are kept.
    """

    has_additional = False
    """Whether `render_additional` may return records."""
    min_answer = 12
    """Minimum number of bytes of an answer record: a pointer as the name, and no data (RFC 1035 §3.2.1)."""

    def __init__(self) -> None:
        self._answers: dict[ItemT, bytes] = {}
        self._additional: dict[ItemT, tuple[bytes, ...]] = {}
        # Records from before the last call of `retain` that had an effect.
        self._old_answers: dict[ItemT, bytes] = {}
        self._old_additional: dict[ItemT, tuple[bytes, ...]] = {}

    def render_answer(self, item: ItemT) -> bytes:
        """Render the answer record of an item."""
        raise NotImplementedError

    def render_additional(self, item: ItemT) -> tuple[bytes, ...]:
        """Render the additional records of an item."""
        del item
        return ()

    def answer(self, item: ItemT) -> bytes:
        """The answer record of an item."""
        return _rendered((item,), self._answers, self._old_answers, self.render_answer)[0]

    def additional(self, item: ItemT) -> tuple[bytes, ...]:
        """The additional records of an item."""
        return _rendered((item,), self._additional, self._old_additional, self.render_additional)[0]

    def block_of_answers(self, items: Sequence[ItemT]) -> _Block:
        """The answer records of items."""
        answers = _rendered(items, self._answers, self._old_answers, self.render_answer)
        return _Block(answers, (1,) * len(items))

    def block_of_additional(self, items: Sequence[ItemT]) -> _Block:
        """The additional records of items."""
        groups = _rendered(items, self._additional, self._old_additional, self.render_additional)
        return _Block(list(map(b"".join, groups)), list(map(len, groups)))

    def retain(self, count: int) -> None:
        """Forget records if there are many more than this number of items.

        The renderer does not know which items are still in use. It first makes all records old ones, of which
        those that are used again remain, and forgets the rest at the next time. So this takes no time.
        """
        most = count + count // 2 + _MAX_FORGOTTEN
        if len(self._answers) > most:
            self._answers, self._old_answers = {}, self._answers
        if len(self._additional) > most:
            self._additional, self._old_additional = {}, self._additional


def _rendered(
    items: Iterable[ItemT],
    known: dict[ItemT, RenderedT],
    old: dict[ItemT, RenderedT],
    render: Callable[[ItemT], RenderedT],
) -> list[RenderedT]:
    """The records of items: known ones, old ones (which become known ones), and new ones."""
    records = []
    for item in items:
        found = known.get(item)
        if found is None:
            found = known[item] = (old.pop(item, None) if old else None) or render(item)
        records.append(found)
    return records


class _RecordRenderer(Renderer[Record]):
    """The renderer of items that are rendered already."""

    has_additional = True
    min_answer = 0

    def block_of_answers(self, items: Sequence[Record]) -> _Block:
        return _Block([item.answer for item in items], (1,) * len(items))

    def answer(self, item: Record) -> bytes:
        return item.answer

    def additional(self, item: Record) -> tuple[bytes, ...]:
        return item.additional


class _Block:
    """Consecutive groups of records in wire format, joined.

    Args:
        groups: the records of each group, joined.
        counts: the number of records in each group.
    """

    __slots__ = ("count", "data", "offsets", "records")

    def __init__(self, groups: Sequence[bytes], counts: Sequence[int]) -> None:
        self.count = len(groups)
        self.data = b"".join(groups)
        self.offsets = _running_sums(list(map(len, groups)))
        self.records = _running_sums(counts)

    def take(self, first: int, limit: int, room: int) -> tuple[bytes, int, int]:
        """Take up to `limit` groups from number `first` on, without wrapping around."""
        end = first + limit
        start = self.offsets[first]
        if self.offsets[end] - start > room:
            end = bisect_right(self.offsets, start + room, first, end) - 1
        return self.data[start : self.offsets[end]], end - first, self.records[end] - self.records[first]


class PackedRecords:
    """Groups of records in wire format. Any number of consecutive groups can be taken, also past the end.

    The groups are joined in blocks, each when it is first needed, so that a response costs as much as the
    records that it contains, however many others there are.

    Attributes:
        count: number of groups, at least 1.

    Args:
        items: the item of each group.
        make_block: joins the groups of some items.
        min_size: minimum number of bytes of a group.
    """

    __slots__ = ("_blocks", "_items", "_make_block", "_min_size", "count")

    def __init__(
        self, items: Sequence[ItemT], make_block: Callable[[Sequence[ItemT]], _Block], min_size: int = 0
    ) -> None:
        self._min_size = min_size
        self.count = len(items)
        self._items = items
        self._make_block = make_block
        self._blocks: dict[int, _Block] = {}

    @property
    def size(self) -> int:
        """Approximate bytes of memory, when all blocks are joined."""
        if self.count > _BLOCK:
            return _PACKED_OVERHEAD + self.count * _LARGE_RECORD
        block = self._block(0)
        return _PACKED_OVERHEAD + len(block.data) + _size_of(block.offsets) + _size_of(block.records)

    def whole(self, room: int) -> tuple[bytes, int] | None:
        """All groups from the first one on, and their number of records. None: they have more bytes."""
        if self.count * self._min_size > room:  # without this, a large RRset would be rendered for nothing
            return None
        pieces: list[bytes] = []
        records = 0
        for number in self._block_numbers():
            block = self._block(number)
            room -= len(block.data)
            if room < 0:
                return None
            pieces.append(block.data)
            records += block.records[-1]
        return b"".join(pieces), records

    def rotated(self, first: int) -> tuple[bytes, ...]:
        """All groups in pieces: from number `first` on, then the earlier ones."""
        number, within = divmod(first, _BLOCK)
        block = self._block(number)
        at = block.offsets[within]
        if self.count <= _BLOCK:
            return block.data[at:], block.data[:at]
        numbers = self._block_numbers()
        others = (*numbers[number + 1 :], *numbers[:number])
        return (block.data[at:], *(self._block(other).data for other in others), block.data[:at])

    def rotations(self, starts: Iterable[int]) -> list[bytes]:
        """All groups from each of these numbers on, then the earlier ones. They must be in one block."""
        block = self._block(0)
        return [block.data[at:] + block.data[:at] for at in map(block.offsets.__getitem__, starts)]

    def take(self, first: int, limit: int, room: int) -> tuple[bytes, int, int]:
        """Take consecutive groups, starting with number `first`.

        Args:
            first: number of the first group, from 0.
            limit: maximum number of groups; at most `count`.
            room: maximum number of bytes.

        Returns:
            the bytes, the number of groups, and the number of records.
        """
        pieces: list[bytes] = []
        taken = records = 0
        while taken < limit:
            number, within = divmod(first, _BLOCK)
            block = self._block(number)
            wanted = min(limit - taken, block.count - within)
            piece, groups, found = block.take(within, wanted, room)
            pieces.append(piece)
            room -= len(piece)
            taken, records = taken + groups, records + found
            if groups < wanted:
                break
            first += groups
            if first == self.count:
                first = 0
        return b"".join(pieces), taken, records

    def _block_numbers(self) -> range:
        return range((self.count + _BLOCK - 1) // _BLOCK)

    def _block(self, number: int) -> _Block:
        block = self._blocks.get(number)
        if block is None:
            items = self._items[number * _BLOCK : (number + 1) * _BLOCK]
            block = self._blocks[number] = self._make_block(items)
        return block


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
    leaders: Sequence[int]

    @property
    def count(self) -> int:
        """Number of answer records."""
        return self.leading.count + (self.held.count if self.held else 0)

    @property
    def size(self) -> int:
        """Approximate bytes of memory."""
        parts = (self.leading, self.held, self.leading_additional, self.held_additional)
        return sum(part.size for part in parts if part is not None) + 8 * min(len(self.leaders), _MAX_CYCLE)

    def leader(self, index: int) -> int:
        """The position of the record that leads at a rotation index."""
        return self.leaders[index % len(self.leaders)] if self.leaders else index % self.leading.count


class RRset(msgspec.Struct, frozen=True, dict=True):
    """Records of one name and type, ready to be ordered.

    Leading records rotate; held ones come after them. `leaders` is a cycle of positions among the leading
    records, in which each position occurs in proportion to its weight; it is empty if all weights are equal.
    """

    renderer: Renderer[Any]
    leading_items: Sequence[Item] = ()
    held_items: Sequence[Item] = ()
    leaders: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.leading_items)

    @property
    def leading(self) -> tuple[Record, ...]:
        """The leading records, all rendered."""
        return tuple(map(self._record, self.leading_items))

    @property
    def held(self) -> tuple[Record, ...]:
        """The held records, all rendered."""
        return tuple(map(self._record, self.held_items))

    def _record(self, item: Item) -> Record:
        additional = self.renderer.additional(item) if self.renderer.has_additional else ()
        return Record(self.renderer.answer(item), additional, item.weighting)

    @functools.cached_property
    def packed(self) -> PackedRRset:
        """The records in wire format, rendered when they are needed.

        They refer to the renderer, not to this object, so that there is no reference cycle.
        """
        has_additional = self.renderer.has_additional
        return PackedRRset(
            leading=PackedRecords(
                self.leading_items, self.renderer.block_of_answers, self.renderer.min_answer
            ),
            held=PackedRecords(self.held_items, self.renderer.block_of_answers) if self.held_items else None,
            leading_additional=self._packed_additional(self.leading_items) if has_additional else None,
            held_additional=self._packed_additional(self.held_items) if has_additional else None,
            leaders=self.leaders,
        )

    def _packed_additional(self, items: Sequence[Item]) -> PackedRecords | None:
        if not items:
            return None
        if len(items) <= _BLOCK and not any(map(self.renderer.additional, items)):
            return None
        return PackedRecords(items, self.renderer.block_of_additional)

    @property
    def period(self) -> int:
        """Number of rotation indexes after which the order repeats, with held records if that stays short."""
        period = len(self.leaders) or len(self.leading_items)
        both = math.lcm(period, max(len(self.held_items), 1))
        return both if both <= _MAX_CYCLE else period

    def shuffled(self, rng: random.Random, most: int | None = None) -> list[Record]:
        """The records in random order; the first one is drawn by weight.

        Args:
            rng: source of random numbers.
            most: maximum number of records; None means all.
        """
        most = len(self.leading_items) + len(self.held_items) if most is None else most
        ordered = rng.sample(self.leading_items, min(most, len(self.leading_items)))
        if self.leaders:
            leader = self.leading_items[rng.choice(self.leaders)]
            if leader in ordered:
                ordered.remove(leader)
            else:
                ordered.pop()
            ordered.insert(0, leader)
        room = min(most - len(ordered), len(self.held_items))
        return [self._record(item) for item in (*ordered, *rng.sample(self.held_items, room))]


NO_RECORDS: RRset = RRset(_RecordRenderer())


_weighting = attrgetter("weighting")
_weight, _is_held = attrgetter("weight"), attrgetter("held")


def arrange_in_steps(items: Iterable[ItemT], renderer: Renderer[ItemT]) -> Generator[int, None, RRset]:
    """Make an RRset of items. Records of weight 0 are left out unless all others are held.

    The functions that visit all items are in C. For ten thousand items, a step takes at most 1 ms (measured).
    """
    all_items = tuple(items)
    weightings = list(map(_weighting, all_items))
    different = list(dict(zip(map(id, weightings), weightings, strict=True)).values())
    if len(different) <= 1:
        return RRset(renderer, all_items)
    yield len(all_items) * COMPARISON
    leading, held = all_items, all_items[:0]
    if any(map(_is_held, different)) or min(map(_weight, different)) <= 0:
        leading, held = _leading_and_held(all_items, weightings)
        yield len(all_items) * COMPARISON
        weightings = list(map(_weighting, leading))
    weights = _srv_weights(weightings)
    yield len(all_items) * COMPARISON
    return RRset(renderer, leading, held, _cycle_of(weights))


def _leading_and_held(
    items: tuple[ItemT, ...], weightings: Sequence[Weighting]
) -> tuple[tuple[ItemT, ...], tuple[ItemT, ...]]:
    is_served = list(map(operator.lt, repeat(0), map(_weight, weightings)))
    is_held = list(map(_is_held, weightings))
    if all(compress(is_held, is_served)):  # unlike a held member, a drained one is registered
        is_served = [True] * len(items)
    served_held = tuple(compress(items, map(operator.and_, is_served, is_held)))
    leading = tuple(compress(items, map(operator.gt, is_served, is_held)))
    return (leading, served_held) if leading else (served_held, ())


def _srv_weights(weightings: Sequence[Weighting]) -> list[int]:
    """The SRV weights (`Weighting.srv_weight`)."""
    weights = list(map(round, map(operator.mul, map(_weight, weightings), repeat(WEIGHT_ONE))))
    if min(weights) < 1:
        weights = list(map(max, weights, repeat(1)))
    return list(map(min, weights, repeat(MAX_WEIGHT))) if max(weights) > MAX_WEIGHT else weights


def arrange(records: Iterable[Record]) -> RRset:
    """Make an RRset of records that are rendered already, as `arrange_in_steps`."""
    return run_at_once(arrange_in_steps(records, _RecordRenderer()))


def _cycle_of(weights: Sequence[int]) -> Sequence[int]:
    """A cycle in which each position occurs in proportion to its weight; empty if all weights are equal."""
    numbers = Counter(weights)
    if len(numbers) <= 1:
        return ()
    divisor = math.gcd(*numbers)
    if len(weights) > _MAX_SPACED:
        return _StridedCycle(list(map(operator.floordiv, weights, repeat(divisor))))
    counts = {weight: weight // divisor for weight in numbers}
    max_length = _MAX_CYCLE - len(weights)
    total = sum(counts[weight] * number for weight, number in numbers.items())
    if total > max_length:
        scale = max_length / total
        counts = {weight: max(round(count * scale), 1) for weight, count in counts.items()}
    # The occurrences of each position are evenly spaced on a circle; each position starts a little later than
    # the position before it.
    places: list[tuple[float, int]] = []
    for position, weight in enumerate(weights):
        count, shift = counts[weight], (position + 0.5) / len(weights)
        places += [((occurrence + shift) / count, position) for occurrence in range(count)]
    places.sort()
    return [position for _, position in places]


class _StridedCycle(Sequence[int]):
    """A cycle of positions, each of which occurs as often as its count, without a list of all of them.

    Each position has as many consecutive slots as its count. The cycle visits all slots with a stride near
    the golden section of their number. It therefore visits each slot once, and the slots of a position at
    nearly equal intervals, of at most three different lengths (the three-gap theorem).

    Making it takes 0.2 ms for ten thousand positions, and a list of evenly spaced positions 20 ms (measured).
    """

    __slots__ = ("_ends", "_length", "_stride")

    def __init__(self, counts: Sequence[int]) -> None:
        self._ends = list(accumulate(counts))
        self._length = self._ends[-1]
        stride = round(self._length * _GOLDEN_SECTION)
        while math.gcd(stride, self._length) > 1:
            stride += 1
        self._stride = stride

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return bisect_right(self._ends, index * self._stride % self._length)
