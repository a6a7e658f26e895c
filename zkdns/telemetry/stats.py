"""Stats that the watcher and the workers report to the supervisor, and how two readings compare.

Counters count from the start of their process. Prometheus and the HTTP API are two views of these structs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Final, Literal, TypeAlias

import msgspec

from zkdns.dns.answer_source import FORWARD_CACHE, REFUSED, RESPONSE_CACHE, STALE, UPSTREAM, ZONE
from zkdns.serverset import propagation
from zkdns.telemetry.process_stats import ProcessStats
from zkdns.transport import counters

LATENCY_BUCKETS: Final = counters.LATENCY_BUCKETS
"""Upper bounds of the latency buckets in seconds. One more bucket holds all longer latencies."""

PROPAGATION_BUCKETS: Final = propagation.BUCKETS
"""The same for the times that changes take."""

SOURCES: Final = (RESPONSE_CACHE, ZONE, FORWARD_CACHE, UPSTREAM, STALE, REFUSED)
"""Sources of responses (`zkdns.dns.answer_source`), in the order in which they are displayed."""

STATES: Final = ("reading", "live", "unreachable", "readonly")
"""States of the ZooKeeper connection: first read in progress, in sync, lost, without a quorum."""

LatencyKind: TypeAlias = Literal["cached", "computed", "forwarded"]
"""As `zkdns.transport.counters.Counters` separates them."""


class ZoneDigest(msgspec.Struct, frozen=True):
    """The digest of a zone in one process. Processes and servers whose answers have equal content agree."""

    zone: str
    members: int
    """Members in responses, including held ones."""
    digest: str
    """16 hexadecimal digits."""


class NamespaceStats(msgspec.Struct, frozen=True):
    """State of one namespace in ZooKeeper."""

    namespace: str
    """Its template."""
    state: str = STATES[0]
    """One of `STATES`."""
    stale_since: float | None = None
    """When its sets were last known to be current, by `zkdns.clock`. None: they are, or were never read."""
    held: int = 0
    """Held members."""
    holds: int = 0
    """Times that members of a service became held."""
    delays: int = 0
    """Times that a reply of ZooKeeper was late, as after a pause."""
    unread: int = 0
    """Znodes above the services that cannot be listed, for instance because their ACL denies it."""
    digest: str | None = None
    """As `ZoneDigest.digest`, of its services. None: not computed yet."""
    server: str = ""
    """The ZooKeeper server of the connection. Empty: there is none."""
    propagation_counts: tuple[int, ...] = (0,) * (len(PROPAGATION_BUCKETS) + 1)
    """Changes by the time from their writing to their publication (`Propagation.counts`)."""
    propagation_seconds: float = 0.0
    """Sum of these times."""


class SecondaryZoneStats(msgspec.Struct, frozen=True):
    """State of one zone that is transferred from primaries."""

    zone: str
    state: str = STATES[0]
    """One of `STATES`, without `readonly`."""
    serial: int | None = None
    """None: it was not transferred yet."""
    primary: str = ""
    """The address of the primary that was used last."""
    problem: str = ""
    """Why its services are missing or may be out of date. Empty: no problem is known."""
    transfers: dict[str, int] = {}
    """Numbers since the start: `full` and `incremental` transfers, and `failed` attempts."""
    notifies: int = 0
    """NOTIFY messages of the primaries."""


class WatcherStats(msgspec.Struct, frozen=True, kw_only=True, tag="watcher"):
    """Stats of the watcher process."""

    state: str | None = None
    """The worst state of all namespaces, one of `STATES`. None: the configuration names no ZooKeeper."""
    problem: str = ""
    """Why services are missing or may be out of date, as a sentence. Empty: no problem is known."""
    stale_since: float | None = None
    """The earliest `NamespaceStats.stale_since`. None: all namespaces are current."""
    namespaces: tuple[NamespaceStats, ...] = ()
    """Each namespace. Empty without ZooKeeper and primaries."""
    is_secondary: bool = False
    """Whether the services come from primaries instead of ZooKeeper; `state` is about these then."""
    zones: tuple[SecondaryZoneStats, ...] = ()
    """Each zone of a secondary."""
    services: int = 0
    alive: int = 0
    """Members in responses, without held members."""
    hidden: int = 0
    """Members that responses leave out because of their status or a negative weight."""
    held: int = 0
    bad: int | None = None
    """Members that cannot be parsed. None: not counted."""
    bad_members: dict[str, int] = {}
    """Members skipped since the start because they could not be parsed, by reason."""
    ignored_fields: dict[str, int] = {}
    """Optional fields of members ignored since the start because they were invalid, by name."""
    bad_names: int = 0
    """Services skipped since the start because their name is not a valid DNS name."""
    passed_over: int = 0
    """Children of services' znodes now that are neither members nor weights."""
    repairs: int = 0
    """Differences that audits found and corrected."""
    changes: int = 0
    """Changes of the table."""
    joined: int = 0
    """Members added to the table, including those of the first read."""
    left: int = 0
    """Members removed from the table."""
    digests: tuple[ZoneDigest, ...] = ()
    """The digest of each zone. Empty: not computed yet, or the table has not been read."""
    serial: int = 0
    """The SOA serial of the table."""
    changed: float | None = None
    """Unix time of the last change of the table. None: there was none since the start."""


