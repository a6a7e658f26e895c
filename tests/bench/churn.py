"""Benchmark of answers while the table changes: members join and leave in a real ZooKeeper during the load.

The worker has a core to itself. ZooKeeper, the process that changes it, and the watcher share the third core.
On a machine with two cores they share the core of the load, which then sends fewer queries: there, compare
the CPU cost instead of the rate.
"""

import contextlib
import socket
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kazoo.client import KazooClient

from tests.bench.answer_checks import check_answers
from tests.bench.load import NOERROR, LoadResult
from tests.bench.measurement import Bench, Sample, Samples, sample
from tests.bench.peers import Zkdns
from tests.bench.processes import cpu_seconds, family
from tests.bench.queries import QueryFile
from tests.bench.table import ROOT, populate
from tests.bench.udp_answers import EDNS, MEMBERS, SERVICES, write_service_queries
from tests.bench.zkdns_process import UdpClient, run_module
from tests.bench.zone import Service
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

CHANGES = 100
"""Per second."""
PROBES = 500
"""Queries per second that measure the latency during the load."""
QUIET, CHANGING = "no changes", f"{CHANGES} changes/s"
_MIN_SHARE = 0.95
_EXTRA_SECONDS = 2
"""How long changes continue before and after the measurement, together."""


@dataclass(frozen=True)
class Phase:
    """One measurement."""

    flood: Sample
    probes: LoadResult
    others: float
    """CPU time of ZooKeeper, the watcher and the supervisor, as a share of one core."""


@dataclass(frozen=True)
class Setup:
    """ZooKeeper, zkdns and the queries of this benchmark."""

    bench: Bench
    zookeeper: ZooKeeperServer
    zkdns: Zkdns
    queries: QueryFile

    def phase(self) -> Phase:
        """Send queries at full rate, and measure the latency with a second, slow load."""
        others = [*family(self.zookeeper.pid), *self.zkdns.other_pids()]
        before = cpu_seconds(others)
        flood, load, cores = self.bench.flood, self.bench.load, self.bench.cores
        with load.in_background(self.zkdns.port, self.queries, rate=PROBES, core=cores.other) as probes:
            flooded = sample(
                self.zkdns, lambda: flood(self.zkdns.port, self.queries, seconds=self.bench.seconds)
            )
        used = (cpu_seconds(others) - before) / self.bench.seconds
        return Phase(flooded, probes[0], used)

    def changing_phase(self, number: int) -> Phase:
        """Measure while members change in ZooKeeper.

        Raises:
            RuntimeError: fewer changes than planned were made.
            AssertionError: the last change does not appear in the answers.
        """
        seconds = int(self.bench.seconds) + _EXTRA_SECONDS
        last = f"10.201.1.{number}"
        arguments = (self.zookeeper.address, ROOT, *map(str, (SERVICES, CHANGES, seconds)), last)
        with run_module("tests.bench.zookeeper_changes", *arguments) as lines:
            next(lines)  # the changes have started
            phase = self.phase()
            _, count = next(lines).split()
        if int(count) < CHANGES * seconds * _MIN_SHARE:
            raise RuntimeError(f"only {count} of {CHANGES * seconds} changes were made in {seconds} s")
        client = UdpClient(self.zkdns.port)
        try:
            packed = socket.inet_aton(last)
            eventually(lambda: packed in (client.query("service0.staging.discovery") or b""))
        finally:
            client.close()
        return phase


def services_in_zookeeper(count: int, members: int) -> list[Service]:
    """The services that `populate` creates in ZooKeeper."""
    return [
        Service(f"service{s}", tuple((f"10.{s >> 8}.{s & 255}.{m}", 8000 + m) for m in range(members)))
        for s in range(count)
    ]


@contextlib.contextmanager
def _set_up(bench: Bench, directory: Path) -> Iterator[Setup]:
    services = services_in_zookeeper(SERVICES, MEMBERS)
    with ZooKeeperServer() as zookeeper:
        bench.show_step(f"churn: creating {SERVICES:,} services of {MEMBERS} members in ZooKeeper")
        client = KazooClient(zookeeper.address)
        client.start()
        try:
            populate(client, SERVICES, MEMBERS)
        finally:
            client.stop()
            client.close()
        source = ("--zookeeper", zookeeper.address)
        cores = bench.cores
        with Zkdns(services, directory, cores.server, arguments=source, other_core=cores.other) as zkdns:
            check_answers(zkdns.name, zkdns.port, services)
            queries = write_service_queries(bench, "churn", services, edns=True)
            yield Setup(bench, zookeeper, zkdns, queries)


def run_churn(bench: Bench) -> None:
    """Measure at full rate, alternating between no changes and 100 changed services per second."""
    directory = bench.directory / "churn"
    directory.mkdir()
    phases: dict[str, list[Phase]] = {QUIET: [], CHANGING: []}
    with _set_up(bench, directory) as setup:
        setup.phase()
        for number in range(bench.rounds):
            bench.show_step(f"churn: round {number + 1} of {bench.rounds}")
            for name in (QUIET, CHANGING) if number % 2 == 0 else (CHANGING, QUIET):
                phases[name].append(setup.phase() if name is QUIET else setup.changing_phase(number))
    _report(bench, phases)


def _report(bench: Bench, phases: dict[str, list[Phase]]) -> None:
    samples = Samples()
    for name, of_rounds in phases.items():
        for phase in of_rounds:
            phase.probes.check(Zkdns.name, NOERROR)
            samples.add(Zkdns.name, name, phase.flood)
        bench.report.add(
            f"zkdns, {name}",
            samples.cpu(Zkdns.name, name),
            "µs/answer",
            yardstick=f"{samples.rate(Zkdns.name, name):,.0f} answers/s; {_medians(of_rounds)}",
        )
    quiet, changing = (Zkdns.name, QUIET), (Zkdns.name, CHANGING)
    limit = 1 / 0.85
    bench.report.add(
        "CPU cost of zkdns, with / without changes", samples.cpu_ratio(changing, quiet), "x", limit=limit
    )
    is_apart = bench.cores.others_have_own_core
    bench.report.add(
        "rate of zkdns, without / with changes",
        samples.rate_ratio(quiet, changing),
        "x",
        limit=limit,
        yardstick="ZooKeeper and watcher have a core of their own"
        if is_apart
        else "ZooKeeper and watcher share the core of the load",
    )
    ratio = statistics.median(
        after.probes.p99 / before.probes.p99
        for after, before in zip(phases[CHANGING], phases[QUIET], strict=True)
    )
    yardstick = f"at {PROBES} queries/s, {EDNS}"
    bench.report.add("p99 latency, with / without changes", ratio, "x", limit=2, yardstick=yardstick)


def _medians(phases: list[Phase]) -> str:
    median = statistics.median(phase.probes.median for phase in phases)
    p99 = statistics.median(phase.probes.p99 for phase in phases)
    others = statistics.median(phase.others for phase in phases)
    return f"latency median {median:.0f} µs, p99 {p99:.0f} µs; ZooKeeper and watcher {others:.0%} of a core"
