"""Measuring by turns: each server in each round, the order reversed each time, medians over the rounds."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.bench.load import NOERROR, Asked, Flood, Load
from tests.bench.peers import Peer
from tests.bench.processes import Cores, cpu_seconds
from tests.bench.queries import QueryFile
from tests.bench.report import Report

T = TypeVar("T")

MICRO = 1e6
_WARM_SECONDS = 0.5
_TRIES = 3
_HARDLY = 0.05
"""The share of its core that a server at full rate uses in any case."""
WARM_ROUND = -1
"""The number of the round before those that count."""


@dataclass(frozen=True)
class Bench:
    """What every benchmark works with."""

    report: Report
    tell: Callable[[str], None]
    """Says what is being done."""
    directory: Path
    cores: Cores
    load: Load
    flood: Flood
    """The load over UDP that was chosen."""
    rounds: int
    seconds: float
    """How long each measurement takes."""


@dataclass(frozen=True)
class Sample:
    """One measurement of a server."""

    rate: float
    """Answers a second."""
    cpu: float
    """Microseconds of processor time for each answer."""
    rest: float = 0.0
    """The same, of the server's other processes."""


Cell = tuple[str, str]
"""A server's name, and what it was asked."""


class Samples:
    """What was measured, by server and kind of question, a sample of each in each round."""

    def __init__(self) -> None:
        self._samples: dict[Cell, list[Sample]] = defaultdict(list)

    def add(self, server: str, kind: str, sample: Sample) -> None:
        """Take the next round's."""
        self._samples[server, kind].append(sample)

    def cells(self) -> list[Cell]:
        """What there is, in the order in which it came."""
        return list(self._samples)

    def rate(self, server: str, kind: str) -> float:
        """The median over the rounds."""
        return statistics.median(sample.rate for sample in self._samples[server, kind])

    def cpu(self, server: str, kind: str) -> float:
        """The median over the rounds."""
        return statistics.median(self.cpus(server, kind))

    def cpus(self, server: str, kind: str) -> list[float]:
        """That of each round."""
        return [sample.cpu for sample in self._samples[server, kind]]

    def rest(self, server: str, kind: str) -> float:
        """The median over the rounds."""
        return statistics.median(sample.rest for sample in self._samples[server, kind])

    def cpu_ratio(self, cell: Cell, *others: Cell) -> float:
        """The median over the rounds of the cost to another's in the same round, of several the best one's.

        The best one is the same in all rounds: who is cheapest in each by itself is who was lucky there.
        """
        return max(
            statistics.median(own / other for own, other in zip(self.cpus(*cell), costs, strict=True))
            for costs in (self.cpus(*other) for other in others)
        )

    def rate_ratio(self, cell: Cell, other: Cell) -> float:
        """The median over the rounds of the rate to the other's in the same round."""
        pairs = zip(self._samples[cell], self._samples[other], strict=True)
        return statistics.median(own.rate / theirs.rate for own, theirs in pairs)


def by_turns(rounds: int, peers: Sequence[T]) -> Iterator[tuple[int, Iterable[T]]]:
    """Each round's number and its order: there, and back again."""
    for number in range(rounds):
        yield number, peers if number % 2 == 0 else tuple(reversed(peers))


def sample(peer: Peer, ask: Callable[[], Asked], rcode: str = NOERROR) -> Sample:
    """Ask at full rate, see that the answers were right, and tell what they cost.

    Where hardly anything was asked it is asked again: over TCP a load was once seen to come to nothing for a
    second, perhaps since connections waited to be accepted. So it is where questions stay without an answer,
    as happens to Knot over TCP now and then.

    Raises:
        RuntimeError: where answers were wrong or missing, or nothing comes of asking.
    """
    for left in reversed(range(_TRIES)):
        before, rest_before = peer.cpu_seconds(), cpu_seconds(peer.rest())
        asked = ask()
        used, rest = peer.cpu_seconds() - before, cpu_seconds(peer.rest()) - rest_before
        if asked.has_lost() and left:
            continue
        asked.check(peer.name, rcode)
        if used > _HARDLY * asked.seconds:
            return _cost(asked, used, rest)
    raise RuntimeError(f"{peer.name} was hardly busy, {_TRIES} times: {asked.rate:,.0f} answers/s")


def _cost(asked: Asked, used: float, rest: float) -> Sample:
    return Sample(asked.rate, used / asked.answered * MICRO, rest / asked.answered * MICRO)


Ask = Callable[[Peer, QueryFile, float], Asked]
"""A load: whom, what, for how many seconds."""


@dataclass(frozen=True)
class Kind:
    """Questions of one kind."""

    name: str
    queries: Callable[[int], QueryFile]
    """Those of a round."""
    rcode: str = NOERROR


def fixed_kind(name: str, queries: QueryFile) -> Kind:
    """The same questions in each round."""
    return Kind(name, lambda _round: queries)


def measure(bench: Bench, title: str, peers: Sequence[Peer], kinds: Sequence[Kind], ask: Ask) -> Samples:
    """Each server with each kind, in each round; before that each once for a moment, to be warm."""
    samples = Samples()
    bench.tell(f"{title}: {', '.join(peer.name for peer in peers)} warm up")
    for peer in peers:
        for kind in kinds:
            ask(peer, kind.queries(WARM_ROUND), _WARM_SECONDS)
    for number, order in by_turns(bench.rounds, peers):
        bench.tell(f"{title}: round {number + 1} of {bench.rounds}")
        for kind in kinds:
            queries = kind.queries(number)
            for peer in order:
                taken = sample(peer, partial(ask, peer, queries, bench.seconds), kind.rcode)
                samples.add(peer.name, kind.name, taken)
    return samples


def flooding(bench: Bench) -> Ask:
    """The load over UDP that was chosen."""
    return lambda peer, queries, seconds: bench.flood(peer.port, queries, seconds=seconds)


def tell_all(report: Report, samples: Samples, *, baseline: str = "", best_of: Sequence[str] = ()) -> None:
    """A figure for each server and kind: its cost, beside its rate and others' in the same rounds."""
    for server, kind in samples.cells():
        cell, rate = (server, kind), samples.rate(server, kind)
        told, details = [f"{rate:,.0f} answers/s"], {"answers_per_second": rate}
        here = {name for name, other in samples.cells() if other == kind}
        if baseline in here and server != baseline:
            details["to_echo"] = samples.cpu_ratio(cell, (baseline, kind))
            told.append(f"{details['to_echo']:.2f} x {baseline}")
        rivals = [(name, kind) for name in best_of if name in here]
        if rivals and server != baseline:
            details["to_best"] = samples.cpu_ratio(cell, *rivals)
            told.append(f"{details['to_best']:.2f} x the best of {', '.join(best_of)}")
        if rest := samples.rest(server, kind):
            details["rest"] = rest
            told.append(f"its other processes {rest:.2g} µs")
        costs = samples.cpus(server, kind)
        told.append(f"{min(costs):.3g} to {max(costs):.3g} µs")
        report.add(
            f"{server}, {kind}",
            samples.cpu(server, kind),
            "µs/answer",
            yardstick="; ".join(told),
            details=details,
        )
