"""Measurements in rounds: each server once per round, in alternating order; results are medians."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.bench.load import NOERROR, Flood, Load, LoadResult
from tests.bench.peers import Peer
from tests.bench.processes import Cores, cpu_seconds
from tests.bench.queries import QueryFile
from tests.bench.report import Report

T = TypeVar("T")

MICRO = 1e6
_WARM_SECONDS = 0.5
_ATTEMPTS = 3
_MIN_BUSY_SHARE = 0.05
"""Share of its core that a server at full rate uses at least; below that, the load did not reach it."""
WARM_ROUND = -1
"""Number of the warm-up round."""


@dataclass(frozen=True)
class Bench:
    """The environment of every benchmark."""

    report: Report
    show_step: Callable[[str], None]
    """Shows the current step to the user."""
    directory: Path
    cores: Cores
    load: Load
    flood: Flood
    """The UDP load of the option --load."""
    rounds: int
    seconds: float
    """Duration of each measurement."""


@dataclass(frozen=True)
class Sample:
    """One measurement of a server."""

    rate: float
    """Answers per second."""
    cpu: float
    """Microseconds of CPU time per answer."""
    other_cpu: float = 0.0
    """Microseconds of CPU time per answer of the server's other processes."""


SampleKey = tuple[str, str]
"""Name of a server, and name of the kind of queries."""


class Samples:
    """All samples by server and kind of queries, one per round."""

    def __init__(self) -> None:
        self._samples: dict[SampleKey, list[Sample]] = defaultdict(list)

    def add(self, server: str, kind: str, sample: Sample) -> None:
        """Add the sample of the next round."""
        self._samples[server, kind].append(sample)

    def pairs(self) -> list[SampleKey]:
        """Servers and kinds that have samples, in the order of the first sample."""
        return list(self._samples)

    def rate(self, server: str, kind: str) -> float:
        """Median rate of the rounds."""
        return statistics.median(sample.rate for sample in self._samples[server, kind])

    def cpu(self, server: str, kind: str) -> float:
        """Median CPU time per answer of the rounds."""
        return statistics.median(self.cpus(server, kind))

    def cpus(self, server: str, kind: str) -> list[float]:
        """CPU time per answer of each round."""
        return [sample.cpu for sample in self._samples[server, kind]]

    def other_cpu(self, server: str, kind: str) -> float:
        """Median CPU time per answer of the server's other processes."""
        return statistics.median(sample.other_cpu for sample in self._samples[server, kind])

    def cpu_ratio(self, cell: SampleKey, *others: SampleKey) -> float:
        """Median over the rounds of the ratio of CPU times, to another server in the same round.

        With several others, it is the largest such median: the ratio to the server that is best over all
        rounds. The best server of each single round would be partly chance.
        """
        return max(
            statistics.median(own / other for own, other in zip(self.cpus(*cell), costs, strict=True))
            for costs in (self.cpus(*other) for other in others)
        )

    def rate_ratio(self, cell: SampleKey, other: SampleKey) -> float:
        """Median of the rounds' ratios of the rate to another server's."""
        pairs = zip(self._samples[cell], self._samples[other], strict=True)
        return statistics.median(own.rate / theirs.rate for own, theirs in pairs)


def alternating_rounds(rounds: int, peers: Sequence[T]) -> Iterator[tuple[int, Iterable[T]]]:
    """Yield the number of each round and its order, which is reversed in every second round."""
    for number in range(rounds):
        yield number, peers if number % 2 == 0 else tuple(reversed(peers))


