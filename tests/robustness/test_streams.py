"""Connections to a whole server: slow, hasty, idle, too many; for names of ours and of others."""

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
from tests.robustness.mutations import Mutator, is_answered
from tests.robustness.reading import read_twice
from tests.robustness.scene import HUGE, OUTSIDE, SEEDS, SIZES, WEB, answers_oddly, serving, with_id
from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer
from tests.support.waiting import eventually
from zkdns.transport.files import MAX_CONNECTIONS
from zkdns.transport.tcp import IDLE_SECONDS, MAX_PER_CLIENT

pytestmark = pytest.mark.processes

SECONDS = 10.0
MISSING = "nothing.staging.discovery"
CODES = {WEB: dns.rcode.NOERROR, MISSING: dns.rcode.NXDOMAIN, OUTSIDE[0]: 0, OUTSIDE[1]: 3, OUTSIDE[2]: 0}
"""Names of ours and of others, and how each is answered."""
QUERIES = [(query(name, edns=0).to_wire(), code) for name, code in CODES.items()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZkdnsServer]:
    """One that forwards."""
    with (
        UpstreamServer(answers_oddly) as upstream,
        serving(tmp_path_factory.mktemp("server"), upstream=upstream) as running,
    ):
        yield running


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """Files for all connections of this process, which are more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connected(server: ZkdnsServer, source: str = "127.0.0.1", receive_buffer: int = 0) -> socket.socket:
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


def answers(sock: socket.socket, count: int) -> dict[int, bytes]:
    """So many answers by their ids, each of which there is once."""
    stream = sock.makefile("rb")
    heard: dict[int, bytes] = {}
    for _ in range(count):
        answer = stream.read(int.from_bytes(stream.read(2)))
        number = int.from_bytes(answer[:2])
        assert answer
        assert number not in heard
        heard[number] = answer
    return heard


def numbered(count: int) -> list[bytes]:
    """Queries for names of ours and of others by turns, each with its number for an id."""
    return [with_id(QUERIES[number % len(QUERIES)][0], number) for number in range(count)]


def check(heard: dict[int, bytes], count: int) -> None:
    """That each of so many numbered queries has its answer."""
    assert sorted(heard) == list(range(count))
    for number, answer in heard.items():
        message, code = QUERIES[number % len(QUERIES)]
        assert answer[3] & 0xF == code
        end = len(message) - 11
        assert answer[12:end] == message[12:end]


def is_everyone_answered(server: ZkdnsServer, source: str = "127.0.0.1") -> bool:
    """Whether who asks now is, over UDP and over a connection of his own."""
    with connected(server, source) as sock:
        sock.sendall(framed(*numbered(len(QUERIES))))
        check(answers(sock, len(QUERIES)), len(QUERIES))
    return all(server.query(name, use_edns=0).rcode() == code for name, code in CODES.items())


def test_many_may_send_byte_by_byte_at_the_same_time(server: ZkdnsServer) -> None:
    data = framed(*numbered(len(QUERIES)))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(30)]
        for at in range(len(data)):
            for sock in slow:
                sock.send(data[at : at + 1])
            if at % 100 == 0:
                assert is_everyone_answered(server)
        for sock in slow:
            check(answers(sock, len(QUERIES)), len(QUERIES))


@pytest.mark.parametrize("says_no_more", [False, True])
def test_a_thousand_queries_in_one_go_are_all_answered(server: ZkdnsServer, says_no_more: bool) -> None:
    """Those of other names whenever they are ready, also to who says no more."""
    with connected(server) as sock:
        sock.sendall(framed(*numbered(1000)))
        if says_no_more:
            sock.shutdown(socket.SHUT_WR)
        check(answers(sock, 1000), 1000)
        if says_no_more:
            assert sock.recv(1) == b""
        else:
            sock.sendall(framed(QUERIES[0][0]))
            assert len(answers(sock, 1)) == 1


def test_whatever_comes_over_a_connection_is_answered_in_its_frame(server: ZkdnsServer) -> None:
    messages = [message for message in itertools.islice(Mutator(SEEDS, random.Random(3)), 1500) if message]
    with connected(server) as sock:
        for begun in range(0, len(messages), 100):
            window = [
                with_id(message, number) for number, message in enumerate(messages[begun : begun + 100])
            ]
            due = [number for number, message in enumerate(window) if is_answered(message)]
            sock.sendall(framed(*window))
            heard = answers(sock, len(due))
            assert sorted(heard) == due
            for answer in heard.values():
                assert answer[2] & 0x80
                if len(answer) < 4096:  # those of thousands of members are read elsewhere
                    read_twice(answer, strictly=False)


@pytest.mark.parametrize("members", SIZES)
def test_messages_of_all_sizes_are_read_as_they_come_over_the_wire(server: ZkdnsServer, members: str) -> None:
    name, count = f"{members}.staging.discovery", SIZES[members]
    with connected(server) as sock, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.settimeout(SECONDS)
        udp.connect(("127.0.0.1", server.port))
        for qtype in ("A", "SRV", "TXT", "AAAA"):
            sock.sendall(framed(query(name, qtype, edns=0, ident=0).to_wire()))
            whole = read_twice(answers(sock, 1)[0])
            expected = 0 if qtype == "AAAA" else count
            assert bool(whole.flags & dns.flags.TC) == (len(whole.answer) < expected)
            for size in (None, 0, 512, 513, 1231, 1232, 1233, 4096):
                asked = query(name, qtype, edns=None if size is None else 0, size=size or 0)
                udp.send(asked.to_wire())
                wire = udp.recv(65535)
                assert len(wire) <= max(512, min(size or 0, 1232))
                cut = read_twice(wire)
                assert bool(cut.flags & dns.flags.TC) == (len(cut.answer) < expected)


def test_frames_of_any_length_and_bytes_of_any_kind_harm_nobody(server: ZkdnsServer) -> None:
    dice = random.Random(4)
    for _ in range(100):
        with contextlib.suppress(ConnectionError), connected(server) as sock:
            sock.sendall(dice.randbytes(dice.choice((1, 2, 3, 100, 70_000))))
            if dice.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_everyone_answered(server)


def test_who_asks_for_much_and_does_not_read_keeps_nobody_waiting(server: ZkdnsServer) -> None:
    """Each has 12 MB of answers coming, of which he reads nothing until the end."""
    asked = [with_id(query(HUGE, "SRV").to_wire(), number) for number in range(200)]
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server, receive_buffer=4096)) for _ in range(20)]
        for sock in slow:
            sock.sendall(framed(*asked))
        for _ in range(20):
            assert is_everyone_answered(server)
        heard = answers(slow[0], len(asked))
        assert sorted(heard) == list(range(len(asked)))
        assert all(len(answer) > 65_000 for answer in heard.values())
        assert len(dns.message.from_wire(heard[0]).answer[0]) < SIZES["huge"]


def test_a_flood_of_connections_locks_nobody_out(server: ZkdnsServer) -> None:
    """Up to what all may have, and beyond: the longest idle ones make room."""
    count = MAX_CONNECTIONS + 200
    with contextlib.ExitStack() as stack:
        flood = []
        for number in range(count):
            source = f"127.0.1.{1 + number // (MOST_PER_CLIENT - 8)}"
            flood.append(stack.enter_context(connected(server, source)))
            if number % 200 == 0:
                assert is_everyone_answered(server)
        assert is_everyone_answered(server)
        eventually(lambda: len(closed(flood)) >= count - MAX_CONNECTIONS, SECONDS)
        gone = {sock.fileno() for sock in closed(flood)}
        assert [sock for sock in flood[-MAX_CONNECTIONS // 2 :] if sock.fileno() in gone] == []
        flood[-1].sendall(framed(*numbered(5)))
        check(answers(flood[-1], 5), 5)


def test_a_client_with_more_than_his_share_loses_his_own(server: ZkdnsServer) -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(connected(server, "127.0.2.2"))
        greedy = [stack.enter_context(connected(server, "127.0.2.1")) for _ in range(MAX_PER_CLIENT + 50)]
        eventually(lambda: len(closed(greedy)) == 50, SECONDS)
        assert is_everyone_answered(server, "127.0.2.1")
        other.sendall(framed(*numbered(5)))
        check(answers(other, 5), 5)


def closed(socks: list[socket.socket]) -> list[socket.socket]:
    """Those that the server has closed; to none of them an answer may be under way."""
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in socks}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(0)]


def test_who_brings_no_whole_query_is_closed_when_his_time_is_over(server: ZkdnsServer) -> None:
    """Whatever he sends instead: nothing, a part, bytes now and then; and who asked once, and no more."""
    whole = framed(QUERIES[0][0])
    with contextlib.ExitStack() as stack:
        silent, partly, dribbling, asked = idle = [
            stack.enter_context(connected(server, "127.0.3.1")) for _ in range(4)
        ]
        begun = time.monotonic()
        partly.sendall(whole[:-1])
        dribbling.sendall(b"\xff\xff")
        asked.sendall(whole)
        answers(asked, 1)
        while len(gone := closed(idle)) < len(idle):
            passed = time.monotonic() - begun
            assert passed < IDLE_SECONDS + 5
            assert passed > IDLE_SECONDS - 1 or not gone
            if dribbling not in gone:
                with contextlib.suppress(ConnectionError):
                    dribbling.sendall(b"x")
            select.select([silent], [], [], 0.2)
        for sock in idle:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert is_everyone_answered(server)
