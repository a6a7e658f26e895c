"""Benchmark of mutated messages: how long each one delays the query sent after it, and how memory grows."""

import itertools
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.measurement import Bench
from tests.bench.peers import Echo, Peer, Zkdns
from tests.bench.processes import resident_megabytes
from tests.bench.report import percentile
from tests.bench.zkdns_process import encode_query
from tests.bench.zone import make_services, to_static_file
from tests.robustness.mutations import Mutator, needs_response, ordinary_messages
from tests.support.upstream import UpstreamServer

COUNT = 200_000
FORWARDED = 20_000
"""Number of messages with forwarding; fewer, since the test upstream in Python is slow."""
SERVICES, MEMBERS = 50, 5
BOUND = 5.0
"""Maximum milliseconds per message."""
REPEATED, TIMES = 20_000, 3
"""Messages that are sent again this many times, after the response cache contains all their responses."""
GROWTH = 1.0
"""Maximum megabytes by which memory may grow during the repetition."""
VARIANTS = 100_000
"""Different encodings of a few questions; the response cache stores each encoding."""
_SRV = 33
_TIMEOUT_SECONDS = 10.0
_OUTSIDE = ("www.example.com", "a.b.example.org")


@dataclass
class MutationResults:
    """Results of many messages, each followed by a valid query.

    Attributes:
        seconds: for each message, the time until the valid query was answered.
        working: the same, minus the time in which the server or this process was runnable but waited for a
            CPU.
        used: for each message, the CPU time of the server in seconds.
        unanswered: number of valid queries without a correct answer.
        wrong: number of messages that were answered but must not be, or the reverse.
    """

    seconds: list[float] = field(default_factory=list)
    working: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    unanswered: int = 0
    wrong: int = 0


class Sender:
    """Sends each message followed by a valid query, and waits for the answer to the query.

    Args:
        port: of the server.
        pid: the process to measure.
        valid: the valid query.
        has_late_answers: whether messages may be answered after the valid query, so that their answers are
            not counted.
    """

    def __init__(self, port: int, pid: int, valid: bytes, *, has_late_answers: bool) -> None:
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._schedules = [open(f"/proc/{process}/schedstat", "rb", 0) for process in (pid, "self")]  # noqa: PTH123, SIM115 - closed below
        self._valid, self._is_late = valid, has_late_answers

    def close(self) -> None:
        self._socket.close()
        for schedule in self._schedules:
            schedule.close()

    def times(self) -> tuple[float, float]:
        """CPU seconds of the server so far, and seconds that it and this process have waited for a CPU."""
        fields = [schedule.read().split() for schedule in self._schedules if not schedule.seek(0)]
        return int(fields[0][0]) / 1e9, sum(int(waited) for _, waited, _ in fields) / 1e9

    def send_all(self, messages: Sequence[bytes], expected: bytes) -> MutationResults:
        """Send all messages; `expected` are the first bytes after the id of the valid query's answer."""
        results = MutationResults()
        used, waited = self.times()
        for number, message in enumerate(messages):
            own, behind = (2 * number & 0xFFFF).to_bytes(2), (2 * number + 1 & 0xFFFF).to_bytes(2)
            started_at = time.perf_counter()
            self._socket.send(own[: len(message)] + message[2:])
            self._socket.send(behind + self._valid[2:])
            due = {own} if needs_response(message) and not self._is_late else set()
            answers = self._answers_to({behind, *due})
            taken = time.perf_counter() - started_at
            used_before, waited_before = used, waited
            used, waited = self.times()
            results.seconds.append(taken)
            results.working.append(taken - (waited - waited_before))
            results.used.append(used - used_before)
            results.unanswered += not any(answer.startswith(behind + expected) for answer in answers)
            if not self._is_late:
                results.wrong += sorted(answer[:2] for answer in answers) != sorted({behind, *due})
        return results

    def _answers_to(self, idents: set[bytes]) -> list[bytes]:
        """Receive answers in any order until each id has one, or until the time-out."""
        answers: list[bytes] = []
        try:
            while not idents.issubset(answer[:2] for answer in answers):
                answers.append(self._socket.recv(65535))
        except TimeoutError:
            pass
        return answers


