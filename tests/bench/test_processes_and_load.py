"""Processes and loads of the benchmarks, with real processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.load import NOERROR, Load
from tests.bench.peers import Echo, Knot, Nsd, Unbound
from tests.bench.processes import Cores, choose_cores, cpu_seconds, family, find_program, running
from tests.bench.queries import service_questions, write_queries
from tests.bench.zone import make_services

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
PEERS = (Knot, Nsd, Unbound)
WITHOUT = [name for name in ("cc", "taskset") if find_program(name) is None]

needs_compiler = pytest.mark.skipif(bool(WITHOUT) or not CORES, reason=f"needs Linux, and {WITHOUT}")
needs_peers = pytest.mark.skipif(
    bool(WITHOUT)
    or len(CORES) < 2
    or None in [find_program(name) for name in ("dnsperf", *(peer.program for peer in PEERS))],
    reason="needs two cores, a C compiler, dnsperf, Knot, NSD and unbound",
)


@pytest.mark.skipif(not CORES, reason="needs Linux")
@pytest.mark.parametrize("wanted", ["zero", "0", "0,0", "0,1,2,3", "0,100000"])
def test_unusable_cores_are_rejected(wanted: str) -> None:
    with pytest.raises(ValueError, match=r"numbers with commas|need a core each"):
        choose_cores(wanted)


def test_other_processes_have_an_own_core_only_if_there_are_three() -> None:
    assert Cores(0, 1, 2).others_have_own_core
    assert not Cores(0, 1, 1).others_have_own_core


@needs_compiler
def test_a_process_is_pinned_and_killed_and_its_cpu_time_is_measured(tmp_path: Path) -> None:
    with running(["sh", "-c", "while :; do :; done"], core=CORES[-1], log=tmp_path / "log") as process:
        while cpu_seconds([process.pid]) < 0.05:
            assert process.poll() is None
        assert process.pid in family(os.getpid())
        assert os.sched_getaffinity(process.pid) == {CORES[-1]}
    assert process.returncode == -9
    assert cpu_seconds([process.pid]) == 0


@needs_compiler
def test_the_load_counts_the_answers_of_the_echo_server(tmp_path: Path) -> None:
    services = make_services(10, 5)
    queries = write_queries(tmp_path / "queries", service_questions(services), edns=True)
    load = Load(tmp_path, CORES[-1])
    with Echo(services, tmp_path, CORES[0]) as echo:
        once = load.once(echo.port, queries, times=3)
        steady = load.at_rate(echo.port, queries, seconds=0.2, rate=500)
        with load.in_background(echo.port, queries, rate=500, core=CORES[-1]) as background:
            flood = load.flood(echo.port, queries, seconds=0.2)
        for result in (once, steady, flood, *background):
            result.check("echo", NOERROR)
            assert not result.lost
        assert once.answered == 60
        assert steady.answered == 100
        assert flood.answered > 1000
        assert 0 < steady.median <= steady.p99


@needs_compiler
def test_the_load_counts_lost_queries(tmp_path: Path) -> None:
    queries = write_queries(tmp_path / "queries", service_questions(make_services(1, 1)), edns=False)
    with socket.socket(type=socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        result = Load(tmp_path, CORES[-1]).once(deaf.getsockname()[1], queries, times=5)
    assert (result.answered, result.lost) == (0, 10)


@needs_peers
@pytest.mark.processes
def test_a_benchmark_runs_from_end_to_end() -> None:
    command = [sys.executable, "-m", "tests.bench", "latency", "--rounds", "1", "--seconds", "0.2", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    measured = {result["name"]: result["measured"] for result in json.loads(ran.stdout)}
    for server in ("echo", "knot", "nsd", "unbound", "zkdns"):
        assert measured[f"median latency of {server}, with EDNS"] > 0
    assert measured["median latency, zkdns / nsd"] > 0


def test_a_wrong_option_value_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "tests.bench", "latency", "--cores", "0,zero"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "tests/bench/run: " in ran.stderr
