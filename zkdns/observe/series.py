"""The last hour in figures: how much was answered, from what and how quickly; a point for each ten seconds.

Counters begin anew with their process, so each process is compared with itself alone. Time is a parameter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

import msgspec

from zkdns.observe.figures import LATENCY_BUCKETS, SOURCES, AnswererFigures
from zkdns.observe.quantile import quantile

STEP: Final = 10
"""Seconds from one point to the next."""
POINTS: Final = 360
NAMES: Final = ("queries", *SOURCES, "latency_p50", "latency_p99")
"""Of the series: numbers a second, and seconds that half or 99 of 100 responses took at most."""

Point: TypeAlias = dict[str, float | None]

_HALF, _NEARLY_ALL = 0.5, 0.99


class Figures(msgspec.Struct, frozen=True):
    """The last hour."""

    step: int
    until: float
    """The Unix time of the last points."""
    series: dict[str, list[float | None]]
    """`POINTS` values of each of `NAMES`, the oldest first; None: not known."""


class LastHour:
    """Makes points of what processes have counted, and keeps those of one hour.

    Args:
        now: the time by a monotonic clock, from which on is counted.
        processes: what each process has counted by then, by its number.
    """

    def __init__(self, now: float, processes: Mapping[int, AnswererFigures]) -> None:
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._before = processes
        self._at = now

    def take(self, now: float, processes: Mapping[int, AnswererFigures]) -> Point:
        """Add the point of the time since the last one, and return it.

        Args:
            now: some `STEP` after the last time; where it is a multiple, points are left out.
            processes: what each process has counted since its start, by its number.
        """
        elapsed = now - self._at
        left_out = round(elapsed / STEP) - 1
        self._points.extend(dict.fromkeys(NAMES) for _ in range(min(left_out, POINTS)))
        point = _point(elapsed, [(self._before.get(pid), each) for pid, each in processes.items()])
        self._points.append(point)
        self._before, self._at = dict(processes), now
        return point

    def read(self, now: float, wall: float) -> Figures:
        """All points.

        Args:
            now: the time by the clock of `take`.
            wall: the same moment in Unix time.
        """
        missing = [None] * (POINTS - len(self._points))
        series = {name: [*missing, *(point[name] for point in self._points)] for name in NAMES}
        return Figures(STEP, wall - (now - self._at), series)


def _point(elapsed: float, processes: Sequence[tuple[AnswererFigures | None, AnswererFigures]]) -> Point:
    """What happened in so many seconds, by what each process had counted before (None: it is new) and has."""
    point: Point = dict.fromkeys(NAMES)
    if not processes or elapsed <= 0:
        return point
    for name in ("queries", *SOURCES):
        counts = [(_count(name, before), _count(name, after)) for before, after in processes]
        known = [_growth(before or 0, after) for before, after in counts if after is not None]
        if known:
            point[name] = round(sum(known) / elapsed, 3)
    took = [0] * (len(LATENCY_BUCKETS) + 1)
    for before, after in processes:
        had = before.latency if before is not None else (0,) * len(took)
        took = [
            sum_ + _growth(*one) for sum_, one in zip(took, zip(had, after.latency, strict=True), strict=True)
        ]
    waits = dict(zip((*LATENCY_BUCKETS, math.inf), accumulate(took), strict=True))
    point["latency_p50"], point["latency_p99"] = quantile(waits, _HALF), quantile(waits, _NEARLY_ALL)
    return point


def _count(name: str, figures: AnswererFigures | None) -> int | None:
    """What a process has counted under that name; None: it does not count that."""
    if figures is None:
        return None
    return figures.udp_queries + figures.tcp_queries if name == "queries" else figures.sources.get(name)


def _growth(before: int, after: int) -> int:
    """How much was counted; what is less than before has begun anew."""
    return after - before if after >= before else after
