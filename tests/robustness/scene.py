"""A whole server with services of all sizes, its upstream, and who asks it much at a time."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dns.flags
import dns.rcode

from tests.dns.helpers import many, query
from tests.robustness.mutations import is_answered, ordinary
from tests.support.server import ZkdnsServer
from tests.support.upstream import (
    UDP,
    ReceivedQuery,
    Send,
    UpstreamServer,
    answers,
    correct_answer,
    reply_to,
    returns_rcode,
    truncates,
)

SECONDS = 10.0
"""Longer than any answer takes, also one that nobody upstream has."""
WINDOW = 32
"""Messages on their way; many more overflow a socket's buffer."""

SIZES = {"one": 1, "web": 12, "many": 100, "huge": 5000, "idle": 0, "x" * 63: 3}
"""Services of the environment `staging`, and how many members each has."""
WEB, HUGE = "web.staging.discovery", "huge.staging.discovery"
OUTSIDE = tuple(f"{name}.example.com" for name in ("www", "gone", "cut", "noisy"))

NAMES = (
    WEB,
    f"m1.{WEB}",
    f"_web._tcp.{WEB}",
    f"nobody.{WEB}",
    HUGE,
    f"{'x' * 63}.staging.discovery",
    "idle.staging.discovery",
    "nothing.staging.discovery",
    "staging.discovery",
    "discovery",
    "localhost",
    ".".join(["a" * 60] * 4),
    *OUTSIDE,
)
SEEDS = ordinary(NAMES)
"""What is mutated."""


@contextlib.contextmanager
def serving(
    directory: Path, *arguments: str, upstream: UpstreamServer | None = None
) -> Iterator[ZkdnsServer]:
    """`zkdns serve` with the services; nothing may have gone wrong at the end."""
    fixed = directory / "services.toml"
    lines = [f'[services."{name}.staging"]\nmembers = {many(count)}\n' for name, count in SIZES.items()]
    fixed.write_text("".join(lines))
    asks = str(upstream.address) if upstream is not None else "none"
    with ZkdnsServer("--static", str(fixed), "--upstream", asks, *arguments) as server:
        server.wait_ready()
        yield server
        assert_unharmed(server)


def assert_unharmed(server: ZkdnsServer) -> None:
    """No process has ended, and nobody has a mistake to tell."""
    assert not server.ended
    assert len(server.events("process_started")) == len({e["role"] for e in server.events("process_started")})
    assert [line for line in server.log.splitlines() if '"level":"error"' in line.replace(" ", "")] == []


def answers_oddly(asked: ReceivedQuery) -> Sequence[Send]:
    """What upstreams say to some names: that there is none, much, and things that have to be ignored."""
    first = asked.name.partition(".")[0]
    if first == "gone":
        return list(returns_rcode(dns.rcode.NXDOMAIN)(asked))
    if first == "cut":
        records = [f'{asked.name} 60 TXT "{number:02d}{"x" * 200}"' for number in range(10)]
        return list(truncates(asked)) if asked.transport == UDP else [Send(reply_to(asked, *records))]
    if first == "noisy" and asked.transport == UDP:
        good = correct_answer(asked)
        bad = [good[:-1], good + b"\0", good[:2] + b"\x01" + good[3:], good[:20] + b"\xc0\xc0" + good[22:]]
        noise = reply_to(asked, flags=dns.flags.QR)[: len(good) // 2]
        return [*map(Send, bad), Send(noise), Send(good)]
    return list(answers(asked))


@contextlib.contextmanager
def asking(server: ZkdnsServer) -> Iterator[socket.socket]:
    """A socket that asks the server and hears nobody else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(("127.0.0.1", server.port))
        yield sock


VALID = query(WEB, "SRV", edns=0).to_wire()


def with_id(message: bytes, number: int) -> bytes:
    """The message with another id, as far as it has one."""
    return (number & 0xFFFF).to_bytes(2)[: len(message)] + message[2:]


def exchange(sock: socket.socket, messages: Mapping[int, bytes]) -> dict[int, bytes]:
    """Send messages; the answers by id, until each has one that is due to it.

    An answer that is due to none of them fails, and so does a second one.
    """
    missing = {number for number, message in messages.items() if is_answered(message)}
    for number, message in messages.items():
        sock.send(with_id(message, number))
    heard: dict[int, bytes] = {}
    deadline = time.monotonic() + SECONDS
    while missing:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            answer = sock.recv(65535)
        except TimeoutError:
            unanswered = sorted(messages[number].hex() for number in missing)
            raise AssertionError(f"not answered within {SECONDS:g} s: {unanswered}") from None
        number = int.from_bytes(answer[:2])
        assert number in missing, f"{answer.hex()} answers nothing that is to be answered"
        missing.remove(number)
        heard[number] = answer
    return heard


def hears_nothing_more(sock: socket.socket) -> bool:
    """Whether nothing has arrived that was not received."""
    sock.setblocking(False)
    try:
        return not sock.recv(65535)
    except BlockingIOError:
        return True
