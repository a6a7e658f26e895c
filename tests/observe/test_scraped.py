"""What is made of two looks at a server: sums over workers, growth over restarts, quantiles."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from zkdns.address import HostPort
from zkdns.observe.figures import (
    LATENCY_BUCKETS,
    AnswererFigures,
    ForwardFigures,
    LatencyFigures,
    ResponseFigures,
    ServerFigures,
    UpstreamFigures,
    WatcherFigures,
)
from zkdns.observe.metrics import render
from zkdns.observe.scraped import NotToldError, Scrape, glance, scrape

SERVER = ServerFigures(version="1.2.3", started=1.0)


def worker(count: int, upstream: str = "192.0.2.1:53", *, is_dead: bool = False) -> AnswererFigures:
    """A worker that has done everything so often."""
    return AnswererFigures(
        udp_queries=count,
        responses=(ResponseFigures(transport="udp", qtype="A", rcode="NOERROR", count=count),),
        sources={"memo": 3 * count, "cache": count, "upstream": 3 * count},
        latencies=(LatencyFigures(kind="made", counts=(count, *[0] * len(LATENCY_BUCKETS))),),
        remembered=5,
        forward=ForwardFigures(
            cached=7,
            upstreams=(
                UpstreamFigures(
                    address=upstream,
                    domain="",
                    is_dead=is_dead,
                    seconds=0.5,
                    queries=count,
                    timeouts=0,
                    bad=0,
                ),
            ),
        ),
    )


def told(at: float, *workers: AnswererFigures, watcher: WatcherFigures | None = None) -> Scrape:
    values: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(render(watcher, workers, SERVER)):
        for sample in family.samples:
            values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Scrape(at, values)


def test_rates_are_growth_of_all_workers_by_the_time_between() -> None:
    seen = glance(told(10.0, worker(100), worker(0)), told(12.0, worker(110), worker(30)))
    assert (seen.seconds, seen.queries, seen.version) == (2.0, 20.0, "1.2.3")
    assert seen.types == {"A": 20.0}
    assert seen.rcodes == {"NOERROR": 20.0}
    assert list(seen.sources.items()) == [("memo", 60.0), ("upstream", 60.0), ("cache", 20.0)]
    assert (seen.memo_share, seen.cache_share) == (60 / 140, 0.25)
    assert (seen.memo_answers, seen.cache_answers) == (10, 14)


def test_a_worker_that_began_anew_counts_from_0() -> None:
    seen = glance(told(0.0, worker(1000)), told(1.0, worker(8)))
    assert seen.queries == 8.0
    assert seen.upstreams[0].queries == 8.0


def test_an_upstream_is_silent_where_all_workers_find_it_so_and_the_busiest_comes_first() -> None:
    before = told(0.0, worker(0), worker(0), worker(0, "192.0.2.2:53"))
    for others_too in (False, True):
        workers = worker(1, is_dead=others_too), worker(2, is_dead=True), worker(9, "192.0.2.2:53")
        upstreams = glance(before, told(1.0, *workers)).upstreams
        found = [(one.address, one.dead, one.rtt_seconds, one.queries) for one in upstreams]
        assert found == [("192.0.2.2:53", False, 0.5, 9.0), ("192.0.2.1:53", others_too, 0.5, 3.0)]


def test_the_table_and_zookeeper_are_as_they_are_now() -> None:
    watcher = WatcherFigures(state="away", services=4, alive=3, held=2)
    seen = glance(told(0.0), told(1.0, watcher=watcher))
    assert (seen.services, seen.zookeeper) == (4, "away")
    assert seen.members == {"alive": 3, "hidden": 0, "held": 2}
    assert glance(told(0.0), told(1.0)).zookeeper is None


def test_where_nothing_happened_there_are_no_shares_and_no_quantiles() -> None:
    seen = glance(told(0.0, worker(5)), told(1.0, worker(5)))
    assert (seen.queries, seen.p50_seconds, seen.memo_share, seen.cache_share) == (0.0, None, None, None)


# -- who does not tell --------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(status: int, text: str) -> Iterator[HostPort]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield HostPort("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, render(None, (), SERVER)), (200, "# TYPE up gauge\nup 1\n"), (200, "{]"), (200, "")],
    ids=["not found", "another's metrics", "no metrics", "nothing"],
)
def test_what_is_no_zkdns_is_a_sentence(status: int, text: str) -> None:
    with answering(status, text) as address, pytest.raises(NotToldError) as caught:
        scrape(address)
    assert str(caught.value) == f"what answers at {address} is no admin address of zkdns"


def test_what_tells_is_read() -> None:
    with answering(200, render(None, (), SERVER)) as address:
        assert scrape(address).by("zkdns_build_info", "version") == {"1.2.3": 1.0}
