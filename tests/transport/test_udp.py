"""UDP: every datagram gets its response, whatever other clients do, in batches and one by one."""

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.waiting import eventually
from tests.transport.helpers import datagram, echo, is_cut_off
from tests.transport.udp_client import SECONDS, Serve, ask, receives_nothing_more, udp_client
from zkdns.address import HostPort
from zkdns.dns.edns import MAX_UDP_SIZE
from zkdns.transport.batch import HEAD, ID, MAX_BATCH, MAX_RESPONSE
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.udp import MAX_BATCHES_PER_CALL

# A slot holds an id and 92 bytes of a query.
SIZES = [0, 1, 2, 3, 11, 12, 93, 94, 95, 96, 97, 512, 1_500, 9_000, 65_507]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1"])
def test_a_datagram_gets_its_response(serve: Serve, host: str) -> None:
    with serve(echo, HostPort(host, 0)) as server:
        assert ask(host, server.address.port, b"question") == (b"question:udp", host)


# -- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids="{} bytes".format)
@pytest.mark.parametrize("filler", ["zeros", "noise"])
def test_a_datagram_of_any_size_is_looked_up_as_a_whole(serve: Serve, size: int, filler: str) -> None:
    sent = bytes(size) if filler == "zeros" else os.urandom(size)
    received = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        received.append((message, stream))
        return b"idreceived"

    with serve(respond) as server:
        ident = sent[:2].ljust(2, b"\0")  # a query without a header gets no response
        assert ask("127.0.0.1", server.address.port, sent)[0] == ident + b"received"
        assert server.udp.received == 1
    assert received == [(bytes(2) + sent[2:], False)]


def test_a_batch_of_all_sizes_is_looked_up_as_a_whole(serve: Serve) -> None:
    sent = [os.urandom(size) for size in (*SIZES[2:], *reversed(SIZES[2:-1]))]
    received = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        received.append(message[2:])
        return echo(message[:20], stream=stream)

    with serve(respond) as server, udp_client() as sock:
        with server.udp_stopped():
            for message in sent:
                sock.sendto(message, server.at)
        # Long queries are answered after their batch.
        assert sorted(sock.recv(100) for _ in sent) == sorted(message[:20] + b":udp" for message in sent)
    assert sorted(received) == sorted(message[2:] for message in sent)


def test_a_truncated_message_and_one_with_trailing_zeros_differ(serve: Serve) -> None:
    """A cache that uses these bytes as keys can tell both apart."""
    queries = [b"query".ljust(size, b"\0") for size in range(5, 120)]
    queries += [b"query"[:size] for size in range(1, 5)]
    sent = [number.to_bytes(2) + query for number, query in enumerate(queries)]

    def respond(message: bytes, *, stream: bool) -> bytes:
        assert not stream
        return b"id" + str(len(message)).encode()

    class RecordingLookup(dict[bytes, Iterator[bytes]]):
        def __missing__(self, key: bytes) -> Iterator[bytes]:
            if is_cut_off(key):
                return itertools.repeat(b"")
            response = respond(bytes(2) + UdpCodec.query(key), stream=False)
            self[key] = itertools.repeat(datagram(response[2:]))
            return self[key]

    cache = RecordingLookup()
    with serve(respond, datagrams=cache) as server, udp_client() as sock:
        for _ in range(2):
            with server.udp_stopped():
                for message in sent:
                    sock.sendto(message, server.at)
            received = {sock.recv(100) for _ in sent}  # long queries are answered after their batch
            assert received == {message[:2] + str(len(message)).encode() for message in sent}
    assert len(cache) == len(sent)


def test_looked_up_keys_equal_the_codecs_keys(serve: Serve) -> None:
    received: list[bytes] = []

    class Listening(dict[bytes, Iterator[bytes]]):
        def __missing__(self, key: bytes) -> Iterator[bytes]:
            if not is_cut_off(key):
                received.append(key)
            return itertools.repeat(b"" if is_cut_off(key) else datagram(b"received"))

    sent = [os.urandom(size) for size in (*range(2, 200), *range(199, 1, -1))]
    with serve(echo, datagrams=Listening()) as server, udp_client() as sock:
        for message in sent:
            sock.sendto(message, server.at)
            assert sock.recv(100) == message[:2] + b"received"
    assert received == [UdpCodec.key(message[2:]) for message in sent]


