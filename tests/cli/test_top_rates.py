"""Rates between two readings of a server's stats, and errors of reading them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from zkdns.admin.status import StatsReading, TableStatus, WorkerReading, ZooKeeperStatus
from zkdns.cli.top_rates import is_comparable, rates_between
from zkdns.cli.top_state import TopState
from zkdns.cli.top_view import whole_view
from zkdns.telemetry.stats import LATENCY_BUCKETS, ForwardStats, LatencyStats, ResponseStats, UpstreamStats


def worker(pid: int, count: int, upstream: str = "192.0.2.1:53", *, is_dead: bool = False) -> WorkerReading:
    """A worker with this count in all counters."""
    return WorkerReading(
        pid=pid,
        udp_queries=count,
        responses=(ResponseStats(transport="udp", qtype="A", rcode="NOERROR", count=count),),
        sources={"response_cache": 3 * count, "forward_cache": count, "upstream": 3 * count},
        latencies=(LatencyStats(kind="computed", counts=(count, *[0] * len(LATENCY_BUCKETS))),),
        response_cache_entries=5,
        forward=ForwardStats(
            cache_entries=7,
            upstreams=(
                UpstreamStats(
                    address=upstream,
                    domain="",
                    is_dead=is_dead,
                    rtt_seconds=0.5,
                    queries=count,
                    timeouts=0,
                    bad_messages=0,
                ),
            ),
        ),
    )


def reading(
    clock: float,
    *workers: WorkerReading,
    zookeeper: ZooKeeperStatus | None = None,
    table: TableStatus | None = None,
    started: float = 1.0,
) -> StatsReading:
    return StatsReading(
        version="1.2.3",
        started=started,
        now=clock + 5.0,
        clock=clock,
        latency_buckets=LATENCY_BUCKETS,
        zookeeper=zookeeper,
        table=table,
        workers=workers,
    )


def test_rates_are_the_growth_in_all_workers_by_the_servers_clock() -> None:
    rates = rates_between(
        reading(10.0, worker(1, 100), worker(2, 0)), reading(12.0, worker(1, 110), worker(2, 30))
    )
    assert (rates.seconds, rates.queries, rates.version) == (2.0, 20.0, "1.2.3")
    assert (rates.time, rates.uptime_seconds) == (17.0, 16.0)
    assert rates.transports == {"udp": 20.0, "tcp": 0.0, "tls": 0.0}
    assert rates.types == {"A": 20.0}
    assert rates.rcodes == {"NOERROR": 20.0}
    assert list(rates.sources.items()) == [
        ("response_cache", 60.0),
        ("upstream", 60.0),
        ("forward_cache", 20.0),
    ]
    assert (rates.response_cache_share, rates.forward_cache_share) == (60 / 140, 0.25)
    assert (rates.response_cache_entries, rates.forward_cache_entries) == (10, 14)
    assert rates.p50_seconds == pytest.approx(0.000_005)
    assert rates.p99_seconds == pytest.approx(0.000_009_9)


@pytest.mark.parametrize("pid", [1, 2], ids=["same process id", "new process id"])
def test_a_replaced_worker_counts_from_0(pid: int) -> None:
    rates = rates_between(reading(0.0, worker(1, 1000)), reading(1.0, worker(pid, 8)))
    assert rates.queries == 8.0
    assert rates.upstreams[0].queries == 8.0


def test_an_upstream_is_dead_if_all_workers_report_it_and_the_busiest_comes_first() -> None:
    before = reading(0.0, worker(1, 0), worker(2, 0), worker(3, 0, "192.0.2.2:53"))
    for others_too in (False, True):
        workers = (
            worker(1, 1, is_dead=others_too),
            worker(2, 2, is_dead=True),
            worker(3, 9, "192.0.2.2:53"),
        )
        upstreams = rates_between(before, reading(1.0, *workers)).upstreams
        found = [(one.address, one.is_dead, one.rtt_seconds, one.queries) for one in upstreams]
        assert found == [("192.0.2.2:53", False, 0.5, 9.0), ("192.0.2.1:53", others_too, 0.5, 3.0)]


def test_table_and_zookeeper_are_those_of_the_second_reading() -> None:
    after = reading(
        1.0,
        zookeeper=ZooKeeperStatus("zk:2181", "unreachable", 3.5),
        table=TableStatus(services=4, alive=3, hidden=0, held=2, bad=None),
    )
    rates = rates_between(reading(0.0), after)
    assert (rates.services, rates.source_state, rates.source_stale_seconds) == (4, "unreachable", 3.5)
    assert rates.members == {"alive": 3, "hidden": 0, "held": 2}
    assert rates_between(reading(0.0), reading(1.0)).source_state is None


@pytest.mark.parametrize(
    ("services", "state", "stale", "line"),
    [
        (1, "live", 0.0, "1 service, members: 3 alive; ZooKeeper: live"),
        (4, "unreachable", 3.5, "4 services, members: 3 alive; ZooKeeper: unreachable for 3.5s"),
    ],
)
def test_the_view_shows_the_table_and_the_state_of_zookeeper(
    services: int, state: str, stale: float, line: str
) -> None:
    after = reading(
        1.0,
        zookeeper=ZooKeeperStatus("zk:2181", state, stale),
        table=TableStatus(services=services, alive=3, hidden=0, held=0, bad=None),
    )
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(whole_view(rates_between(reading(0.0), after), "/run/zkdns/api", TopState()))
    assert f"\n{line}\n" in capture.get()


def test_without_traffic_there_are_no_shares_and_no_quantiles() -> None:
    rates = rates_between(reading(0.0, worker(1, 5)), reading(1.0, worker(1, 5)))
    assert (rates.queries, rates.p50_seconds, rates.p99_seconds) == (0.0, None, None)
    assert (rates.response_cache_share, rates.forward_cache_share) == (None, None)


def test_readings_of_two_runs_of_a_server_are_not_comparable() -> None:
    assert is_comparable(reading(1.0), reading(2.0))
    assert not is_comparable(reading(1.0), reading(2.0, started=1.5))
    assert not is_comparable(reading(2.0), reading(2.0))
