"""The table against a real ZooKeeper: tests/bench/run table [--services N] [--members N] [--json]."""

import argparse
import contextlib
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kazoo.client import KazooClient

from tests.bench.report import Report, percentile, progress, spread
from tests.bench.served import Client, Served, started
from tests.bench.storm import LAST
from tests.serverset.sync_helpers import data
from tests.support.fault_proxy import ADD_WATCH, FaultProxy
from tests.support.loopback import free_port
from tests.support.zookeeper import ZooKeeperServer

ROOT = "/discovery"
STARTS = 5
CHANGES = 300
STORM_RATE, STORM_SECONDS = 1000, 30
ASK_RATE = 200
_IN_FLIGHT = 500

Tell = Callable[[str], None]


def populate(client: KazooClient, services: int, members: int) -> None:
    """Make the tree, many znodes at a time."""
    client.ensure_path(f"{ROOT}/staging")
    paths = [f"{ROOT}/staging/service{number}" for number in range(services)]
    made = ((path, b"", False) for path in paths)
    joined = (
        (f"{path}/member_", data(f"10.{s >> 8}.{s & 255}.{m}", 8000 + m), True)
        for s, path in enumerate(paths)
        for m in range(members)
    )
    for znodes in (made, joined):
        while batch := list(itertools.islice(znodes, _IN_FLIGHT)):
            for result in [client.create_async(path, body, sequence=own) for path, body, own in batch]:
                result.get()


def measure_start(report: Report, zookeeper: ZooKeeperServer, last: str) -> None:
    """Process start to ready, beside a bare reading of the same tree; by turns."""
    ours, bare, bare_process = [], [], []
    for _ in range(STARTS):
        begun = time.monotonic()
        with started("tests.bench.bare", "read", zookeeper.address, ROOT) as lines:
            bare.append(float(next(lines).split()[0]))
            bare_process.append(time.monotonic() - begun)
        with Served("--zookeeper", zookeeper.address) as served:
            ours.append(served.wait_answered(last))
    median = statistics.median(ours)
    reading, process_start = statistics.median(bare), statistics.median(bare_process)
    yardstick = f"bare multiRead {reading:.2f} s, with its process's start {process_start:.2f} s"
    report.add("process start to ready", median, "s", bound=3, yardstick=yardstick)
    report.add("the same, to the bare multiRead", median / reading, "x", bound=3, yardstick=yardstick)
    report.add("the same, to that from its process's start", median / process_start, "x", yardstick=yardstick)


def measure_changes(report: Report, zookeeper: ZooKeeperServer, client: KazooClient, port: int) -> None:
    """One member created, to the answer that holds it; a bare client hears of the same."""
    ours: list[float] = []
    bare: dict[str, float] = {}
    asker = Client(port)
    begun: dict[str, float] = {}
    with started("tests.bench.bare", "follow", zookeeper.address, ROOT) as lines:
        next(lines)  # it is ready
        for number in range(CHANGES):
            service = f"service{number % 97}"
            address = f"10.250.{number // 250}.{number % 250}"
            moment = time.monotonic()
            asked = client.create_async(f"{ROOT}/staging/{service}/member_", data(address), sequence=True)
            packed = socket.inet_aton(address)
            while packed not in (asker.ask(f"{service}.staging.discovery") or b""):
                time.sleep(0.0002)
            ours.append(time.monotonic() - moment)
            path = asked.get()
            begun[path] = moment
            client.delete(path)
            time.sleep(0.005)
        while len(bare) < CHANGES:
            path, when = next(lines).split()
            bare[path] = float(when) - begun[path]
    asker.close()
    yardstick = f"bare recursive watch and read: {spread(list(bare.values()))}"
    median = statistics.median(ours)
    report.add("member created to its answer: median", median * 1000, "ms", bound=5, yardstick=yardstick)
    report.add("the same: p99", percentile(ours, 0.99) * 1000, "ms", bound=25, yardstick=yardstick)
    report.add(
        "the same: median to the bare client's",
        median / statistics.median(bare.values()),
        "x",
        bound=3,
        yardstick=yardstick,
    )


def measure_restart(report: Report, zookeeper: ZooKeeperServer, port: int, name: str) -> None:
    """ZooKeeper killed and started, to answers that are not marked as stale."""
    client = Client(port, timeout=0.2)
    took = []
    for _ in range(3):
        zookeeper.kill()
        while client.is_answered(name):
            time.sleep(0.01)
        zookeeper.launch()
        while not zookeeper.is_serving():
            time.sleep(0.002)
        serves = time.monotonic()
        while not client.is_answered(name):
            time.sleep(0.002)
        took.append(time.monotonic() - serves)
    client.close()
    told = ", ".join(f"{seconds:.2f}" for seconds in took)
    report.add("zookeeper restarted to table verified (worst of 3)", max(took), "s", bound=2, yardstick=told)


def measure_snapshot(report: Report, snapshot: str, last: str) -> None:
    """Process start to answers from the snapshot, with nobody where ZooKeeper should be."""
    took = []
    for _ in range(STARTS):
        with Served("--zookeeper", f"127.0.0.1:{free_port()}", "--snapshot", snapshot) as served:
            took.append(served.wait_answered(last, stale=True))
    told = ", ".join(f"{seconds:.2f}" for seconds in took)
    report.add(
        "process start to answers from the snapshot", statistics.median(took), "s", bound=1, yardstick=told
    )


