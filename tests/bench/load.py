"""Loads: load.c for UDP, dnsperf for TCP and wherever it is wished for, and what they tell."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.bench.native import compile_program
from tests.bench.processes import find_program
from tests.bench.queries import QueryFile

NOERROR, NXDOMAIN = "NOERROR", "NXDOMAIN"
_RCODES = {"0": NOERROR, "3": NXDOMAIN}
_PATIENCE = 60.0
_LONGEST = 900.0
_MOST_LOST = 0.001
WINDOW = 160
"""Questions on their way: some 180 overflow a socket whose buffer a server leaves at the kernel's size."""


@dataclass(frozen=True)
class Asked:
    """What came of a load."""

    seconds: float
    answered: int
    lost: int = 0
    rcodes: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    """Answers with another question than was asked."""
    truncated: int = 0
    median: float = 0.0
    """Microseconds, as the caller sees it; 0 where the tool does not tell."""
    p99: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    def has_lost(self) -> bool:
        """Whether more than a thousandth of the questions stayed without an answer."""
        return self.lost > _MOST_LOST * (self.answered + self.lost)

    def check(self, who: str, rcode: str) -> None:
        """See that the answers were what they should be.

        Args:
            who: the server's name, for what is said of it.
            rcode: what all must have.

        Raises:
            RuntimeError: with a sentence.
        """
        others = {code: count for code, count in self.rcodes.items() if code != rcode}
        if not self.answered:
            raise RuntimeError(f"{who} answered nothing")
        if others:
            raise RuntimeError(f"{who} answered with {others} where all should be {rcode}")
        if self.wrong:
            raise RuntimeError(f"{who} gave {self.wrong} answers to other questions than were asked")
        if self.has_lost():
            raise RuntimeError(f"{who} left {self.lost} of {self.answered + self.lost} questions unanswered")


class Flood(Protocol):
    """Asks as fast as answers come, with so many questions on their way."""

    def __call__(self, port: int, queries: QueryFile, *, seconds: float, window: int = WINDOW) -> Asked: ...


class Load:
    """The loads on their core.

    Args:
        directory: where load.c is compiled into.
        core: where they run.
    """

    def __init__(self, directory: Path, core: int) -> None:
        self._program = compile_program("load", directory)
        self._core = core

    def flood(self, port: int, queries: QueryFile, *, seconds: float, window: int = WINDOW) -> Asked:
        """By load.c, in bursts as the window has room."""
        return self._run("flood", port, queries, seconds, window)

    def once(self, port: int, queries: QueryFile, *, times: int = 1, window: int = 50) -> Asked:
        """The whole file so many times."""
        return self._run("once", port, queries, times, window)

    def at_rate(self, port: int, queries: QueryFile, *, seconds: float, rate: float) -> Asked:
        """A question each 1/rate seconds, whatever comes back."""
        return self._run("rate", port, queries, seconds, rate)

    @contextlib.contextmanager
    def beside(self, port: int, queries: QueryFile, *, rate: float, core: int) -> Iterator[list[Asked]]:
        """The same while something else is done; what came of it is in the list after the block.

        It goes before all others on its core where we may ask for that, since what is to be seen is how long
        the server takes, not how long the asker waits for its core.
        """
        told: list[Asked] = []
        command = self._command("rate", port, queries, _LONGEST, rate)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                os.sched_setaffinity(process.pid, {core})
                with contextlib.suppress(PermissionError):
                    os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(1))
                yield told
                process.terminate()
                out, _ = process.communicate(timeout=_PATIENCE)
            except BaseException:
                process.kill()
                raise
        told.append(parse_load(out))

    def dnsperf(self, port: int, queries: QueryFile, *, seconds: float, window: int = WINDOW) -> Asked:
        """By dnsperf over UDP, each question by itself; it ends at some 150,000 a second."""
        return self._dnsperf(port, queries, seconds, ("-c", "8", "-q", str(window)))

    def tcp(
        self, port: int, queries: QueryFile, *, seconds: float, connections: int = 50, window: int = WINDOW
    ) -> Asked:
        """By dnsperf over so many connections, which stay open."""
        options = ("-m", "tcp", "-c", str(connections), "-q", str(window))
        return self._dnsperf(port, queries, seconds, options)

    def stream(
        self, port: int, queries: QueryFile, *, seconds: float, connections: int = 10, window: int = 2
    ) -> Asked:
        """By load.c over TCP: dnsperf 2.10 was seen to abort where answers have some 64 KB."""
        pace = f"{connections}x{window}"
        return parse_load(_output(self._command("stream", port, queries, seconds, pace), seconds + _PATIENCE))

    def _command(
        self, how: str, port: int, queries: QueryFile, amount: float, pace: float | str
    ) -> list[str]:
        program = [self._program, how, str(port), str(queries.packets), str(amount), str(pace)]
        return ["taskset", "-c", str(self._core), *program]

    def _run(self, how: str, port: int, queries: QueryFile, amount: float, pace: float) -> Asked:
        command = self._command(how, port, queries, amount, pace)
        return parse_load(_output(command, _LONGEST if how == "once" else amount + _PATIENCE))

    def _dnsperf(self, port: int, queries: QueryFile, seconds: float, options: tuple[str, ...]) -> Asked:
        dnsperf = find_program("dnsperf")
        assert dnsperf is not None, "dnsperf was there a moment ago"
        where = ("-s", "127.0.0.1", "-p", str(port), "-d", str(queries.text), "-l", str(seconds), "-T", "1")
        edns = ("-e",) if queries.edns else ()
        command = ["taskset", "-c", str(self._core), dnsperf, *where, *edns, *options]
        return parse_dnsperf(_output(command, seconds + _PATIENCE))


def _output(command: list[str], timeout: float) -> str:
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
    )
    if ran.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} has ended with {ran.returncode}: {ran.stdout.strip()[-1000:]}"
        )
    return ran.stdout


def parse_load(text: str) -> Asked:
    """Read what load.c prints."""
    told = json.loads(text)
    return Asked(
        seconds=told["seconds"],
        answered=told["answered"],
        lost=told["lost"],
        rcodes={_RCODES.get(code, code): count for code, count in told["rcodes"].items()},
        wrong=told["wrong"],
        truncated=told["truncated"],
        median=told["p50"],
        p99=told["p99"],
    )


def parse_dnsperf(text: str) -> Asked:
    """Read dnsperf's statistics.

    Raises:
        RuntimeError: where they are not there.
    """

    def number(label: str) -> float:
        found = re.search(rf"^\s*{label}:?\s+([0-9.]+)", text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"dnsperf did not tell {label!r}: {text[-1000:].strip()}")
        return float(found[1])

    rcodes = dict(re.findall(r"([A-Z0-9]+) (\d+) \([0-9.]+%\)", text.partition("Response codes:")[2]))
    return Asked(
        seconds=number(r"Run time \(s\)"),
        answered=int(number("Queries completed")),
        lost=int(number("Queries lost")),
        rcodes={code: int(count) for code, count in rcodes.items()},
    )
