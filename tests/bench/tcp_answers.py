"""Benchmarks over TCP: small answers on many connections, and answers too large for UDP."""

import statistics
from collections.abc import Sequence

from tests.bench.answer_checks import count_records, send_query
from tests.bench.load import LoadResult
from tests.bench.measurement import (
    Bench,
    QueryKind,
    Samples,
    full_rate_over_udp,
    measure,
    report_samples,
    same_queries,
)
from tests.bench.peers import Knot, Nsd, Peer, Unbound, Zkdns
from tests.bench.queries import QueryFile, service_questions, write_queries
from tests.bench.udp_answers import MEMBERS, PLAIN, SERVICES, ZKDNS, running_peers, write_service_queries
from tests.bench.zone import Service, make_services

CONNECTIONS = 50
LARGE_SERVICES = 20
LARGE, HUGE = 100, 1000


def run_tcp(bench: Bench) -> None:
    """Measure A and SRV over persistent connections, with several queries in flight on each."""
    title = "tcp"
    services = make_services(SERVICES, MEMBERS)

    def over_tcp(peer: Peer, queries: QueryFile, seconds: float) -> LoadResult:
        return bench.load.tcp(peer.port, queries, seconds=seconds, connections=CONNECTIONS)

    with running_peers(bench, title, (Knot, Nsd, Unbound, Zkdns), services) as peers:
        kinds = [same_queries(PLAIN, write_service_queries(bench, title, services, edns=False))]
        samples = measure(bench, title, peers, kinds, over_tcp)
    report_samples(bench.report, samples)
    own, nsd = (ZKDNS, PLAIN), (Nsd.name, PLAIN)
    yardstick = f"nsd {samples.cpu(*nsd):.2f} µs/answer, {samples.rate(*nsd):,.0f} answers/s"
    cost, rate = samples.cpu_ratio(own, nsd), samples.rate_ratio(nsd, own)
    bench.report.add("CPU cost of zkdns / nsd", cost, "x", limit=1.0, yardstick=yardstick)
    bench.report.add("rate of nsd / zkdns", rate, "x", limit=1.0, yardstick=yardstick)


def run_large_sets(bench: Bench) -> None:
    """Measure A and SRV of 100 and 1,000 members over TCP, and truncated A of 100 members over UDP."""
    title = "large-sets"
    sizes = {LARGE: make_services(LARGE_SERVICES, LARGE, name="large")}
    # Numbers after those of the smaller services, so that no two members share an address.
    first = LARGE_SERVICES * LARGE // HUGE + 1
    sizes[HUGE] = make_services(LARGE_SERVICES, HUGE, name="huge", first=first)
    every = [service for services in sizes.values() for service in services]
    peer_kinds = (Knot, Nsd, Zkdns)
    with running_peers(bench, title, peer_kinds, every, over_udp=False) as peers:
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

        def over_tcp(peer: Peer, queries: QueryFile, seconds: float) -> LoadResult:
            return bench.load.stream(peer.port, queries, seconds=seconds)

        samples = measure(bench, title, peers, list(kinds.values()), over_tcp)
        truncated = same_queries(f"{LARGE} A, truncated", kinds[f"{LARGE} A"].queries(0))
        over_udp = measure(bench, f"{title} over UDP", peers, [truncated], full_rate_over_udp(bench))
        kept = {
            peer.name: count_records(send_query(peer.port, sizes[LARGE][0].owner, "A"))[0] for peer in peers
        }
    report_samples(bench.report, samples)
    for name in kinds:
        _report_cost_per_record(bench, samples, name, records)
    report_samples(bench.report, over_udp)
    for name, count in kept.items():
        bench.report.add(f"records in a truncated answer of {name}, {LARGE} A", count, "")


def _kind(bench: Bench, title: str, services: Sequence[Service], size: int, qtype: str) -> QueryKind:
    stem = bench.directory / title / f"{size}-{qtype}"
    return same_queries(
        f"{size} {qtype}", write_queries(stem, service_questions(services, (qtype,)), edns=True)
    )


def _records(peer: Peer, services: Sequence[Service], qtype: str) -> tuple[int, int]:
    """Number of answer and additional records of a response; of the median one, if they differ."""
    counts = sorted(
        count_records(send_query(peer.port, service.owner, qtype, tcp=True)) for service in services
    )
    return counts[len(counts) // 2]


def _report_cost_per_record(
    bench: Bench, samples: Samples, kind: str, records: dict[tuple[str, str], tuple[int, int]]
) -> None:
    """Report the CPU time per record, additional records included, compared with Knot in the same rounds."""
    counts = {name: sum(records[name, kind]) for name in (ZKDNS, Knot.name)}
    own, theirs = (samples.cpus(name, kind) for name in (ZKDNS, Knot.name))
    to_answer = statistics.median(a / b for a, b in zip(own, theirs, strict=True))
    ratio = to_answer * counts[Knot.name] / counts[ZKDNS]
    yardstick = ", ".join(
        f"{name} {samples.cpu(name, kind) / sum(records[name, kind]) * 1000:.1f} ns/record, "
        f"{records[name, kind][0]} + {records[name, kind][1]} records"
        for name in (ZKDNS, Knot.name, Nsd.name)
    )
    bench.report.add(
        f"CPU cost per record of zkdns / knot, {kind}", ratio, "x", limit=1.2, yardstick=yardstick
    )
