"""The longest single piece of work for queries about one large service, in CPU time of the thread.

    tests/bench/run large-service [--members 10000] [--rounds 3]

A piece is the work between two returns to the event loop: the lookup of a query, or a piece of deferred work.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import dns.message
import dns.rcode

from tests.dns.helpers import Server, member, origin_of, put
from zkdns.daemon.worker.deferred_answers import DeferredAnswers
from zkdns.serverset.changes import MembersHeld
from zkdns.serverset.member import Member
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.contract import DeferredResponse, Render

SERVICE = "web.staging.discovery"
QUERIES = [
    ("A", SERVICE, "A"),
    ("AAAA", SERVICE, "AAAA"),
    ("SRV", SERVICE, "SRV"),
    ("TXT", SERVICE, "TXT"),
    ("RFC 2782 SRV", "_web._tcp.staging.discovery", "SRV"),
    ("endpoint", "_admin._tcp.web.staging.discovery", "SRV"),
    ("member", "m17.web.staging.discovery", "A"),
    ("absent label", "nope.web.staging.discovery", "A"),
    ("absent number", "m99999999.web.staging.discovery", "A"),
    ("shard", "s17.web.staging.discovery", "A"),
    ("DNS-SD PTR", "_web._tcp.staging.discovery", "PTR"),
    ("reverse PTR", "1.0.0.127.in-addr.arpa", "PTR"),
]
LIMIT = 5.0  # milliseconds


class Pieces:
    """Answers queries from a server, and measures the longest piece of work."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pieces: list[Callable[[], None]] = []
        self.longest = 0.0
        self.total = 0.0
        DeferredAnswers(server.zone.steps, self._pieces.append, _raise)

    def measure(self, work: Callable[[], object]) -> object:
        """Run a piece of work; return its result."""
        started = time.thread_time()
        result = work()
        took = 1000 * (time.thread_time() - started)
        self.longest = max(self.longest, took)
        self.total += took
        return result

    def query(self, name: str, rdtype: str, *, stream: bool) -> dns.message.Message:
        """Answer a query, with all deferred work."""
        self.longest = self.total = 0.0
        message = dns.message.make_query(name, rdtype, use_edns=True, payload=1232).to_wire()
        delivered: list[bytes] = []
        cache = self._server.streams if stream else self._server.datagrams
        key = message[2:] if stream else UdpCodec.key(message[2:])
        response = self.measure(lambda: next(cache[key]))
        assert isinstance(response, bytes)
        if isinstance(response, DeferredResponse):

            def deliver(render: Render, _size: int = 0, /) -> None:
                delivered.append(render())

            start = response.start
            self.measure(lambda: start(deliver, bytes(4)))
            while self._pieces:
                self.measure(self._pieces.pop(0))
            (response,) = delivered
        whole = message[:2] + response if stream else UdpCodec.message(message, response)
        return dns.message.from_wire(whole)


def _raise(error: Exception) -> None:
    raise error


def new_member(number: int, *, weighted: bool, endpoints: int, one_host: bool) -> Member:
    """A member; with `one_host`, all have the same address."""
    host = "127.0.0.1" if one_host else f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    names = ("admin", "http.api", "debug")[: endpoints - 1]
    return member(
        number,
        f"{host}:{1024 + number}",
        additional={name: f"{host}:{20000 + at}" for at, name in enumerate(names)},
        shard=number,
        weight=1 + number / 100 if weighted else 1.0,
    )


def measure(count: int, *, weighted: bool, endpoints: int, one_host: bool) -> dict[str, tuple[float, float]]:
    """The longest piece and the whole work of each kind of query, in milliseconds."""
    made = partial(new_member, weighted=weighted, endpoints=endpoints, one_host=one_host)
    found: dict[str, tuple[float, float]] = {}
    shuffled = list(map(made, range(count)))
    random.Random(1).shuffle(shuffled)

    def run(label: str, server: Server, name: str, rdtype: str, *, stream: bool) -> None:
        pieces = Pieces(server)
        gc.collect()
        response = pieces.query(name, rdtype, stream=stream)
        assert response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        found[label] = pieces.longest, pieces.total

    for transport in ("udp", "tcp"):
        for label, name, rdtype in QUERIES:
            if (label == "reverse PTR") != one_host:
                continue
            server = Server({SERVICE: shuffled}, dns_sd=True, reverse=True)
            stream = transport == "tcp"
            number = 0
            row = f"{label}, {transport}"
            run(f"{row}, first", server, name, rdtype, stream=stream)
            for exchanged in (1, 100, count):
                old, number = number, number + exchanged
                added = [made(count + at) for at in range(old, number)]
                server.change(SERVICE, added, [f"member_{at:010d}" for at in range(old, number)])
                run(f"{row}, {exchanged} exchanged", server, name, rdtype, stream=stream)
            held = tuple(f"member_{at:010d}" for at in range(number, number + count // 2))
            server.apply(MembersHeld(origin_of(SERVICE), held, 0.0, count))
            run(f"{row}, half held", server, name, rdtype, stream=stream)
            started = time.thread_time()
            server.apply(put(SERVICE, [made(1)]))
            drop = 1000 * (time.thread_time() - started)
            found[f"{row}, all but one left: refresh"] = drop, drop
            run(f"{row}, all but one left", server, name, rdtype, stream=stream)
    return found


def main() -> None:
    """Print the longest pieces."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    gc.disable()  # a worker runs no full collections
    for weighted, endpoints, one_host in itertools.product((False, True), (1, 3), (False, True)):
        title = (
            f"{'different' if weighted else 'equal'} weights, {endpoints} endpoints"
            f"{', one address' if one_host else ''}"
        )
        if options.only not in title:
            continue
        print(f"\n{title}: longest piece, whole work (ms)")
        rounds = [
            measure(options.members, weighted=weighted, endpoints=endpoints, one_host=one_host)
            for _ in range(options.rounds)
        ]
        for row in rounds[0]:
            longest, total = (statistics.median(one[row][at] for one in rounds) for at in (0, 1))
            print(f"{row:45}{longest:9.2f}{total:9.1f}{'  over the limit' if longest > LIMIT else ''}")


if __name__ == "__main__":
    main()
