"""TCP connections to a running server: slow, fast, idle and too many, for zone names and forwarded names."""

from __future__ import annotations

import contextlib
import itertools
import random
import resource
import select
import socket
import struct
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.dns.helpers import query
from tests.robustness.mutations import Mutator, needs_response
from tests.robustness.two_parsers import parse_with_both
from tests.robustness.zkdns_server import (
    HUGE,
    OUTSIDE,
    SEEDS,
    SIZES,
    WEB,
    running_server,
    unusual_replies,
    with_id,
)
from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer
from tests.support.waiting import PATIENCE, eventually
from zkdns.transport.sockets import MAX_CONNECTIONS
from zkdns.transport.tcp import IDLE_SECONDS, MAX_PER_CLIENT

pytestmark = pytest.mark.processes

SECONDS = PATIENCE
MISSING = "nothing.staging.discovery"
CODES = {WEB: dns.rcode.NOERROR, MISSING: dns.rcode.NXDOMAIN, OUTSIDE[0]: 0, OUTSIDE[1]: 3, OUTSIDE[2]: 0}
"""Zone names and forwarded names, and their rcodes."""
QUERIES = [(query(name, edns=0).to_wire(), code) for name, code in CODES.items()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZkdnsServer]:
    """A server with an upstream."""
    with (
        UpstreamServer(unusual_replies) as upstream,
        running_server(tmp_path_factory.mktemp("server"), upstream=upstream) as running,
    ):
        yield running


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """Raise the file limit of this process, whose connections exceed the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(server: ZkdnsServer, source: str = "127.0.0.1", receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(SECONDS)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", server.port))
    return sock


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2) + message for message in messages)


def read_answers(sock: socket.socket, count: int) -> dict[int, bytes]:
    """Read `count` answers; return them by id."""
    stream = sock.makefile("rb")
    received: dict[int, bytes] = {}
    for _ in range(count):
        answer = stream.read(int.from_bytes(stream.read(2)))
        number = int.from_bytes(answer[:2])
        assert answer
        assert number not in received
        received[number] = answer
    return received


def numbered_queries(count: int) -> list[bytes]:
    """Queries for all names in turn, with ids from 0 on."""
    return [with_id(QUERIES[number % len(QUERIES)][0], number) for number in range(count)]


def check(received: dict[int, bytes], count: int) -> None:
    """Assert that each numbered query has its answer."""
    assert sorted(received) == list(range(count))
    for number, answer in received.items():
        message, code = QUERIES[number % len(QUERIES)]
        assert answer[3] & 0xF == code
        end = len(message) - 11
        assert answer[12:end] == message[12:end]


def serves_new_clients(server: ZkdnsServer, source: str = "127.0.0.1") -> bool:
    """Whether a new client is answered over UDP and TCP."""
    with connect(server, source) as sock:
        sock.sendall(framed(*numbered_queries(len(QUERIES))))
        check(read_answers(sock, len(QUERIES)), len(QUERIES))
    return all(server.query(name, use_edns=0).rcode() == code for name, code in CODES.items())


def test_many_clients_may_send_byte_by_byte_at_the_same_time(server: ZkdnsServer) -> None:
    data = framed(*numbered_queries(len(QUERIES)))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(30)]
        for at in range(len(data)):
            for sock in slow:
                sock.send(data[at : at + 1])
            if at % 100 == 0:
                assert serves_new_clients(server)
        for sock in slow:
            check(read_answers(sock, len(QUERIES)), len(QUERIES))


@pytest.mark.parametrize("shuts_down", [False, True])
def test_a_thousand_pipelined_queries_are_all_answered(server: ZkdnsServer, shuts_down: bool) -> None:
    """Forwarded names may be answered later, even if the client has shut down its sending side."""
    with connect(server) as sock:
        sock.sendall(framed(*numbered_queries(1000)))
        if shuts_down:
            sock.shutdown(socket.SHUT_WR)
        check(read_answers(sock, 1000), 1000)
        if shuts_down:
            assert sock.recv(1) == b""
        else:
            sock.sendall(framed(QUERIES[0][0]))
            assert len(read_answers(sock, 1)) == 1


def test_mutated_messages_over_tcp_are_answered_in_frames(server: ZkdnsServer) -> None:
    messages = [message for message in itertools.islice(Mutator(SEEDS, random.Random(3)), 1500) if message]
    with connect(server) as sock:
        for started_at in range(0, len(messages), 100):
            window = [
                with_id(message, number)
                for number, message in enumerate(messages[started_at : started_at + 100])
            ]
            due = [number for number, message in enumerate(window) if needs_response(message)]
            sock.sendall(framed(*window))
            received = read_answers(sock, len(due))
            assert sorted(received) == due
            for answer in received.values():
                assert answer[2] & 0x80
                if len(answer) < 4096:  # other tests parse the larger ones
                    parse_with_both(answer, strictly=False)


@pytest.mark.parametrize("members", SIZES)
def test_udp_and_tcp_answers_of_all_sizes_parse(server: ZkdnsServer, members: str) -> None:
    name, count = f"{members}.staging.discovery", SIZES[members]
    with connect(server) as sock, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.settimeout(SECONDS)
        udp.connect(("127.0.0.1", server.port))
        for qtype in ("A", "SRV", "TXT", "AAAA"):
            sock.sendall(framed(query(name, qtype, edns=0, ident=0).to_wire()))
            complete = parse_with_both(read_answers(sock, 1)[0])
            expected = 0 if qtype == "AAAA" else count
            assert bool(complete.flags & dns.flags.TC) == (len(complete.answer) < expected)
            for size in (None, 0, 512, 513, 1231, 1232, 1233, 4096):
                asked = query(name, qtype, edns=None if size is None else 0, size=size or 0)
                udp.send(asked.to_wire())
                wire = udp.recv(65535)
                assert len(wire) <= max(512, min(size or 0, 1232))
                response = parse_with_both(wire)
                assert bool(response.flags & dns.flags.TC) == (len(response.answer) < expected)


def test_random_bytes_and_resets_do_not_affect_other_clients(server: ZkdnsServer) -> None:
    rng = random.Random(4)
    for _ in range(100):
        with contextlib.suppress(ConnectionError), connect(server) as sock:
            sock.sendall(rng.randbytes(rng.choice((1, 2, 3, 100, 70_000))))
            if rng.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert serves_new_clients(server)


def test_clients_that_do_not_read_large_answers_do_not_delay_others(server: ZkdnsServer) -> None:
    """Each has 12 MB of answers coming, of which he reads nothing until the end."""
    asked = [with_id(query(HUGE, "SRV").to_wire(), number) for number in range(200)]
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server, receive_buffer=4096)) for _ in range(20)]
        for sock in slow:
            sock.sendall(framed(*asked))
        for _ in range(20):
            assert serves_new_clients(server)
        received = read_answers(slow[0], len(asked))
        assert sorted(received) == list(range(len(asked)))
        assert all(len(answer) > 65_000 for answer in received.values())
        assert len(dns.message.from_wire(received[0]).answer[0]) < SIZES["huge"]


def test_new_clients_are_served_when_all_connections_are_taken(server: ZkdnsServer) -> None:
    """The connections that have been idle longest are closed."""
    count = MAX_CONNECTIONS + 200
    with contextlib.ExitStack() as stack:
        flood = []
        for number in range(count):
            source = f"127.0.1.{1 + number // (MAX_PER_CLIENT - 8)}"
            flood.append(stack.enter_context(connect(server, source)))
            if number % 200 == 0:
                assert serves_new_clients(server)
        assert serves_new_clients(server)
        eventually(lambda: len(closed_by_server(flood)) >= count - MAX_CONNECTIONS, SECONDS)
        gone = {sock.fileno() for sock in closed_by_server(flood)}
        assert [sock for sock in flood[-MAX_CONNECTIONS // 2 :] if sock.fileno() in gone] == []
        flood[-1].sendall(framed(*numbered_queries(5)))
        check(read_answers(flood[-1], 5), 5)


def test_a_client_with_too_many_connections_loses_its_own_ones(server: ZkdnsServer) -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(connect(server, "127.0.2.2"))
        greedy = [stack.enter_context(connect(server, "127.0.2.1")) for _ in range(MAX_PER_CLIENT + 50)]
        eventually(lambda: len(closed_by_server(greedy)) == 50, SECONDS)
        assert serves_new_clients(server, "127.0.2.1")
        other.sendall(framed(*numbered_queries(5)))
        check(read_answers(other, 5), 5)


def closed_by_server(socks: list[socket.socket]) -> list[socket.socket]:
    """The connections that the server has closed. None of them may have unread answers."""
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in socks}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(0)]


def test_connections_without_a_complete_query_are_closed_after_the_idle_time(server: ZkdnsServer) -> None:
    """They send nothing, a part of a query, single bytes, or one query and nothing more."""
    complete = framed(QUERIES[0][0])
    with contextlib.ExitStack() as stack:
        silent, partly, dribbling, asked = idle = [
            stack.enter_context(connect(server, "127.0.3.1")) for _ in range(4)
        ]
        started_at = time.monotonic()
        partly.sendall(complete[:-1])
        dribbling.sendall(b"\xff\xff")
        asked.sendall(complete)
        read_answers(asked, 1)
        while len(gone := closed_by_server(idle)) < len(idle):
            passed = time.monotonic() - started_at
            assert passed < IDLE_SECONDS + 5
            assert passed > IDLE_SECONDS - 1 or not gone
            if dribbling not in gone:
                with contextlib.suppress(ConnectionError):
                    dribbling.sendall(b"x")
            select.select([silent], [], [], 0.2)
        for sock in idle:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert serves_new_clients(server)
