"""Benchmarks over UDP at full rate: existing names, names in mixed case, nonexistent names."""

import contextlib
from collections.abc import Iterator, Sequence

from tests.bench.answer_checks import check_answers
from tests.bench.load import NOERROR, NXDOMAIN
from tests.bench.measurement import (
    WARM_ROUND,
    Bench,
    QueryKind,
    full_rate_over_udp,
    measure,
    report_samples,
    same_queries,
)
from tests.bench.peers import Dnsmasq, Echo, Knot, Nsd, Peer, Unbound, Zkdns
from tests.bench.processes import resident_megabytes
from tests.bench.queries import (
    QueryFile,
    in_random_case,
    nonexistent_names,
    service_questions,
    write_queries,
)
from tests.bench.zone import Service, make_services

SERVICES, MEMBERS = 1000, 5
"""The zone of a benchmark: services, and members of each, unless the benchmark has its own sizes."""
SPELLINGS = 300_000
NAMES = 250_000
"""Nonexistent names per round: more than zkdns answers in a round, so that no name repeats."""

RIVALS = (Knot.name, Nsd.name, Unbound.name)
ZKDNS = Zkdns.name
PLAIN, EDNS = "without EDNS", "with EDNS"
MIXED, NONEXISTENT = "mixed case", "nonexistent names"


@contextlib.contextmanager
def running_peers(
    bench: Bench,
    title: str,
    kinds: Sequence[type[Peer]],
    services: Sequence[Service],
    *,
    over_udp: bool = True,
) -> Iterator[list[Peer]]:
    """Start the servers with these services, and check their answers.

    Args:
        bench: cores and directory.
        title: of the benchmark; also the name of its directory.
        kinds: the classes of the servers.
        services: the services they serve.
        over_udp: whether to check answers over UDP too, in addition to TCP.
    """
    directory = bench.directory / title
    directory.mkdir()
    peers = []
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            bench.show_step(f"{title}: starting {kind.name} and checking its answers")
            peer = stack.enter_context(kind(services, directory, bench.cores.server))
            if peer.is_dns:
                check_answers(peer.name, peer.port, services, over_udp=over_udp)
            peers.append(peer)
        yield peers


def write_service_queries(bench: Bench, title: str, services: Sequence[Service], *, edns: bool) -> QueryFile:
    """Write queries for A and SRV of all services."""
    stem = bench.directory / title / f"queries-{'edns' if edns else 'plain'}"
    return write_queries(stem, service_questions(services), edns=edns)


def run_answers(bench: Bench) -> None:
    """Measure A and SRV of all services, with clients that use EDNS and clients that do not."""
    services = make_services(SERVICES, MEMBERS)
    for kind in (PLAIN, EDNS):
        _answer(bench, f"answers {kind}", kind, services)
    _answer_both(bench, services)


def _answer(bench: Bench, title: str, kind: str, services: Sequence[Service]) -> None:
    with running_peers(bench, title, (Echo, Knot, Nsd, Unbound, Dnsmasq, Zkdns), services) as peers:
        kinds = [same_queries(kind, write_service_queries(bench, title, services, edns=kind == EDNS))]
        samples = measure(bench, title, peers, kinds, full_rate_over_udp(bench))
    report_samples(bench.report, samples, baseline=Echo.name, best_of=RIVALS)
    own = (ZKDNS, kind)
    best = samples.cpu_ratio(own, *((rival, kind) for rival in RIVALS))
    echo = samples.cpu_ratio(own, (Echo.name, kind))
    costs = ", ".join(f"{rival} {samples.cpu(rival, kind):.2f}" for rival in RIVALS)
    bench.report.add(
        f"CPU cost of zkdns / best other server, {kind}",
        best,
        "x",
        limit=0.95,
        yardstick=f"µs/answer: {costs}",
    )
    yardstick = f"echo {samples.cpu(Echo.name, kind):.2f} µs/answer"
    bench.report.add(f"CPU cost of zkdns / echo, {kind}", echo, "x", limit=1.3, yardstick=yardstick)