def run_mutations(bench: Bench) -> None:
    """Send mutated messages twice, repeat some, send few questions in many encodings, then use forwarding."""
    services = make_services(SERVICES, MEMBERS)
    directory = bench.directory / "mutations"
    directory.mkdir()
    owners = [service.owner for service in services]
    owner = owners[0]
    names = (f"m1.{owner}", f"_tcp.{owner}", f"none.{owner}", "none.staging.discovery", "discovery")
    seeds = ordinary_messages((*owners, *names, *_OUTSIDE))
    messages = list(itertools.islice(Mutator(seeds, random.Random(1)), COUNT))
    valid = encode_query(owner, _SRV)
    with Echo(services, directory, bench.cores.server) as echo, _sending(echo, valid) as sender:
        bench.show_step("mutations: sending to the echo server, to measure the machine's own noise")
        noise = sender.send_all(messages[: COUNT // 4], b"")
    with Zkdns(services, directory, bench.cores.server) as zkdns, _sending(zkdns, valid) as sender:
        before = resident_megabytes(zkdns.worker)
        bench.show_step(f"mutations: sending {COUNT:,} messages to zkdns")
        first = sender.send_all(messages, _expected())
        between = resident_megabytes(zkdns.worker)
        bench.show_step("mutations: sending the same messages again")
        second = sender.send_all(messages, _expected())
        bench.show_step("mutations: repeating some messages")
        for _ in range(MEMBERS):
            sender.send_all(messages[:REPEATED], _expected())
        settled = resident_megabytes(zkdns.worker)
        for _ in range(TIMES):
            sender.send_all(messages[:REPEATED], _expected())
        growth = resident_megabytes(zkdns.worker) - settled
        bench.show_step(f"mutations: sending a few questions in {VARIANTS:,} encodings")
        variants = [_variant(number, owners[number % SERVICES]) for number in range(VARIANTS)]
        of_variants = sender.send_all(variants, _expected())
    yardstick = (
        f"echo: longest {max(noise.working) * 1000:.2f} ms, {max(noise.seconds) * 1000:.2f} ms with waiting"
    )
    _report(bench, "", first, yardstick)
    _report(bench, ", second time", second, yardstick)
    _report(bench, ", few questions in many encodings", of_variants, yardstick)
    bench.report.add("resident memory after all messages", between, "MB", yardstick=f"{before:.1f} MB before")
    repeated = f"after {TIMES * REPEATED:,} messages with cached responses"
    bench.report.add("growth of resident memory", growth, "MB", limit=GROWTH, yardstick=repeated)
    with UpstreamServer() as upstream:
        static = directory / "services.toml"
        static.write_text(to_static_file(services))
        forwarding = directory / "forwarding"
        forwarding.mkdir()
        arguments = ("--static", str(static), "--upstream", str(upstream.address))
        peer = Zkdns(services, forwarding, bench.cores.server, arguments=arguments)
        with peer, _sending(peer, valid, has_late_answers=True) as sender:
            bench.show_step(f"mutations: sending {FORWARDED:,} messages with forwarding")
            results = sender.send_all(messages[:FORWARDED], _expected(ra=True))
            _report(bench, ", with forwarding", results, yardstick)


def _variant(number: int, owner: str) -> bytes:
    """A query for A with the number in its EDNS size and ignored header flags."""
    query = bytearray(encode_query(owner))
    query[2] |= number >> 16 << 1
    query[-8:-6] = (number & 0xFFFF).to_bytes(2)
    return bytes(query)


def _expected(*, ra: bool = False) -> bytes:
    """First bytes after the id of the valid query's answer: flags, one question, one record per member."""
    return bytes((0x85, 0x80 if ra else 0, 0, 1, 0, MEMBERS))


@contextmanager
def _sending(peer: Peer, valid: bytes, *, has_late_answers: bool = False) -> Iterator[Sender]:
    sender = Sender(peer.port, peer.pids()[0], valid, has_late_answers=has_late_answers)
    try:
        yield sender
    finally:
        sender.close()


def _report(bench: Bench, suffix: str, results: MutationResults, noise: str) -> None:
    longest, used = max(results.working) * 1000, max(results.used) * 1000
    median, rare = (percentile(results.seconds, share) * 1000 for share in (0.5, 0.999))
    late = sum(seconds * 1000 > BOUND for seconds in results.seconds)
    notes = (
        f"including time waiting for a CPU: median {median:.3f} ms, p99.9 {rare:.2f} ms, "
        f"longest {max(results.seconds) * 1000:.2f} ms, {late} over {BOUND:g} ms; {noise}"
    )
    bench.report.add(f"longest time{suffix}", longest, "ms", limit=BOUND, yardstick=notes)
    bench.report.add(f"longest CPU time{suffix}", used, "ms", limit=BOUND)
    bench.report.add(f"valid queries without a correct answer{suffix}", results.unanswered, "", limit=0)
    bench.report.add(f"mutated messages answered wrongly{suffix}", results.wrong, "", limit=0)
