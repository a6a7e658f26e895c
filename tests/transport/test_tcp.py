"""TCP as RFC 7766 and RFC 9210 require it, over real connections."""

import contextlib
import os
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.support.waiting import eventually, in_time, repeated_if_late
from tests.transport.helpers import Running, echo, serving
from tests.transport.tcp_client import SECONDS, TcpClient, framed
from zkdns.address import HostPort
from zkdns.transport.sockets import client_of

LONG_ANSWER = 60_000


def long_answers(message: bytes, *, stream: bool) -> bytes:  # noqa: ARG001 - the protocol's signature
    return message.ljust(LONG_ANSWER, b".")


@pytest.fixture
def server() -> Iterator[Running]:
    with serving(echo) as running:
        yield running


# -- framing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 12, 512, 40_000, 65_531], ids="{} bytes".format)
def test_a_message_gets_a_response_with_its_length(server: Running, size: int) -> None:
    message = os.urandom(size)
    with TcpClient(server) as client:
        client.send(message)
        assert client.answer() == message + b":tcp"


def test_ipv6_too() -> None:
    with serving(echo, HostPort("::1", 0)) as server, TcpClient(server) as client:
        client.send(b"question")
        assert client.answer() == b"question:tcp"


def test_dns_27_length_and_response_leave_in_one_segment(server: Running) -> None:
    """RFC 7766 §8: some clients read only the segment with the length."""
    with TcpClient(server) as client:
        for _ in range(20):
            client.send(b"question")
            assert client.socket.recv(100) == framed(b"question:tcp")


def test_dns_28_a_message_may_arrive_byte_by_byte(server: Running) -> None:
    with TcpClient(server) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in framed(b"first") + framed(b"second"):
            client.socket.send(bytes([byte]))
        assert [client.answer(), client.answer()] == [b"first:tcp", b"second:tcp"]


def test_dns_27_a_thousand_pipelined_queries_are_answered_in_order(server: Running) -> None:
    messages = [b"question %d" % number for number in range(1000)]
    with TcpClient(server) as client:
        client.send(*messages)
        assert [client.answer() for _ in messages] == [message + b":tcp" for message in messages]
        client.send(b"one more")
        assert client.answer() == b"one more:tcp"


def test_dns_28_a_length_of_zero_closes_after_earlier_responses(server: Running) -> None:
    with TcpClient(server) as client:
        client.send(b"first", b"")
        assert client.answer() == b"first:tcp"
        assert client.answer() is None


@pytest.mark.parametrize("count", [1, 100])
def test_dns_28_responses_arrive_after_a_half_close(server: Running, count: int) -> None:
    with TcpClient(server) as client:
        client.send(*[b"question"] * count)
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.answer() for _ in range(count)] == [b"question:tcp"] * count
        assert client.answer() is None


def test_dns_28_a_half_close_amid_a_message_closes(server: Running) -> None:
    with TcpClient(server) as client:
        client.socket.sendall(framed(b"whole") + b"\0\x09half")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer() == b"whole:tcp"
        assert client.answer() is None


def test_an_empty_response_keeps_the_connection_open() -> None:
    def respond(message: bytes, *, stream: bool) -> bytes | None:
        return None if message.endswith(b"sh") else echo(message, stream=stream)

    with serving(respond) as server, TcpClient(server) as client:
        client.send(b"hush", b"ask", b"hush")
        assert client.answer() == b"ask:tcp"
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer() is None


def test_abrupt_resets_affect_no_other_connection(server: Running) -> None:
    with TcpClient(server) as other:
        for number in range(100):
            client = TcpClient(server)
            client.socket.sendall((framed(b"question") * 50)[: 1 + 11 * number])
            client.reset()
        other.send(b"question")
        assert other.answer() == b"question:tcp"


