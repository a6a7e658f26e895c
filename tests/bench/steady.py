"""What is not measured at full rate: how long an answer takes at a low one, and the memory of much."""

import statistics
from collections import defaultdict

from tests.bench.answering import EDNS, MEMBERS, SERVICES, started, write_ordinary
from tests.bench.load import NOERROR, Asked
from tests.bench.peers import Echo, Knot, Nsd, Peer, Unbound, Zkdns
from tests.bench.processes import resident_megabytes
from tests.bench.rounds import Bench, by_turns
from tests.bench.zone import make_services

RATE = 1000
"""Questions a second."""
MANY_SERVICES, MANY_MEMBERS = 10_000, 10
TIMES = 20
_WARM_SECONDS = 0.5


def run_latency(bench: Bench) -> None:
    """From a question to its answer, as a caller sees it, at a steady rate that leaves all of them idle."""
    title = "latency"
    services = make_services(SERVICES, MEMBERS)
    told: dict[str, list[Asked]] = defaultdict(list)
    with started(bench, title, (Echo, Knot, Nsd, Unbound, Zkdns), services) as peers:
        queries = write_ordinary(bench, title, services, edns=True)
        for peer in peers:
            bench.load.once(peer.port, queries)
        for number, order in by_turns(bench.rounds, peers):
            bench.tell(f"{title}: round {number + 1} of {bench.rounds}")
            for peer in order:
                bench.load.at_rate(peer.port, queries, seconds=_WARM_SECONDS, rate=RATE)
                asked = bench.load.at_rate(peer.port, queries, seconds=bench.seconds, rate=RATE)
                asked.check(peer.name, NOERROR)
                told[peer.name].append(asked)
    for name, of_rounds in told.items():
        median = statistics.median(asked.median for asked in of_rounds)
        p99 = statistics.median(asked.p99 for asked in of_rounds)
        bench.report.add(
            f"{name}, {EDNS}", median, "µs", yardstick=f"p99 {p99:.0f} µs, at {RATE}/s", details={"p99": p99}
        )
    pairs = list(zip(told[Zkdns.name], told[Nsd.name], strict=True))
    middle = statistics.median(own.median / nsd.median for own, nsd in pairs)
    worst = statistics.median(own.p99 / nsd.p99 for own, nsd in pairs)
    bench.report.add("zkdns' median to nsd's", middle, "x", bound=1.3)
    bench.report.add("zkdns' p99 to nsd's", worst, "x")


def run_memory(bench: Bench) -> None:
    """What stays resident once all services were asked for, and what after they were asked for often."""
    title = "memory"
    services = make_services(MANY_SERVICES, MANY_MEMBERS)
    size = f"{MANY_SERVICES:,} services x {MANY_MEMBERS} members"
    with started(bench, title, (Knot, Nsd, Zkdns), services) as peers:
        queries = write_ordinary(bench, title, services, edns=True)
        for peer in peers:
            before = resident(peer)
            bench.tell(f"{title}: asking {peer.name} for all once, then {TIMES} times")
            bench.load.once(peer.port, queries).check(peer.name, NOERROR)
            once = resident(peer)
            bench.load.once(peer.port, queries, times=TIMES - 1).check(peer.name, NOERROR)
            often = resident(peer)
            bound = 150 if isinstance(peer, Zkdns) else None
            told = f"{before:.0f} MB before; {size}, A and SRV"
            bench.report.add(f"{peer.name}, each asked for once", once, "MB", bound=bound, yardstick=told)
            bench.report.add(f"{peer.name}, each {TIMES} times", often, "MB", yardstick=told)


def resident(peer: Peer) -> float:
    """Megabytes of the processes that count, the largest where there are several that share their pages."""
    return max(resident_megabytes(pid) for pid in peer.pids())
