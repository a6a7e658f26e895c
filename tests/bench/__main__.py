"""Command line of the DNS benchmarks: tests/bench/run BENCHMARK [--help]."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.churn import run_churn
from tests.bench.commands import reported
from tests.bench.edns_options import run_edns_options
from tests.bench.forwarding import run_forward
from tests.bench.latency_memory import run_latency, run_memory
from tests.bench.load import Load
from tests.bench.measurement import Bench
from tests.bench.metrics_cost import run_metrics_cost
from tests.bench.mutations import run_mutations
from tests.bench.peers import Dnsmasq, Echo, Knot, Nsd, Peer, Unbound
from tests.bench.processes import Cores, choose_cores, find_program
from tests.bench.report import Report, progress
from tests.bench.tcp_answers import run_large_sets, run_tcp
from tests.bench.udp_answers import run_answers, run_mixed_case, run_random_names


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that tests/bench/run can run."""

    run: Callable[[Bench], None]
    peers: tuple[type[Peer], ...] = ()
    """The servers it is compared with. Their programs must be installed."""


BENCHMARKS = {
    "answers": Benchmark(run_answers, (Echo, Knot, Nsd, Unbound, Dnsmasq)),
    "mixed-case": Benchmark(run_mixed_case, (Knot, Nsd)),
    "random-names": Benchmark(run_random_names, (Knot, Nsd)),
    "edns-options": Benchmark(run_edns_options),
    "churn": Benchmark(run_churn),
    "tcp": Benchmark(run_tcp, (Knot, Nsd, Unbound)),
    "latency": Benchmark(run_latency, (Echo, Knot, Nsd, Unbound)),
    "memory": Benchmark(run_memory, (Knot, Nsd)),
    "large-sets": Benchmark(run_large_sets, (Knot, Nsd)),
    "forward": Benchmark(run_forward, (Nsd, Unbound, Dnsmasq)),
    "mutations": Benchmark(run_mutations, (Echo,)),
    "metrics-cost": Benchmark(run_metrics_cost),
}
ALL = "all"
_FAILURES = (RuntimeError, AssertionError, OSError, subprocess.SubprocessError)
"""Errors that end one benchmark; the next ones still run."""


def missing_packages(peers: set[type[Peer]]) -> list[str]:
    """Debian and Ubuntu packages of the programs that are not installed."""
    needed = {"dnsperf": "dnsperf", "taskset": "util-linux", "cc": "gcc libc6-dev"}
    needed |= {peer.program: peer.package for peer in peers}
    return sorted({package for program, package in needed.items() if find_program(program) is None})


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Compare zkdns with other DNS servers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("benchmark", choices=[*BENCHMARKS, ALL])
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each server")
    parser.add_argument("--seconds", type=float, default=2.5, help="duration of each measurement")
    parser.add_argument(
        "--cores",
        help="CPU numbers for the server, the load and all other processes, such as 0,1 or 0,1,2 "
        "(default: the first two or three usable ones)",
    )
    parser.add_argument(
        "--load", choices=("dnsperf", "bursts"), default="dnsperf", help="load generator for UDP at full rate"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="also draw the results as SVG")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not options.seconds >= 0.1:
        parser.error("--rounds must be at least 1, and --seconds at least 0.1")
    return options


def run(chosen: dict[str, Benchmark], options: argparse.Namespace, cores: Cores, report: Report) -> bool:
    """Run the benchmarks one after the other; return whether all of them succeeded."""
    os.sched_setaffinity(0, {cores.other})  # this process must not disturb the measured server
    with progress() as show_step, tempfile.TemporaryDirectory(prefix="zkdns-bench-") as directory:
        load = Load(Path(directory), cores.load)
        flood = load.dnsperf if options.load == "dnsperf" else load.flood
        bench = Bench(
            report=report,
            show_step=show_step,
            directory=Path(directory),
            cores=cores,
            load=load,
            flood=flood,
            rounds=options.rounds,
            seconds=options.seconds,
        )
        failed = False
        for name, benchmark in chosen.items():
            report.section = name
            try:
                benchmark.run(bench)
            except _FAILURES as error:
                failed = True
                show_step(f"{name} failed: {error}")
        return not failed


def main() -> None:
    options = parse(sys.argv[1:])
    chosen = {name: benchmark for name, benchmark in BENCHMARKS.items() if options.benchmark in (name, ALL)}
    missing = missing_packages({peer for benchmark in chosen.values() for peer in benchmark.peers})
    if missing:
        _give_up(f"programs are missing (Debian and Ubuntu: apt install {' '.join(missing)})")
    try:
        cores = choose_cores(options.cores or "")
    except ValueError as error:
        _give_up(str(error))
    report = Report()
    with reported(report, options):
        succeeded = run(chosen, options, cores, report)
    sys.exit(0 if succeeded else 1)


def _give_up(reason: str) -> None:
    print(f"tests/bench/run: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
