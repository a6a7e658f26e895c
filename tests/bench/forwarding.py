"""Benchmark of forwarding, compared with unbound and dnsmasq: CPU cost and latency, cached and uncached.

All servers forward to the same upstream. The upstream shares the core of the load, where its cost is small.
Each compared server has the server's core to itself.
"""

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dns.rcode

from tests.bench.answer_checks import send_query
from tests.bench.dead_upstream import run_dead_upstream
from tests.bench.forged_answers import run_forged_answers
from tests.bench.forwarders import (
    Forwarder,
    ForwardingDnsmasq,
    ForwardingUnbound,
    ForwardingZkdns,
    Upstream,
)
from tests.bench.load import NOERROR, LoadResult
from tests.bench.measurement import (
    Bench,
    QueryKind,
    Samples,
    alternating_rounds,
    full_rate_over_udp,
    measure,
    report_samples,
    same_queries,
)
from tests.bench.peers import Dnsmasq, Peer, Unbound
from tests.bench.queries import QueryFile, Question, nonexistent_names, service_questions, write_queries
from tests.bench.report import Report
from tests.bench.udp_answers import EDNS, PLAIN, ZKDNS
from tests.bench.zone import Service, make_services

NAMES, ADDRESSES = 1000, 2
"""The names that are queried repeatedly, and the addresses of each."""
RIVALS = (Unbound.name, Dnsmasq.name)
LOW_RATE, STEADY_RATE, UNCACHED_RATE = 200, 1000, 3000
"""Queries per second."""
FRESH_INTERVAL = 10
"""In a mix of cached and uncached names, one of this many queries is for a new name."""
UNCACHED, MIXED = "uncached", "90% cached"

# The address of all other names below the environment.
_WILDCARD = Service("*", (("10.255.255.1", 1),))
_WARM_SECONDS = 0.5
_SAMPLE = 20


@dataclass
class Setup:
    """The upstream, the forwarders, and a source of new names."""

    bench: Bench
    directory: Path
    services: Sequence[Service]
    """Services of the upstream, without the wildcard."""
    upstream: Upstream
    peers: Sequence[Peer]
    seeds: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self, count: int) -> list[Question]:
        """Questions for new names, different at each call."""
        return nonexistent_names(count, next(self.seeds), ("A",))

    def write(self, questions: Sequence[Question], *, edns: bool = True) -> QueryFile:
        """Write questions to new files."""
        return write_queries(self.directory / f"queries-{next(self.seeds)}", questions, edns=edns)


def run_forward(bench: Bench) -> None:
    """Measure cached and uncached names, then a dead upstream, then forged answers."""
    with _set_up(bench, "forward") as setup:
        _measure_cached(setup)
        _measure_added_latency(setup)
        _measure_latency(setup)
        _measure_uncached(setup)
    run_dead_upstream(bench)
    run_forged_answers(bench)


@contextlib.contextmanager
def _set_up(bench: Bench, title: str) -> Iterator[Setup]:
    """Start the upstream and the forwarders, and check their answers."""
    directory = bench.directory / title
    directory.mkdir()
    services = make_services(NAMES, ADDRESSES)
    served = [_WILDCARD, *services]
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream(served, directory, bench.cores.load))
        peers: list[Peer] = []
        kinds: Sequence[type[Forwarder | ForwardingZkdns]] = (
            ForwardingUnbound,
            ForwardingDnsmasq,
            ForwardingZkdns,
        )
        for kind in kinds:
            bench.show_step(f"{title}: starting {kind.name} and checking its answers")
            peer = stack.enter_context(kind(served, directory, bench.cores.server, upstream.port))
            check_forwarded(peer, services)
            peers.append(peer)
        yield Setup(bench, directory, services, upstream, peers)


