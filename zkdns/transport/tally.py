"""What is counted of responses: by their marks, and how long askers waited for them.

A mark is a byte by which whoever answers wants a response to be counted; what it means is its business. The
marks of a batch come as one piece of bytes, and are put aside until there are enough of them to be counted by
one call: so a response costs some 20 ns (measured), a two hundredth of what answering it does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

LATENCY_BUCKETS: Final = (
    *(0.000_01, 0.000_025, 0.000_05),
    *(0.000_1, 0.000_25, 0.000_5),
    *(0.001, 0.002_5, 0.005),
    *(0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0),
)
"""Seconds: the upper ends of what latencies are sorted into; what took longer is counted behind them."""

UNMARKED: Final = 0
"""The mark of what is not counted, as silence."""

_ENOUGH = 4096


class Latencies:
    """How long things took.

    Attributes:
        counts: of each of `LATENCY_BUCKETS`, and of those behind them.
        seconds: all of them together.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.seconds = 0.0


class Tally:
    """What one server has counted of its responses.

    Attributes:
        remembered: how long those waited who were given what had been answered before.
        made: how long those did among whom was one that asked something new.
        later: how long those did whose answers there were only later.
    """

    def __init__(self) -> None:
        self.remembered, self.made, self.later = Latencies(), Latencies(), Latencies()
        self._counts: Counter[int] = Counter()
        self._put_aside = bytearray()

    def add(self, marks: bytes | bytearray, waited: Latencies, seconds: float) -> None:
        """Responses with these marks were given, for which askers waited so long: one of the three above."""
        count = len(marks) - marks.count(UNMARKED)
        waited.counts[bisect_left(LATENCY_BUCKETS, seconds)] += count
        waited.seconds += seconds * count
        self._put_aside += marks
        if len(self._put_aside) >= _ENOUGH:
            self._count()

    def counts(self) -> dict[int, int]:
        """How many responses there were of each mark so far."""
        self._count()
        return {mark: count for mark, count in self._counts.items() if mark != UNMARKED}

    def _count(self) -> None:
        self._counts.update(self._put_aside)
        self._put_aside.clear()