@given(st.binary(max_size=200), st.integers(0, 100))
def test_each_key_belongs_to_exactly_one_query(query: bytes, zeros: int) -> None:
    key = UdpCodec.key(query)
    assert UdpCodec.query(key) == query
    assert (UdpCodec.key(query + bytes(zeros)) == key) == (zeros == 0)
    assert len(key) == max(len(query), UdpCodec.max_cached_query) + 2


@given(st.integers(UdpCodec.max_cached_query + 1, 65_505))
def test_a_key_longer_than_its_slot_has_no_query(size: int) -> None:
    started = bytes(UdpCodec.max_cached_query) + (2 + size).to_bytes(2, sys.byteorder)
    assert UdpCodec.query(started) == b""


# -- responses ----------------------------------------------------------------------------------------------


def test_responses_of_every_length_arrive_unchanged(serve: Serve) -> None:
    assert MAX_RESPONSE == MAX_UDP_SIZE
    whole = os.urandom(MAX_RESPONSE - ID - HEAD)

    def respond(message: bytes, *, stream: bool) -> bytes:
        assert not stream
        return b"id" + whole[: int.from_bytes(message[2:])]

    lengths = range(1, (MAX_RESPONSE - ID - HEAD) + 1)
    with serve(respond) as server, udp_client() as sock:
        for first in range(0, len(lengths), 100):
            some = lengths[first : first + 100]
            with server.udp_stopped():
                for length in some:
                    sock.sendto(b"ab" + length.to_bytes(2), server.at)
            assert [sock.recv(2000) for _ in some] == [b"ab" + whole[:length] for length in some]


def test_an_empty_response_is_not_sent(serve: Serve) -> None:
    def respond(message: bytes, *, stream: bool) -> bytes | None:
        return echo(message, stream=stream) if message.endswith(b"k") else None

    with serve(respond) as server, udp_client() as sock:
        for message in (b"", b"hush", b"ask"):
            sock.sendto(message, server.at)
        assert sock.recv(100) == b"ask:udp"  # the first one to arrive, and loopback keeps the order
        assert receives_nothing_more(sock)
        assert (server.udp.received, server.udp.lost) == (3, 0)


_PATTERNS = [
    "x",
    "xx",
    "x.",
    ".x",
    "..x..",
    "x.x.x",
    "." * 64 + "x",
    "x" * 63 + ".",
    "." * 63 + "xx",
    ".x" * 70,
]


@pytest.mark.parametrize("pattern", _PATTERNS, ids=lambda pattern: f"{len(pattern)} {pattern[:5]}")
def test_empty_responses_do_not_shift_the_others(serve: Serve, pattern: str) -> None:
    """`x` in the pattern means no response."""

    def respond(message: bytes, *, stream: bool) -> bytes | None:
        return None if message[2:3] == b"x" else echo(message, stream=stream)

    with serve(respond) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(udp_client()) for _ in range(3)]
        expected: list[list[bytes]] = [[] for _ in socks]
        with server.udp_stopped():
            for at, letter in enumerate(pattern):
                message = at.to_bytes(2) + letter.encode() + b"from %d" % (at % 3)
                socks[at % 3].sendto(message, server.at)
                expected[at % 3] += [message] if letter != "x" else []
        for sock, messages in zip(socks, expected, strict=True):
            assert [sock.recv(100) for _ in messages] == [message + b":udp" for message in messages]
        eventually(lambda: server.udp.received == len(pattern))
        assert all(map(receives_nothing_more, socks))
        assert server.udp.lost == 0


@pytest.mark.parametrize("count", [1, 2, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 2 * MAX_BATCH, 200, 500])
def test_a_burst_is_answered_completely_and_in_order(serve: Serve, count: int) -> None:
    burst = [b"%5d" % number for number in range(count)]
    with serve(echo) as server, udp_client() as sock:
        with server.udp_stopped():
            for message in burst:
                sock.sendto(message, server.at)
        assert [sock.recv(100) for _ in burst] == [message + b":udp" for message in burst]
        assert (server.udp.received, server.udp.lost) == (count, 0)


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_clients_with_closed_ports_affect_no_others(serve: Serve, host: str) -> None:
    """Their responses return as ICMP port unreachable."""
    with serve(echo, HostPort(host, 0)) as server, udp_client() as other:
        # All the time, since otherwise it could get one of their ports.
        other.connect(("127.0.0.1", server.address.port))
        for _ in range(200):
            with udp_client() as gone:
                gone.sendto(b"goodbye", other.getpeername())
            other.send(b"question")
            assert other.recv(100) == b"question:udp"


