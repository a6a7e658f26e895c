"""`Audit`: spreads the reads of an audit over its period.

An audit lists every set and reads the data of every member again, although events should report every change.
All hosts of a fleet do that all the time, so the reads are few at a time: the listings are spread evenly over
the period, and the data is read at a limited rate. With many members, reading all data takes several periods.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from zkdns.serverset.sync.tree import SetNode

MAX_READS_PER_SECOND = 100
"""Members whose data is read per second. A thousand hosts together read 100,000, which costs an ensemble
about one core (10 µs each in a multiRead). 100,000 members take 17 minutes."""

_ROUND_SECONDS = 1.0


class Audit:
    """The sets that the present audit has not read yet, in rounds of about a second.

    Args:
        seconds: the period.
    """

    def __init__(self, seconds: float) -> None:
        self._rounds = max(1, round(seconds / _ROUND_SECONDS))
        self.round_seconds = seconds / self._rounds
        """Seconds between two rounds."""
        self._round = 0
        self._unlisted: deque[SetNode] = deque()
        self._unread: deque[SetNode] = deque()
        self._allowance = 0.0

    def is_beginning(self) -> bool:
        """Whether the next round is the first one of an audit."""
        return self._round == 0

    def begin(self, sets: Iterable[SetNode]) -> None:
        """Begin to read the data of these sets, unless the previous audits have not finished that."""
        if not self._unread:
            self._unread.extend(sets)

    def add(self, node: SetNode) -> None:
        """Add a set to list."""
        self._unlisted.append(node)

    def next_round(self) -> tuple[list[SetNode], list[SetNode]]:
        """The sets to list now, and those whose data is read now."""
        left = self._rounds - self._round
        self._round = (self._round + 1) % self._rounds
        to_list = [self._unlisted.popleft() for _ in range(math.ceil(len(self._unlisted) / left))]
        limit = MAX_READS_PER_SECOND * self.round_seconds
        self._allowance = min(self._allowance + limit, limit)
        return to_list, list(self._take_unread(math.ceil(len(self._unread) / left)))

    def _take_unread(self, count: int) -> Iterator[SetNode]:
        """At most `count` sets, within the allowance. A large set uses up the allowance of later rounds."""
        while count and self._unread and self._allowance > 0:
            node = self._unread.popleft()
            self._allowance -= len(node.data_hashes)
            count -= 1
            yield node
