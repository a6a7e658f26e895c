"""A running zkdns with services of all sizes, an upstream with unusual replies, and a client."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dns.flags
import dns.rcode

from tests.dns.helpers import many, query
from tests.robustness.mutations import needs_response, ordinary_messages
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
from tests.support.waiting import PATIENCE

SECONDS = PATIENCE
"""Time-out of the client; longer than zkdns waits for an upstream."""
WINDOW = 32
"""Messages in flight; many more would overflow a socket buffer."""

SIZES = {"one": 1, "web": 12, "many": 100, "huge": 5000, "idle": 0, "x" * 63: 3}
"""Services of the environment `staging`, and how many members each has."""
WEB, HUGE = "web.staging.discovery", "huge.staging.discovery"
OUTSIDE = tuple(f"{name}.example.com" for name in ("www", "gone", "cut", "noisy"))

NAMES = (
    WEB,
    f"m1.{WEB}",
    f"_web._tcp.{WEB}",
    f"nonexistent.{WEB}",
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
SEEDS = ordinary_messages(NAMES)
"""The messages to mutate."""


@contextlib.contextmanager
def running_server(
    directory: Path, *arguments: str, upstream: UpstreamServer | None = None
) -> Iterator[ZkdnsServer]:
    """Run `zkdns serve` with the services; at the end, assert that no process died or logged an error."""
    static = directory / "services.toml"
    lines = [f'[services."{name}.staging"]\nmembers = {many(count)}\n' for name, count in SIZES.items()]
    static.write_text("".join(lines))
    forward_to = str(upstream.address) if upstream is not None else "none"
    with ZkdnsServer("--static", str(static), "--upstream", forward_to, *arguments) as server:
        server.wait_ready()
        yield server
        assert_unharmed(server)


def assert_unharmed(server: ZkdnsServer) -> None:
    """Assert that all processes run, none was restarted, and no error was logged."""
    assert not server.ended
    assert len(server.events("process_started")) == len({e["role"] for e in server.events("process_started")})
    assert [line for line in server.log.splitlines() if '"level":"error"' in line.replace(" ", "")] == []


def unusual_replies(asked: ReceivedQuery) -> Sequence[Send]:
    """Replies of the upstream: NXDOMAIN, truncated and large ones, and invalid ones before the valid one."""
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
def client_socket(server: ZkdnsServer) -> Iterator[socket.socket]:
    """A UDP socket connected to the server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(("127.0.0.1", server.port))
        yield sock


VALID = query(WEB, "SRV", edns=0).to_wire()


def with_id(message: bytes, number: int) -> bytes:
    """Replace the id of a message; a message of one byte gets half of it."""
    return (number & 0xFFFF).to_bytes(2)[: len(message)] + message[2:]


def exchange(sock: socket.socket, messages: Mapping[int, bytes]) -> dict[int, bytes]:
    """Send messages under the ids that are their keys, wait for all responses, and return them by id.

    Raises:
        AssertionError: a response is missing after the time-out, unexpected, or repeated.
    """
    missing = {number for number, message in messages.items() if needs_response(message)}
    for number, message in messages.items():
        sock.send(with_id(message, number))
    received: dict[int, bytes] = {}
    deadline = time.monotonic() + SECONDS
    while missing:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            answer = sock.recv(65535)
        except TimeoutError:
            unanswered = sorted(messages[number].hex() for number in missing)
            raise AssertionError(f"not answered within {SECONDS:g} s: {unanswered}") from None
        number = int.from_bytes(answer[:2])
        assert number in missing, f"unexpected or repeated response: {answer.hex()}"
        missing.remove(number)
        received[number] = answer
    return received


def has_no_more_data(sock: socket.socket) -> bool:
    """Whether the socket has no further datagram."""
    sock.setblocking(False)
    try:
        return not sock.recv(65535)
    except BlockingIOError:
        return True
