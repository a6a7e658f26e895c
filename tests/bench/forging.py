"""Answers that are forged: none may be taken for the upstream's own, which must come all the same."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.message

from tests.bench.native import compile_program
from tests.bench.peers import Zkdns
from tests.bench.processes import running
from tests.bench.rounds import Bench
from tests.bench.served import Client
from tests.bench.zone import make_services, to_fixed_file
from tests.support.loopback import free_port
from tests.support.waiting import eventually

FORGED = 1_000_000
QUESTIONS = 50
"""Not more: an id that is drawn by lot is the right one once in 65,536 times, and for each question some few
are looked at before it is asked over TCP."""
RIGHT = "192.0.2.1"

_PATIENCE = 5.0


class Forger:
    """forge.c: an upstream in whose name others answer too.

    Args:
        directory: where it is compiled into, and logs.
        core: where it runs.
        each: forged answers for each question.
    """

    def __init__(self, directory: Path, core: int, each: int) -> None:
        self._log = directory / "forge.log"
        program = compile_program("forge", directory)
        self.port = free_port()  # only now: meanwhile somebody else could get it
        self._command = [program, str(self.port), str(each)]
        self._core = core

    @contextlib.contextmanager
    def running(self) -> Iterator["Forger"]:
        """Start it, and end it at the end."""
        with running(self._command, core=self._core, log=self._log) as process:
            client = Client(self.port, timeout=0.2)
            try:
                # Another type than that of addresses: nothing is forged for it.
                eventually(lambda: client.ask("started", 16) is not None or process.poll() is not None)
            finally:
                client.close()
            if process.poll() is not None:
                raise RuntimeError(f"forge has ended with {process.returncode}: {self._log.read_text()}")
            yield self

    def counts(self) -> tuple[int, int]:
        """Answers that were forged so far, and questions that were answered over TCP."""
        whole, _, _ = self._log.read_text().rpartition("\n")
        forged, by_stream = whole.rpartition("\n")[2].split()
        return int(forged), int(by_stream)


@dataclass(frozen=True)
class Outcome:
    """What came of asking while answers are forged."""

    right: int
    """Questions that were answered as the upstream itself does."""
    accepted: int
    """Questions that were answered as the forger wishes."""
    unanswered: int
    """Questions with any other answer, or none."""


def run_forging(bench: Bench) -> None:
    """Ask for names whose answers are forged by the thousand, and again for what was remembered of them."""
    directory = bench.directory / "forging"
    directory.mkdir()
    bench.tell(f"forging {FORGED:,} answers to {QUESTIONS} questions")
    with (
        Forger(directory, bench.cores.load, FORGED // QUESTIONS).running() as forger,
        forwarding_to(forger.port, directory, bench.cores.server) as zkdns,
    ):
        names = [f"x{number}.elsewhere.example" for number in range(QUESTIONS)]
        first = ask_all(zkdns.port, names)
        again = ask_all(zkdns.port, names)
        forged, by_stream = forger.counts()
    if forged < FORGED:
        raise RuntimeError(f"only {forged:,} of {FORGED:,} answers were forged")
    told = f"{forged:,} forged for {QUESTIONS} questions; {by_stream} of these were asked over TCP then"
    bench.report.add("forged answers accepted", first.accepted + again.accepted, "", bound=0, yardstick=told)
    missing = 2 * QUESTIONS - first.right - again.right
    told = f"{first.right} right answers, and {again.right} when asked again"
    bench.report.add("right answers missing", missing, "", bound=0, yardstick=told)


@contextlib.contextmanager
def forwarding_to(upstream: int, directory: Path, core: int) -> Iterator[Zkdns]:
    """A zkdns that asks at that port, all on one core."""
    services = make_services(1, 1)
    fixed = directory / "services.toml"
    fixed.write_text(to_fixed_file(services))
    arguments = ("--static", str(fixed), "--upstream", f"127.0.0.1:{upstream}")
    with Zkdns(services, directory, core, arguments=arguments) as zkdns:
        yield zkdns


def ask_all(port: int, names: list[str]) -> Outcome:
    """Ask for the addresses of these names, one after the other."""
    client = Client(port, timeout=_PATIENCE)
    try:
        found = [_addresses(client.ask(name)) for name in names]
    finally:
        client.close()
    right = sum(addresses == {RIGHT} for addresses in found)
    accepted = sum(bool(addresses - {RIGHT}) for addresses in found)
    return Outcome(right, accepted, len(names) - right - accepted)


def _addresses(answer: bytes | None) -> set[str]:
    if answer is None:
        return set()
    message = dns.message.from_wire(answer)
    return {str(record) for rrset in message.answer for record in rrset}
