"""The rates between two readings of a running server's stats (`GET /api/stats`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from zkdns.admin.status import StatsReading, WorkerReading
from zkdns.dns.answer_source import FORWARD_CACHE, RESPONSE_CACHE, STALE, UPSTREAM
from zkdns.telemetry.stats import (
    ForwardStats,
    UpstreamStatus,
    WorkerStats,
    combine_upstreams,
    growth,
    quantile,
)

_FORWARDED = frozenset({FORWARD_CACHE, UPSTREAM, STALE})
_P50, _P99 = 0.5, 0.99

_K = TypeVar("_K")


class UpstreamRates(UpstreamStatus, frozen=True):
    """State of an upstream, combined from all workers, and its rates, summed over all workers."""

    queries: float
    timeouts: float


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Rates per second between two readings, highest first, and the gauges of the second one."""

    time: float
    """Unix time of the second reading by the server's clock."""
    seconds: float
    """Time between the readings."""
    version: str
    uptime_seconds: float
    queries: float
    transports: dict[str, float]
    sources: dict[str, float]
    types: dict[str, float]
    rcodes: dict[str, float]
    p50_seconds: float | None
    """Median latency. None: there were no responses."""
    p99_seconds: float | None
    response_cache_share: float | None
    """Share of the responses that came from the response cache, from 0 to 1."""
    forward_cache_share: float | None
    """Share of the other responses about forwarded names that came from the forward cache."""
    response_cache_entries: int
    response_cache_bytes: int
    forward_cache_entries: int
    forward_cache_bytes: int
    services: int
    members: dict[str, int]
    zookeeper: str | None
    """State of the ZooKeeper connection. None: not used, or not reported yet."""
    zookeeper_stale_seconds: float
    upstreams: tuple[UpstreamRates, ...]


def is_comparable(before: StatsReading, after: StatsReading) -> bool:
    """True if both readings are of the same run of the server, and time has passed between them."""
    return before.started == after.started and before.clock < after.clock


def rates_between(before: StatsReading, after: StatsReading) -> Rates:
    """Compute the rates between two comparable readings."""
    seconds = after.clock - before.clock

    def rates(count: Callable[[WorkerStats], Mapping[str, int]]) -> dict[str, float]:
        each = {key: value / seconds for key, value in _growth_by(before, after, count).items()}
        return dict(sorted(each.items(), key=lambda item: (-item[1], item[0])))

    transports = rates(lambda worker: {"udp": worker.udp_queries, "tcp": worker.tcp_queries})
    sources = rates(lambda worker: worker.sources)
    buckets = _growth_by(before, after, _latency_counts)
    latencies = [buckets[number] for number in range(len(after.latency_buckets) + 1)]
    forwards = [worker.forward or ForwardStats() for worker in after.workers]
    table, zookeeper = after.table, after.zookeeper
    return Rates(
        time=after.now,
        seconds=seconds,
        version=after.version,
        uptime_seconds=max(after.now - after.started, 0.0),
        queries=sum(transports.values()),
        transports=transports,
        sources=sources,
        types=rates(lambda worker: _responses_by(worker, "qtype")),
        rcodes=rates(lambda worker: _responses_by(worker, "rcode")),
        p50_seconds=quantile(after.latency_buckets, latencies, _P50),
        p99_seconds=quantile(after.latency_buckets, latencies, _P99),
        response_cache_share=_share(RESPONSE_CACHE, sources),
        forward_cache_share=_share(
            FORWARD_CACHE, {key: rate for key, rate in sources.items() if key in _FORWARDED}
        ),
        response_cache_entries=sum(worker.response_cache_entries for worker in after.workers),
        response_cache_bytes=sum(worker.response_cache_bytes for worker in after.workers),
        forward_cache_entries=sum(forward.cache_entries for forward in forwards),
        forward_cache_bytes=sum(forward.cache_bytes for forward in forwards),
        services=table.services if table is not None else 0,
        members={
            state: count
            for state in ("alive", "hidden", "held", "bad")
            if table is not None and (count := getattr(table, state)) is not None
        },
        zookeeper=zookeeper.state if zookeeper is not None else None,
        zookeeper_stale_seconds=zookeeper.stale_seconds if zookeeper is not None else 0.0,
        upstreams=tuple(_upstreams(before, after)),
    )


def _pairs(before: StatsReading, after: StatsReading) -> Iterator[tuple[WorkerStats, WorkerReading]]:
    """Yield two readings of each worker. The first one is empty for a new process."""
    earlier = {worker.pid: worker for worker in before.workers}
    for worker in after.workers:
        yield earlier.get(worker.pid, WorkerStats()), worker


def _growth_by(
    before: StatsReading, after: StatsReading, count: Callable[[WorkerStats], Mapping[_K, int]]
) -> Counter[_K]:
    """Return how much counters grew in all workers together, by the keys that `count` returns."""
    total: Counter[_K] = Counter()
    for old, new in _pairs(before, after):
        earlier = count(old)
        for key, value in count(new).items():
            total[key] += growth(earlier.get(key, 0), value)
    return total


def _latency_counts(worker: WorkerStats) -> Counter[int]:
    """Return the number of responses by bucket."""
    counts: Counter[int] = Counter()
    for latency in worker.latencies:
        counts.update(dict(enumerate(latency.counts)))
    return counts


def _responses_by(worker: WorkerStats, field: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for responses in worker.responses:
        counts[getattr(responses, field)] += responses.count
    return counts


def _upstreams(before: StatsReading, after: StatsReading) -> Iterable[UpstreamRates]:
    """Return the rates of each upstream, busiest first."""
    seconds = after.clock - before.clock
    queries = _growth_by(before, after, lambda worker: _by_upstream(worker, "queries"))
    timeouts = _growth_by(before, after, lambda worker: _by_upstream(worker, "timeouts"))
    found = [
        UpstreamRates(
            **msgspec.structs.asdict(status),
            queries=queries[status.address, status.domain] / seconds,
            timeouts=timeouts[status.address, status.domain] / seconds,
        )
        for status in combine_upstreams(after.workers)
    ]
    return sorted(found, key=lambda one: (-one.queries, one.domain, one.address))


def _by_upstream(worker: WorkerStats, field: str) -> dict[tuple[str, str], int]:
    upstreams = worker.forward.upstreams if worker.forward is not None else ()
    return {(one.address, one.domain): getattr(one, field) for one in upstreams}


def _share(part: str, rates: Mapping[str, float]) -> float | None:
    whole = sum(rates.values())
    return rates.get(part, 0.0) / whole if whole else None
