"""Answers over UDP at full rate: ordinary ones, in mixed case, of names that nobody has."""

import contextlib
from collections.abc import Iterator, Sequence

from tests.bench.checking import check_answers
from tests.bench.load import NOERROR, NXDOMAIN
from tests.bench.peers import Dnsmasq, Echo, Knot, Nsd, Peer, Unbound, Zkdns
from tests.bench.processes import resident_megabytes
from tests.bench.queries import (
    QueryFile,
    in_random_case,
    names_of_nobody,
    ordinary,
    write_queries,
)
from tests.bench.rounds import WARM_ROUND, Bench, Kind, fixed_kind, flooding, measure, tell_all
from tests.bench.zone import Service, make_services

SERVICES, MEMBERS = 1000, 5
"""Unless said otherwise, of every benchmark."""
SPELLINGS = 300_000
NAMES = 250_000
"""In each round; zkdns does not come to their end."""

RIVALS = (Knot.name, Nsd.name, Unbound.name)
ZKDNS = Zkdns.name
PLAIN, EDNS = "without EDNS", "with EDNS"
MIXED, NOBODY = "mixed case", "names of nobody"


@contextlib.contextmanager
def started(
    bench: Bench, title: str, kinds: Sequence[type[Peer]], services: Sequence[Service], **how: bool
) -> Iterator[list[Peer]]:
    """These servers with these services, their answers checked."""
    directory = bench.directory / title
    directory.mkdir()
    peers = []
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            bench.tell(f"{title}: starting {kind.name}, and checking its answers")
            peer = stack.enter_context(kind(services, directory, bench.cores.server))
            if peer.is_dns:
                check_answers(peer.name, peer.port, services, **how)
            peers.append(peer)
        yield peers


def write_ordinary(bench: Bench, title: str, services: Sequence[Service], *, edns: bool) -> QueryFile:
    """The questions for A and SRV of all services."""
    stem = bench.directory / title / f"ordinary-{'edns' if edns else 'plain'}"
    return write_queries(stem, ordinary(services), edns=edns)


def run_answers(bench: Bench) -> None:
    """A and SRV of all services, by askers without EDNS, and by askers with it."""
    services = make_services(SERVICES, MEMBERS)
    for kind in (PLAIN, EDNS):
        _answer(bench, f"answers {kind}", kind, services)
    _answer_both(bench, services)


def _answer(bench: Bench, title: str, kind: str, services: Sequence[Service]) -> None:
    with started(bench, title, (Echo, Knot, Nsd, Unbound, Dnsmasq, Zkdns), services) as peers:
        kinds = [fixed_kind(kind, write_ordinary(bench, title, services, edns=kind == EDNS))]
        samples = measure(bench, title, peers, kinds, flooding(bench))
    tell_all(bench.report, samples, baseline=Echo.name, best_of=RIVALS)
    own = (ZKDNS, kind)
    best = samples.cpu_ratio(own, *((rival, kind) for rival in RIVALS))
    echo = samples.cpu_ratio(own, (Echo.name, kind))
    costs = ", ".join(f"{rival} {samples.cpu(rival, kind):.2f}" for rival in RIVALS)
    bench.report.add(f"zkdns to the best, {kind}", best, "x", bound=0.95, yardstick=f"µs/answer: {costs}")
    told = f"echo {samples.cpu(Echo.name, kind):.2f} µs/answer"
    bench.report.add(f"zkdns to the echo, {kind}", echo, "x", bound=1.3, yardstick=told)


def _answer_both(bench: Bench, services: Sequence[Service]) -> None:
    """The same where each question is asked with EDNS and without: then zkdns has turns to share out."""
    title = "answers both ways"
    with started(bench, title, (Echo, Knot, Nsd, Zkdns), services) as peers:
        kinds = [
            fixed_kind(f"both ways, {name}", write_ordinary(bench, title, services, edns=edns))
            for name, edns in ((PLAIN, False), (EDNS, True))
        ]
        samples = measure(bench, title, peers, kinds, flooding(bench))
    tell_all(bench.report, samples, baseline=Echo.name, best_of=(Knot.name, Nsd.name))


def run_mixed_case(bench: Bench) -> None:
    """Each question in a spelling of its own (0x20). With EDNS: who does so is a resolver, which has it."""
    title = "mixed-case"
    services = make_services(SERVICES, MEMBERS)
    with started(bench, title, (Knot, Nsd, Zkdns), services) as peers:
        bench.tell(f"{title}: spelling {SPELLINGS:,} questions")
        spelled = in_random_case(ordinary(services), SPELLINGS)
        mixed = write_queries(bench.directory / title / "mixed", spelled, edns=True)
        usual = write_ordinary(bench, title, services, edns=True)
        for peer in peers:  # dnsperf does not look whether the spelling comes back; this one does
            asked = bench.load.flood(peer.port, mixed, seconds=bench.seconds)
            asked.check(peer.name, NOERROR)
        kinds = [fixed_kind(EDNS, usual), fixed_kind(MIXED, mixed)]
        samples = measure(bench, title, peers, kinds, flooding(bench))
    tell_all(bench.report, samples)
    own, lower = (ZKDNS, MIXED), (ZKDNS, EDNS)
    knot = f"knot {samples.cpu(Knot.name, MIXED):.2f} µs/answer"
    bench.report.add(
        "zkdns to knot, mixed case",
        samples.cpu_ratio(own, (Knot.name, MIXED)),
        "x",
        bound=1.2,
        yardstick=knot,
    )
    told = f"in lower case {samples.cpu(*lower):.2f} µs/answer, {samples.rate(*lower):,.0f} answers/s"
    bench.report.add(
        "cost to that in lower case", samples.cpu_ratio(own, lower), "x", bound=1.25, yardstick=told
    )
    bench.report.add(
        "rate in lower case to this", samples.rate_ratio(lower, own), "x", bound=1.25, yardstick=told
    )


def run_random_names(bench: Bench) -> None:
    """Names that do not exist, each asked for once; memory must not grow with them."""
    title = "random-names"
    services = make_services(SERVICES, MEMBERS)
    with started(bench, title, (Knot, Nsd, Zkdns), services) as peers:
        usual = write_ordinary(bench, title, services, edns=True)

        def nobody(number: int) -> QueryFile:
            questions = names_of_nobody(NAMES, seed=number - WARM_ROUND)
            return write_queries(bench.directory / title / "nobody", questions, edns=True)

        zkdns = peers[-1]
        assert isinstance(zkdns, Zkdns)
        flooding(bench)(zkdns, usual, bench.seconds)
        before = resident_megabytes(zkdns.worker)
        kinds = [fixed_kind(EDNS, usual), Kind(NOBODY, nobody, NXDOMAIN)]
        samples = measure(bench, title, peers, kinds, flooding(bench))
        after = resident_megabytes(zkdns.worker)
    tell_all(bench.report, samples)
    told = f"names that exist {samples.cpu(ZKDNS, EDNS):.2f} µs/answer"
    ratio = samples.cpu_ratio((ZKDNS, NOBODY), (ZKDNS, EDNS))
    bench.report.add("zkdns' cost to that of names that exist", ratio, "x", bound=6, yardstick=told)
    told = f"resident {before:.1f} MB before, {after:.1f} MB after"
    bench.report.add("zkdns' memory grown by names of nobody", after - before, "MB", bound=5, yardstick=told)
