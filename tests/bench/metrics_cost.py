"""The cost of counting: a UDP server that counts its responses, compared with one that does not.

Both run in one process and answer the same bursts over loopback in turn, so that both include the kernel's
time.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.measurement import MICRO, Bench
from tests.bench.queries import encode, service_questions
from tests.bench.report import percentile
from tests.bench.zone import make_services, to_static_file
from zkdns.config import load_config
from zkdns.dns.authority import Authority
from zkdns.dns.response_cache import ResponseCache
from zkdns.serverset.changes import SetPut
from zkdns.serverset.static_file import parse_static
from zkdns.table import Table
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.udp import UdpServer

BURSTS = (64, 32, 1)
REPETITIONS = 4000
_SERVICES, _MEMBERS = 30, 5
_MEMORY = 16 << 20
_WARM = 50
_PERCENTILE = 0.1  # the compared value is a low percentile, since disturbances only make measurements longer


class Uncounting(UdpServer):
    """Answers a burst, and counts only the queries."""

    def answer(self) -> None:
        batch = self._batch
        assert batch is not None
        while queries := batch.receive():
            self.received += len(queries)
            self.lost += batch.send(self._responses_to(queries))
            if len(queries) == 1:
                break


class Counting(UdpServer):
    """Answers a burst with the code of the real server."""

    def answer(self) -> None:
        while self._answer_batches():
            pass


def run_metrics_cost(bench: Bench) -> None:
    """Measure the time from a burst's arrival until it is answered, with counting and without."""
    for size in BURSTS:
        bench.show_step(f"metrics-cost: {REPETITIONS} bursts of {size}")
        with _alternating_bursts(size) as times:
            counting, uncounting = (percentile(each, _PERCENTILE) / size * MICRO for each in times)
        yardstick = f"{counting:.2f} and {uncounting:.2f} µs/answer"
        limit = 1.03 if size > 1 else None
        bench.report.add(
            f"time with / without counting, bursts of {size}",
            counting / uncounting,
            "x",
            limit=limit,
            yardstick=yardstick,
        )


@contextmanager
def _alternating_bursts(size: int) -> Iterator[tuple[list[float], list[float]]]:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as client,
        socket.socket(type=socket.SOCK_DGRAM) as first,
        socket.socket(type=socket.SOCK_DGRAM) as second,
    ):
        servers = Counting(first, _make_cache()), Uncounting(second, _make_cache())
        for sock in (client, first, second):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        questions = service_questions(make_services(_SERVICES, _MEMBERS))
        queries = [encode(questions[number % len(questions)], edns=True) for number in range(size)]
        times: tuple[list[float], list[float]] = [], []
        for turn in range(-_WARM, REPETITIONS):
            for at in (turn % 2, 1 - turn % 2):
                spent = _answer_seconds(client, (first, second)[at], servers[at], queries)
                if turn >= 0:
                    times[at].append(spent)
        assert servers[0].received == servers[1].received == (_WARM + REPETITIONS) * size
        assert sum(servers[0].counters.counts().values()) == servers[0].received
        yield times


def _answer_seconds(
    client: socket.socket, sock: socket.socket, server: Counting | Uncounting, queries: list[bytes]
) -> float:
    """Send the queries, let the server answer them, and return how many seconds that took it."""
    for query in queries:
        client.sendto(query, sock.getsockname())
    started_at = time.perf_counter()
    server.answer()
    spent = time.perf_counter() - started_at
    for _ in queries:
        client.recv(65535)
    return spent


def _make_cache() -> ResponseCache:
    config = load_config(flags={"demo": True}, environment={}, file=None)
    table = Table()
    fixed = parse_static(
        to_static_file(make_services(_SERVICES, _MEMBERS)), config.namespaces, origin="bench"
    )
    for name, members in fixed.items():
        table.apply(SetPut(f"static:{name.absolute}", name, members))
    authority = Authority(table, config, _fail)
    authority.set_health(ready=True, stale=False)
    return authority.make_cache(UdpCodec, stream=False, max_bytes=_MEMORY)


def _fail(_query: bytes, error: Exception) -> None:
    raise error
