"""Figures of the running server in Prometheus' words, made from the last reports of its processes.

Counters begin anew with their process, which Prometheus takes for what it is: a restart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

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

from zkdns.observe.figures import (
    LATENCY_BUCKETS,
    STATES,
    AnswererFigures,
    Figures,
    ForwardFigures,
    ServerFigures,
    WatcherFigures,
)


def render(
    watcher: Figures | None,
    answerers: Sequence[Figures | None] = (),
    server: ServerFigures | None = None,
    *,
    openmetrics: bool = False,
) -> str:
    """The figures as they are now, in the text format that every Prometheus reads.

    Args:
        watcher: the watcher's; None: there are none.
        answerers: each worker's, likewise.
        server: the supervisor's, likewise.
        openmetrics: whether to write OpenMetrics instead.
    """
    registry = CollectorRegistry()
    if server is not None:
        registry.register(_Server(server))
    if isinstance(watcher, WatcherFigures):
        registry.register(_Watcher(watcher))
    registry.register(_Answerers(answerers))
    return (generate_openmetrics if openmetrics else generate_latest)(registry).decode()


class _Server(Collector):
    def __init__(self, figures: ServerFigures) -> None:
        self._figures = figures

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks for no figures."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now."""
        figures = self._figures
        yield InfoMetricFamily("zkdns_build", "Which zkdns this is.", {"version": figures.version})
        yield GaugeMetricFamily(
            "process_start_time_seconds", "When the server was started, since 1970.", figures.started
        )
        yield _by_label(
            "zkdns_process_restarts", "Processes that ended and were replaced.", "role", figures.restarts
        )
        if figures.reloads is not None:
            meaning = "How often the configuration was read again, by what came of it."
            yield _by_label("zkdns_config_reloads", meaning, "result", figures.reloads)


