"""Answers from the zone while thousands of questions wait for an upstream that says nothing."""

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.answering import MEMBERS, SERVICES, write_ordinary
from tests.bench.checking import check_answers
from tests.bench.load import NOERROR, Asked
from tests.bench.peers import Zkdns
from tests.bench.queries import QueryFile, Question, write_queries
from tests.bench.rounds import Bench
from tests.bench.zone import make_services, to_fixed_file

RATE = 1000
"""Questions a second for names of the zone."""
WAITING = 2000
"""Questions that wait for the upstream."""
LATE = 530
"""A second that are asked beside; each is given up after some four seconds."""
QUIET, DEAD = "quiet", f"{LATE}/s to a dead upstream"

_LIVES = 4.0
_MARGIN = 0.5
_SERVFAIL = "2"


@dataclass(frozen=True)
class Phase:
    """One measurement."""

    zone: Asked
    busy: float
    """The share of its core that the worker used."""
    waiting: float = 0.0
    """Questions that waited for the upstream."""


@dataclass(frozen=True)
class Scene:
    """What is measured."""

    bench: Bench
    zkdns: Zkdns
    queries: QueryFile

    def quiet(self, _number: int) -> Phase:
        """Nobody asks for anything but the zone's names."""
        load, cores = self.bench.load, self.bench.cores
        before = self.zkdns.cpu_seconds()
        with load.beside(self.zkdns.port, self.queries, rate=RATE, core=cores.rest) as asked:
            time.sleep(self.bench.seconds)
        return Phase(asked[0], (self.zkdns.cpu_seconds() - before) / self.bench.seconds)

    def dead(self, number: int) -> Phase:
        """The same when as many questions wait for the upstream as ever will."""
        load, cores = self.bench.load, self.bench.cores
        seconds = _LIVES + self.bench.seconds + 2 * _MARGIN
        late = write_queries(
            self.zkdns.directory / "late", names_elsewhere(int(LATE * (seconds + 1)), number), edns=True
        )
        with load.beside(self.zkdns.port, late, rate=LATE, core=cores.rest) as waited:
            time.sleep(_LIVES + _MARGIN)
            told = self.quiet(number)
        time.sleep(_LIVES + _MARGIN)  # until nobody waits any more
        return Phase(told.zone, told.busy, waiting_of(waited[0]))


def names_elsewhere(count: int, number: int) -> list[Question]:
    """So many names that only the upstream could know, all different; others with each number."""
    return [(f"x{number}-{at}.elsewhere.example", "A") for at in range(count)]


def waiting_of(asked: Asked) -> float:
    """How many questions waited at a time, by how long each did.

    Raises:
        RuntimeError: they were answered, or too few waited.
    """
    if set(asked.rcodes) != {_SERVFAIL}:
        raise RuntimeError(f"an upstream that is dead was asked, and what came was {asked.rcodes}")
    waiting = LATE * asked.median / 1e6
    if waiting < 0.9 * WAITING:
        raise RuntimeError(f"{waiting:.0f} questions waited for the dead upstream, not {WAITING}")
    return waiting


@contextlib.contextmanager
def _scene(bench: Bench, title: str) -> Iterator[Scene]:
    directory = bench.directory / title
    directory.mkdir()
    services = make_services(SERVICES, MEMBERS)
    fixed = directory / "services.toml"
    fixed.write_text(to_fixed_file(services))
    with socket.socket(type=socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        upstream = f"127.0.0.1:{dead.getsockname()[1]}"
        arguments = ("--static", str(fixed), "--upstream", upstream)
        cores = bench.cores
        with Zkdns(services, directory, cores.server, arguments=arguments, rest_core=cores.rest) as zkdns:
            check_answers(zkdns.name, zkdns.port, services)
            queries = write_ordinary(bench, title, services, edns=True)
            bench.load.once(zkdns.port, queries, times=2).check(zkdns.name, NOERROR)
            yield Scene(bench, zkdns, queries)


def run_dead_upstream(bench: Bench) -> None:
    """The zone's names at a steady rate, by turns while nothing is forwarded and while much waits."""
    title = "dead-upstream"
    phases: dict[str, list[Phase]] = {QUIET: [], DEAD: []}
    with _scene(bench, title) as scene:
        for number in range(bench.rounds):
            bench.tell(f"{title}: round {number + 1} of {bench.rounds}")
            for name in (QUIET, DEAD) if number % 2 == 0 else (DEAD, QUIET):
                phase = scene.quiet(number) if name is QUIET else scene.dead(number)
                phase.zone.check(Zkdns.name, NOERROR)
                phases[name].append(phase)
    _tell(bench, phases)


def _tell(bench: Bench, phases: dict[str, list[Phase]]) -> None:
    for name, of_rounds in phases.items():
        median = statistics.median(phase.zone.median for phase in of_rounds)
        p99 = statistics.median(phase.zone.p99 for phase in of_rounds)
        busy = statistics.median(phase.busy for phase in of_rounds)
        waiting = statistics.median(phase.waiting for phase in of_rounds)
        told = f"median {median:.0f} µs, at {RATE}/s; {busy:.0%} of its core; {waiting:,.0f} wait"
        bench.report.add(f"zone's p99, {name}", p99, "µs", yardstick=told, details={"median": median})
    ratio = statistics.median(
        late.zone.p99 / quiet.zone.p99 for late, quiet in zip(phases[DEAD], phases[QUIET], strict=True)
    )
    bench.report.add("zone's p99 to the quiet one", ratio, "x", bound=1.5)
