"""The rates between two readings of a running server's stats (`GET /api/stats`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from zkdns.admin.api_types import ServiceLine
from zkdns.admin.status import StatsReading, TrafficReading, WorkerReading
from zkdns.dns.answer_source import FORWARD_CACHE, RESPONSE_CACHE, STALE, UPSTREAM
from zkdns.telemetry.stats import (
    ForwardStats,
    LatencyKind,
    UpstreamStatus,
    WorkerStats,
    combine_upstreams,
    growth,
    quantile,
)
from zkdns.telemetry.traffic import TopReport

_FORWARDED = frozenset({FORWARD_CACHE, UPSTREAM, STALE})
_P50, _P99 = 0.5, 0.99
_KINDS: tuple[LatencyKind, ...] = ("cached", "computed", "forwarded")

_K = TypeVar("_K")


class UpstreamRates(UpstreamStatus, frozen=True):
    """State of an upstream, combined from all workers, and its rates, summed over all workers."""

    queries: float
    timeouts: float


class LatencyRates(msgspec.Struct, frozen=True):
    """Rate and latency of responses of one kind (`zkdns.telemetry.stats.LatencyKind`)."""

    kind: LatencyKind
    responses: float
    p50_seconds: float | None
    """None: there were no responses."""
    p99_seconds: float | None


class ServiceRates(msgspec.Struct, frozen=True):
    """Rate and members of a service."""

    name: str
    queries: float
    members: int
    """Members in responses, including held ones."""
    held: int


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
    latencies: tuple[LatencyRates, ...]
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
    source: str
    """The name of the source: ZooKeeper or primary."""
    source_state: str | None
    """State of its connection. None: not used, or not reported yet."""
    source_stale_seconds: float
    upstreams: tuple[UpstreamRates, ...]
    services_by_rate: tuple[ServiceRates, ...] | None = None
    """None: only the view `services` has it."""
    top: TopReport | None = None
    """None: only the view `names` has it, if the setting `top_names` is on."""


def is_comparable(before: StatsReading | TrafficReading, after: StatsReading | TrafficReading) -> bool:
    """True if both readings are of the same run of the server, and time has passed between them."""
    return before.started == after.started and before.clock < after.clock


def rates_between(before: StatsReading, after: StatsReading) -> Rates:
    """Compute the rates between two comparable readings."""
    seconds = after.clock - before.clock

    def rates(count: Callable[[WorkerStats], Mapping[str, int]]) -> dict[str, float]:
        each = {key: value / seconds for key, value in _growth_by(before, after, count).items()}
        return dict(sorted(each.items(), key=lambda item: (-item[1], item[0])))

    transports = rates(
        lambda worker: {"udp": worker.udp_queries, "tcp": worker.tcp_queries, "tls": worker.tls_queries}
    )
    sources = rates(lambda worker: worker.sources)
    latencies = {kind: _latency_growth(before, after, kind) for kind in _KINDS}
    all_latencies = list(map(sum, zip(*latencies.values(), strict=True)))
    forwards = [worker.forward or ForwardStats() for worker in after.workers]
    table, source = after.table, after.zookeeper or after.primary
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
        p50_seconds=quantile(after.latency_buckets, all_latencies, _P50),
        p99_seconds=quantile(after.latency_buckets, all_latencies, _P99),
        latencies=tuple(
            LatencyRates(
                kind,
                sum(counts) / seconds,
                quantile(after.latency_buckets, counts, _P50),
                quantile(after.latency_buckets, counts, _P99),
            )
            for kind, counts in latencies.items()
        ),
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
        source="primary" if after.primary is not None else "ZooKeeper",
        source_state=source.state if source is not None else None,
        source_stale_seconds=source.stale_seconds if source is not None else 0.0,
        upstreams=tuple(_upstreams(before, after)),
    )


def service_rates(
    before: TrafficReading, after: TrafficReading, lines: Mapping[str, ServiceLine]
) -> tuple[ServiceRates, ...]:
    """Compute the rates of all services between two comparable readings, the highest first.

    Args:
        before: the first reading.
        after: the second one.
        lines: all services by name.
    """
    seconds = after.clock - before.clock
    rates = (
        ServiceRates(
            name,
            growth(before.services.get(name, 0), after.services.get(name, 0)) / seconds,
            line.alive + line.held,
            line.held,
        )
        for name, line in lines.items()
    )
    return tuple(sorted(rates, key=lambda one: (-one.queries, one.name)))


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


def _latency_growth(before: StatsReading, after: StatsReading, kind: LatencyKind) -> list[int]:
    """Return the new responses of one kind by bucket."""

    def counts(worker: WorkerStats) -> dict[int, int]:
        found = (latency.counts for latency in worker.latencies if latency.kind == kind)
        return dict(enumerate(next(found, ())))

    buckets = _growth_by(before, after, counts)
    return [buckets[number] for number in range(len(after.latency_buckets) + 1)]


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
