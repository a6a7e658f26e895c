"""Queries of this second by network, counted by all workers together.

    worker 0 ──▶ row 0 │ slot of network A │ slot of network B │ …     each worker writes its own row,
    worker 1 ──▶ row 1 │ slot of network A │ slot of network B │ …     and adds up the slots of a network

The kernel distributes queries over the workers by address and port, so one client may reach one worker or
all. The configured limit divided by the number of workers would be too low for the former; without shared
counters it would be N times too high for the latter.

The rows are in memory that the workers share. A slot has its second and its number of queries in 8 bytes,
which are read and written at once, so no lock is needed. Networks are mapped to slots by a keyed hash. Two
networks may have the same slot, with a probability of 1 to 32,768, and then share one limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

SLOTS: Final = 1 << 15
EXEMPT: Final = -1
"""In place of a slot: a network that has no limit."""

_CELL = 8  # bytes
MAX_ROWS: Final = 512
"""Twice the maximum number of workers: a reload starts the new ones before the old ones end."""
_HEADER_CELLS = MAX_ROWS  # a cell for each row that is not 0 if the row was ever used
_SIZE = (_HEADER_CELLS + MAX_ROWS * SLOTS) * _CELL
_COUNT_BITS = 32
_COUNT_MASK = _SECOND_MASK = (1 << 32) - 1


def create_shared_memory() -> int | None:
    """Create memory for the rows of all workers, and return its file descriptor. None: not on this system.

    Pages take memory when they are used: at most 256 KiB for each worker.
    """
    if sys.platform != "linux":
        return None
    try:
        number = os.memfd_create("zkdns-rates")
    except OSError:  # a sandbox forbids it
        return None
    os.ftruncate(number, _SIZE)
    return number


class RateCounters:
    """The number of queries of each network in the present second.

    Args:
        key: of the hash; all workers need the same one. At most 64 bytes.
        shared: file descriptor of the memory that the workers share. It must stay open: closing it would end
            the claim of the row. None: this object counts for itself.
        row: the number of the own row. None: the first one that no running process has claimed.
    """

    def __init__(self, key: bytes, shared: int | None = None, row: int | None = None) -> None:
        self._key = key
        self._second = -1
        self._others: tuple[memoryview, ...] = ()
        self._header: memoryview | None = None
        if shared is not None and row is None:
            row = _claim_row(shared)
        if shared is None or row is None:
            self._own = memoryview(bytearray(SLOTS * _CELL)).cast("Q")
            return
        cells = memoryview(mmap.mmap(shared, _SIZE)).cast("Q")
        self._header = cells[:_HEADER_CELLS]
        starts = range(_HEADER_CELLS, _HEADER_CELLS + MAX_ROWS * SLOTS, SLOTS)
        self._rows = [cells[start : start + SLOTS] for start in starts]
        self._own = self._rows[row]
        self._row = row
        self._header[row] = 1

    def slot_of(self, network: bytes) -> int:
        """The slot of a network."""
        digest = hashlib.blake2b(network, key=self._key, digest_size=4).digest()
        return int.from_bytes(digest) % SLOTS

    def count(self, slots: Sequence[int], second: int, limit: int) -> frozenset[int]:
        """Count queries of networks, given by their slots.

        Args:
            slots: the slot of each query, or `EXEMPT`.
            second: the present second of a clock that all workers share.
            limit: queries of a network in a second.

        Returns:
            the slots over the limit.
        """
        if second != self._second:
            self._second = second
            self._find_others()
        stamp, own, over = (second & _SECOND_MASK) << _COUNT_BITS, self._own, []
        for slot, more in Counter(slots).items():
            if slot == EXEMPT:
                continue
            cell = own[slot]
            count = more + (cell & _COUNT_MASK if cell >= stamp else 0)
            own[slot] = stamp | count
            for other in self._others:
                cell = other[slot]
                if cell >= stamp:
                    count += cell & _COUNT_MASK
            if count > limit:
                over.append(slot)
        return frozenset(over)

    def _find_others(self) -> None:
        """Find the rows of the other workers; a row that is no longer used has older seconds."""
        if self._header is not None:
            used = [row for row, is_used in enumerate(self._header) if is_used and row != self._row]
            self._others = tuple(self._rows[row] for row in used)


def _claim_row(file: int) -> int | None:
    """Lock a row that no running process has locked. None: all are locked.

    The lock ends when this process ends, or closes any descriptor of the file.
    """
    for row in range(MAX_ROWS):
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            return row
    return None