def check_forwarded(peer: Peer, services: Sequence[Service]) -> None:
    """Query some names twice, to check cached answers too, and one name of the wildcard.

    Raises:
        RuntimeError: at the first wrong answer.
    """
    some = services[:: max(1, len(services) // _SAMPLE)]
    for service in (*some, *some, Service("some-name", _WILDCARD.members)):
        expected = {address for address, _ in service.members}
        for edns in (False, True):
            response = send_query(peer.port, service.owner, "A", edns=edns)
            found = {str(record) for rrset in response.answer for record in rrset}
            if response.rcode() != dns.rcode.NOERROR or found != expected:
                code = dns.rcode.to_text(response.rcode())
                raise RuntimeError(
                    f"{peer.name} answers {service.owner} with {code} and {sorted(found)}, "
                    f"not with {sorted(expected)}"
                )


# -- CPU cost ----------------------------------------------------------------------------------------------


def _measure_cached(setup: Setup) -> None:
    """Measure names that are all in the cache, at full rate."""
    bench, title = setup.bench, "forward, cached"
    questions = service_questions(setup.services, ("A",))
    files = {f"cached, {kind}": setup.write(questions, edns=kind == EDNS) for kind in (PLAIN, EDNS)}
    for peer, queries in itertools.product(setup.peers, files.values()):
        bench.load.once(peer.port, queries, times=3).check(peer.name, NOERROR)
    kinds = [same_queries(kind, queries) for kind, queries in files.items()]
    samples = measure(bench, title, setup.peers, kinds, full_rate_over_udp(bench))
    report_samples(bench.report, samples, best_of=RIVALS)
    for kind in files:
        _report_cost(bench, samples, kind, limit=1.0)
        rivals = {rival: samples.rate_ratio((rival, kind), (ZKDNS, kind)) for rival in RIVALS}
        rates = ", ".join(f"{rival} {samples.rate(rival, kind):,.0f} answers/s" for rival in RIVALS)
        bench.report.add(
            f"rate of the best other server / zkdns, {kind}",
            max(rivals.values()),
            "x",
            limit=1.0,
            yardstick=rates,
        )


def _measure_uncached(setup: Setup) -> None:
    """Measure the CPU cost of new names at a fixed rate; a full-rate load would starve the upstream."""
    bench, kind = setup.bench, f"{UNCACHED}, {UNCACHED_RATE}/s"

    def fresh(_round: int) -> QueryFile:
        return setup.write(setup.fresh(int(UNCACHED_RATE * bench.seconds) + 1))

    def at_fixed_rate(peer: Peer, queries: QueryFile, seconds: float) -> LoadResult:
        return bench.load.at_rate(peer.port, queries, seconds=seconds, rate=UNCACHED_RATE)

    samples = measure(bench, f"forward, {kind}", setup.peers, [QueryKind(kind, fresh)], at_fixed_rate)
    report_samples(bench.report, samples, best_of=RIVALS)
    _report_cost(bench, samples, kind, limit=None)


def _report_cost(bench: Bench, samples: Samples, kind: str, *, limit: float | None) -> None:
    ratio = samples.cpu_ratio((ZKDNS, kind), *((rival, kind) for rival in RIVALS))
    costs = ", ".join(f"{rival} {samples.cpu(rival, kind):.2f}" for rival in RIVALS)
    bench.report.add(
        f"CPU cost of zkdns / best other server, {kind}",
        ratio,
        "x",
        limit=limit,
        yardstick=f"µs/answer: {costs}",
    )


# -- latency -----------------------------------------------------------------------------------------------


def _measure_added_latency(setup: Setup) -> None:
    """Measure the latency that each forwarder adds to the upstream's own."""
    direct, *others = _at_rate(
        setup, f"forward, {UNCACHED}", LOW_RATE, setup.fresh, (setup.upstream, *setup.peers)
    ).items()
    for name, of_rounds in others:
        report_added_latency(setup.bench.report, name, of_rounds, direct[1])


def report_added_latency(
    report: Report, name: str, own: Sequence[LoadResult], direct: Sequence[LoadResult]
) -> None:
    """Report the median of the rounds' differences between the server's and the upstream's median latency."""
    added = [mine.median - theirs.median for mine, theirs in zip(own, direct, strict=True)]
    median = statistics.median(asked.median for asked in own)
    upstream = statistics.median(asked.median for asked in direct)
    report.add(
        f"latency added by {name}",
        statistics.median(added) / 1000,
        "ms",
        limit=0.3 if name == ZKDNS else None,
        yardstick=f"median {median:.0f} µs, upstream {upstream:.0f} µs, at {LOW_RATE} queries/s",
    )


def _measure_latency(setup: Setup) -> None:
    """Measure the p99 latency at a rate that leaves all servers mostly idle."""
    cached = service_questions(setup.services, ("A",))

    def mixed(count: int) -> list[Question]:
        fresh = setup.fresh(count // FRESH_INTERVAL + 1)
        return mix(cached, fresh, count)

    for kind, questions in ((MIXED, mixed), (UNCACHED, setup.fresh)):
        results = _at_rate(setup, f"forward, {kind}", STEADY_RATE, questions, setup.peers)
        report_p99(setup.bench.report, kind, results)


def mix(cached: Sequence[Question], fresh: Sequence[Question], count: int) -> list[Question]:
    """Mix `count` questions: every tenth is a fresh one, which occurs once."""
    return [
        fresh[number // FRESH_INTERVAL] if number % FRESH_INTERVAL == 0 else cached[number % len(cached)]
        for number in range(count)
    ]


def report_p99(report: Report, kind: str, results: Mapping[str, Sequence[LoadResult]]) -> None:
    """Report medians and 99th percentiles of the latency, and compare the 99th percentiles."""
    p99s = {name: [result.p99 for result in of_rounds] for name, of_rounds in results.items()}
    for name, of_rounds in results.items():
        median = statistics.median(result.median for result in of_rounds)
        p99 = statistics.median(p99s[name])
        yardstick = f"median {median:.0f} µs, at {STEADY_RATE} queries/s"
        report.add(
            f"p99 latency of {name}, {kind}", p99, "µs", yardstick=yardstick, details={"median": median}
        )
    ratio = max(
        statistics.median(own / other for own, other in zip(p99s[ZKDNS], p99s[rival], strict=True))
        for rival in RIVALS
    )
    report.add(f"p99 latency of zkdns / best other server, {kind}", ratio, "x", limit=1.0)


def _at_rate(
    setup: Setup,
    title: str,
    rate: int,
    questions: Callable[[int], Sequence[Question]],
    peers: Sequence[Peer],
) -> dict[str, list[LoadResult]]:
    """Measure all servers at a fixed rate: the same questions for all, new ones in each round."""
    bench = setup.bench
    results: dict[str, list[LoadResult]] = {peer.name: [] for peer in peers}
    for number, order in alternating_rounds(bench.rounds, peers):
        bench.show_step(f"{title}: round {number + 1} of {bench.rounds}")
        warm = setup.write(questions(int(rate * _WARM_SECONDS) + 1))
        queries = setup.write(questions(int(rate * bench.seconds) + 1))
        for peer in order:
            bench.load.at_rate(peer.port, warm, seconds=_WARM_SECONDS, rate=rate)
            result = bench.load.at_rate(peer.port, queries, seconds=bench.seconds, rate=rate)
            result.check(peer.name, NOERROR)
            results[peer.name].append(result)
    return results
