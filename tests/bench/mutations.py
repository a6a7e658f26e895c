"""Messages that nobody means, one after the other: how long each holds up the query behind it, what stays."""

import itertools
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.peers import Echo, Peer, Zkdns
from tests.bench.processes import resident_megabytes
from tests.bench.report import percentile
from tests.bench.rounds import Bench
from tests.bench.served import encode_query
from tests.bench.zone import make_services, to_fixed_file
from tests.robustness.mutations import Mutator, is_answered, ordinary
from tests.support.upstream import UpstreamServer

COUNT = 200_000
FORWARDED = 20_000
"""Messages where forwarding is on: there an upstream in Python holds everything up."""
SERVICES, MEMBERS = 50, 5
BOUND = 5.0
"""Milliseconds that no message may take."""
REPEATED, TIMES = 20_000, 3
"""So many messages are sent so often again, once all of their responses are remembered: one for each turn."""
GROWTH = 1.0
"""Megabytes that those may take."""
WAYS = 100_000
"""In which few questions are asked, all of which are remembered."""
_SRV = 33
_PATIENCE = 10.0
_OUTSIDE = ("www.example.com", "a.b.example.org")


@dataclass
class Heard:
    """What came of many messages, each with a valid query behind it.

    Attributes:
        seconds: from each message until the query behind it was answered.
        working: the same without the time in which server or sender was ready and waited for a processor,
            which others had.
        used: processor time of the server meanwhile, in seconds.
        unanswered: valid queries that were not answered, or wrong.
        wrong: messages that were answered and should not be, or were not and should be.
    """

    seconds: list[float] = field(default_factory=list)
    working: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    unanswered: int = 0
    wrong: int = 0


class Sender:
    """Sends a message with a valid query behind it, and waits for this one's answer.

    Args:
        port: the server's.
        pid: whose processor time counts.
        valid: the query.
        is_late: whether answers to others may come later than to the query.
    """

    def __init__(self, port: int, pid: int, valid: bytes, *, is_late: bool) -> None:
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(_PATIENCE)
        self._schedules = [open(f"/proc/{who}/schedstat", "rb", 0) for who in (pid, "self")]  # noqa: PTH123, SIM115 - closed below
        self._valid, self._is_late = valid, is_late

    def close(self) -> None:
        self._socket.close()
        for schedule in self._schedules:
            schedule.close()

    def times(self) -> tuple[float, float]:
        """Seconds until now that the server has worked, and that it or we have waited for a processor."""
        told = [schedule.read().split() for schedule in self._schedules if not schedule.seek(0)]
        return int(told[0][0]) / 1e9, sum(int(waited) for _, waited, _ in told) / 1e9

    def send_all(self, messages: Sequence[bytes], expected: bytes) -> Heard:
        """Send all; `expected` is how the valid query's answers begin after the id."""
        heard = Heard()
        used, waited = self.times()
        for number, message in enumerate(messages):
            own, behind = (2 * number & 0xFFFF).to_bytes(2), (2 * number + 1 & 0xFFFF).to_bytes(2)
            begun = time.perf_counter()
            self._socket.send(own[: len(message)] + message[2:])
            self._socket.send(behind + self._valid[2:])
            due = {own} if is_answered(message) and not self._is_late else set()
            answers = self._answers_to({behind, *due})
            taken = time.perf_counter() - begun
            used_before, waited_before = used, waited
            used, waited = self.times()
            heard.seconds.append(taken)
            heard.working.append(taken - (waited - waited_before))
            heard.used.append(used - used_before)
            heard.unanswered += not any(answer.startswith(behind + expected) for answer in answers)
            if not self._is_late:
                heard.wrong += sorted(answer[:2] for answer in answers) != sorted({behind, *due})
        return heard

    def _answers_to(self, idents: set[bytes]) -> list[bytes]:
        """All that is heard until those are answered, in any order, or nothing more comes."""
        answers: list[bytes] = []
        try:
            while not idents.issubset(answer[:2] for answer in answers):
                answers.append(self._socket.recv(65535))
        except TimeoutError:
            pass
        return answers


