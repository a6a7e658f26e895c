"""`Propagation`: how long changes take from ZooKeeper to the table."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BUCKETS: Final = (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of the buckets in seconds. One more bucket holds all longer times."""


class Propagation:
    """A histogram of the times from the writing of a znode to the publication of the change.

    ZooKeeper's clock has written the time in the znode, so that the times contain the difference of the two
    clocks. A negative time counts as 0.

    Attributes:
        counts: changes in each of `BUCKETS` and in the bucket after them. Not cumulative.
        seconds: sum of all times.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a change."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