class UpstreamStatus(msgspec.Struct, frozen=True):
    """State of an upstream, for one worker or combined for all."""

    address: str
    domain: str
    """The forward zone it serves. Empty: all names outside of other forward zones."""
    is_dead: bool = msgspec.field(name="dead")
    """True while its queries are sent to other upstreams; of several workers: by all."""
    rtt_seconds: float | None
    """Smoothed round-trip time; of several workers: the shortest. None: not measured yet."""


class UpstreamStats(UpstreamStatus, frozen=True):
    """State and counters of an upstream, for one worker."""

    is_dead: bool = msgspec.field(name="is_dead")  # the name in `/api/stats`
    queries: int
    timeouts: int
    """Queries without a response in time."""
    bad_messages: int
    """Messages that do not answer a query: forged or malformed ones."""


class ForwardStats(msgspec.Struct, frozen=True, kw_only=True):
    """Stats of a worker about forwarding."""

    queries: int = 0
    """Queries that the forward cache could not answer at once."""
    waiting: int = 0
    """Queries that wait for upstreams now."""
    failed: int = 0
    stale: int = 0
    overloaded: int = 0
    prefetched: int = 0
    filtered: int = 0
    cache_entries: int = 0
    cache_bytes: int = 0
    cache_evictions: int = 0
    upstreams: tuple[UpstreamStats, ...] = ()


class ResponseStats(msgspec.Struct, frozen=True, kw_only=True):
    """Number of responses of one transport, query type and response code."""

    transport: Literal["udp", "tcp", "tls"]
    qtype: str
    """Name of the query type, or `other`."""
    rcode: str
    count: int


