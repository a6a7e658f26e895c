"""Answers while the table changes: a real ZooKeeper, whose members come and go, beside the load.

The worker has its core to itself. ZooKeeper, who changes it, and zkdns' watcher are on the third core.
Where there are only two they share the load's, which then asks less: there the cost tells more than the rate.
"""

import contextlib
import socket
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kazoo.client import KazooClient

from tests.bench.answering import EDNS, MEMBERS, SERVICES, write_ordinary
from tests.bench.checking import check_answers
from tests.bench.load import NOERROR, Asked
from tests.bench.peers import Zkdns
from tests.bench.processes import cpu_seconds, family
from tests.bench.queries import QueryFile
from tests.bench.rounds import Bench, Sample, Samples, sample
from tests.bench.served import Client, started
from tests.bench.table import ROOT, populate
from tests.bench.zone import Service
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

CHANGES = 100
"""A second."""
PROBES = 500
"""Questions a second of who looks how long answers take, beside the load."""
QUIET, CHANGING = "quiet", f"{CHANGES} changes a second"
_LEAST_SHARE = 0.95
_EXTRA_SECONDS = 2
"""For which changes go on before and after what is measured."""


@dataclass(frozen=True)
class Phase:
    """One measurement."""

    flood: Sample
    probes: Asked
    others: float
    """The share of a core that ZooKeeper, the watcher and the supervisor used."""


@dataclass(frozen=True)
class Scene:
    """What is measured."""

    bench: Bench
    zookeeper: ZooKeeperServer
    zkdns: Zkdns
    queries: QueryFile

    def phase(self) -> Phase:
        """Ask at full rate, and look how long answers take."""
        others = [*family(self.zookeeper.pid), *self.zkdns.rest()]
        before = cpu_seconds(others)
        flood, load, cores = self.bench.flood, self.bench.load, self.bench.cores
        with load.beside(self.zkdns.port, self.queries, rate=PROBES, core=cores.rest) as probes:
            told = sample(
                self.zkdns, lambda: flood(self.zkdns.port, self.queries, seconds=self.bench.seconds)
            )
        used = (cpu_seconds(others) - before) / self.bench.seconds
        return Phase(told, probes[0], used)

    def changing_phase(self, number: int) -> Phase:
        """The same while ZooKeeper is changed; all changes must be made, and the last one be answered."""
        seconds = int(self.bench.seconds) + _EXTRA_SECONDS
        last = f"10.201.1.{number}"
        arguments = (self.zookeeper.address, ROOT, *map(str, (SERVICES, CHANGES, seconds)), last)
        with started("tests.bench.storm", *arguments) as lines:
            next(lines)  # it has begun
            told = self.phase()
            _, count = next(lines).split()
        if int(count) < CHANGES * seconds * _LEAST_SHARE:
            raise RuntimeError(f"only {count} of {CHANGES * seconds} changes could be made in {seconds} s")
        client = Client(self.zkdns.port)
        try:
            packed = socket.inet_aton(last)
            eventually(lambda: packed in (client.ask("service0.staging.discovery") or b""))
        finally:
            client.close()
        return told


def in_zookeeper(count: int, members: int) -> list[Service]:
    """The services that `populate` makes."""
    return [
        Service(f"service{s}", tuple((f"10.{s >> 8}.{s & 255}.{m}", 8000 + m) for m in range(members)))
        for s in range(count)
    ]


@contextlib.contextmanager
def _scene(bench: Bench, directory: Path) -> Iterator[Scene]:
    services = in_zookeeper(SERVICES, MEMBERS)
    with ZooKeeperServer() as zookeeper:
        bench.tell(f"churn: making {SERVICES:,} services x {MEMBERS} members in ZooKeeper")
        client = KazooClient(zookeeper.address)
        client.start()
        try:
            populate(client, SERVICES, MEMBERS)
        finally:
            client.stop()
            client.close()
        source = ("--zookeeper", zookeeper.address)
        cores = bench.cores
        with Zkdns(services, directory, cores.server, arguments=source, rest_core=cores.rest) as zkdns:
            check_answers(zkdns.name, zkdns.port, services)
            queries = write_ordinary(bench, "churn", services, edns=True)
            yield Scene(bench, zookeeper, zkdns, queries)


def run_churn(bench: Bench) -> None:
    """Full rate while nothing changes and while a hundred services do each second, by turns."""
    directory = bench.directory / "churn"
    directory.mkdir()
    phases: dict[str, list[Phase]] = {QUIET: [], CHANGING: []}
    with _scene(bench, directory) as scene:
        scene.phase()
        for number in range(bench.rounds):
            bench.tell(f"churn: round {number + 1} of {bench.rounds}")
            for name in (QUIET, CHANGING) if number % 2 == 0 else (CHANGING, QUIET):
                phases[name].append(scene.phase() if name is QUIET else scene.changing_phase(number))
    _tell(bench, phases)


def _tell(bench: Bench, phases: dict[str, list[Phase]]) -> None:
    samples = Samples()
    for name, of_rounds in phases.items():
        for phase in of_rounds:
            phase.probes.check(Zkdns.name, NOERROR)
            samples.add(Zkdns.name, name, phase.flood)
        told = _medians(of_rounds)
        bench.report.add(
            f"zkdns, {name}",
            samples.cpu(Zkdns.name, name),
            "µs/answer",
            yardstick=f"{samples.rate(Zkdns.name, name):,.0f} answers/s; {told}",
        )
    quiet, changing = (Zkdns.name, QUIET), (Zkdns.name, CHANGING)
    most = 1 / 0.85
    bench.report.add("cost to the quiet one", samples.cpu_ratio(changing, quiet), "x", bound=most)
    is_apart = bench.cores.is_rest_apart
    bench.report.add(
        "quiet rate to this",
        samples.rate_ratio(quiet, changing),
        "x",
        bound=most,
        yardstick="ZooKeeper and watcher have a third core"
        if is_apart
        else "ZooKeeper and watcher share the load's core",
    )
    ratio = statistics.median(
        after.probes.p99 / before.probes.p99
        for after, before in zip(phases[CHANGING], phases[QUIET], strict=True)
    )
    bench.report.add("p99 to the quiet one", ratio, "x", bound=2, yardstick=f"asked at {PROBES}/s, {EDNS}")


def _medians(phases: list[Phase]) -> str:
    median = statistics.median(phase.probes.median for phase in phases)
    p99 = statistics.median(phase.probes.p99 for phase in phases)
    others = statistics.median(phase.others for phase in phases)
    return f"probes' median {median:.0f} µs, p99 {p99:.0f} µs; ZooKeeper and watcher {others:.0%} of a core"
