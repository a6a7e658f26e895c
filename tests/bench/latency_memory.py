"""Benchmarks of latency at a steady rate, and of memory with many services."""

import statistics
from collections import defaultdict

from tests.bench.load import NOERROR, LoadResult
from tests.bench.measurement import Bench, alternating_rounds
from tests.bench.peers import Echo, Knot, Nsd, Peer, Unbound, Zkdns
from tests.bench.processes import resident_megabytes
from tests.bench.udp_answers import EDNS, MEMBERS, SERVICES, running_peers, write_service_queries
from tests.bench.zone import make_services

RATE = 1000
"""Queries per second."""
MANY_SERVICES, MANY_MEMBERS = 10_000, 10
TIMES = 20
_WARM_SECONDS = 0.5


def run_latency(bench: Bench) -> None:
    """Measure the latency at the client, at a rate that leaves all servers mostly idle."""
    title = "latency"
    services = make_services(SERVICES, MEMBERS)
    results: dict[str, list[LoadResult]] = defaultdict(list)
    with running_peers(bench, title, (Echo, Knot, Nsd, Unbound, Zkdns), services) as peers:
        queries = write_service_queries(bench, title, services, edns=True)
        for peer in peers:
            bench.load.once(peer.port, queries)
        for number, order in alternating_rounds(bench.rounds, peers):
            bench.show_step(f"{title}: round {number + 1} of {bench.rounds}")
            for peer in order:
                bench.load.at_rate(peer.port, queries, seconds=_WARM_SECONDS, rate=RATE)
                result = bench.load.at_rate(peer.port, queries, seconds=bench.seconds, rate=RATE)
                result.check(peer.name, NOERROR)
                results[peer.name].append(result)
    for name, of_rounds in results.items():
        median = statistics.median(result.median for result in of_rounds)
        p99 = statistics.median(result.p99 for result in of_rounds)
        bench.report.add(
            f"median latency of {name}, {EDNS}",
            median,
            "µs",
            yardstick=f"p99 {p99:.0f} µs, at {RATE} queries/s",
            details={"p99": p99},
        )
    pairs = list(zip(results[Zkdns.name], results[Nsd.name], strict=True))
    middle = statistics.median(own.median / nsd.median for own, nsd in pairs)
    worst = statistics.median(own.p99 / nsd.p99 for own, nsd in pairs)
    bench.report.add("median latency, zkdns / nsd", middle, "x", limit=1.3)
    bench.report.add("p99 latency, zkdns / nsd", worst, "x")


def run_memory(bench: Bench) -> None:
    """Measure resident memory after one query for each service and type, and after many."""
    title = "memory"
    services = make_services(MANY_SERVICES, MANY_MEMBERS)
    size = f"{MANY_SERVICES:,} services of {MANY_MEMBERS} members"
    with running_peers(bench, title, (Knot, Nsd, Zkdns), services) as peers:
        queries = write_service_queries(bench, title, services, edns=True)
        for peer in peers:
            before = resident(peer)
            bench.show_step(f"{title}: sending all queries to {peer.name} once, then {TIMES} times")
            bench.load.once(peer.port, queries).check(peer.name, NOERROR)
            once = resident(peer)
            bench.load.once(peer.port, queries, times=TIMES - 1).check(peer.name, NOERROR)
            often = resident(peer)
            limit = 150 if isinstance(peer, Zkdns) else None
            yardstick = f"{before:.0f} MB before; {size}, A and SRV"
            bench.report.add(f"{peer.name}, each query once", once, "MB", limit=limit, yardstick=yardstick)
            bench.report.add(f"{peer.name}, each query {TIMES} times", often, "MB", yardstick=yardstick)


def resident(peer: Peer) -> float:
    """Resident megabytes of the largest measured process; several processes share their pages."""
    return max(resident_megabytes(pid) for pid in peer.pids())