class Asker:
    """Asks one name after the other at a steady rate, and notes how long each answer takes."""

    def __init__(self, port: int, names: list[str]) -> None:
        self.took: list[float] = []
        self.lost = 0
        self._client = Client(port)
        self._names = itertools.cycle(names)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            begun = time.monotonic()
            if self._client.ask(next(self._names)) is None:
                self.lost += 1
            self.took.append(time.monotonic() - begun)
            due = max(due + 1 / ASK_RATE, begun)
            time.sleep(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()


def measure_storm(report: Report, zookeeper: ZooKeeperServer, client: KazooClient, port: int) -> None:
    """Many changes a second; then the table must hold exactly what ZooKeeper does."""
    services = 200
    names = [f"service{number}.staging.discovery" for number in range(services)]
    asker = Asker(port, names)
    numbers = map(str, (services, STORM_RATE, STORM_SECONDS))
    with started("tests.bench.storm", zookeeper.address, ROOT, *numbers) as lines:
        next(lines)  # it has begun
        ended, count = next(lines).split()
    probe = Client(port)
    while socket.inet_aton(LAST) not in (probe.ask(names[0]) or b""):
        time.sleep(0.001)
    drained = time.monotonic() - float(ended)
    asker.stop()
    wrong = sum(_differs(client, port, number) for number in range(services))
    probe.close()
    rate = f"{int(count) / STORM_SECONDS:.0f} changes a second for {STORM_SECONDS} s"
    report.add("services that differ from zookeeper after the storm", wrong, "", bound=0, yardstick=rate)
    report.add("storm's end to its last change answered", drained, "s", bound=1, yardstick=rate)
    answered = f"{spread(asker.took)} of {len(asker.took)} answers, {asker.lost} lost"
    worst = percentile(asker.took, 0.99) * 1000
    report.add("answers amid the storm: p99", worst, "ms", bound=20, yardstick=answered)


def _differs(client: KazooClient, port: int, number: int) -> bool:
    """Whether a service's answer is not what ZooKeeper holds."""
    path = f"{ROOT}/staging/service{number}"
    theirs = set()
    for name in client.get_children(path):
        body, _ = client.get(f"{path}/{name}")
        theirs.add(body.split(b'"host":"')[1].split(b'"')[0].decode())
    found = subprocess.run(
        ["dig", "+tcp", "+short", "@127.0.0.1", "-p", str(port), f"service{number}.staging.discovery"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return theirs != set(found.stdout.split())


@contextlib.contextmanager
def populated(services: int, members: int, tell: Tell) -> Iterator[tuple[ZooKeeperServer, KazooClient]]:
    """A server with that many services and members."""
    with ZooKeeperServer(heap_megabytes=1024) as zookeeper:
        tell(f"making {services:,} services x {members} members in ZooKeeper")
        client = KazooClient(zookeeper.address)
        client.start()
        populate(client, services, members)
        try:
            yield zookeeper, client
        finally:
            client.stop()
            client.close()


def run(report: Report, services: int, members: int, tell: Tell) -> None:
    last = f"service{services - 1}.staging.discovery"
    with (
        populated(services, members, tell) as (zookeeper, client),
        tempfile.TemporaryDirectory() as directory,
    ):
        tell(f"starting {STARTS} times")
        measure_start(report, zookeeper, last)
        before = zookeeper.count_watches()
        snapshot = str(Path(directory, "snapshot"))
        with Served("--zookeeper", zookeeper.address, "--snapshot", snapshot) as served:
            served.wait_answered(last)
            report.add("watches on the server", zookeeper.count_watches() - before, "", bound=3)
            time.sleep(2)
            report.add(
                "resident memory of all processes",
                served.memory()[0],
                "MB",
                bound=300,
                yardstick=f"shared pages counted once: {served.memory()[1]:.0f} MB",
            )
            tell(f"making {CHANGES} changes, one by one")
            measure_changes(report, zookeeper, client, served.port)
            tell(f"making {STORM_RATE} changes a second for {STORM_SECONDS} s")
            measure_storm(report, zookeeper, client, served.port)
            report.add("resident memory after that", served.memory()[0], "MB")
            tell("restarting ZooKeeper")
            measure_restart(report, zookeeper, served.port, last)
        tell(f"starting {STARTS} times from the snapshot alone")
        measure_snapshot(report, snapshot, last)
        tell("starting once with one-shot watches")
        with FaultProxy(zookeeper.port) as old:
            old.refused = frozenset({ADD_WATCH})  # as ZooKeeper before 3.6 does
            with Served("--zookeeper", old.address) as served:
                seconds = served.wait_answered(last)
        report.add("process start to ready, one-shot watches", seconds, "s", bound=30)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/bench/run table")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report()
    try:
        with progress() as tell:
            run(report, options.services, options.members, tell)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        report.print(as_json=options.json)


if __name__ == "__main__":
    main()
