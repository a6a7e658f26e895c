"""Benchmark of answers from the zone while thousands of queries wait for a dead upstream."""

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.answer_checks import check_answers
from tests.bench.load import NOERROR, LoadResult
from tests.bench.measurement import Bench
from tests.bench.peers import Zkdns
from tests.bench.queries import QueryFile, Question, write_queries
from tests.bench.udp_answers import MEMBERS, SERVICES, write_service_queries
from tests.bench.zone import make_services, to_static_file

RATE = 1000
"""Queries per second for names of the zone."""
WAITING = 2000
"""Queries that wait for the upstream at a time."""
DEAD_RATE = 530
"""Queries per second for names of the upstream; each fails after about four seconds."""
QUIET, DEAD = "zone only", f"{DEAD_RATE}/s to a dead upstream"

_FAIL_SECONDS = 4.0
_MARGIN = 0.5
_SERVFAIL = "2"


@dataclass(frozen=True)
class Phase:
    """One measurement."""

    zone: LoadResult
    busy: float
    """CPU time of the worker, as a share of its core."""
    waiting: float = 0.0
    """Average number of queries that waited for the upstream."""


@dataclass(frozen=True)
class Setup:
    """zkdns and the queries for its zone."""

    bench: Bench
    zkdns: Zkdns
    queries: QueryFile

    def quiet(self, _number: int) -> Phase:
        """Query only names of the zone."""
        load, cores = self.bench.load, self.bench.cores
        before = self.zkdns.cpu_seconds()
        with load.in_background(self.zkdns.port, self.queries, rate=RATE, core=cores.other) as results:
            time.sleep(self.bench.seconds)
        return Phase(results[0], (self.zkdns.cpu_seconds() - before) / self.bench.seconds)

    def dead(self, number: int) -> Phase:
        """Query names of the zone while the maximum number of queries waits for the upstream."""
        load, cores = self.bench.load, self.bench.cores
        seconds = _FAIL_SECONDS + self.bench.seconds + 2 * _MARGIN
        late = write_queries(
            self.zkdns.directory / "late", outside_names(int(DEAD_RATE * (seconds + 1)), number), edns=True
        )
        with load.in_background(self.zkdns.port, late, rate=DEAD_RATE, core=cores.other) as waited:
            time.sleep(_FAIL_SECONDS + _MARGIN)
            phase = self.quiet(number)
        time.sleep(_FAIL_SECONDS + _MARGIN)  # until no query waits any more
        return Phase(phase.zone, phase.busy, waiting_queries(waited[0]))


def outside_names(count: int, number: int) -> list[Question]:
    """Different names outside the zone; each `number` gives other names."""
    return [(f"x{number}-{at}.elsewhere.example", "A") for at in range(count)]


def waiting_queries(result: LoadResult) -> float:
    """Average number of queries that waited at a time: their rate times their median time.

    Raises:
        RuntimeError: a response was not SERVFAIL, or too few queries waited.
    """
    if set(result.rcodes) != {_SERVFAIL}:
        raise RuntimeError(f"the upstream is dead, but the responses had these rcodes: {result.rcodes}")
    waiting = DEAD_RATE * result.median / 1e6
    if waiting < 0.9 * WAITING:
        raise RuntimeError(f"{waiting:.0f} queries waited for the dead upstream, not {WAITING}")
    return waiting


@contextlib.contextmanager
def _set_up(bench: Bench, title: str) -> Iterator[Setup]:
    directory = bench.directory / title
    directory.mkdir()
    services = make_services(SERVICES, MEMBERS)
    static = directory / "services.toml"
    static.write_text(to_static_file(services))
    with socket.socket(type=socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        upstream = f"127.0.0.1:{dead.getsockname()[1]}"
        arguments = ("--static", str(static), "--upstream", upstream)
        cores = bench.cores
        with Zkdns(services, directory, cores.server, arguments=arguments, other_core=cores.other) as zkdns:
            check_answers(zkdns.name, zkdns.port, services)
            queries = write_service_queries(bench, title, services, edns=True)
            bench.load.once(zkdns.port, queries, times=2).check(zkdns.name, NOERROR)
            yield Setup(bench, zkdns, queries)


def run_dead_upstream(bench: Bench) -> None:
    """Measure the latency of zone names at a steady rate, alternately with and without waiting queries."""
    title = "dead-upstream"
    phases: dict[str, list[Phase]] = {QUIET: [], DEAD: []}
    with _set_up(bench, title) as setup:
        for number in range(bench.rounds):
            bench.show_step(f"{title}: round {number + 1} of {bench.rounds}")
            for name in (QUIET, DEAD) if number % 2 == 0 else (DEAD, QUIET):
                phase = setup.quiet(number) if name is QUIET else setup.dead(number)
                phase.zone.check(Zkdns.name, NOERROR)
                phases[name].append(phase)
    _report(bench, phases)


def _report(bench: Bench, phases: dict[str, list[Phase]]) -> None:
    for name, of_rounds in phases.items():
        median = statistics.median(phase.zone.median for phase in of_rounds)
        p99 = statistics.median(phase.zone.p99 for phase in of_rounds)
        busy = statistics.median(phase.busy for phase in of_rounds)
        waiting = statistics.median(phase.waiting for phase in of_rounds)
        notes = f"median {median:.0f} µs, at {RATE}/s; {busy:.0%} of the core; {waiting:,.0f} queries wait"
        details = {"median": median}
        bench.report.add(f"p99 latency of zone names, {name}", p99, "µs", yardstick=notes, details=details)
    ratio = statistics.median(
        late.zone.p99 / quiet.zone.p99 for late, quiet in zip(phases[DEAD], phases[QUIET], strict=True)
    )
    bench.report.add("p99 latency of zone names, dead upstream / zone only", ratio, "x", limit=1.5)