def test_a_response_that_cannot_be_sent_costs_only_itself(serve: Serve) -> None:
    """To port 0, which only a raw socket can use."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("a raw socket needs CAP_NET_RAW")
    pattern = "xx.x..x" + "." * 60 + "xxx.x"
    with raw, serve(echo) as server, udp_client() as sock:
        expected = []
        with server.udp_stopped():
            for at, letter in enumerate(pattern):
                message = b"%5d" % at
                if letter == "x":
                    header = b"".join(
                        part.to_bytes(2) for part in (0, server.address.port, 8 + len(message), 0)
                    )
                    raw.sendto(header + message, (server.at[0], 0))
                else:
                    sock.sendto(message, server.at)
                    expected.append(message + b":udp")
        assert [sock.recv(100) for _ in expected] == expected
        eventually(lambda: server.udp.received == len(pattern))
        assert server.call(lambda: server.udp.lost) == pattern.count("x")


@pytest.mark.parametrize("where", ["look-up", "next", "the end of an iterator"])
def test_an_internal_error_costs_one_response_and_is_logged_once(serve: Serve, where: str) -> None:
    def fail() -> Iterator[bytes]:
        if where == "next":
            raise ValueError("an internal error")
        yield from ()

    class Failing(dict[bytes, Iterator[bytes]]):
        def __missing__(self, key: bytes) -> Iterator[bytes]:
            query = UdpCodec.query(key)
            if query != b"x":
                return itertools.repeat(datagram(query + b":udp"))
            if where == "look-up":
                raise ValueError("an internal error")
            return fail()

    pattern = ".x..xx" + "." * 60 + "xx" + "." * 10
    with capture_logs() as logs, serve(echo, datagrams=Failing()) as server, udp_client() as sock:
        for _ in range(2):
            with server.udp_stopped():
                for at, letter in enumerate(pattern):
                    sock.sendto(at.to_bytes(2) + letter.encode(), server.at)
            expected = [at.to_bytes(2) + b".:udp" for at, letter in enumerate(pattern) if letter == "."]
            assert [sock.recv(100) for _ in expected] == expected
        assert receives_nothing_more(sock)
        assert server.udp.received == 2 * len(pattern)
    (received,) = logs
    assert (received["log_level"], received["event"]) == ("error", "query_failed")
    expected_error = StopIteration if "iterator" in where else ValueError
    assert isinstance(received["exc_info"], expected_error)


# -- others in the same loop --------------------------------------------------------------------------------


def test_a_burst_of_datagrams_does_not_delay_tcp(serve: Serve) -> None:
    received = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        received.append(stream)
        return echo(message, stream=stream)

    def begin() -> None:
        server.udp.start()
        connection.sendall(b"\0\x08question")

    burst = 500
    with (
        serve(respond) as server,
        socket.create_connection(server.at, timeout=SECONDS) as connection,
        udp_client() as sock,
    ):
        connection.sendall(b"\0\x08question")
        assert connection.recv(100) == b"\0\x0cquestion:tcp"  # wait until it is accepted
        server.call(server.udp.stop)
        for _ in range(burst):
            sock.sendto(b"burst", server.at)
        server.call(begin)
        assert connection.recv(100) == b"\0\x0cquestion:tcp"
        eventually(lambda: len(received) == burst + 2)
    # One round of the loop, in which the datagrams may come first.
    assert received.index(True, 1) <= 1 + MAX_BATCHES_PER_CALL * MAX_BATCH < burst


def test_a_burst_of_datagrams_does_not_delay_timers(serve: Serve) -> None:
    received: list[str] = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        received.append("datagram")
        return echo(message, stream=stream)

    def begin() -> None:
        server.udp.start()
        server.loop.call_later(0, received.append, "timer")

    burst = 500
    with serve(respond) as server, udp_client() as sock:
        server.call(server.udp.stop)
        for _ in range(burst):
            sock.sendto(b"burst", server.at)
        server.call(begin)
        eventually(lambda: len(received) == burst + 1)
    # One round of the loop, in which the datagrams may come first.
    assert received.index("timer") <= MAX_BATCHES_PER_CALL * MAX_BATCH < burst


def test_a_stopped_server_answers_no_more_and_leaves_its_socket_open(serve: Serve) -> None:
    with serve(echo) as server, udp_client() as sock:
        with server.udp_stopped():
            sock.sendto(b"question", server.at)
            for _ in range(3):  # rounds of the loop
                server.call(lambda: None)
            assert receives_nothing_more(sock)
        # The next round sees everything that has arrived meanwhile.
        sock.settimeout(SECONDS)
        assert sock.recv(100) == b"question:udp"
