"""Benchmark of the table with a real ZooKeeper: tests/bench/run table [--help]."""

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
from tests.bench.zkdns_process import UdpClient, ZkdnsProcess, run_module
from tests.bench.zookeeper_changes import LAST_ADDRESS
from tests.serverset.sync_helpers import data
from tests.support.fault_proxy import ADD_WATCH, FaultProxy
from tests.support.loopback import free_port
from tests.support.zookeeper import ZooKeeperServer

ROOT = "/discovery"
STARTS = 5
CHANGES = 300
MANY_CHANGES_RATE, MANY_CHANGES_SECONDS = 1000, 30
PROBE_RATE = 200
_IN_FLIGHT = 500

ShowStep = Callable[[str], None]


def populate(client: KazooClient, services: int, members: int) -> None:
    """Create services and members, with many requests in flight."""
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
    """Measure the time from process start to the first fresh answer, compared with multiRead."""
    ours, bare, baseline_process = [], [], []
    for _ in range(STARTS):
        started_at = time.monotonic()
        with run_module("tests.bench.zookeeper_baseline", "read", zookeeper.address, ROOT) as lines:
            bare.append(float(next(lines).split()[0]))
            baseline_process.append(time.monotonic() - started_at)
        with ZkdnsProcess("--zookeeper", zookeeper.address) as served:
            ours.append(served.wait_for_answer(last))
    median = statistics.median(ours)
    reading, process_start = statistics.median(bare), statistics.median(baseline_process)
    yardstick = f"kazoo: multiRead {reading:.2f} s, with process start {process_start:.2f} s"
    report.add("process start to ready", median, "s", limit=2, yardstick=yardstick)
    report.add("process start to ready / multiRead", median / reading, "x", limit=3, yardstick=yardstick)
    report.add(
        "process start to ready / multiRead with process start",
        median / process_start,
        "x",
        yardstick=yardstick,
    )


def measure_changes(report: Report, zookeeper: ZooKeeperServer, client: KazooClient, port: int) -> None:
    """Measure the time from creating a member to the first answer that contains it.

    A kazoo client with a recursive watch sees the same changes, for comparison.
    """
    ours: list[float] = []
    bare: dict[str, float] = {}
    probe = UdpClient(port)
    created_at: dict[str, float] = {}
    with run_module("tests.bench.zookeeper_baseline", "follow", zookeeper.address, ROOT) as lines:
        next(lines)  # the baseline process is ready
        for number in range(CHANGES):
            service = f"service{number % 97}"
            address = f"10.250.{number // 250}.{number % 250}"
            started_at = time.monotonic()
            created = client.create_async(f"{ROOT}/staging/{service}/member_", data(address), sequence=True)
            packed = socket.inet_aton(address)
            while packed not in (probe.query(f"{service}.staging.discovery") or b""):
                time.sleep(0.0002)
            ours.append(time.monotonic() - started_at)
            path = created.get()
            created_at[path] = started_at
            client.delete(path)
            time.sleep(0.005)
        while len(bare) < CHANGES:
            path, when = next(lines).split()
            bare[path] = float(when) - created_at[path]
    probe.close()
    yardstick = f"kazoo, recursive watch and read: {spread(list(bare.values()))}"
    median = statistics.median(ours)
    report.add("member created to its answer: median", median * 1000, "ms", limit=5, yardstick=yardstick)
    p99 = percentile(ours, 0.99) * 1000
    report.add("member created to its answer: p99", p99, "ms", limit=15, yardstick=yardstick)
    report.add(
        "member created to its answer: median / kazoo's",
        median / statistics.median(bare.values()),
        "x",
        limit=3,
        yardstick=yardstick,
    )


def measure_restart(report: Report, zookeeper: ZooKeeperServer, port: int, name: str) -> None:
    """Measure the time from ZooKeeper's restart to answers without a stale mark.

    It contains the reconnect, and reading and comparing every set and member again.
    """
    client = UdpClient(port, timeout=0.2)
    took = []
    for _ in range(3):
        zookeeper.kill()
        while client.has_answer(name):
            time.sleep(0.01)
        zookeeper.launch()
        while not zookeeper.is_serving():
            time.sleep(0.002)
        serving_at = time.monotonic()
        while not client.has_answer(name):
            time.sleep(0.002)
        took.append(time.monotonic() - serving_at)
    client.close()
    runs = ", ".join(f"{seconds:.2f} s" for seconds in took)
    report.add(
        "ZooKeeper restarted to everything read again (worst of 3)",
        max(took),
        "s",
        limit=1.5,
        yardstick=runs,
    )


def measure_snapshot(report: Report, snapshot: str, last: str) -> None:
    """Measure the time from process start to answers from the snapshot, without a ZooKeeper."""
    took = []
    for _ in range(STARTS):
        with ZkdnsProcess("--zookeeper", f"127.0.0.1:{free_port()}", "--snapshot", snapshot) as served:
            took.append(served.wait_for_answer(last, stale=True))
    runs = ", ".join(f"{seconds:.2f} s" for seconds in took)
    report.add(
        "process start to answers from the snapshot", statistics.median(took), "s", limit=1, yardstick=runs
    )


def add_memory(report: Report, served: ZkdnsProcess, when: str = "", limit: float | None = None) -> None:
    """Add the memory of all processes of the server by both measures.

    PSS counts a page that processes share once, so it is the memory that the server costs the machine. RSS
    counts it in each process, so it is an upper bound.
    """
    rss, pss = served.memory()
    report.add(f"memory of all processes{when}, shared pages once (PSS)", pss, "MB", limit=limit)
    report.add(f"memory of all processes{when}, shared pages each time (RSS)", rss, "MB", limit=limit)


