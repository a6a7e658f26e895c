"""Benchmark of standard secondaries under changes: tests/bench/run secondaries [--help].

Knot, NSD, BIND and unbound follow zkdns, and others of each follow Knot as the primary of the same zone. Both
primaries get the same changes in turns, so that they do not disturb each other. All processes share the cores
of this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kazoo.client import KazooClient

from tests.bench.commands import reported
from tests.bench.load import NOERROR, Load
from tests.bench.processes import find_program, pin
from tests.bench.queries import TYPES, write_queries
from tests.bench.report import Report, percentile, progress
from tests.bench.secondary_rigs import (
    KnotRig,
    Rig,
    ZkdnsRig,
    changes_in_zookeeper,
    knot_rig,
    zkdns_rig,
)
from tests.bench.table import ShowStep, populated
from tests.support.secondaries import SECONDARIES, Knot
from tests.support.transfers import ZONE, transfer, transfer_stats
from tests.support.waiting import PATIENCE, eventually

LIMIT = 1.0
"""Seconds within which a secondary is equal to its primary after each change."""
BLOCK_SECONDS = 10.0
"""The primaries take turns after this time."""
_MAX_MINUTES, _MAX_RATE = 24 * 60.0, 100.0
_ROUNDS, _FLOOD_SECONDS = 3, 0.5  # of a comparison of two servers
_REPORT_SECONDS = 2.0
"""Time in which zkdns has reported all requests."""


def measure(report: Report, options: argparse.Namespace, show_step: ShowStep) -> None:
    """Run both primaries, and report the measurements.

    Raises:
        AssertionError: a secondary does not follow.
    """
    with (
        tempfile.TemporaryDirectory(prefix="zkdns-bench-") as name,
        populated(options.services, options.members, show_step) as (zookeeper, client),
    ):
        show_step("starting zkdns, Knot, and the secondaries of each")
        directory = Path(name)
        with (
            zkdns_rig(directory, zookeeper.address) as ours,
            knot_rig(directory, transfer(ours.server)) as theirs,
        ):
            memory = ours.megabytes(), theirs.megabytes()
            requests = reported_requests(ours)
            try:
                take_turns((ours, theirs), client, options, show_step)
            finally:
                report_delays(report, ours, theirs)
            report_transfers(report, ours, theirs, reported_requests(ours) - requests)
            report_costs(report, ours, theirs, memory)
            show_step("comparing all records")
            report_differences(report, ours, theirs)
            show_step("querying the Knot of each")
            report_speed(report, ours, theirs, options.services, directory)


def take_turns(
    rigs: tuple[ZkdnsRig, KnotRig], client: KazooClient, options: argparse.Namespace, show_step: ShowStep
) -> None:
    """Make changes in ZooKeeper for a while, then the same ones in Knot, and so on."""
    ours, theirs = rigs
    seconds = options.minutes * 60 / 2
    blocks = max(1, round(seconds / BLOCK_SECONDS))
    count = max(1, round(seconds / blocks * options.rate))
    changes, sent = changes_in_zookeeper(client, options.services), 0
    for block in range(blocks):
        show_step(f"{count} changes in each primary, {block + 1} of {blocks}")
        ours.run(changes, count, options.rate)
        serial, received = ours.changes[-1].serial, ours.control.versions
        eventually(lambda: received[-1].serial == serial, PATIENCE)  # noqa: B023 - called in this iteration
        versions, sent = received[sent:], len(received)
        theirs.run(theirs.changes_of(versions), len(versions), options.rate)


def reported_requests(ours: ZkdnsRig) -> Counter[tuple[str, str]]:
    """The requests to zkdns so far, when it has reported them."""
    time.sleep(_REPORT_SECONDS)
    return transfer_stats(ours.server).requests


# -- the report --------------------------------------------------------------------------------------------


def report_delays(report: Report, ours: Rig, theirs: Rig) -> None:
    """Report the longest delay of each secondary of zkdns, compared with that of the same one of Knot."""
    report.section = "from a change to its serial at a secondary"
    others = theirs.delays()
    for name, delays in ours.delays().items():
        if not delays:
            continue
        missing = len(ours.changes) - len(delays)
        counted = f"{len(ours.changes):,} changes" + (f", {missing:,} missing" if missing else "")
        report.add(
            f"{name}, longest",
            max(delays),
            "s",
            limit=LIMIT,
            yardstick=f"{counted}: {_percentiles(delays)}; of Knot: {_percentiles(others[name])}",
            details={"p50": percentile(delays, 0.5), "p99": percentile(delays, 0.99), "missing": missing},
        )


def _percentiles(delays: Sequence[float]) -> str:
    if not delays:
        return "none"
    return (
        f"p50 {percentile(delays, 0.5):.3f}, p99 {percentile(delays, 0.99):.3f}, longest {max(delays):.3f} s"
    )


def report_transfers(report: Report, ours: ZkdnsRig, theirs: Rig, requests: Counter[tuple[str, str]]) -> None:
    """Report how the secondaries of zkdns got the changes, and whether a process has ended."""
    report.section = "transfers by zkdns, after the first ones"
    incremental = requests["IXFR", "incremental"] - ours.control.requests
    full = requests["AXFR", "full"] + requests["IXFR", "full"]
    report.add("share of IXFR", 100 * incremental / max(incremental + full, 1), "%")
    per_version = incremental / max(len(ours.control.versions) * len(ours.secondaries), 1)
    report.add("IXFR for each version and secondary", per_version, "", yardstick=f"{incremental:,} in all")
    report.add("whole zones", full, "transfers", limit=0)
    ended = sum(each.has_ended for each in (*ours.secondaries, *theirs.secondaries))
    report.add("processes that ended", ended + len(ours.server.events("process_exited")), "", limit=0)


def report_costs(report: Report, ours: Rig, theirs: Rig, before: tuple[float, float]) -> None:
    """Report CPU time and memory of the transfer process of zkdns, compared with those of Knot."""
    report.section = "transfer process of zkdns"
    cpu = [1000 * each.cpu / max(len(each.changes), 1) for each in (ours, theirs)]
    note = f"Knot, which answers queries too: {cpu[1]:.2f} ms"
    report.add("CPU time", cpu[0], "ms/change", yardstick=note)
    after = ours.megabytes(), theirs.megabytes()
    note = f"{before[0]:.1f} MB before the changes; Knot: {after[1]:.1f} MB, {before[1]:.1f} MB before"
    report.add("memory (PSS)", after[0], "MB", yardstick=note)


def report_differences(report: Report, ours: ZkdnsRig, theirs: Rig) -> None:
    """Report how many records of the secondaries differ from those of zkdns."""
    newest = transfer(ours.server)
    report.section = "records that differ at the end"
    for name, each in (("zkdns", ours), ("Knot", theirs)):
        found = each.differing(newest)
        note = ", ".join(f"{secondary}: {count}" for secondary, count in found.items())
        report.add(f"secondaries of {name}", sum(found.values()), "records", limit=0, yardstick=note)


def report_speed(report: Report, ours: Rig, theirs: Rig, services: int, directory: Path) -> None:
    """Report how fast Knot answers from the zone of zkdns, compared with Knot and the zone of Knot."""
    report.section = "Knot in front of zkdns"
    questions = [
        (f"service{number}.staging.{ZONE[:-1]}", qtype) for number in range(services) for qtype in TYPES
    ]
    queries = write_queries(directory / "queries", questions, edns=True)
    server_core, *_, load_core = 2 * sorted(os.sched_getaffinity(0))
    load = Load(directory, load_core)
    servers = [each for rig in (ours, theirs) for each in rig.secondaries if each.name == Knot.name]
    rates: list[list[float]] = [[], []]
    for round_number in range(2 * _ROUNDS):
        for at in (0, 1) if round_number % 2 else (1, 0):
            pin([servers[at].pid], server_core)
            result = load.flood(servers[at].port, queries, seconds=_FLOOD_SECONDS)
            result.check(servers[at].name, NOERROR)
            rates[at].append(result.rate)
    ratio = statistics.median(rates[0]) / statistics.median(rates[1])
    note = " and ".join(f"{statistics.median(each):,.0f}" for each in rates)
    report.add("its rate to that of the other Knot", ratio, "x", yardstick=f"medians: {note} answers/s")


# -- the command -------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run secondaries",
        description="Measure how soon Knot, NSD, BIND and unbound are equal to zkdns under changes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="duration of the changes; 60 for a release"
    )
    parser.add_argument("--rate", type=float, default=2.0, help="changes per second")
    parser.add_argument("--services", type=int, default=100, help="number of services")
    parser.add_argument("--members", type=int, default=5, help="members of each service")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="also draw the results as SVG")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes <= _MAX_MINUTES or not 0 < options.rate <= _MAX_RATE:
        parser.error(
            f"--minutes must be above 0 and at most {_MAX_MINUTES:g}, and --rate at most {_MAX_RATE:g}"
        )
    if options.services < 1 or options.members < 1:
        parser.error("--services and --members must be at least 1")
    return options


def main() -> None:
    options = parse(sys.argv[1:])
    missing = [kind.package for kind in SECONDARIES if kind.is_missing()]
    if find_program("cc") is None:
        missing.append("gcc libc6-dev")
    if missing:
        print(
            f"tests/bench/run: programs are missing (Debian and Ubuntu: apt install {' '.join(missing)})",
            file=sys.stderr,
        )
        sys.exit(2)
    report = Report()
    with reported(report, options):
        try:
            with progress() as show_step:
                measure(report, options, show_step)
        except (RuntimeError, AssertionError, OSError, subprocess.SubprocessError) as error:
            print(f"tests/bench/run: {error}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
