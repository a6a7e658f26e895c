"""Benchmark of forged answers: the forwarder must ignore them and still find the correct answer."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.message

from tests.bench.c_programs import compile_program
from tests.bench.measurement import Bench
from tests.bench.peers import Zkdns
from tests.bench.processes import running
from tests.bench.zkdns_process import UdpClient
from tests.bench.zone import make_services, to_static_file
from tests.support.loopback import free_port
from tests.support.waiting import eventually

FORGED = 1_000_000
QUESTIONS = 50
"""A random id is correct once in 65,536 attempts, and zkdns checks a few forged answers per query before it
uses TCP. With few questions an accidental hit is unlikely."""
CORRECT = "192.0.2.1"
"""The address in the upstream's own answers."""

_TIMEOUT_SECONDS = 5.0


class Forger:
    """forge.c: an upstream that sends forged answers before its own.

    Args:
        directory: of the compiled program and its log.
        core: the CPU it runs on.
        each: number of forged answers per query.
    """

    def __init__(self, directory: Path, core: int, each: int) -> None:
        self._log = directory / "forge.log"
        program = compile_program("forge", directory)
        self.port = free_port()  # after compiling, so that no other process takes the port meanwhile
        self._command = [program, str(self.port), str(each)]
        self._core = core

    @contextlib.contextmanager
    def running(self) -> Iterator["Forger"]:
        """Run the program until the end of the `with` block."""
        with running(self._command, core=self._core, log=self._log) as process:
            client = UdpClient(self.port, timeout=0.2)
            try:
                # TXT: forge.c forges no answers for types other than A.
                eventually(lambda: client.query("started", 16) is not None or process.poll() is not None)
            finally:
                client.close()
            if process.poll() is not None:
                raise RuntimeError(f"forge exited with status {process.returncode}: {self._log.read_text()}")
            yield self

    def counts(self) -> tuple[int, int]:
        """Number of forged answers so far, and of queries answered over TCP."""
        complete, _, _ = self._log.read_text().rpartition("\n")
        forged, by_stream = complete.rpartition("\n")[2].split()
        return int(forged), int(by_stream)


@dataclass(frozen=True)
class Outcome:
    """Number of queries by the kind of their answer."""

    correct: int
    """With the upstream's own address."""
    forged: int
    """With a forged address."""
    unanswered: int
    """Without an address, or without an answer."""


def run_forged_answers(bench: Bench) -> None:
    """Query names while their answers are forged, then query them again from the forward cache."""
    directory = bench.directory / "forging"
    directory.mkdir()
    bench.show_step(f"forging {FORGED:,} answers to {QUESTIONS} questions")
    with (
        Forger(directory, bench.cores.load, FORGED // QUESTIONS).running() as forger,
        forwarding_zkdns(forger.port, directory, bench.cores.server) as zkdns,
    ):
        names = [f"x{number}.elsewhere.example" for number in range(QUESTIONS)]
        first = query_all(zkdns.port, names)
        again = query_all(zkdns.port, names)
        forged, by_stream = forger.counts()
    if forged < FORGED:
        raise RuntimeError(f"only {forged:,} of {FORGED:,} answers were forged")
    notes = f"{forged:,} forged answers to {QUESTIONS} queries; {by_stream} queries were repeated over TCP"
    bench.report.add("forged answers accepted", first.forged + again.forged, "", limit=0, yardstick=notes)
    missing = 2 * QUESTIONS - first.correct - again.correct
    notes = f"{first.correct} correct answers, then {again.correct} from the cache"
    bench.report.add("correct answers missing", missing, "", limit=0, yardstick=notes)


@contextlib.contextmanager
def forwarding_zkdns(upstream: int, directory: Path, core: int) -> Iterator[Zkdns]:
    """Run a zkdns that forwards to this port of localhost, with all its processes on one core."""
    services = make_services(1, 1)
    static = directory / "services.toml"
    static.write_text(to_static_file(services))
    arguments = ("--static", str(static), "--upstream", f"127.0.0.1:{upstream}")
    with Zkdns(services, directory, core, arguments=arguments) as zkdns:
        yield zkdns


def query_all(port: int, names: list[str]) -> Outcome:
    """Query the addresses of these names, one after the other."""
    client = UdpClient(port, timeout=_TIMEOUT_SECONDS)
    try:
        found = [_addresses(client.query(name)) for name in names]
    finally:
        client.close()
    correct = sum(addresses == {CORRECT} for addresses in found)
    forged = sum(bool(addresses - {CORRECT}) for addresses in found)
    return Outcome(correct, forged, len(names) - correct - forged)


def _addresses(answer: bytes | None) -> set[str]:
    if answer is None:
        return set()
    message = dns.message.from_wire(answer)
    return {str(record) for rrset in message.answer for record in rrset}
