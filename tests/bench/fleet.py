"""Benchmark of many hosts that follow the same services: tests/bench/run fleet [--help].

The servers are real. The hosts are simulated: connections that send what a host would send, without a process
for each. All of them share the cores of this machine. So the CPU times of the servers hold elsewhere too, but
the delays contain the work for all hosts, and they are a queue if changes come faster than this machine can
pass them on.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from tests.bench.commands import reported
from tests.bench.fleet_hosts import NO_JITTER, WATCHER_JITTER, WIDE_JITTER
from tests.bench.fleet_model import Point, Theory
from tests.bench.fleet_report import report_model, report_points, report_storm
from tests.bench.fleet_transfer import ONE_LEVEL, TRANSFER_CPU, TWO_LEVELS, TransferFleet, transfer_fleet
from tests.bench.fleet_zookeeper import (
    OBSERVER,
    VOTERS,
    ZOOKEEPER_CPU,
    Storm,
    ZooKeeperFleet,
    is_linear,
    zookeeper_fleet,
)
from tests.bench.report import Report, progress
from tests.bench.table import ShowStep

PROCESSES = 2
"""Processes of simulated hosts."""
_MIN_HOSTS, _MAX_HOSTS, _MAX_RATE, _MAX_SECONDS = 10, 20_000, 1000.0, 60.0
_MAX_MODEL_RATE = 10.0
"""Smaller fleets are measured for the model only, so not at higher rates."""
_OTHER_FILES = 500
"""Open files of a server besides its connections."""


def measure_zookeeper(report: Report, options: argparse.Namespace, show_step: ShowStep) -> None:
    """Measure hosts that are clients of ZooKeeper. If it fails, the measurements so far are reported."""
    points: list[Point] = []
    storms: list[Storm] = []
    tree = options.services, options.members
    try:
        with zookeeper_fleet(options.voters, *tree, PROCESSES, show_step) as fleet:
            measure_sizes(fleet, (VOTERS, OBSERVER), options, points)
            storms += fleet.storms(options.hosts, (NO_JITTER, WATCHER_JITTER, WIDE_JITTER))
    finally:
        report_points(report, "ZooKeeper", points)
        for storm in storms:
            report_storm(report, storm)
    report_models(report, filter(is_linear, points), ZOOKEEPER_CPU, options)


def measure_secondaries(report: Report, options: argparse.Namespace, show_step: ShowStep) -> None:
    """Measure hosts that are DNS secondaries. If it fails, the measurements so far are reported."""
    points: list[Point] = []
    try:
        with transfer_fleet(options.services, options.members, PROCESSES, show_step) as fleet:
            measure_sizes(fleet, (ONE_LEVEL, TWO_LEVELS), options, points)
    finally:
        report_points(report, "zone transfer", points)
    report_models(report, (point for point in points if not point.missing), TRANSFER_CPU, options)


HALVES = {"zookeeper": measure_zookeeper, "secondaries": measure_secondaries}


def measure_sizes(
    fleet: TransferFleet | ZooKeeperFleet,
    settings: Iterable[str],
    options: argparse.Namespace,
    points: list[Point],
) -> None:
    """Measure all sizes in each setting, and append the points."""
    for setting, (hosts, rates) in product(settings, sizes(options)):
        points += fleet.measure(setting, hosts, rates, options.seconds)


def report_models(
    report: Report, points: Iterable[Point], theory: Theory, options: argparse.Namespace
) -> None:
    """Report a model of each setting."""
    usable = list(points)
    for setting in dict.fromkeys(point.setting for point in usable):
        own = [point for point in usable if point.setting == setting]
        report_model(report, own, _held_out(options), theory, options.rates)


def sizes(options: argparse.Namespace) -> list[tuple[int, list[float]]]:
    """The numbers of hosts that are measured, and their rates. The smaller ones are for the model only."""
    low = [rate for rate in options.rates if rate <= _MAX_MODEL_RATE]
    return [(options.hosts, options.rates), (_held_out(options), low), (options.hosts // 3, low)]


def _held_out(options: argparse.Namespace) -> int:
    """The number of hosts with which the models are checked."""
    return int(options.hosts * 2 // 3)


def raise_file_limit(hosts: int) -> None:
    """Permit this process and its children a connection for each host.

    Raises:
        OSError: the limit cannot be raised.
    """
    needed = hosts + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    except (OSError, ValueError):
        raise OSError(
            f"{hosts:,} hosts need {needed:,} open files in one process, and the limit is {hard:,}; "
            f"raise it (ulimit -Hn, as root), or use at most --hosts {max(hard - _OTHER_FILES, 0)}"
        ) from None


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run fleet",
        description="Measure the cost and the delay of changes for many hosts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--hosts", type=int, default=1500, help="number of simulated hosts")
    parser.add_argument(
        "--rates", type=_parse_rates, default="1,5,10,100", help="changes per second, one after the other"
    )
    parser.add_argument(
        "--only", choices=tuple(HALVES), help="measure only clients of ZooKeeper, or only DNS secondaries"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement")
    parser.add_argument(
        "--voters", type=int, choices=(1, 3, 5), default=3, help="voters; there is one observer with them"
    )
    parser.add_argument("--services", type=int, default=200, help="number of services")
    parser.add_argument("--members", type=int, default=5, help="members of each service")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="also draw the results as SVG")
    options = parser.parse_args(arguments)
    if not _MIN_HOSTS <= options.hosts <= _MAX_HOSTS:
        parser.error(f"--hosts must be {_MIN_HOSTS} to {_MAX_HOSTS}")
    if not 0.1 <= options.seconds <= _MAX_SECONDS:
        parser.error(f"--seconds must be 0.1 to {_MAX_SECONDS:g}")
    if options.services < 1 or options.members < 1:
        parser.error("--services and --members must be at least 1")
    return options


def _parse_rates(text: str) -> tuple[float, ...]:
    rates = tuple(map(float, text.split(",")))
    if not all(0 < rate <= _MAX_RATE for rate in rates):
        raise argparse.ArgumentTypeError(f"a rate must be above 0 and at most {_MAX_RATE:g}")
    return rates


def main() -> None:
    options = parse(sys.argv[1:])
    try:
        raise_file_limit(options.hosts)
    except OSError as error:
        print(f"tests/bench/run: {error}", file=sys.stderr)
        sys.exit(2)
    report = Report()
    with reported(report, options):
        try:
            with progress() as show_step:
                for name, measure in HALVES.items():
                    if options.only in (None, name):
                        measure(report, options, show_step)
        except (RuntimeError, AssertionError, OSError) as error:
            print(f"tests/bench/run: {error}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
