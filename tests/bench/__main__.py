"""The benchmarks of answering: tests/bench/run BENCHMARK [--help]."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.answering import run_answers, run_mixed_case, run_random_names
from tests.bench.churn import run_churn
from tests.bench.counting import run_metrics_cost
from tests.bench.forwarding import run_forward
from tests.bench.load import Load
from tests.bench.mutations import run_mutations
from tests.bench.peers import Dnsmasq, Echo, Knot, Nsd, Peer, Unbound
from tests.bench.plot import write_plot
from tests.bench.processes import Cores, choose_cores, find_program
from tests.bench.report import Report, progress
from tests.bench.rounds import Bench
from tests.bench.steady import run_latency, run_memory
from tests.bench.streams import run_large_sets, run_tcp


@dataclass(frozen=True)
class Benchmark:
    """One of the words that follow tests/bench/run."""

    run: Callable[[Bench], None]
    peers: tuple[type[Peer], ...] = ()
    """What it is compared with, and so needs."""


BENCHMARKS = {
    "answers": Benchmark(run_answers, (Echo, Knot, Nsd, Unbound, Dnsmasq)),
    "mixed-case": Benchmark(run_mixed_case, (Knot, Nsd)),
    "random-names": Benchmark(run_random_names, (Knot, Nsd)),
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
"""Of one benchmark; the others are still worth their time."""


def missing_packages(peers: set[type[Peer]]) -> list[str]:
    """Debian's and Ubuntu's packages that would bring what is not here."""
    needed = {"dnsperf": "dnsperf", "taskset": "util-linux", "cc": "gcc libc6-dev"}
    needed |= {peer.program: peer.package for peer in peers}
    return sorted({package for program, package in needed.items() if find_program(program) is None})


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("benchmark", choices=[*BENCHMARKS, ALL])
    parser.add_argument("--rounds", type=int, default=6, help="how often each server is measured")
    parser.add_argument("--seconds", type=float, default=2.5, help="how long each measurement takes")
    parser.add_argument(
        "--cores", default="", help="server's, load's and the rest's, as in 0,1; else the first"
    )
    parser.add_argument(
        "--load", choices=("dnsperf", "bursts"), default="dnsperf", help="who asks over UDP at full rate"
    )
    parser.add_argument("--json", action="store_true", help="tell the figures as JSON")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw them too, as SVG")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not options.seconds >= 0.1:
        parser.error("at least one round, and 0.1 seconds")
    return options


def run(chosen: dict[str, Benchmark], options: argparse.Namespace, cores: Cores, report: Report) -> bool:
    """Measure one after the other; whether all could be."""
    os.sched_setaffinity(0, {cores.rest})  # what we do ourselves must not disturb the server
    with progress() as tell, tempfile.TemporaryDirectory(prefix="zkdns-bench-") as directory:
        load = Load(Path(directory), cores.load)
        flood = load.dnsperf if options.load == "dnsperf" else load.flood
        bench = Bench(
            report=report,
            tell=tell,
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
                tell(f"{name} has failed: {error}")
        return not failed


def main() -> None:
    options = parse(sys.argv[1:])
    chosen = {name: benchmark for name, benchmark in BENCHMARKS.items() if options.benchmark in (name, ALL)}
    missing = missing_packages({peer for benchmark in chosen.values() for peer in benchmark.peers})
    if missing:
        _give_up(
            f"not everything is here that this needs (Debian and Ubuntu: apt install {' '.join(missing)})"
        )
    try:
        cores = choose_cores(options.cores)
    except ValueError as error:
        _give_up(str(error))
    report = Report()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started ends with us
    try:
        could = run(chosen, options, cores, report)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        report.print(as_json=options.json)
        if options.plot is not None:
            write_plot(options.plot, report.figures)
    sys.exit(0 if could else 1)


def _give_up(why: str) -> None:
    print(f"tests/bench/run: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
