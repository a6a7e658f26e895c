"""What counting costs: a server that counts its responses beside one that does not, in one process by turns.

Both answer the same bursts over loopback, so what the kernel takes is in both.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.queries import encode, ordinary
from tests.bench.report import percentile
from tests.bench.rounds import MICRO, Bench
from tests.bench.zone import make_services, to_fixed_file
from zkdns.config import load_config
from zkdns.dns.authority import Authority
from zkdns.dns.response_cache import ResponseCache
from zkdns.serverset.changes import SetPut
from zkdns.serverset.static_file import parse_static
from zkdns.table import Table
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.udp import UdpServer

BURSTS = (64, 32, 1)
TURNS = 4000
_SERVICES, _MEMBERS = 30, 5
_MEMORY = 16 << 20
_WARM = 50
_LITTLE = 0.1  # the share of measurements below what is compared: what disturbs makes others longer


class Uncounting(UdpServer):
    """Answers a burst as a server does, and counts nothing but queries."""

    def answer(self) -> None:
        batch = self._batch
        assert batch is not None
        while queries := batch.receive():
            self.received += len(queries)
            self.lost += batch.send(self._responses_to(queries))
            if len(queries) == 1:
                break


class Counting(UdpServer):
    """Answers a burst as every server does."""

    def answer(self) -> None:
        while self._answer_batches():
            pass


def run_metrics_cost(bench: Bench) -> None:
    """The time from a burst's arrival until it is answered, with counting and without."""
    for size in BURSTS:
        bench.tell(f"metrics-cost: {TURNS} bursts of {size}")
        with _asked_by_turns(size) as times:
            counting, uncounting = (percentile(each, _LITTLE) / size * MICRO for each in times)
        told = f"{counting:.2f} and {uncounting:.2f} µs/answer, in bursts of {size}"
        bound = 1.03 if size > 1 else None
        bench.report.add("with counting to without", counting / uncounting, "x", bound=bound, yardstick=told)


@contextmanager
def _asked_by_turns(size: int) -> Iterator[tuple[list[float], list[float]]]:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as asker,
        socket.socket(type=socket.SOCK_DGRAM) as first,
        socket.socket(type=socket.SOCK_DGRAM) as second,
    ):
        servers = Counting(first, _answers()), Uncounting(second, _answers())
        for sock in (asker, first, second):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        questions = ordinary(make_services(_SERVICES, _MEMBERS))
        queries = [encode(questions[number % len(questions)], edns=True) for number in range(size)]
        times: tuple[list[float], list[float]] = [], []
        for turn in range(-_WARM, TURNS):
            for at in (turn % 2, 1 - turn % 2):
                spent = _spent(asker, (first, second)[at], servers[at], queries)
                if turn >= 0:
                    times[at].append(spent)
        assert servers[0].received == servers[1].received == (_WARM + TURNS) * size
        assert sum(servers[0].counters.counts().values()) == servers[0].received
        yield times


def _spent(
    asker: socket.socket, sock: socket.socket, server: Counting | Uncounting, queries: list[bytes]
) -> float:
    """Seconds to answer these, which have arrived."""
    for query in queries:
        asker.sendto(query, sock.getsockname())
    begun = time.perf_counter()
    server.answer()
    spent = time.perf_counter() - begun
    for _ in queries:
        asker.recv(65535)
    return spent


def _answers() -> ResponseCache:
    config = load_config(flags={"demo": True}, environment={}, file=None)
    table = Table()
    fixed = parse_static(to_fixed_file(make_services(_SERVICES, _MEMBERS)), config.namespaces, origin="bench")
    for name, members in fixed.items():
        table.apply(SetPut(f"static:{name.absolute}", name, members))
    authority = Authority(table, config, _fail)
    authority.set_health(ready=True, stale=False)
    return authority.make_cache(UdpCodec, stream=False, max_bytes=_MEMORY)


def _fail(_query: bytes, error: Exception) -> None:
    raise error