# -- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x0c", framed(b"question")[:-1]])
def test_dns_29_a_connection_without_a_complete_query_is_closed(sent: bytes) -> None:
    with serving(echo, idle_seconds=0.2) as server, TcpClient(server) as client:
        started = time.monotonic()
        client.socket.sendall(sent)
        assert client.answer() is None
        assert 0.15 < time.monotonic() - started < SECONDS


def test_dns_29_incomplete_queries_do_not_keep_a_connection_open() -> None:
    with serving(echo, idle_seconds=0.3) as server, TcpClient(server) as client:
        client.socket.sendall(b"\xff\xff")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                if client.is_closed:
                    break
                client.socket.sendall(b"x")
                select.select([client.socket], [], [], 0.02)
        assert client.is_closed


@repeated_if_late
def test_each_query_restarts_the_idle_time() -> None:
    with serving(echo, idle_seconds=0.5) as server, TcpClient(server) as client:
        started = sent = time.monotonic()
        while sent < started + 1.2:
            in_time(sent, 0.4)
            sent = time.monotonic()
            client.send(b"question")
            assert client.answer() == b"question:tcp"
            select.select([client.socket], [], [], 0.05)
        in_time(sent, 0.4)
        assert client.is_open


# -- slow and greedy clients --------------------------------------------------------------------------------


def test_a_slow_reader_delays_no_client_and_gets_every_response() -> None:
    numbers = [b"%d." % number for number in range(300)]
    with serving(long_answers) as server, TcpClient(server, receive_buffer=4096) as slow:
        sender = threading.Thread(target=slow.send, args=numbers)
        sender.start()
        for _ in range(50):
            with TcpClient(server) as other:
                other.send(b"question")
                assert len(other.answer() or b"") == LONG_ANSWER
        for number in numbers:
            assert slow.answer() == number.ljust(LONG_ANSWER, b".")
        sender.join()


def test_a_slow_reader_gets_every_response_after_a_half_close() -> None:
    numbers = [b"%d." % number for number in range(200)]
    with serving(long_answers) as server, TcpClient(server, receive_buffer=4096) as slow:
        slow.send(*numbers)
        slow.socket.shutdown(socket.SHUT_WR)
        for number in numbers:
            assert slow.answer() == number.ljust(LONG_ANSWER, b".")
        assert slow.answer() is None


def test_dns_29_a_client_that_never_reads_is_closed() -> None:
    with serving(long_answers, idle_seconds=0.2) as server, TcpClient(server, receive_buffer=4096) as client:
        client.send(*[b"question"] * 300)
        eventually(lambda: not server.tcp.connection_count, SECONDS)


