"""Figures of the running server in Prometheus' words, made from the last report of the watcher process.

Counters begin anew with that process, which Prometheus takes for what it is: a restart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from zkdns.observe.figures import STATES, WatcherFigures


def render(figures: WatcherFigures | None) -> str:
    """The figures as they are now, in the text format that every Prometheus reads; None: there are none."""
    registry = CollectorRegistry()
    registry.register(_Figures(figures))
    return generate_latest(registry).decode()


class _Figures(Collector):
    def __init__(self, figures: WatcherFigures | None) -> None:
        self._figures = figures

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks for no figures."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now."""
        figures = self._figures
        if figures is None:
            return
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
