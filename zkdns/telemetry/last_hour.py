"""Rates and latencies of the last hour, one point for every ten seconds.

Counters restart with their process, so each process is compared with its own last reading. The caller passes
the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from zkdns.telemetry.stats import (
    LATENCY_BUCKETS,
    SOURCES,
    LatencyKind,
    LatencyStats,
    WorkerStats,
    growth,
    quantile,
)

STEP: Final = 10
"""Seconds between two points."""
POINTS: Final = 360
_QUANTILES: Final = {"p50": 0.5, "p99": 0.99}
_KINDS: Final[tuple[LatencyKind, ...]] = ("cached", "computed", "forwarded")
NAMES: Final = (
    *("queries", *SOURCES),
    *(f"latency_{name}" for name in _QUANTILES),
    *(f"latency_{kind}_{name}" for kind in _KINDS for name in _QUANTILES),
)
"""Names of the series: rates per second, and quantiles of the latency in seconds.

The latency is that of all responses and of each kind (`zkdns.telemetry.stats.LatencyKind`).
"""

Point: TypeAlias = dict[str, float | None]


class HourSeries(msgspec.Struct, frozen=True):
    """The last hour as series of values."""

    step: int
    until: float
    """Unix time of the last values."""
    series: dict[str, list[float | None]]
    """`POINTS` values for each of `NAMES`, oldest first. None: unknown."""


class LastHour:
    """Computes a point from each reading and keeps the points of one hour.

    Args:
        now: time by a monotonic clock.
        workers: stats of each worker at that time, by process id.
    """

    def __init__(self, now: float, workers: Mapping[int, WorkerStats]) -> None:
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._before = workers
        self._at = now

    def add_point(self, now: float, workers: Mapping[int, WorkerStats]) -> Point:
        """Add the point for the time since the last call, and return it.

        Args:
            now: about `STEP` after the last call. After a longer time, empty points fill the gap.
            workers: stats of each worker, by process id.
        """
        elapsed = now - self._at
        missed = round(elapsed / STEP) - 1
        self._points.extend(dict.fromkeys(NAMES) for _ in range(min(missed, POINTS)))
        point = _point(elapsed, [(self._before.get(pid), each) for pid, each in workers.items()])
        self._points.append(point)
        self._before, self._at = dict(workers), now
        return point

    def read(self, now: float, wall: float) -> HourSeries:
        """Return all points.

        Args:
            now: time by the clock of `add_point`.
            wall: Unix time of the same moment.
        """
        missing = [None] * (POINTS - len(self._points))
        series = {name: [*missing, *(point[name] for point in self._points)] for name in NAMES}
        return HourSeries(STEP, wall - (now - self._at), series)


def _point(elapsed: float, readings: Sequence[tuple[WorkerStats | None, WorkerStats]]) -> Point:
    """Compute a point from two readings of each worker. The first one is None for a new worker."""
    point: Point = dict.fromkeys(NAMES)
    if not readings or elapsed <= 0:
        return point
    for name in ("queries", *SOURCES):
        counts = [(_count(name, before), _count(name, after)) for before, after in readings]
        known = [growth(before or 0, after) for before, after in counts if after is not None]
        if known:
            point[name] = round(sum(known) / elapsed, 3)
    added = {kind: _added(kind, readings) for kind in _KINDS}
    series = {f"latency_{kind}": counts for kind, counts in added.items()}
    series["latency"] = [sum(counts) for counts in zip(*added.values(), strict=True)]
    for prefix, buckets in series.items():
        for name, share in _QUANTILES.items():
            point[f"{prefix}_{name}"] = quantile(LATENCY_BUCKETS, buckets, share)
    return point


def _added(kind: LatencyKind, readings: Sequence[tuple[WorkerStats | None, WorkerStats]]) -> list[int]:
    """Return the responses of one kind between two readings of each worker, in each latency bucket."""
    total = [0] * (len(LATENCY_BUCKETS) + 1)
    for before, after in readings:
        pairs = zip(_latency_counts(kind, before), _latency_counts(kind, after), strict=True)
        total = [count + growth(*pair) for count, pair in zip(total, pairs, strict=True)]
    return total


def _latency_counts(kind: LatencyKind, stats: WorkerStats | None) -> tuple[int, ...]:
    found = (each for each in stats.latencies if each.kind == kind) if stats is not None else ()
    return next(iter(found), LatencyStats(kind=kind)).counts


def _count(name: str, stats: WorkerStats | None) -> int | None:
    """Return a worker's counter for a series. None if the worker does not have it."""
    if stats is None:
        return None
    if name == "queries":
        return stats.udp_queries + stats.tcp_queries + stats.tls_queries
    return stats.sources.get(name)
