"""Prometheus metrics of the server, rendered from the last stats of its processes.

Counters restart at 0 with their process, which Prometheus handles as a counter reset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from zkdns.clock import elapsed_seconds
from zkdns.digest import exact
from zkdns.telemetry.process_stats import ProcessStats
from zkdns.telemetry.stats import (
    LATENCY_BUCKETS,
    PROPAGATION_BUCKETS,
    STATES,
    ForwardStats,
    NamespaceStats,
    ServerStats,
    ServiceMembers,
    Stats,
    TransferStats,
    WatcherStats,
    WorkerStats,
)

OTHERS: Final = "(others)"
"""The label of services without metrics of their own. No service has this name."""
_MEMBER_STATES = ("alive", "hidden", "held")


def render(
    watcher: Stats | None,
    workers: Sequence[Stats | None] = (),
    server: ServerStats | None = None,
    transfer: Stats | None = None,
    *,
    openmetrics: bool = False,
) -> str:
    """Render the stats in the Prometheus text format.

    Args:
        watcher: stats of the watcher. None: not reported yet.
        workers: stats of each worker. None: not reported yet.
        server: stats of the supervisor.
        transfer: stats of the transfer process. None: there is none, or it has not reported yet.
        openmetrics: render OpenMetrics 1.0 instead.
    """
    registry = CollectorRegistry()
    if server is not None:
        registry.register(_Server(server))
    if isinstance(watcher, WatcherStats):
        registry.register(_Watcher(watcher))
    registry.register(_Workers(workers))
    registry.register(_Digests(watcher, workers))
    if isinstance(transfer, TransferStats):
        registry.register(_Transfer(transfer))
    return (generate_openmetrics if openmetrics else generate_latest)(registry).decode()


class _Server(Collector):
    def __init__(self, stats: ServerStats) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering collects no metrics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the supervisor."""
        stats = self._stats
        yield InfoMetricFamily("zkdns_build", "Version of zkdns.", {"version": stats.version})
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start time of the server as a Unix time.", stats.started
        )
        yield _by_label(
            "zkdns_process_restarts", "Processes replaced after they ended.", "role", stats.restarts
        )
        if stats.reloads is not None:
            text = "Reloads of the configuration by result."
            yield _by_label("zkdns_config_reloads", text, "result", stats.reloads)
        yield from _processes(stats.processes)
        if stats.max_services:
            yield from _services(stats)


def _processes(processes: Mapping[str, ProcessStats]) -> Iterator[Metric]:
    """Yield the resources of each process."""
    cpu = CounterMetricFamily(
        "zkdns_process_cpu_seconds",
        "Processor time of a process, in user and system mode.",
        labels=["process"],
    )
    memory = GaugeMetricFamily(
        "zkdns_process_resident_memory_bytes",
        "Resident memory of a process. Processes share some of it.",
        labels=["process"],
    )
    files = GaugeMetricFamily("zkdns_process_open_fds", "Open files of a process.", labels=["process"])
    for name, stats in processes.items():
        cpu.add_metric([name], stats.cpu_seconds)
        memory.add_metric([name], stats.resident_bytes)
        files.add_metric([name], stats.open_files)
    yield from (cpu, memory, files)


def _services(stats: ServerStats) -> Iterator[Metric]:
    """Yield the metrics of each service, up to a number, and those of all others together."""
    members = GaugeMetricFamily(
        "zkdns_service_members",
        "Members of a service, by state: of the first admin.service_metrics services by name. The label "
        f"values {OTHERS} stand for all others together.",
        labels=["service", "environment", "state"],
    )
    names = sorted(stats.members)
    others = [stats.members[name] for name in names[stats.max_services :]]
    rows = [(name, stats.members[name]) for name in names[: stats.max_services]]
    if others:
        sums = (sum(getattr(one, state) for one in others) for state in _MEMBER_STATES)
        rows.append((OTHERS, ServiceMembers(OTHERS, *sums)))
    for name, one in rows:
        for state in _MEMBER_STATES:
            members.add_metric([name, one.environment, state], getattr(one, state))
    yield members
    yield GaugeMetricFamily(
        "zkdns_service_members_omitted", f"Services that are part of {OTHERS}.", value=len(others)
    )
    responses = CounterMetricFamily(
        "zkdns_service_responses",
        "Responses for names of a service: of the admin.service_metrics services that had the first ones. "
        f"{OTHERS} stands for all others together.",
        labels=["service"],
    )
    named = dict(islice(stats.responses.items(), stats.max_services))
    for name, count in named.items():
        responses.add_metric([name], count)
    responses.add_metric([OTHERS], stats.all_responses - sum(named.values()))
    yield responses


