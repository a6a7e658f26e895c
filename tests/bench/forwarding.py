"""Forwarding beside unbound and dnsmasq, all caching what one upstream says: its cost, and its delay.

The upstream has the load's core, where it hardly costs anything beside what the load does; each of those that
are compared has the server's.
"""

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dns.rcode

from tests.bench.answering import EDNS, PLAIN, ZKDNS
from tests.bench.checking import ask
from tests.bench.dead_upstream import run_dead_upstream
from tests.bench.forging import run_forging
from tests.bench.forwarders import (
    Forwarder,
    ForwardingDnsmasq,
    ForwardingUnbound,
    ForwardingZkdns,
    Upstream,
)
from tests.bench.load import NOERROR, Asked
from tests.bench.peers import Dnsmasq, Peer, Unbound
from tests.bench.queries import QueryFile, Question, names_of_nobody, ordinary, write_queries
from tests.bench.report import Report
from tests.bench.rounds import Bench, Kind, Samples, by_turns, fixed_kind, flooding, measure, tell_all
from tests.bench.zone import Service, make_services

NAMES, ADDRESSES = 1000, 2
"""That are asked for again and again, and how many each has."""
RIVALS = (Unbound.name, Dnsmasq.name)
SLOWLY, STEADILY, BRISKLY = 200, 1000, 3000
"""Questions a second."""
FRESH_EACH = 10
"""Of so many questions one is for a name that nobody asked for before, where both kinds are mixed."""
UNCACHED, MIXED = "uncached", "nine of ten cached"

# Whatever lies below the environment and is no service's name has this address.
_WILDCARD = Service("*", (("10.255.255.1", 1),))
_WARM_SECONDS = 0.5
_SAMPLE = 20


@dataclass
class Scene:
    """What is measured, and names that were not asked for before."""

    bench: Bench
    directory: Path
    services: Sequence[Service]
    """The upstream's, the wildcard left out."""
    upstream: Upstream
    peers: Sequence[Peer]
    seeds: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self, count: int) -> list[Question]:
        """So many names, other ones at each call."""
        return names_of_nobody(count, next(self.seeds), ("A",))

    def write(self, questions: Sequence[Question], *, edns: bool = True) -> QueryFile:
        """Write questions into files of their own."""
        return write_queries(self.directory / f"queries-{next(self.seeds)}", questions, edns=edns)


def run_forward(bench: Bench) -> None:
    """What is cached and what is not; then a dead upstream, and one in whose name others answer."""
    with _started(bench, "forward") as scene:
        _measure_cached(scene)
        _measure_added(scene)
        _measure_steadily(scene)
        _measure_uncached(scene)
    run_dead_upstream(bench)
    run_forging(bench)


@contextlib.contextmanager
def _started(bench: Bench, title: str) -> Iterator[Scene]:
    """The upstream and those that ask it, their answers checked."""
    directory = bench.directory / title
    directory.mkdir()
    services = make_services(NAMES, ADDRESSES)
    known = [_WILDCARD, *services]
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream(known, directory, bench.cores.load))
        peers: list[Peer] = []
        kinds: Sequence[type[Forwarder | ForwardingZkdns]] = (
            ForwardingUnbound,
            ForwardingDnsmasq,
            ForwardingZkdns,
        )
        for kind in kinds:
            bench.tell(f"{title}: starting {kind.name}, and checking its answers")
            peer = stack.enter_context(kind(known, directory, bench.cores.server, upstream.port))
            check_forwarded(peer, services)
            peers.append(peer)
        yield Scene(bench, directory, services, upstream, peers)


