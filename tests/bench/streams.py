"""Answers over TCP: many connections with ordinary ones, and those that are too large for UDP."""

import statistics
from collections.abc import Sequence

from tests.bench.answering import MEMBERS, PLAIN, SERVICES, ZKDNS, started, write_ordinary
from tests.bench.checking import ask, count_records
from tests.bench.load import Asked
from tests.bench.peers import Knot, Nsd, Peer, Unbound, Zkdns
from tests.bench.queries import QueryFile, ordinary, write_queries
from tests.bench.rounds import Bench, Kind, Samples, fixed_kind, flooding, measure, tell_all
from tests.bench.zone import Service, make_services

CONNECTIONS = 50
LARGE_SERVICES = 20
LARGE, HUGE = 100, 1000


def run_tcp(bench: Bench) -> None:
    """A and SRV over connections that stay, several questions on their way on each."""
    title = "tcp"
    services = make_services(SERVICES, MEMBERS)

    def over_tcp(peer: Peer, queries: QueryFile, seconds: float) -> Asked:
        return bench.load.tcp(peer.port, queries, seconds=seconds, connections=CONNECTIONS)

    with started(bench, title, (Knot, Nsd, Unbound, Zkdns), services) as peers:
        kinds = [fixed_kind(PLAIN, write_ordinary(bench, title, services, edns=False))]
        samples = measure(bench, title, peers, kinds, over_tcp)
    tell_all(bench.report, samples)
    own, nsd = (ZKDNS, PLAIN), (Nsd.name, PLAIN)
    told = f"nsd {samples.cpu(*nsd):.2f} µs/answer, {samples.rate(*nsd):,.0f} answers/s"
    bench.report.add("zkdns' cost to nsd's", samples.cpu_ratio(own, nsd), "x", bound=1.0, yardstick=told)
    bench.report.add("nsd's rate to zkdns'", samples.rate_ratio(nsd, own), "x", bound=1.0, yardstick=told)


def run_large_sets(bench: Bench) -> None:
    """A and SRV of 100 and of 1,000 members over TCP; A of 100 also over UDP, where they are cut."""
    title = "large-sets"
    sizes = {LARGE: make_services(LARGE_SERVICES, LARGE, name="large")}
    # Behind the others, so that no two members have one address.
    first = LARGE_SERVICES * LARGE // HUGE + 1
    sizes[HUGE] = make_services(LARGE_SERVICES, HUGE, name="huge", first=first)
    every = [service for services in sizes.values() for service in services]
    peer_kinds = (Knot, Nsd, Zkdns)
    with started(bench, title, peer_kinds, every, is_udp_too=False) as peers:
        kinds = {
            f"{size} {qtype}": _kind(bench, title, services, size, qtype)
            for size, services in sizes.items()
            for qtype in ("A", "SRV")
        }
        records = {
            (peer.name, name): _records(peer, sizes[int(name.split()[0])], name.split()[1])
            for peer in peers
            for name in kinds
        }

        def over_tcp(peer: Peer, queries: QueryFile, seconds: float) -> Asked:
            return bench.load.stream(peer.port, queries, seconds=seconds)

        samples = measure(bench, title, peers, list(kinds.values()), over_tcp)
        cut = fixed_kind(f"{LARGE} A, cut", kinds[f"{LARGE} A"].queries(0))
        over_udp = measure(bench, f"{title} over UDP", peers, [cut], flooding(bench))
        left = {peer.name: count_records(ask(peer.port, sizes[LARGE][0].owner, "A"))[0] for peer in peers}
    tell_all(bench.report, samples)
    for name in kinds:
        _tell_per_record(bench, samples, name, records)
    tell_all(bench.report, over_udp)
    for name, count in left.items():
        bench.report.add(f"records that {name} leaves where UDP cuts {LARGE} A", count, "")


def _kind(bench: Bench, title: str, services: Sequence[Service], size: int, qtype: str) -> Kind:
    stem = bench.directory / title / f"{size}-{qtype}"
    return fixed_kind(f"{size} {qtype}", write_queries(stem, ordinary(services, (qtype,)), edns=True))


def _records(peer: Peer, services: Sequence[Service], qtype: str) -> tuple[int, int]:
    """What an answer holds, and what rides along: of the middle one, should there be a difference."""
    counts = sorted(count_records(ask(peer.port, service.owner, qtype, tcp=True)) for service in services)
    return counts[len(counts) // 2]


def _tell_per_record(
    bench: Bench, samples: Samples, kind: str, records: dict[tuple[str, str], tuple[int, int]]
) -> None:
    """What each record costs, those that ride along counted too, to what it costs Knot in the same round."""
    counts = {name: sum(records[name, kind]) for name in (ZKDNS, Knot.name)}
    own, theirs = (samples.cpus(name, kind) for name in (ZKDNS, Knot.name))
    to_answer = statistics.median(a / b for a, b in zip(own, theirs, strict=True))
    ratio = to_answer * counts[Knot.name] / counts[ZKDNS]
    told = ", ".join(
        f"{name} {samples.cpu(name, kind) / sum(records[name, kind]) * 1000:.1f} ns/record, "
        f"{records[name, kind][0]} + {records[name, kind][1]} records"
        for name in (ZKDNS, Knot.name, Nsd.name)
    )
    bench.report.add(f"zkdns' cost per record to knot's, {kind}", ratio, "x", bound=1.2, yardstick=told)
