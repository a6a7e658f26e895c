"""Records laid out so that an answer may begin at any of them.

Every order in which records are answered goes round, from the record whose turn it is; so each answer is one
stretch of the same bytes, and nothing is packed twice.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


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

    def going_round(self, first: int) -> tuple[bytes, bytes]:
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
