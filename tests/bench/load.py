"""Load generators: load.c and dnsperf, and their results."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.bench.c_programs import compile_program
from tests.bench.processes import find_program
from tests.bench.queries import QueryFile

NOERROR, NXDOMAIN = "NOERROR", "NXDOMAIN"
_RCODES = {"0": NOERROR, "3": NXDOMAIN}
_TIMEOUT_SECONDS = 60.0
_MAX_SECONDS = 900.0
_MAX_LOST_SHARE = 0.001
WINDOW = 160
"""Queries in flight. About 180 overflow a socket receive buffer of the kernel's default size."""


@dataclass(frozen=True)
class LoadResult:
    """Result of a load."""

    seconds: float
    answered: int
    lost: int = 0
    rcodes: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    """Answers with a question that differs from the query's."""
    truncated: int = 0
    median: float = 0.0
    """Latency at the client in microseconds; 0 for dnsperf."""
    p99: float = 0.0
    """As `median`."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds

    def lost_too_many(self) -> bool:
        """Whether more than 0.1% of the queries had no answer."""
        return self.lost > _MAX_LOST_SHARE * (self.answered + self.lost)

    def check(self, server: str, rcode: str) -> None:
        """Check that all queries were answered correctly.

        Args:
            server: name of the server, for the error message.
            rcode: of all answers.

        Raises:
            RuntimeError: no answers, other rcodes, wrong questions, or too many lost queries.
        """
        others = {code: count for code, count in self.rcodes.items() if code != rcode}
        if not self.answered:
            raise RuntimeError(f"{server} answered no query")
        if others:
            raise RuntimeError(f"{server} answered with {others}; all answers should be {rcode}")
        if self.wrong:
            raise RuntimeError(f"{server} sent {self.wrong} answers with a wrong question section")
        if self.lost_too_many():
            raise RuntimeError(f"{server} did not answer {self.lost} of {self.answered + self.lost} queries")


class Flood(Protocol):
    """A load at full rate: always `window` queries in flight."""

    def __call__(
        self, port: int, queries: QueryFile, *, seconds: float, window: int = WINDOW
    ) -> LoadResult: ...


class Load:
    """Runs load generators on one core.

    Args:
        directory: of the compiled load.c.
        core: the CPU they run on.
    """

    def __init__(self, directory: Path, core: int) -> None:
        self._program = compile_program("load", directory)
        self._core = core

    def flood(self, port: int, queries: QueryFile, *, seconds: float, window: int = WINDOW) -> LoadResult:
        """Run load.c at full rate, in bursts as large as the window allows."""
        return self._run("flood", port, queries, seconds, window)

    def once(self, port: int, queries: QueryFile, *, times: int = 1, window: int = 50) -> LoadResult:
        """Send all queries of the file `times` times."""
        return self._run("once", port, queries, times, window)

    def at_rate(self, port: int, queries: QueryFile, *, seconds: float, rate: float) -> LoadResult:
        """Send a query every 1/rate seconds, independently of the answers (open loop)."""
        return self._run("rate", port, queries, seconds, rate)

    @contextlib.contextmanager
    def in_background(
        self,
        port: int,
        queries: QueryFile,
        *,
        rate: float,
        core: int,
        seconds: float = _MAX_SECONDS,
        is_real_time: bool = True,
    ) -> Iterator[list[LoadResult]]:
        """Send queries at a fixed rate during the `with` block; the list holds the result after the block.

        Args:
            port: of the server.
            queries: sent in order, and repeated after the last one.
            rate: queries per second.
            core: the CPU of the load.
            seconds: the load ends by itself after this time.
            is_real_time: give the load real-time priority on its core if permitted, so that it measures the
                server's latency and not its own waiting for the core.
        """
        results: list[LoadResult] = []
        command = self._command("rate", port, queries, seconds, rate)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                os.sched_setaffinity(process.pid, {core})
                with contextlib.suppress(PermissionError):
                    policy = os.SCHED_FIFO if is_real_time else os.SCHED_OTHER
                    os.sched_setscheduler(process.pid, policy, os.sched_param(int(is_real_time)))
                yield results
                process.terminate()
                out, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
            except BaseException:
                process.kill()
                raise
        results.append(parse_load(out))

    def dnsperf(self, port: int, queries: QueryFile, *, seconds: float, window: int = WINDOW) -> LoadResult:
        """Run dnsperf over UDP. It sends one message per system call, at most about 150,000 per second."""
        return self._dnsperf(port, queries, seconds, ("-c", "8", "-q", str(window)))

    def tcp(
        self, port: int, queries: QueryFile, *, seconds: float, connections: int = 50, window: int = WINDOW
    ) -> LoadResult:
        """Run dnsperf over persistent TCP connections."""
        options = ("-m", "tcp", "-c", str(connections), "-q", str(window))
        return self._dnsperf(port, queries, seconds, options)

    def stream(
        self, port: int, queries: QueryFile, *, seconds: float, connections: int = 10, window: int = 2
    ) -> LoadResult:
        """Run load.c over TCP, for large answers: dnsperf 2.10 aborted with answers of about 64 KB."""
        pace = f"{connections}x{window}"
        return parse_load(
            _output(self._command("stream", port, queries, seconds, pace), seconds + _TIMEOUT_SECONDS)
        )

    def _command(
        self, mode: str, port: int, queries: QueryFile, amount: float, pace: float | str
    ) -> list[str]:
        program = [self._program, mode, str(port), str(queries.packets), str(amount), str(pace)]
        return ["taskset", "-c", str(self._core), *program]

    def _run(self, mode: str, port: int, queries: QueryFile, amount: float, pace: float) -> LoadResult:
        command = self._command(mode, port, queries, amount, pace)
        return parse_load(_output(command, _MAX_SECONDS if mode == "once" else amount + _TIMEOUT_SECONDS))

    def _dnsperf(self, port: int, queries: QueryFile, seconds: float, options: tuple[str, ...]) -> LoadResult:
        dnsperf = find_program("dnsperf")
        assert dnsperf is not None, "dnsperf was removed during the benchmark"
        assert queries.text is not None, "dnsperf cannot send these queries"
        target = ("-s", "127.0.0.1", "-p", str(port), "-d", str(queries.text), "-l", str(seconds), "-T", "1")
        edns = ("-e",) if queries.edns else ()
        command = ["taskset", "-c", str(self._core), dnsperf, *target, *edns, *options]
        return parse_dnsperf(_output(command, seconds + _TIMEOUT_SECONDS))


def _output(command: list[str], timeout: float) -> str:
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
    )
    if ran.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} exited with status {ran.returncode}: {ran.stdout.strip()[-1000:]}"
        )
    return ran.stdout


def parse_load(text: str) -> LoadResult:
    """Parse the output of load.c."""
    values = json.loads(text)
    return LoadResult(
        seconds=values["seconds"],
        answered=values["answered"],
        lost=values["lost"],
        rcodes={_RCODES.get(code, code): count for code, count in values["rcodes"].items()},
        wrong=values["wrong"],
        truncated=values["truncated"],
        median=values["p50"],
        p99=values["p99"],
    )


def parse_dnsperf(text: str) -> LoadResult:
    """Parse the statistics of dnsperf.

    Raises:
        RuntimeError: they are missing.
    """

    def number(label: str) -> float:
        found = re.search(rf"^\s*{label}:?\s+([0-9.]+)", text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the output of dnsperf has no {label!r}: {text[-1000:].strip()}")
        return float(found[1])

    rcodes = dict(re.findall(r"([A-Z0-9]+) (\d+) \([0-9.]+%\)", text.partition("Response codes:")[2]))
    return LoadResult(
        seconds=number(r"Run time \(s\)"),
        answered=int(number("Queries completed")),
        lost=int(number("Queries lost")),
        rcodes={code: int(count) for code, count in rcodes.items()},
    )
