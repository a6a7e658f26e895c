"""UDP: every datagram its answer, from where it was asked, whatever other askers do."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.waiting import eventually
from tests.transport.helpers import echo, serving
from zkdns.address import HostPort

SECONDS = 5.0


@contextlib.contextmanager
def asker(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        yield sock


def ask(host: str, port: int, message: bytes) -> tuple[bytes, str]:
    """The answer, and from which address it came."""
    with asker(host) as sock:
        sock.sendto(message, (host, port))
        answer, source = sock.recvfrom(65535)
        assert source[1] == port
        return answer, str(source[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1"])
def test_a_datagram_gets_its_answer(host: str) -> None:
    with serving(echo, HostPort(host, 0)) as server:
        assert ask(host, server.address.port, b"question") == (b"udp:question", host)


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.5", "127.1.2.3"])
def test_on_the_ipv4_wildcard_the_answer_leaves_from_the_address_that_was_asked(asked: str) -> None:
    with serving(echo, HostPort("0.0.0.0", 0)) as server:
        assert ask(asked, server.address.port, b"question") == (b"udp:question", asked)


def test_on_the_ipv6_wildcard_the_answer_leaves_from_the_address_that_was_asked() -> None:
    others = _ipv6_addresses()
    with serving(echo, HostPort("::", 0)) as server:
        for asked in ("::1", *others):
            assert ask(asked, server.address.port, b"question") == (b"udp:question", asked)


def _ipv6_addresses() -> list[str]:
    """This machine's other IPv6 addresses that mean something without an interface, if there are any."""
    with open("/proc/net/if_inet6") as lines:  # noqa: PTH123 - proc is no file tree
        packed = [bytes.fromhex(line.split()[0]) for line in lines]
    found = [socket.inet_ntop(socket.AF_INET6, address) for address in packed]
    return [address for address in found if address != "::1" and not address.startswith("fe80")]


def test_a_connected_asker_hears_the_wildcards_answer() -> None:
    with serving(echo, HostPort("0.0.0.0", 0)) as server, asker() as sock:
        sock.connect(("127.0.0.9", server.address.port))  # drops what comes from anywhere else
        sock.send(b"question")
        assert sock.recv(100) == b"udp:question"


@pytest.mark.parametrize("size", [0, 1, 11, 512, 65507], ids="{} bytes".format)
def test_datagrams_of_every_size_are_handed_over_whole(size: int) -> None:
    sent = os.urandom(size)
    heard = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        heard.append((message, stream))
        return b"heard"

    with serving(respond) as server:
        assert ask("127.0.0.1", server.address.port, sent)[0] == b"heard"
    assert heard == [(sent, False)]


def test_none_is_silence() -> None:
    def respond(message: bytes, *, stream: bool) -> bytes | None:
        return echo(message, stream=stream) if message == b"ask" else None

    with serving(respond) as server, asker() as sock:
        for message in (b"", b"hush", b"ask"):
            sock.sendto(message, server.at)
        assert sock.recv(100) == b"udp:ask"  # the first that arrives, and loopback keeps the order
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_askers_that_closed_their_port_stop_nobody_else(host: str) -> None:
    """Their answers come back as ICMP port unreachable."""
    with serving(echo, HostPort(host, 0)) as server:
        at = "127.0.0.1", server.address.port
        for _ in range(200):
            with asker() as gone:
                gone.sendto(b"goodbye", at)
            assert ask(*at, b"question")[0] == b"udp:question"


def test_an_answer_that_cannot_be_sent_costs_only_itself() -> None:
    def respond(message: bytes, *, stream: bool) -> bytes:
        return bytes(70_000) if message == b"long" else echo(message, stream=stream)  # EMSGSIZE

    with serving(respond) as server, asker() as sock:
        for message in (b"long", b"ask", b"long", b"again"):
            sock.sendto(message, server.at)
        assert [sock.recv(100), sock.recv(100)] == [b"udp:ask", b"udp:again"]


def test_a_burst_is_answered_completely_and_in_order() -> None:
    burst = [number.to_bytes(2) for number in range(500)]
    with serving(echo) as server, asker() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        held = threading.Event()
        server.loop.call_soon_threadsafe(held.wait, SECONDS)  # so that all of them wait in the kernel
        for message in burst:
            sock.sendto(message, server.at)
        held.set()
        assert [sock.recv(100) for _ in burst] == [b"udp:" + message for message in burst]


def test_a_stopped_server_answers_no_more_and_leaves_its_socket_open() -> None:
    with serving(echo) as server, asker() as sock:
        server.call(server.udp.stop)
        sock.sendto(b"question", server.at)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        server.call(server.udp.start)  # who comes next finds what has arrived meanwhile
        sock.settimeout(SECONDS)
        assert sock.recv(100) == b"udp:question"


def test_a_burst_of_datagrams_lets_tcp_have_its_turn() -> None:
    heard = []

    def respond(message: bytes, *, stream: bool) -> bytes:
        heard.append(stream)
        return echo(message, stream=stream)

    burst = 300
    with (
        serving(respond) as server,
        socket.create_connection(server.at, timeout=SECONDS) as connection,
        asker() as sock,
    ):
        connection.sendall(b"\0\x08question")
        assert connection.recv(100) == b"\0\x0cquestion:tcp"  # so it is accepted
        held = threading.Event()
        server.loop.call_soon_threadsafe(held.wait, SECONDS)
        for _ in range(burst):
            sock.sendto(b"burst", server.at)
        connection.sendall(b"\0\x08question")
        held.set()
        assert connection.recv(100) == b"\0\x0cquestion:tcp"
        eventually(lambda: len(heard) == burst + 2)
    assert heard.index(True, 1) < burst / 2