class LatencyStats(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of responses of one kind."""

    kind: LatencyKind
    counts: tuple[int, ...] = (0,) * (len(LATENCY_BUCKETS) + 1)
    """Responses in each of `LATENCY_BUCKETS` and in the bucket after them. Not cumulative."""
    seconds: float = 0.0
    """Sum of all latencies."""


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True, tag="worker"):
    """Stats of a worker process since its start."""

    udp_queries: int = 0
    tcp_queries: int = 0
    """Without those over TLS."""
    tls_queries: int = 0
    responses: tuple[ResponseStats, ...] = ()
    sources: dict[str, int] = {}
    """The same responses by source, one of `SOURCES`."""
    latencies: tuple[LatencyStats, ...] = ()
    response_cache_misses: int = 0
    response_cache_evictions: int = 0
    response_cache_entries: int = 0
    response_cache_bytes: int = 0
    """Approximate memory of the entries."""
    waiting_for_services: int = 0
    """Queries that wait for the names of large services now."""
    unsent: int = 0
    """Responses that the kernel did not accept."""
    tcp_connections: int = 0
    """Open TCP connections of clients, also those with TLS."""
    tcp_held_bytes: int = 0
    """Memory of queries that wait and of responses that these connections have not taken."""
    tcp_replaced_connections: int = 0
    """Connections closed for a new one, at the maximum number of the listener or of the client."""
    tcp_dropped_connections: int = 0
    """Connections closed because their clients did not read, and held too much memory."""
    tls_connections: int = 0
    """Open connections of clients with TLS."""
    tls_handshakes: int = 0
    """Finished TLS handshakes."""
    tls_failed_handshakes: int = 0
    """Connections that ended before their TLS handshake did."""
    truncated_over_tcp: int = 0
    """Responses over 64 KiB, which lack records although they were sent over TCP."""
    refused: int = 0
    """UDP queries and TCP connections from clients outside of the allowed networks."""
    rate_limited: int = 0
    """UDP queries from networks over their rate limit."""
    forward: ForwardStats | None = None
    """None: this server forwards nothing."""
    digests: tuple[ZoneDigest, ...] = ()
    """As `WatcherStats.digests`."""


class TransferCount(msgspec.Struct, frozen=True):
    """Number of requests for zone transfers, or of signed queries, with one result."""

    type: str
    """`AXFR`, `IXFR`, or `other` for signed queries of other types."""
    result: str
    """Such as `full`, `incremental`, `current`, `refused`."""
    count: int


class ZoneStats(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of one zone."""

    zone: str
    serial: int | None
    """Serial of the present version. None: the zone has not been read yet."""
    zone_bytes: int = 0
    """Bytes of the records."""
    journal_versions: int = 0
    """Differences in the journal for IXFR."""
    journal_bytes: int = 0


class TransferStats(msgspec.Struct, frozen=True, kw_only=True, tag="transfer"):
    """Stats of the transfer process since its start."""

    requests: tuple[TransferCount, ...] = ()
    running: int = 0
    """Full transfers that run now."""
    sent_bytes: int = 0
    notifies: dict[str, int] = {}
    """NOTIFY messages by result: `acknowledged`, `refused`, `unanswered`."""
    zones: tuple[ZoneStats, ...] = ()


Stats: TypeAlias = WatcherStats | WorkerStats | TransferStats


class ServiceMembers(msgspec.Struct, frozen=True, array_like=True):
    """Number of members of a service by state."""

    environment: str
    """The part of the name between the service and the zone; empty if there is none."""
    alive: int
    hidden: int
    held: int


class MembersReport(msgspec.Struct, frozen=True, tag="members"):
    """Report of the watcher about the members of services that have changed since the last such report."""

    services: dict[str, ServiceMembers] = {}
    """By name, without the zone if that is the zone of the first namespace."""
    gone: tuple[str, ...] = ()
    """Services that no longer exist."""


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Stats of the supervisor."""

    version: str
    started: float
    """Unix time."""
    restarts: dict[str, int] = {}
    """Processes replaced after they ended unexpectedly, by role."""
    reloads: dict[str, int] | None = None
    """Reloads of the configuration by result. None: there is no configuration file to reload."""
    processes: dict[str, ProcessStats] = {}
    """Resources by process: `supervisor`, `watcher`, `worker-0` and so on."""
    members: dict[str, ServiceMembers] = {}
    """Members by service, of all services."""
    responses: dict[str, int] = {}
    """Responses by service, of the services that had the first ones."""
    all_responses: int = 0
    """Responses for all services."""
    max_services: int = 0
    """Maximum number of services with metrics of their own."""


# -- all workers --------------------------------------------------------------------------------------------


def combine_upstreams(workers: Iterable[WorkerStats]) -> tuple[UpstreamStatus, ...]:
    """Combine the state of each upstream in all workers; in the configured order."""
    found: dict[tuple[str, str], list[UpstreamStats]] = {}
    for worker in workers:
        for upstream in worker.forward.upstreams if worker.forward is not None else ():
            found.setdefault((upstream.address, upstream.domain), []).append(upstream)
    return tuple(
        UpstreamStatus(
            address,
            domain,
            all(one.is_dead for one in reported),
            min((one.rtt_seconds for one in reported if one.rtt_seconds is not None), default=None),
        )
        for (address, domain), reported in found.items()
    )


# -- two readings -------------------------------------------------------------------------------------------


def growth(before: int, after: int) -> int:
    """Increase of a counter between two readings. A counter that fell was reset by a restart."""
    return after - before if after >= before else after


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Latency in seconds that this share of the responses did not exceed.

    Interpolates within a bucket, as `histogram_quantile` of Prometheus does.

    Args:
        bounds: upper bounds of the buckets, ascending.
        counts: responses in each bucket, and in one more after the last bound.
        share: from 0 to 1.

    Returns:
        The last bound if the quantile lies after it. None if there were no responses.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    for (low, high), below, count in zip(
        pairwise((0.0, *bounds)), (0, *accumulate(counts)), counts, strict=False
    ):
        if below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
    return bounds[-1]