def run_mutations(bench: Bench) -> None:
    """As many as are asked for in all of the rules of robustness, twice, and some with forwarding on."""
    services = make_services(SERVICES, MEMBERS)
    directory = bench.directory / "mutations"
    directory.mkdir()
    owners = [service.owner for service in services]
    owner = owners[0]
    names = (f"m1.{owner}", f"_tcp.{owner}", f"none.{owner}", "none.staging.discovery", "discovery")
    seeds = ordinary((*owners, *names, *_OUTSIDE))
    messages = list(itertools.islice(Mutator(seeds, random.Random(1)), COUNT))
    valid = encode_query(owner, _SRV)
    with Echo(services, directory, bench.cores.server) as echo, _sending(echo, valid) as sender:
        bench.tell("mutations: to the echo, for what the machine itself takes")
        noise = sender.send_all(messages[: COUNT // 4], b"")
    with Zkdns(services, directory, bench.cores.server) as zkdns, _sending(zkdns, valid) as sender:
        before = resident_megabytes(zkdns.worker)
        bench.tell(f"mutations: {COUNT:,} to zkdns")
        first = sender.send_all(messages, _expected())
        between = resident_megabytes(zkdns.worker)
        bench.tell("mutations: the same once more")
        second = sender.send_all(messages, _expected())
        bench.tell("mutations: some again and again")
        for _ in range(MEMBERS):
            sender.send_all(messages[:REPEATED], _expected())
        settled = resident_megabytes(zkdns.worker)
        for _ in range(TIMES):
            sender.send_all(messages[:REPEATED], _expected())
        growth = resident_megabytes(zkdns.worker) - settled
        bench.tell(f"mutations: the same questions in {WAYS:,} ways")
        ways = [_asked_in_way(number, owners[number % SERVICES]) for number in range(WAYS)]
        other_ways = sender.send_all(ways, _expected())
    told = f"echo's longest {max(noise.working) * 1000:.2f} and {max(noise.seconds) * 1000:.2f} ms"
    _tell(bench, "", first, told)
    _tell(bench, ", once more", second, told)
    _tell(bench, ", few questions in many ways", other_ways, told)
    bench.report.add("memory afterwards", between, "MB", yardstick=f"{before:.1f} MB before")
    grown = f"by {TIMES * REPEATED:,} messages whose responses are all remembered"
    bench.report.add("growth", growth, "MB", bound=GROWTH, yardstick=grown)
    with UpstreamServer() as upstream:
        fixed = directory / "services.toml"
        fixed.write_text(to_fixed_file(services))
        forwarding = directory / "forwarding"
        forwarding.mkdir()
        arguments = ("--static", str(fixed), "--upstream", str(upstream.address))
        peer = Zkdns(services, forwarding, bench.cores.server, arguments=arguments)
        with peer, _sending(peer, valid, is_late=True) as sender:
            bench.tell(f"mutations: {FORWARDED:,} with forwarding on")
            _tell(bench, ", forwarding", sender.send_all(messages[:FORWARDED], _expected(ra=True)), told)


def _asked_in_way(number: int, owner: str) -> bytes:
    """A query whose UDP size and whose ignored flags are told by the number."""
    query = bytearray(encode_query(owner))
    query[2] |= number >> 16 << 1
    query[-8:-6] = (number & 0xFFFF).to_bytes(2)
    return bytes(query)


def _expected(*, ra: bool = False) -> bytes:
    """How answers to the valid query begin after the id: flags, one question, all members."""
    return bytes((0x85, 0x80 if ra else 0, 0, 1, 0, MEMBERS))


@contextmanager
def _sending(peer: Peer, valid: bytes, *, is_late: bool = False) -> Iterator[Sender]:
    sender = Sender(peer.port, peer.pids()[0], valid, is_late=is_late)
    try:
        yield sender
    finally:
        sender.close()


def _tell(bench: Bench, when: str, heard: Heard, noise: str) -> None:
    longest, used = max(heard.working) * 1000, max(heard.used) * 1000
    usual, rare = (percentile(heard.seconds, share) * 1000 for share in (0.5, 0.999))
    late = sum(seconds * 1000 > BOUND for seconds in heard.seconds)
    told = (
        f"waiting for a processor too: median {usual:.3f} ms, p99.9 {rare:.2f} ms, "
        f"longest {max(heard.seconds) * 1000:.2f} ms, {late} over {BOUND:g} ms; {noise}"
    )
    bench.report.add(f"longest time{when}", longest, "ms", bound=BOUND, yardstick=told)
    bench.report.add(f"longest processor time{when}", used, "ms", bound=BOUND)
    bench.report.add(f"valid queries in between without their answer{when}", heard.unanswered, "", bound=0)
    bench.report.add(f"messages answered wrongly or not{when}", heard.wrong, "", bound=0)