def sample(peer: Peer, run_load: Callable[[], LoadResult], rcode: str = NOERROR) -> Sample:
    """Run a load at full rate, check the answers, and return rate and CPU time.

    A measurement with lost queries is repeated (Knot loses some over TCP now and then), and so is one in
    which the server was nearly idle (once seen over TCP, possibly because connections were accepted late).

    Raises:
        RuntimeError: answers were wrong or missing, or the server stayed nearly idle.
    """
    for left in reversed(range(_ATTEMPTS)):
        before, other_before = peer.cpu_seconds(), cpu_seconds(peer.other_pids())
        result = run_load()
        used, other_cpu = peer.cpu_seconds() - before, cpu_seconds(peer.other_pids()) - other_before
        if result.lost_too_many() and left:
            continue
        result.check(peer.name, rcode)
        if used > _MIN_BUSY_SHARE * result.seconds:
            return _cost(result, used, other_cpu)
    raise RuntimeError(f"{peer.name} was nearly idle in {_ATTEMPTS} attempts: {result.rate:,.0f} answers/s")


def _cost(result: LoadResult, used: float, other_cpu: float) -> Sample:
    return Sample(result.rate, used / result.answered * MICRO, other_cpu / result.answered * MICRO)


LoadRunner = Callable[[Peer, QueryFile, float], LoadResult]
"""Runs a load: (server, queries, seconds)."""


@dataclass(frozen=True)
class QueryKind:
    """One kind of queries, such as "with EDNS"."""

    name: str
    queries: Callable[[int], QueryFile]
    """Returns the queries for the round of that number."""
    rcode: str = NOERROR
    """The rcode that all answers must have."""


def same_queries(name: str, queries: QueryFile) -> QueryKind:
    """A kind with the same queries in each round."""
    return QueryKind(name, lambda _round: queries)


def measure(
    bench: Bench, title: str, peers: Sequence[Peer], kinds: Sequence[QueryKind], run_load: LoadRunner
) -> Samples:
    """Measure each server with each kind of queries in each round, after a short warm-up."""
    samples = Samples()
    bench.show_step(f"{title}: warming up {', '.join(peer.name for peer in peers)}")
    for peer in peers:
        for kind in kinds:
            run_load(peer, kind.queries(WARM_ROUND), _WARM_SECONDS)
    for number, order in alternating_rounds(bench.rounds, peers):
        bench.show_step(f"{title}: round {number + 1} of {bench.rounds}")
        for kind in kinds:
            queries = kind.queries(number)
            for peer in order:
                taken = sample(peer, partial(run_load, peer, queries, bench.seconds), kind.rcode)
                samples.add(peer.name, kind.name, taken)
    return samples


def full_rate_over_udp(bench: Bench) -> LoadRunner:
    """The UDP load of the option --load."""
    return lambda peer, queries, seconds: bench.flood(peer.port, queries, seconds=seconds)


def report_samples(
    report: Report, samples: Samples, *, baseline: str = "", best_of: Sequence[str] = ()
) -> None:
    """Report CPU time and rate of each server and kind.

    Args:
        report: receives the results.
        samples: of all rounds.
        baseline: each server is also compared with this one.
        best_of: each server is also compared with the best of these.
    """
    for server, kind in samples.pairs():
        cell, rate = (server, kind), samples.rate(server, kind)
        notes, details = [f"{rate:,.0f} answers/s"], {"answers_per_second": rate}
        measured = {name for name, other in samples.pairs() if other == kind}
        if baseline in measured and server != baseline:
            details["to_echo"] = samples.cpu_ratio(cell, (baseline, kind))
            notes.append(f"{details['to_echo']:.2f} x {baseline}")
        rivals = [(name, kind) for name in best_of if name in measured]
        if rivals and server != baseline:
            details["to_best"] = samples.cpu_ratio(cell, *rivals)
            notes.append(f"{details['to_best']:.2f} x the best of {', '.join(best_of)}")
        if other_cpu := samples.other_cpu(server, kind):
            details["other_processes"] = other_cpu
            notes.append(f"other processes {other_cpu:.2g} µs")
        costs = samples.cpus(server, kind)
        notes.append(f"rounds {min(costs):.3g} to {max(costs):.3g} µs")
        report.add(
            f"{server}, {kind}",
            samples.cpu(server, kind),
            "µs/answer",
            yardstick="; ".join(notes),
            details=details,
        )