def _by_label(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


class _Answerers(Collector):
    def __init__(self, figures: Sequence[Figures | None]) -> None:
        self._figures = [
            (str(number), each) for number, each in enumerate(figures) if isinstance(each, AnswererFigures)
        ]

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks for no figures."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now, of each worker."""
        if not self._figures:
            return
        queries = CounterMetricFamily(
            "zkdns_queries", "Queries that arrived, by transport.", labels=["worker", "transport"]
        )
        for worker, figures in self._figures:
            queries.add_metric([worker, "udp"], figures.udp_queries)
            queries.add_metric([worker, "tcp"], figures.tcp_queries)
        yield queries
        yield from _responses(self._figures)
        for kind, name, meaning, field in _OF_WORKERS:
            family = kind(name, meaning, labels=["worker"])
            for worker, figures in self._figures:
                family.add_metric([worker], getattr(figures, field))
            yield family
        forwarding = [(worker, each.forward) for worker, each in self._figures if each.forward is not None]
        if forwarding:
            yield from _forwarding(forwarding)


def _responses(workers: Sequence[tuple[str, AnswererFigures]]) -> Iterator[Metric]:
    """What responses there were, what they were made from, and how long they took."""
    responses = CounterMetricFamily(
        "zkdns_responses",
        "Responses that were given, by transport, the type that was asked for, and response code.",
        labels=["worker", "transport", "type", "rcode"],
    )
    answers = CounterMetricFamily(
        "zkdns_answers",
        "The same responses by what they were made from: memo (given before), zone (the table), cache (what "
        "upstreams said before), upstream (what they say now, or nothing), stale (what they said once), "
        "refused (nothing: malformed, not supported or not allowed).",
        labels=["worker", "source"],
    )
    seconds = HistogramMetricFamily(
        "zkdns_response_duration_seconds",
        "From the moment a query was read until its response was written; queries that are read together are "
        "answered together, and wait for each other. By kind: remembered (UDP, all of them asked before), "
        "made (UDP, where one was new, and all of TCP), later (upstreams were asked).",
        labels=["worker", "kind"],
    )
    for worker, figures in workers:
        for each in figures.responses:
            responses.add_metric([worker, each.transport, each.qtype, each.rcode], each.count)
        for source, count in figures.sources.items():
            answers.add_metric([worker, source], count)
        for kind in figures.latencies:
            below = zip((*map(str, LATENCY_BUCKETS), "+Inf"), accumulate(kind.counts), strict=True)
            seconds.add_metric(
                [worker, kind.kind], [(end, float(count)) for end, count in below], kind.seconds
            )
    yield from (responses, answers, seconds)


def _forwarding(workers: Sequence[tuple[str, ForwardFigures]]) -> Iterator[Metric]:
    """What there is to tell where names outside the zones are forwarded."""
    for kind, name, meaning, field in _OF_FORWARDING:
        family = kind(name, meaning, labels=["worker"])
        for worker, figures in workers:
            family.add_metric([worker], getattr(figures, field))
        yield family
    labels = ["worker", "address", "domain"]
    for kind, name, meaning, field in _OF_UPSTREAMS:
        family = kind(name, meaning, labels=labels)
        for worker, figures in workers:
            for upstream in figures.upstreams:
                value = getattr(upstream, field)
                if value is not None:
                    family.add_metric([worker, upstream.address, upstream.domain], float(value))
        yield family


_OF_FORWARDING = (
    (
        CounterMetricFamily,
        "zkdns_forwarded_queries",
        "Queries outside the zones that the cache had no answer for.",
        "queries",
    ),
    (GaugeMetricFamily, "zkdns_forward_waiting_queries", "Queries that wait for upstreams.", "waiting"),
    (
        CounterMetricFamily,
        "zkdns_forward_failures",
        "Queries that were answered with SERVFAIL, since upstreams did not answer.",
        "failed",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_stale_answers",
        "Queries that were answered with what had expired, since upstreams did not answer.",
        "stale",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_overloads",
        "Queries that were not forwarded, since too many waited already.",
        "overloaded",
    ),
    (
        CounterMetricFamily,
        "zkdns_forward_prefetches",
        "Answers that were asked for anew before they expired.",
        "prefetched",
    ),
    (GaugeMetricFamily, "zkdns_cache_answers", "Answers of upstreams that are kept.", "cached"),
    (GaugeMetricFamily, "zkdns_cache_bytes", "Memory that they take, more or less.", "cached_bytes"),
    (CounterMetricFamily, "zkdns_cache_evictions", "Answers that went for others.", "evicted"),
)

_OF_UPSTREAMS = (
    (
        GaugeMetricFamily,
        "zkdns_upstream_dead",
        "1 for an upstream that left too many questions unanswered, so that others are asked.",
        "is_dead",
    ),
    (GaugeMetricFamily, "zkdns_upstream_rtt_seconds", "How long its answers take, smoothed.", "seconds"),
    (CounterMetricFamily, "zkdns_upstream_queries", "Queries sent to it.", "queries"),
    (CounterMetricFamily, "zkdns_upstream_timeouts", "Queries that it did not answer in time.", "timeouts"),
    (
        CounterMetricFamily,
        "zkdns_upstream_bad_messages",
        "Messages from it that answer nothing that was asked: forged ones, or garbage.",
        "bad",
    ),
)

_OF_WORKERS = (
    (CounterMetricFamily, "zkdns_memo_misses", "Queries that no remembered answer was there for.", "misses"),
    (
        CounterMetricFamily,
        "zkdns_memo_evictions",
        "Answers that were forgotten to make room for others.",
        "forgotten",
    ),
    (GaugeMetricFamily, "zkdns_memo_answers", "Answers that are remembered.", "remembered"),
    (
        GaugeMetricFamily,
        "zkdns_memo_bytes",
        "Memory that remembered answers take, more or less.",
        "remembered_bytes",
    ),
    (CounterMetricFamily, "zkdns_unsent_responses", "Responses that the kernel did not take.", "unsent"),
    (
        CounterMetricFamily,
        "zkdns_tcp_truncated_responses",
        "Responses over 64 KiB, which lack records although they went over TCP.",
        "cut_over_tcp",
    ),
    (
        CounterMetricFamily,
        "zkdns_refused_askers",
        "Queries over UDP, and connections, of who is not allowed to ask.",
        "refused",
    ),
    (
        CounterMetricFamily,
        "zkdns_rate_limited_queries",
        "Queries over UDP of networks that asked too often, which were told to ask over TCP.",
        "limited",
    ),
)


class _Watcher(Collector):
    def __init__(self, figures: WatcherFigures) -> None:
        self._figures = figures

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks for no figures."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now."""
        figures = self._figures
        if figures.state is not None:
            yield from _zookeeper(figures)
        yield GaugeMetricFamily("zkdns_services", "Services in the table.", value=figures.services)
        members = GaugeMetricFamily(
            "zkdns_members", "Members in the table, by what is done with them.", labels=["state"]
        )
        for state, count in (("alive", figures.alive), ("hidden", figures.hidden), ("held", figures.held)):
            members.add_metric([state], count)
        if figures.bad is not None:
            members.add_metric(["bad"], figures.bad)
        yield members
        for name, meaning, value in (
            ("zkdns_table_changes", "Changes of the table.", figures.changes),
            ("zkdns_joined_members", "Members that came, those of the first reading too.", figures.joined),
            (
                "zkdns_left_members",
                "Members that went; those that are held did not, or came back.",
                figures.left,
            ),
        ):
            yield CounterMetricFamily(name, meaning, value=value)


def _zookeeper(figures: WatcherFigures) -> Iterator[Metric]:
    """What there is to tell where ZooKeeper is read."""
    states = GaugeMetricFamily(
        "zkdns_zookeeper_state", "1 for the state of what ZooKeeper said, 0 for the others.", labels=["state"]
    )
    for state in STATES:
        states.add_metric([state], float(state == figures.state))
    yield states
    stale = max(time.monotonic() - figures.stale_since, 0.0) if figures.stale_since is not None else 0.0
    yield GaugeMetricFamily(
        "zkdns_zookeeper_stale_seconds",
        "How old the last word of ZooKeeper is; 0 while it is in reach.",
        value=stale,
    )
    bad = CounterMetricFamily(
        "zkdns_bad_members", "Members that could not be understood and were skipped.", labels=["reason"]
    )
    for reason, count in sorted(figures.bad_members.items()):
        bad.add_metric([reason], count)
    yield bad
    for name, meaning, value in (
        ("zkdns_bad_names", "Services that DNS cannot name.", figures.bad_names),
        (
            "zkdns_audit_repairs",
            "Differences between ZooKeeper and the table that audits found.",
            figures.repairs,
        ),
        ("zkdns_guard_holds", "How often members of a service began to be held after a loss.", figures.holds),
    ):
        yield CounterMetricFamily(name, meaning, value=value)