def test_a_client_without_pauses_fills_no_memory() -> None:
    """Unanswered data in memory is limited; the rest waits at the client."""
    answered = 0

    def respond(message: bytes, *, stream: bool) -> bytes | None:  # noqa: ARG001 - the protocol's signature
        nonlocal answered
        answered += 1
        return None

    count = 15_000
    flood = framed(b"x" * 200) * count
    with serving(respond) as server, TcpClient(server) as client:
        client.socket.settimeout(60.0)
        sender = threading.Thread(target=client.socket.sendall, args=(flood,))
        tracemalloc.start()
        try:
            sender.start()
            eventually(lambda: answered == count, 60.0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sender.join()
    assert peak <= 1 << 20 < len(flood)


def test_a_pipeline_delays_neither_udp_nor_other_connections() -> None:
    received = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        received.append(message)
        return echo(message, stream=stream)

    pipeline = [b"one of many"] * 2000
    with (
        serving(respond) as server,
        TcpClient(server) as greedy,
        TcpClient(server) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        for client in (greedy, other):
            client.send(b"first")
            assert client.answer() == b"first:tcp"  # wait until they are accepted
        held = threading.Event()
        server.loop.call_soon_threadsafe(held.wait, SECONDS)
        greedy.send(*pipeline)
        other.send(b"\0\0other")
        sock.sendto(b"udp", server.at)
        held.set()
        assert [greedy.answer() for _ in pipeline] == [b"one of many:tcp"] * len(pipeline)
    assert max(received.index(b"\0\0other"), received.index(b"\0\0p")) < len(pipeline) / 4


# -- limits -------------------------------------------------------------------------------------------------


def test_dns_29_the_longest_idle_connection_is_closed_for_a_new_one() -> None:
    with serving(echo, max_connections=3) as server, contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(TcpClient(server)) for _ in range(3))
        for client in (second, third, first):  # so that the second is the longest idle
            client.send(b"question")
            assert client.answer() == b"question:tcp"
        newest = stack.enter_context(TcpClient(server))
        newest.send(b"question")
        assert newest.answer() == b"question:tcp"
        assert eventually(lambda: second.is_closed)
        assert [client.is_open for client in (first, third, newest)] == [True] * 3
        assert server.tcp.replaced.count == 1


def test_dns_29_a_client_with_too_many_connections_loses_one() -> None:
    with serving(echo, max_per_client=2) as server, contextlib.ExitStack() as stack:
        other = stack.enter_context(TcpClient(server, source="127.0.0.2"))
        mine = []
        for _ in range(5):
            mine.append(stack.enter_context(TcpClient(server)))
            mine[-1].send(b"question")
            assert mine[-1].answer() == b"question:tcp"
        assert eventually(lambda: all(client.is_closed for client in mine[:3]))
        assert [client.is_open for client in (*mine[3:], other)] == [True] * 3


def test_a_closed_connection_is_not_counted() -> None:
    with serving(echo, max_per_client=2, max_connections=2) as server, TcpClient(server) as kept:
        for _ in range(20):
            with TcpClient(server) as client:
                client.send(b"question")
                assert client.answer() == b"question:tcp"
            eventually(lambda: server.tcp.connection_count == 1)
        assert kept.is_open
        with TcpClient(server, source="127.0.0.2") as client:
            client.send(b"question")
            assert client.answer() == b"question:tcp"
        eventually(lambda: server.tcp.connection_count == 1)
        assert server.tcp.client_count == 1


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("192.0.2.1", 4711), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::1", 4712, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        (None, ""),  # it was closed before its address could be read
    ],
)
def test_dns_29_a_client_is_an_ipv4_address_or_a_64_bit_ipv6_network(peer: object, client: str) -> None:
    assert client_of(peer) == client


def test_a_stopped_server_closes_its_connections_and_accepts_none() -> None:
    with serving(echo) as server, TcpClient(server) as client:
        client.send(b"question")
        assert client.answer() == b"question:tcp"
        server.call(server.tcp.stop)
        assert client.answer() is None


# -- stopping -----------------------------------------------------------------------------------------------


def test_after_stop_accepting_existing_connections_are_answered(server: Running) -> None:
    with TcpClient(server) as client:
        client.send(b"first")
        assert client.answer() == b"first:tcp"
        server.call(server.tcp.stop_accepting)
        with TcpClient(server) as late:
            late.send(b"late")
            for number in range(10):  # an accepted connection would be served first
                client.send(b"%d" % number)
                assert client.answer() == b"%d:tcp" % number
            eventually(lambda: server.tcp.received >= 11)  # counted after it was answered
            assert server.tcp.received == 11


def test_close_inactive_closes_inactive_connections_only(server: Running) -> None:
    def close_inactive() -> bool:
        return server.call(lambda: server.tcp.close_inactive(time.monotonic() + SECONDS))

    with TcpClient(server) as silent, TcpClient(server) as half:
        for client in (silent, half):
            client.send(b"first")
            assert client.answer() == b"first:tcp"
        half.socket.sendall(framed(b"second")[:4])
        server.call(server.tcp.stop_accepting)
        assert not server.call(lambda: server.tcp.close_inactive(time.monotonic()))
        assert not close_inactive()
        assert silent.is_closed
        half.socket.sendall(framed(b"second")[4:])
        assert half.answer() == b"second:tcp"
        eventually(close_inactive)
        assert half.is_closed