class LatencyProbe:
    """Queries one name after the other at a steady rate, and records how long each answer takes."""

    def __init__(self, port: int, names: list[str]) -> None:
        self.took: list[float] = []
        self.lost = 0
        self._client = UdpClient(port)
        self._names = itertools.cycle(names)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            started_at = time.monotonic()
            if self._client.query(next(self._names)) is None:
                self.lost += 1
            self.took.append(time.monotonic() - started_at)
            due = max(due + 1 / PROBE_RATE, started_at)
            time.sleep(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()


def measure_many_changes(report: Report, zookeeper: ZooKeeperServer, client: KazooClient, port: int) -> None:
    """Make many changes per second, then compare all answers with ZooKeeper."""
    services = 200
    names = [f"service{number}.staging.discovery" for number in range(services)]
    latency = LatencyProbe(port, names)
    numbers = map(str, (services, MANY_CHANGES_RATE, MANY_CHANGES_SECONDS))
    with run_module("tests.bench.zookeeper_changes", zookeeper.address, ROOT, *numbers) as lines:
        next(lines)  # the changes have started
        ended, count = next(lines).split()
    probe = UdpClient(port)
    while socket.inet_aton(LAST_ADDRESS) not in (probe.query(names[0]) or b""):
        time.sleep(0.001)
    drained = time.monotonic() - float(ended)
    latency.stop()
    wrong = sum(_differs(client, port, number) for number in range(services))
    probe.close()
    rate = f"{int(count) / MANY_CHANGES_SECONDS:.0f} changes/s for {MANY_CHANGES_SECONDS} s"
    report.add("wrong services after many changes", wrong, "", limit=0, yardstick=rate)
    report.add("last of many changes to its answer", drained, "s", limit=1, yardstick=rate)
    answered = f"{spread(latency.took)} of {len(latency.took)} answers, {latency.lost} lost"
    p99 = percentile(latency.took, 0.99) * 1000
    report.add("latency during many changes: p99", p99, "ms", limit=20, yardstick=answered)


def _differs(client: KazooClient, port: int, number: int) -> bool:
    """Whether the answer of a service differs from its members in ZooKeeper."""
    path = f"{ROOT}/staging/service{number}"
    expected = set()
    for name in client.get_children(path):
        body, _ = client.get(f"{path}/{name}")
        expected.add(body.split(b'"host":"')[1].split(b'"')[0].decode())
    found = subprocess.run(
        ["dig", "+tcp", "+short", "@127.0.0.1", "-p", str(port), f"service{number}.staging.discovery"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return expected != set(found.stdout.split())


def populate_at(address: str, services: int, members: int) -> None:
    """Connect to a ZooKeeper, and create these services and members."""
    client = KazooClient(address)
    client.start()
    try:
        populate(client, services, members)
    finally:
        client.stop()
        client.close()


@contextlib.contextmanager
def populated(
    services: int, members: int, show_step: ShowStep
) -> Iterator[tuple[ZooKeeperServer, KazooClient]]:
    """Start a ZooKeeper with these services and members; yield it and a connected client."""
    with ZooKeeperServer(heap_megabytes=1024) as zookeeper:
        show_step(f"creating {services:,} services of {members} members in ZooKeeper")
        client = KazooClient(zookeeper.address)
        client.start()
        populate(client, services, members)
        try:
            yield zookeeper, client
        finally:
            client.stop()
            client.close()


def run(report: Report, services: int, members: int, show_step: ShowStep) -> None:
    last = f"service{services - 1}.staging.discovery"
    with (
        populated(services, members, show_step) as (zookeeper, client),
        tempfile.TemporaryDirectory() as directory,
    ):
        show_step(f"starting zkdns {STARTS} times")
        measure_start(report, zookeeper, last)
        before = zookeeper.count_watches()
        snapshot = str(Path(directory, "snapshot"))
        with ZkdnsProcess("--zookeeper", zookeeper.address, "--snapshot", snapshot) as served:
            served.wait_for_answer(last)
            report.add("watches on the ZooKeeper server", zookeeper.count_watches() - before, "", limit=3)
            time.sleep(2)
            add_memory(report, served, limit=200)
            show_step(f"making {CHANGES} changes, one by one")
            measure_changes(report, zookeeper, client, served.port)
            show_step(f"making {MANY_CHANGES_RATE} changes per second for {MANY_CHANGES_SECONDS} s")
            measure_many_changes(report, zookeeper, client, served.port)
            add_memory(report, served, " after the changes")
            show_step("restarting ZooKeeper")
            measure_restart(report, zookeeper, served.port, last)
        show_step(f"starting zkdns {STARTS} times from the snapshot, without ZooKeeper")
        measure_snapshot(report, snapshot, last)
        show_step("starting zkdns once with one-shot watches")
        with FaultProxy(zookeeper.port) as old:
            old.refused = frozenset({ADD_WATCH})  # like ZooKeeper before 3.6
            with ZkdnsProcess("--zookeeper", old.address) as served:
                seconds = served.wait_for_answer(last)
        report.add("process start to ready, one-shot watches", seconds, "s", limit=30)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/bench/run table")
    parser.add_argument("--services", type=int, default=10_000, help="number of services (default: 10000)")
    parser.add_argument("--members", type=int, default=10, help="members of each service (default: 10)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    report = Report()
    try:
        with progress() as show_step:
            run(report, options.services, options.members, show_step)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        report.print(as_json=options.json)


if __name__ == "__main__":
    main()