def _by_label(name: str, text: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


class _Digests(Collector):
    def __init__(self, watcher: Stats | None, workers: Sequence[Stats | None]) -> None:
        processes = (
            ("watcher", watcher),
            *((f"worker-{number}", each) for number, each in enumerate(workers)),
        )
        self._processes = [
            (name, stats) for name, stats in processes if isinstance(stats, WatcherStats | WorkerStats)
        ]

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering collects no metrics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the digest of each zone in each process, and of each namespace."""
        digests = GaugeMetricFamily(
            "zkdns_table_digest",
            "Digest of a zone's members in a process: the lowest 53 bits, as an integer. Processes and "
            "servers with equal answers have equal digests. Absent until it has been computed.",
            labels=["process", "zone"],
        )
        members = GaugeMetricFamily(
            "zkdns_table_digest_members", "Members in this digest.", labels=["process", "zone"]
        )
        for process, stats in self._processes:
            for one in stats.digests:
                digests.add_metric([process, one.zone], exact(one.digest))
                members.add_metric([process, one.zone], one.members)
        if digests.samples:
            yield from (digests, members)
        namespaces = GaugeMetricFamily(
            "zkdns_zookeeper_digest",
            "The same for a namespace, in the watcher.",
            labels=["namespace"],
        )
        for _, stats in self._processes:
            for namespace in stats.namespaces if isinstance(stats, WatcherStats) else ():
                if namespace.digest is not None:
                    namespaces.add_metric([namespace.namespace], exact(namespace.digest))
        if namespaces.samples:
            yield namespaces


class _Workers(Collector):
    def __init__(self, stats: Sequence[Stats | None]) -> None:
        self._workers = [
            (str(number), each) for number, each in enumerate(stats) if isinstance(each, WorkerStats)
        ]

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering collects no metrics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all workers."""
        if not self._workers:
            return
        queries = CounterMetricFamily(
            "zkdns_queries", "Queries received, by transport.", labels=["worker", "transport"]
        )
        for worker, stats in self._workers:
            queries.add_metric([worker, "udp"], stats.udp_queries)
            queries.add_metric([worker, "tcp"], stats.tcp_queries)
            queries.add_metric([worker, "tls"], stats.tls_queries)
        yield queries
        yield from _responses(self._workers)
        for kind, name, text, field in _OF_WORKERS:
            family = kind(name, text, labels=["worker"])
            for worker, stats in self._workers:
                family.add_metric([worker], getattr(stats, field))
            yield family
        forwarding = [(worker, each.forward) for worker, each in self._workers if each.forward is not None]
        if forwarding:
            yield from _forwarding(forwarding)


def _responses(workers: Sequence[tuple[str, WorkerStats]]) -> Iterator[Metric]:
    """Yield the metrics of responses: by type and code, by source, and their latencies."""
    responses = CounterMetricFamily(
        "zkdns_responses",
        "Responses sent, by transport, query type and response code.",
        labels=["worker", "transport", "type", "rcode"],
    )
    answers = CounterMetricFamily(
        "zkdns_answers",
        "The same responses by source: response_cache (an earlier response to the same query), zone (the "
        "table), forward_cache (an earlier response of an upstream), upstream (a response of an upstream, or "
        "SERVFAIL without one), stale (an expired entry of the forward cache), refused (malformed, not "
        "supported or not allowed).",
        labels=["worker", "source"],
    )
    seconds = HistogramMetricFamily(
        "zkdns_response_duration_seconds",
        "Time from reading a query to sending its response, by kind. Queries that are read in one batch "
        "share its latency. Kinds: cached (UDP batches answered from the response cache alone), computed "
        "(other UDP batches, and TCP), forwarded (deferred: upstreams were queried, or the names of a large "
        "service were not ready).",
        labels=["worker", "kind"],
    )
    for worker, stats in workers:
        for each in stats.responses:
            responses.add_metric([worker, each.transport, each.qtype, each.rcode], each.count)
        for source, count in stats.sources.items():
            answers.add_metric([worker, source], count)
        for latency in stats.latencies:
            below = zip((*map(str, LATENCY_BUCKETS), "+Inf"), accumulate(latency.counts), strict=True)
            seconds.add_metric(
                [worker, latency.kind], [(end, float(count)) for end, count in below], latency.seconds
            )
    yield from (responses, answers, seconds)


def _forwarding(workers: Sequence[tuple[str, ForwardStats]]) -> Iterator[Metric]:
    """Yield the metrics of forwarding and of each upstream."""
    for kind, name, text, field in _OF_FORWARDING:
        family = kind(name, text, labels=["worker"])
        for worker, stats in workers:
            family.add_metric([worker], getattr(stats, field))
        yield family
    labels = ["worker", "address", "domain"]
    for kind, name, text, field in _OF_UPSTREAMS:
        family = kind(name, text, labels=labels)
        for worker, stats in workers:
            for upstream in stats.upstreams:
                value = getattr(upstream, field)
                if value is not None:
                    family.add_metric([worker, upstream.address, upstream.domain], float(value))
        yield family


_OF_FORWARDING = (
    (
        CounterMetricFamily,
        "zkdns_forwarded_queries",
        "Queries outside of the zones that the forward cache could not answer.",
        "queries",
    ),
    (GaugeMetricFamily, "zkdns_forward_waiting_queries", "Queries that wait for upstreams now.", "waiting"),
    (
        CounterMetricFamily,
        "zkdns_forward_failures",
        "SERVFAIL responses because no upstream responded.",
        "failed",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_stale_answers",
        "Responses from expired cache entries because no upstream responded.",
        "stale",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_overloads",
        "Queries that gave way because too many were waiting, or that had no file descriptor.",
        "overloaded",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_prefetches",
        "Cache entries refreshed before they expired.",
        "prefetched",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_filtered_answers",
        "Responses of upstreams from which private addresses were removed.",
        "filtered",
    ),
    (GaugeMetricFamily, "zkdns_forward_cache_entries", "Entries of the forward cache.", "cache_entries"),
    (GaugeMetricFamily, "zkdns_forward_cache_bytes", "Approximate memory of these entries.", "cache_bytes"),
    (
        CounterMetricFamily,
        "zkdns_forward_cache_evictions",
        "Entries removed from the forward cache to make room.",
        "cache_evictions",
    ),
)

_OF_UPSTREAMS = (
    (
        GaugeMetricFamily,
        "zkdns_upstream_dead",
        "1 for an upstream that did not respond, so that its queries go to other upstreams.",
        "is_dead",
    ),
    (GaugeMetricFamily, "zkdns_upstream_rtt_seconds", "Smoothed round-trip time.", "rtt_seconds"),
    (CounterMetricFamily, "zkdns_upstream_queries", "Queries sent to the upstream.", "queries"),
    (CounterMetricFamily, "zkdns_upstream_timeouts", "Queries without a response in time.", "timeouts"),
    (
        CounterMetricFamily,
        "zkdns_upstream_bad_messages",
        "Messages from the upstream that match no outstanding query: forged or malformed.",
        "bad_messages",
    ),
)

_OF_WORKERS = (
    (
        CounterMetricFamily,
        "zkdns_response_cache_misses",
        "Queries that the response cache could not answer.",
        "response_cache_misses",
    ),
    (
        CounterMetricFamily,
        "zkdns_response_cache_evictions",
        "Entries removed from the response cache to make room.",
        "response_cache_evictions",
    ),
    (
        GaugeMetricFamily,
        "zkdns_response_cache_entries",
        "Entries of the response cache.",
        "response_cache_entries",
    ),
    (
        GaugeMetricFamily,
        "zkdns_response_cache_bytes",
        "Approximate memory of these entries.",
        "response_cache_bytes",
    ),
    (
        GaugeMetricFamily,
        "zkdns_large_service_waiting_queries",
        "Queries that wait for the names of large services now.",
        "waiting_for_services",
    ),
    (CounterMetricFamily, "zkdns_unsent_responses", "Responses that the kernel did not accept.", "unsent"),
    (
        GaugeMetricFamily,
        "zkdns_tcp_connections",
        "Open TCP connections of clients, also those with TLS.",
        "tcp_connections",
    ),
    (
        GaugeMetricFamily,
        "zkdns_tcp_held_bytes",
        "Memory of queries that wait, and of responses that clients have not taken, of these connections.",
        "tcp_held_bytes",
    ),
    (
        CounterMetricFamily,
        "zkdns_tcp_replaced_connections",
        "TCP connections closed for a new one, at the maximum number of the listener or of the client.",
        "tcp_replaced_connections",
    ),
    (
        CounterMetricFamily,
        "zkdns_tcp_dropped_connections",
        "TCP connections closed because their clients did not read and held too much memory.",
        "tcp_dropped_connections",
    ),
    (GaugeMetricFamily, "zkdns_tls_connections", "Open connections of clients with TLS.", "tls_connections"),
    (CounterMetricFamily, "zkdns_tls_handshakes", "Finished TLS handshakes.", "tls_handshakes"),
    (
        CounterMetricFamily,
        "zkdns_tls_failed_handshakes",
        "Connections that ended before their TLS handshake did.",
        "tls_failed_handshakes",
    ),
    (
        CounterMetricFamily,
        "zkdns_tcp_truncated_responses",
        "Responses over 64 KiB, which lack records although they were sent over TCP.",
        "truncated_over_tcp",
    ),
    (
        CounterMetricFamily,
        "zkdns_refused_clients",
        "UDP queries and TCP connections from clients outside of the allowed networks.",
        "refused",
    ),
    (
        CounterMetricFamily,
        "zkdns_rate_limited_queries",
        "UDP queries over the rate limit of their network, answered with an empty truncated response.",
        "rate_limited",
    ),
)


_ZONE_STATES = tuple(state for state in STATES if state != "readonly")


class _Watcher(Collector):
    def __init__(self, stats: WatcherStats) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering collects no metrics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the watcher."""
        stats = self._stats
        if stats.zones:
            yield from _zones(stats)
        if stats.state is not None and not stats.is_secondary:
            yield from _zookeeper(stats)
        if stats.state is not None:
            yield from _guards(stats.namespaces)
        yield GaugeMetricFamily("zkdns_services", "Services in the table.", value=stats.services)
        members = GaugeMetricFamily("zkdns_members", "Members in the table, by state.", labels=["state"])
        for state, count in (("alive", stats.alive), ("hidden", stats.hidden), ("held", stats.held)):
            members.add_metric([state], count)
        if stats.bad is not None:
            members.add_metric(["bad"], stats.bad)
        yield members
        for name, text, value in (
            ("zkdns_table_changes", "Changes of the table.", stats.changes),
            (
                "zkdns_joined_members",
                "Members added to the table, including those of the first read.",
                stats.joined,
            ),
            (
                "zkdns_left_members",
                "Members removed from the table. A held member is not removed.",
                stats.left,
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)


def _guards(namespaces: Sequence[NamespaceStats]) -> Iterator[Metric]:
    """Yield the metrics of each namespace's guard."""
    held = GaugeMetricFamily("zkdns_held_members", "Held members of a namespace.", labels=["namespace"])
    holds = CounterMetricFamily(
        "zkdns_guard_holds", "Times that members of a service became held.", labels=["namespace"]
    )
    for one in namespaces:
        held.add_metric([one.namespace], one.held)
        holds.add_metric([one.namespace], one.holds)
    yield from (held, holds)


def _namespaces(namespaces: Sequence[NamespaceStats]) -> Iterator[Metric]:
    """Yield the metrics of each namespace."""
    states = GaugeMetricFamily(
        "zkdns_zookeeper_state",
        "1 for the current state of a namespace's connection to ZooKeeper, 0 for the others.",
        labels=["namespace", "state"],
    )
    stale = GaugeMetricFamily(
        "zkdns_zookeeper_stale_seconds",
        "Time since a namespace's members were last known to be current; 0 while ZooKeeper is connected.",
        labels=["namespace"],
    )
    unread = GaugeMetricFamily(
        "zkdns_unread_znodes",
        "Znodes above the services that cannot be listed, for instance because their ACL denies it.",
        labels=["namespace"],
    )
    delays = CounterMetricFamily(
        "zkdns_zookeeper_delays",
        "Late replies of ZooKeeper (1 s or more), as after a pause of a server.",
        labels=["namespace"],
    )
    propagation = HistogramMetricFamily(
        "zkdns_propagation_seconds",
        "Time from the writing of a member's znode to the publication of the change. It includes the "
        "difference between the clocks of ZooKeeper and of this host; negative times count as 0. Deletions "
        "have no time, and the first read over a connection is not counted.",
        labels=["namespace"],
    )
    for one in namespaces:
        ends = (*map(str, PROPAGATION_BUCKETS), "+Inf")
        below = zip(ends, map(float, accumulate(one.propagation_counts)), strict=True)
        propagation.add_metric([one.namespace], list(below), one.propagation_seconds)
        for state in STATES:
            states.add_metric([one.namespace, state], float(state == one.state))
        since = one.stale_since
        stale.add_metric([one.namespace], 0.0 if since is None else max(elapsed_seconds() - since, 0.0))
        unread.add_metric([one.namespace], one.unread)
        delays.add_metric([one.namespace], one.delays)
    yield from (states, stale, unread, delays, propagation)


def _zones(stats: WatcherStats) -> Iterator[Metric]:
    """Yield the metrics of a secondary."""
    states = GaugeMetricFamily(
        "zkdns_secondary_state",
        "1 for the current state of a zone that is transferred from a primary, 0 for the others.",
        labels=["zone", "state"],
    )
    serials = GaugeMetricFamily(
        "zkdns_secondary_serial", "The serial of a zone that was transferred.", labels=["zone"]
    )
    transfers = CounterMetricFamily(
        "zkdns_secondary_transfers",
        "Full and incremental transfers of a zone, and failed attempts to query or transfer it.",
        labels=["zone", "kind"],
    )
    notifies = CounterMetricFamily(
        "zkdns_secondary_notifies", "NOTIFY messages of primaries.", labels=["zone"]
    )
    for one in stats.zones:
        for state in _ZONE_STATES:
            states.add_metric([one.zone, state], float(state == one.state))
        if one.serial is not None:
            serials.add_metric([one.zone], one.serial)
        for kind, count in one.transfers.items():
            transfers.add_metric([one.zone, kind], count)
        notifies.add_metric([one.zone], one.notifies)
    since = stats.stale_since
    yield GaugeMetricFamily(
        "zkdns_secondary_stale_seconds",
        "Time since the zones were last known to be current; 0 while a primary is.",
        value=0.0 if since is None else max(elapsed_seconds() - since, 0.0),
    )
    yield from (states, serials, transfers, notifies)


def _zookeeper(stats: WatcherStats) -> Iterator[Metric]:
    """Yield the metrics of a server that reads from ZooKeeper."""
    yield from _namespaces(stats.namespaces)
    bad = CounterMetricFamily(
        "zkdns_bad_members", "Members skipped because they could not be parsed.", labels=["reason"]
    )
    for reason, count in sorted(stats.bad_members.items()):
        bad.add_metric([reason], count)
    yield bad
    ignored = CounterMetricFamily(
        "zkdns_ignored_fields",
        "Optional fields of members ignored because they were invalid or beyond a limit. The rest is served.",
        labels=["field"],
    )
    for field, count in sorted(stats.ignored_fields.items()):
        ignored.add_metric([field], count)
    yield ignored
    yield GaugeMetricFamily(
        "zkdns_znodes_passed_over",
        "Children of services' znodes that are neither members nor weights.",
        value=stats.passed_over,
    )
    for name, text, value in (
        (
            "zkdns_bad_names",
            "Services skipped because their name is not a valid DNS name.",
            stats.bad_names,
        ),
        (
            "zkdns_audit_repairs",
            "Differences between ZooKeeper and the table, or its digests, that audits corrected.",
            stats.repairs,
        ),
    ):
        yield CounterMetricFamily(name, text, value=value)


class _Transfer(Collector):
    def __init__(self, stats: TransferStats) -> None:
        self._stats = stats

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering collects no metrics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of zone transfers."""
        stats = self._stats
        requests = CounterMetricFamily(
            "zkdns_transfer_requests",
            "Requests for zone transfers, and signed queries of other types, by result: full (the whole "
            "zone), incremental, current (the client is up to date), retry_over_tcp, answered (a signed "
            "query of another type), refused, bad_signature, not_authoritative, not_ready, busy, malformed, "
            "aborted (the client went away).",
            labels=["type", "result"],
        )
        for each in stats.requests:
            requests.add_metric([each.type, each.result], each.count)
        yield requests
        yield GaugeMetricFamily(
            "zkdns_transfers_running", "Transfers of a whole zone that run now.", value=stats.running
        )
        yield CounterMetricFamily(
            "zkdns_transfer_sent_bytes", "Bytes of responses to these requests.", value=stats.sent_bytes
        )
        yield _by_label("zkdns_notifies", "NOTIFY messages by result.", "result", stats.notifies)
        for name, text, field in (
            ("zkdns_zone_serial", "Serial of the version of a zone that is transferred.", "serial"),
            ("zkdns_zone_bytes", "Bytes of the records of a zone.", "zone_bytes"),
            (
                "zkdns_transfer_journal_versions",
                "Differences in the journal of a zone for IXFR.",
                "journal_versions",
            ),
            ("zkdns_transfer_journal_bytes", "Approximate memory of the journal of a zone.", "journal_bytes"),
        ):
            family = GaugeMetricFamily(name, text, labels=["zone"])
            for zone in stats.zones:
                value = getattr(zone, field)
                if value is not None:
                    family.add_metric([zone.zone], value)
            yield family
