"""Reports a worker's readiness, stats and traffic to the supervisor."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import structlog

from zkdns.daemon.ipc.child import Report, SendReport
from zkdns.daemon.table_digests import zone_digests
from zkdns.daemon.worker.deferred_answers import DeferredAnswers
from zkdns.dns.answer_source import RESPONSE_CACHE
from zkdns.dns.authority import Authority
from zkdns.dns.response_class import describe
from zkdns.dns.service_counts import ServiceCounts
from zkdns.telemetry.stats import (
    SOURCES,
    ForwardStats,
    LatencyKind,
    LatencyStats,
    ResponseStats,
    UpstreamStats,
    WorkerStats,
)
from zkdns.telemetry.traffic import TopQueries, Traffic
from zkdns.transport.access_control import AccessCounters
from zkdns.transport.counters import Counters, LatencyHistogram
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

if TYPE_CHECKING:
    from zkdns.forward.forwarder import Forwarder

log = structlog.get_logger("zkdns.worker")


class WorkerStatsReporter:
    """Sends reports to the supervisor when they differ from the last one.

    Args:
        authority: for readiness, sources, digests and the response caches.
        forwarder: None: this server forwards nothing.
        deferred: the queries that wait for the names of large services.
        servers: UDP and TCP servers of this worker.
        access: counters of refused and rate-limited queries.
        transfer: as in `Task`.
        send: sends a report.
    """

    def __init__(
        self,
        authority: Authority,
        forwarder: Forwarder | None,
        deferred: DeferredAnswers,
        servers: tuple[Sequence[UdpServer], Sequence[TcpServer]],
        access: AccessCounters,
        *,
        transfer: str,
        send: SendReport,
    ) -> None:
        self._access = access
        self._servers = servers
        self._authority = authority
        self._forwarder = forwarder
        self._deferred = deferred
        self._transfer = transfer
        self._send = send
        self._last = Report(ready=False)
        self._truncated = self._from_response_cache = 0
        self._has_left = False

    def report_left(self) -> None:
        """Report that this worker takes no more queries from shared sockets."""
        self._has_left = True
        self.report()

    def report_relaying(self, transfer: str) -> None:
        """Report that this worker relays zone transfers to another path from now on."""
        self._transfer = transfer
        self.report()

    def report(self) -> None:
        """Report the current stats. Log a warning for new responses that were truncated over TCP.

        A service with a response that does not fit into a TCP message has too many members for one name.
        """
        stats = self._stats()
        report = Report(self._authority.freshness.is_ready, stats, self._has_left, self._transfer)
        if report == self._last:
            return
        self._last = report
        self._send(report)
        if stats.truncated_over_tcp > self._truncated:
            log.warning("tcp_responses_truncated", count=stats.truncated_over_tcp - self._truncated)
            self._truncated = stats.truncated_over_tcp

    def _stats(self) -> WorkerStats:
        udp, streams = self._servers
        tcp = [server for server in streams if server.tls is None]
        tls = [server for server in streams if server.tls is not None]
        certificates = {server.tls for server in tls if server.tls is not None}  # all servers share one
        caches = self._authority.caches
        responses = (
            *_response_stats("udp", [server.counters for server in udp]),
            *_response_stats("tcp", [server.counters for server in tcp]),
            *_response_stats("tls", [server.counters for server in tls]),
        )
        return WorkerStats(
            responses=responses,
            sources=self._sources(sum(each.count for each in responses)),
            latencies=_latency_stats([each.counters for each in udp] + [each.counters for each in streams]),
            udp_queries=sum(server.received for server in udp),
            tcp_queries=sum(server.received for server in tcp),
            tls_queries=sum(server.received for server in tls),
            response_cache_misses=sum(cache.misses for cache in caches),
            response_cache_evictions=sum(cache.evicted for cache in caches),
            response_cache_entries=sum(map(len, caches)),
            response_cache_bytes=sum(cache.size for cache in caches),
            waiting_for_services=self._deferred.waiting,
            unsent=sum(server.lost for server in udp),
            tcp_connections=sum(server.connection_count for server in streams),
            tcp_held_bytes=streams[0].held.total if streams else 0,  # all servers share it
            tcp_replaced_connections=sum(server.replaced.count for server in streams),
            tcp_dropped_connections=sum(server.dropped for server in streams),
            tls_connections=sum(server.connection_count for server in tls),
            tls_handshakes=sum(each.handshakes for each in certificates),
            tls_failed_handshakes=sum(each.failed_handshakes for each in certificates),
            truncated_over_tcp=self._authority.responder.truncated_over_tcp,
            refused=self._access.refused,
            rate_limited=self._access.rate_limited,
            forward=_forward_stats(self._forwarder) if self._forwarder is not None else None,
            digests=zone_digests(self._authority.table),
        )

    def _sources(self, responses: int) -> dict[str, int]:
        """Return the number of responses by source.

        Responses without a noted source are from the response cache. A noted response is not sent if its
        client has disconnected, so the difference may decrease, but the counter must not.
        """
        noted = self._authority.sources.counts
        self._from_response_cache = max(self._from_response_cache, responses - noted.total())
        return {source: noted[source] for source in SOURCES} | {RESPONSE_CACHE: self._from_response_cache}


class TrafficReporter:
    """Sends the responses by service, and the most frequent names and clients, to the supervisor.

    Args:
        counts: the responses by service.
        top: the names and clients. None: not counted.
        send: sends a report.
    """

    def __init__(self, counts: ServiceCounts, top: TopQueries | None, send: SendReport) -> None:
        self._counts, self._top, self._send = counts, top, send

    async def report(self, now: float) -> None:
        """Report what has changed since the last call. Queries are answered between the parts.

        Args:
            now: time by the clock of `top`.
        """
        for services in self._counts.take():
            if services:
                self._send(Traffic(services))
            await asyncio.sleep(0)
        if self._top is not None:
            self._send(Traffic(top=self._top.read(now)))


def _response_stats(
    transport: Literal["udp", "tcp", "tls"], counters: Sequence[Counters]
) -> Iterator[ResponseStats]:
    counts: Counter[int] = Counter()
    for each in counters:
        counts.update(each.counts())
    for response_class, count in sorted(counts.items()):
        qtype, rcode = describe(response_class)
        yield ResponseStats(transport=transport, qtype=qtype, rcode=rcode, count=count)


def _latency_stats(counters: Sequence[Counters]) -> tuple[LatencyStats, ...]:
    kinds: dict[LatencyKind, list[LatencyHistogram]] = {
        "cached": [each.cached for each in counters],
        "computed": [each.computed for each in counters],
        "forwarded": [each.forwarded for each in counters],
    }
    return tuple(
        LatencyStats(
            kind=kind,
            counts=tuple(map(sum, zip(*(each.counts for each in histograms), strict=True))),
            seconds=sum(each.seconds for each in histograms),
        )
        for kind, histograms in kinds.items()
    )


def _forward_stats(forwarder: Forwarder) -> ForwardStats:
    counters, cache = forwarder.counters, forwarder.cache
    return ForwardStats(
        queries=counters.queries,
        waiting=forwarder.waiting,
        failed=counters.failed,
        stale=counters.stale,
        overloaded=counters.overloaded,
        prefetched=counters.prefetched,
        filtered=counters.filtered,
        cache_entries=len(cache),
        cache_bytes=cache.size,
        cache_evictions=cache.evictions,
        upstreams=tuple(
            UpstreamStats(
                address=str(upstream.address),
                domain=zone.domain or "",
                is_dead=upstream.is_dead,
                rtt_seconds=upstream.rtt,
                queries=upstream.sent,
                timeouts=upstream.timed_out,
                bad_messages=upstream.bad_messages,
            )
            for zone in forwarder.zones.all
            for upstream in zone.resolver.upstreams.all
        ),
    )