def _answer_both(bench: Bench, services: Sequence[Service]) -> None:
    """Measure queries with EDNS and without in turn, so that in zkdns both share one rotation."""
    title = "answers with and without EDNS"
    with running_peers(bench, title, (Echo, Knot, Nsd, Zkdns), services) as peers:
        kinds = [
            same_queries(f"mixed EDNS, {name}", write_service_queries(bench, title, services, edns=edns))
            for name, edns in ((PLAIN, False), (EDNS, True))
        ]
        samples = measure(bench, title, peers, kinds, full_rate_over_udp(bench))
    report_samples(bench.report, samples, baseline=Echo.name, best_of=(Knot.name, Nsd.name))


def run_mixed_case(bench: Bench) -> None:
    """Measure queries with random upper and lower case (0x20).

    They use EDNS, because the clients that randomize case are resolvers, and these use EDNS.
    """
    title = "mixed-case"
    services = make_services(SERVICES, MEMBERS)
    with running_peers(bench, title, (Knot, Nsd, Zkdns), services) as peers:
        bench.show_step(f"{title}: writing {SPELLINGS:,} questions in random case")
        spelled = in_random_case(service_questions(services), SPELLINGS)
        mixed = write_queries(bench.directory / title / "mixed", spelled, edns=True)
        usual = write_service_queries(bench, title, services, edns=True)
        for peer in peers:  # load.c checks that the case of the question is preserved; dnsperf does not
            asked = bench.load.flood(peer.port, mixed, seconds=bench.seconds)
            asked.check(peer.name, NOERROR)
        kinds = [same_queries(EDNS, usual), same_queries(MIXED, mixed)]
        samples = measure(bench, title, peers, kinds, full_rate_over_udp(bench))
    report_samples(bench.report, samples)
    own, lower = (ZKDNS, MIXED), (ZKDNS, EDNS)
    knot = f"knot {samples.cpu(Knot.name, MIXED):.2f} µs/answer"
    bench.report.add(
        "CPU cost of zkdns / knot, mixed case",
        samples.cpu_ratio(own, (Knot.name, MIXED)),
        "x",
        limit=1.2,
        yardstick=knot,
    )
    yardstick = f"lower case {samples.cpu(*lower):.2f} µs/answer, {samples.rate(*lower):,.0f} answers/s"
    bench.report.add(
        "CPU cost of zkdns, mixed / lower case",
        samples.cpu_ratio(own, lower),
        "x",
        limit=1.25,
        yardstick=yardstick,
    )
    bench.report.add(
        "rate of zkdns, lower / mixed case",
        samples.rate_ratio(lower, own),
        "x",
        limit=1.25,
        yardstick=yardstick,
    )


def run_random_names(bench: Bench) -> None:
    """Measure nonexistent names, each queried once; memory must not grow with their number."""
    title = "random-names"
    services = make_services(SERVICES, MEMBERS)
    with running_peers(bench, title, (Knot, Nsd, Zkdns), services) as peers:
        usual = write_service_queries(bench, title, services, edns=True)

        def nonexistent(number: int) -> QueryFile:
            questions = nonexistent_names(NAMES, seed=number - WARM_ROUND)
            return write_queries(bench.directory / title / "nonexistent", questions, edns=True)

        zkdns = peers[-1]
        assert isinstance(zkdns, Zkdns)
        full_rate_over_udp(bench)(zkdns, usual, bench.seconds)
        before = resident_megabytes(zkdns.worker)
        kinds = [same_queries(EDNS, usual), QueryKind(NONEXISTENT, nonexistent, NXDOMAIN)]
        samples = measure(bench, title, peers, kinds, full_rate_over_udp(bench))
        after = resident_megabytes(zkdns.worker)
    report_samples(bench.report, samples)
    yardstick = f"existing names {samples.cpu(ZKDNS, EDNS):.2f} µs/answer"
    ratio = samples.cpu_ratio((ZKDNS, NONEXISTENT), (ZKDNS, EDNS))
    bench.report.add(
        "CPU cost of zkdns, nonexistent / existing names", ratio, "x", limit=6, yardstick=yardstick
    )
    yardstick = f"resident {before:.1f} MB before, {after:.1f} MB after"
    bench.report.add("memory growth of the worker", after - before, "MB", limit=5, yardstick=yardstick)
