"""Deferred responses: they reach their clients, and delay no others."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.waiting import eventually
from tests.transport.helpers import DatagramAnswers, Running, StreamAnswers, datagram, echo, serving
from tests.transport.tcp_client import framed, read_messages
from tests.transport.udp_client import SECONDS, Serve, ask, receives_nothing_more, udp_client
from zkdns.address import HostPort
from zkdns.transport.contract import DeferredResponse, Deliver, ResponseLookup


class DeferringLookup(dict[bytes, Iterator[bytes]]):
    """Defers the responses to queries that start with "later", and answers all others at once."""

    def __init__(self, at_once: ResponseLookup) -> None:
        self.waiting: dict[bytes, Deliver] = {}
        self._at_once = at_once

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        if not key.startswith(b"later"):
            return self._at_once[key]
        name = key.rstrip(b"\0")[:6]
        if name == b"laterX":
            return itertools.repeat(DeferredResponse(_fail))

        def begin(deliver: Deliver, _client: bytes) -> None:
            self.waiting[name] = deliver

        return itertools.repeat(DeferredResponse(begin))

    def deliver(self, server: Running, name: bytes, body: bytes) -> None:
        """Answer the query once it has arrived."""
        eventually(lambda: name in self.waiting)
        server.call(lambda: self.waiting.pop(name)(lambda: body, len(body)))


def _fail(_: Deliver, _client: bytes) -> None:
    raise ValueError("cannot be deferred")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_dns_24_a_deferred_datagram_leaves_from_the_address_of_the_query(serve: Serve, address: str) -> None:
    host = {"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.5"}.get(address, "::1")
    lookup = DeferringLookup(DatagramAnswers(echo))
    with (
        serve(echo, HostPort(address, 0), datagrams=lookup) as server,
        udp_client(host) as one,
        udp_client(host) as two,
    ):
        at = (host, server.address.port)
        for sock in (one, two):
            sock.connect(at)  # so that it receives from the server only
        with server.udp_stopped():
            one.send(b"a1later1")
            two.send(b"b2later2")
            one.send(b"c3at once")
        assert one.recv(100) == b"c3at once:udp"
        lookup.deliver(server, b"later2", datagram(b"the second"))
        lookup.deliver(server, b"later1", datagram(b"the first"))
        assert (one.recv(100), two.recv(100)) == (b"a1the first", b"b2the second")
        assert ask(host, server.address.port, b"id") == (b"id:udp", host)
        assert server.udp.lost == 0


def test_a_deferred_datagram_may_be_empty_and_an_error_costs_only_one(serve: Serve) -> None:
    lookup = DeferringLookup(DatagramAnswers(echo))
    with serve(echo, datagrams=lookup) as server, udp_client() as sock:
        sock.connect(server.at)
        with server.udp_stopped():
            for message in (b"a1laterX", b"b2later2", b"c3later3", b"d4"):
                sock.send(message)
        assert sock.recv(100) == b"d4:udp"
        lookup.deliver(server, b"later2", b"")
        lookup.deliver(server, b"later3", datagram(b"yes"))
        assert sock.recv(100) == b"c3yes"
        assert receives_nothing_more(sock)


def test_nothing_is_sent_after_the_end(serve: Serve) -> None:
    lookup = DeferringLookup(DatagramAnswers(echo))
    with serve(echo, datagrams=lookup) as server, udp_client() as sock:
        sock.sendto(b"a1later1", server.at)
        eventually(lambda: b"later1" in lookup.waiting)
        with server.udp_stopped():
            lookup.deliver(server, b"later1", datagram(b"too late"))
            assert receives_nothing_more(sock)


# -- over TCP -----------------------------------------------------------------------------------------------


@pytest.fixture
def lookup() -> DeferringLookup:
    return DeferringLookup(StreamAnswers(echo))


@pytest.fixture
def server(lookup: DeferringLookup) -> Iterator[Running]:
    with serving(echo, streams=lookup, idle_seconds=SECONDS) as running:
        yield running


@pytest.fixture
def sock(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(server.at, SECONDS) as connected:
        yield connected


def test_dns_27_over_tcp_deferred_responses_come_in_any_order(
    lookup: DeferringLookup, server: Running, sock: socket.socket
) -> None:
    sock.sendall(framed(b"a1later1", b"b2later2", b"c3"))
    assert read_messages(sock, 1) == [b"c3:tcp"]
    lookup.deliver(server, b"later2", b"two")
    assert read_messages(sock, 1) == [b"b2two"]
    sock.sendall(framed(b"d4"))
    assert read_messages(sock, 1) == [b"d4:tcp"]
    lookup.deliver(server, b"later1", b"one")
    assert read_messages(sock, 1) == [b"a1one"]


def test_dns_28_over_tcp_deferred_responses_follow_a_half_close(
    lookup: DeferringLookup, server: Running, sock: socket.socket
) -> None:
    sock.sendall(framed(b"a1later1", b"b2later2"))
    sock.shutdown(socket.SHUT_WR)
    lookup.deliver(server, b"later2", b"")  # there will be no response
    lookup.deliver(server, b"later1", b"one")
    assert read_messages(sock, 1) == [b"a1one"]
    assert sock.recv(100) == b""


def test_over_tcp_deferred_responses_wait_until_the_client_reads(
    lookup: DeferringLookup, server: Running, sock: socket.socket
) -> None:
    much = bytes(60_000)
    names = [b"later%c" % letter for letter in b"abcdefghijklmnopqrstuvwxyz0123456789"]
    sock.sendall(framed(*(b"id" + name for name in names)))
    for name in names:
        lookup.deliver(server, name, much)
    assert read_messages(sock, len(names)) == [b"id" + much] * len(names)
    sock.sendall(framed(b"a1"))
    assert read_messages(sock, 1) == [b"a1:tcp"]


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_over_tcp_a_response_to_a_closed_connection_is_dropped(
    lookup: DeferringLookup, server: Running, how: str
) -> None:
    with socket.create_connection(server.at, SECONDS) as gone:
        gone.sendall(framed(b"a1later1"))
        eventually(lambda: b"later1" in lookup.waiting)
        if how == "reset":
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(2):
        lookup.deliver(server, b"later1", bytes(60_000))
        with socket.create_connection(server.at, SECONDS) as other:
            other.sendall(framed(b"b2", b"c3later1"))
            assert read_messages(other, 1) == [b"b2:tcp"]


def test_over_tcp_an_internal_error_closes_only_its_connection(server: Running, sock: socket.socket) -> None:
    with socket.create_connection(server.at, SECONDS) as other:
        other.sendall(framed(b"a1laterX"))
        assert other.recv(100) == b""
    sock.sendall(framed(b"b2"))
    assert read_messages(sock, 1) == [b"b2:tcp"]