def check_forwarded(peer: Peer, services: Sequence[Service]) -> None:
    """Ask for some names twice, the second time perhaps from the cache, and for one of the wildcard's.

    Raises:
        RuntimeError: with a sentence, at the first answer that is wrong.
    """
    some = services[:: max(1, len(services) // _SAMPLE)]
    for service in (*some, *some, Service("some-name", _WILDCARD.members)):
        expected = {address for address, _ in service.members}
        for edns in (False, True):
            response = ask(peer.port, service.owner, "A", edns=edns)
            found = {str(record) for rrset in response.answer for record in rrset}
            if response.rcode() != dns.rcode.NOERROR or found != expected:
                code = dns.rcode.to_text(response.rcode())
                raise RuntimeError(
                    f"{peer.name} answers {service.owner} with {code} and {sorted(found)}, "
                    f"not with {sorted(expected)}"
                )


# -- what it costs -----------------------------------------------------------------------------------------


def _measure_cached(scene: Scene) -> None:
    """The same names again and again."""
    bench, title = scene.bench, "forward, cached"
    questions = ordinary(scene.services, ("A",))
    files = {f"cached, {kind}": scene.write(questions, edns=kind == EDNS) for kind in (PLAIN, EDNS)}
    for peer, queries in itertools.product(scene.peers, files.values()):
        bench.load.once(peer.port, queries, times=3).check(peer.name, NOERROR)
    kinds = [fixed_kind(kind, queries) for kind, queries in files.items()]
    samples = measure(bench, title, scene.peers, kinds, flooding(bench))
    tell_all(bench.report, samples, best_of=RIVALS)
    for kind in files:
        _tell_cost(bench, samples, kind, bound=1.0)
        rivals = {rival: samples.rate_ratio((rival, kind), (ZKDNS, kind)) for rival in RIVALS}
        told = ", ".join(f"{rival} {samples.rate(rival, kind):,.0f} answers/s" for rival in RIVALS)
        bench.report.add(
            f"the better's rate to zkdns', {kind}", max(rivals.values()), "x", bound=1.0, yardstick=told
        )


def _measure_uncached(scene: Scene) -> None:
    """What names cost that were never asked for. At full rate the upstream would not get its core often."""
    bench, kind = scene.bench, f"{UNCACHED}, {BRISKLY}/s"

    def fresh(_round: int) -> QueryFile:
        return scene.write(scene.fresh(int(BRISKLY * bench.seconds) + 1))

    def briskly(peer: Peer, queries: QueryFile, seconds: float) -> Asked:
        return bench.load.at_rate(peer.port, queries, seconds=seconds, rate=BRISKLY)

    samples = measure(bench, f"forward, {kind}", scene.peers, [Kind(kind, fresh)], briskly)
    tell_all(bench.report, samples, best_of=RIVALS)
    _tell_cost(bench, samples, kind, bound=None)


def _tell_cost(bench: Bench, samples: Samples, kind: str, *, bound: float | None) -> None:
    ratio = samples.cpu_ratio((ZKDNS, kind), *((rival, kind) for rival in RIVALS))
    costs = ", ".join(f"{rival} {samples.cpu(rival, kind):.2f}" for rival in RIVALS)
    bench.report.add(f"zkdns to the better, {kind}", ratio, "x", bound=bound, yardstick=f"µs/answer: {costs}")


# -- how long it takes -------------------------------------------------------------------------------------


def _measure_added(scene: Scene) -> None:
    """How much later an answer comes than the upstream's own."""
    direct, *others = _at_rate(
        scene, f"forward, {UNCACHED}", SLOWLY, scene.fresh, (scene.upstream, *scene.peers)
    ).items()
    for name, of_rounds in others:
        report_added(scene.bench.report, name, of_rounds, direct[1])


def report_added(report: Report, name: str, own: Sequence[Asked], direct: Sequence[Asked]) -> None:
    """Tell by how much the medians of the same rounds differ."""
    added = [mine.median - theirs.median for mine, theirs in zip(own, direct, strict=True)]
    median = statistics.median(asked.median for asked in own)
    upstream = statistics.median(asked.median for asked in direct)
    report.add(
        f"{name} adds to the upstream's time",
        statistics.median(added) / 1000,
        "ms",
        bound=0.3 if name == ZKDNS else None,
        yardstick=f"median {median:.0f} µs, the upstream's {upstream:.0f} µs, at {SLOWLY}/s",
    )


def _measure_steadily(scene: Scene) -> None:
    """How long the slowest take at a rate that leaves all of them idle."""
    known = ordinary(scene.services, ("A",))

    def mixed(count: int) -> list[Question]:
        fresh = scene.fresh(count // FRESH_EACH + 1)
        return mix(known, fresh, count)

    for kind, questions in ((MIXED, mixed), (UNCACHED, scene.fresh)):
        told = _at_rate(scene, f"forward, {kind}", STEADILY, questions, scene.peers)
        report_slowest(scene.bench.report, kind, told)


def mix(known: Sequence[Question], fresh: Sequence[Question], count: int) -> list[Question]:
    """So many questions, of which each tenth one is fresh, and comes once."""
    return [
        fresh[number // FRESH_EACH] if number % FRESH_EACH == 0 else known[number % len(known)]
        for number in range(count)
    ]


def report_slowest(report: Report, kind: str, told: Mapping[str, Sequence[Asked]]) -> None:
    """Tell medians and 99th percentiles, and compare these."""
    slowest = {name: [asked.p99 for asked in of_rounds] for name, of_rounds in told.items()}
    for name, of_rounds in told.items():
        median = statistics.median(asked.median for asked in of_rounds)
        p99 = statistics.median(slowest[name])
        yardstick = f"median {median:.0f} µs, at {STEADILY}/s"
        report.add(f"{name}, p99, {kind}", p99, "µs", yardstick=yardstick, details={"median": median})
    ratio = max(
        statistics.median(own / other for own, other in zip(slowest[ZKDNS], slowest[rival], strict=True))
        for rival in RIVALS
    )
    report.add(f"zkdns' p99 to the better's, {kind}", ratio, "x", bound=1.0)


def _at_rate(
    scene: Scene,
    title: str,
    rate: int,
    questions: Callable[[int], Sequence[Question]],
    peers: Sequence[Peer],
) -> dict[str, list[Asked]]:
    """What came of asking each in each round, the same questions all, others in each round."""
    bench = scene.bench
    told: dict[str, list[Asked]] = {peer.name: [] for peer in peers}
    for number, order in by_turns(bench.rounds, peers):
        bench.tell(f"{title}: round {number + 1} of {bench.rounds}")
        warm = scene.write(questions(int(rate * _WARM_SECONDS) + 1))
        queries = scene.write(questions(int(rate * bench.seconds) + 1))
        for peer in order:
            bench.load.at_rate(peer.port, warm, seconds=_WARM_SECONDS, rate=rate)
            asked = bench.load.at_rate(peer.port, queries, seconds=bench.seconds, rate=rate)
            asked.check(peer.name, NOERROR)
            told[peer.name].append(asked)
    return told
