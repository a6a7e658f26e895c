"""Per-client responses: each client gets its own, and no other client waits for it."""

from __future__ import annotations

import ipaddress
import itertools
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.transport.helpers import DatagramAnswers, StreamAnswers, datagram, echo, serving
from tests.transport.tcp_client import framed, read_messages
from tests.transport.udp_client import SECONDS, Serve, ask, receives_nothing_more, udp_client
from zkdns.address import HostPort
from zkdns.transport.contract import DeferredResponse, Deliver, ResponseLookup, for_client


class AddressLookup(dict[bytes, Iterator[bytes]]):
    """Answers "whoami" with the client's address, "later…" with the same but deferred; echoes all others."""

    def __init__(self, others: ResponseLookup, form: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._others, self._codec = others, form

    def __missing__(self, key: bytes) -> Iterator[bytes]:
        query = key.rstrip(b"\0")
        if query.startswith(b"whoami"):
            return itertools.repeat(for_client(self._append_address, b"-", b""))
        if query.startswith(b"later"):
            return itertools.repeat(DeferredResponse(self._begin))
        if query.startswith(b"wrong"):
            return itertools.repeat(for_client(_fail, b"-", b""))
        return self._others[key]

    def _begin(self, deliver: Deliver, _client: bytes) -> None:
        deliver(lambda: for_client(self._append_address, b"-", b"late "))

    def _append_address(self, _response: bytes, cookie: bytes, address: bytes) -> bytes:
        return self._codec(cookie + address.hex().encode())


def _fail(_response: bytes, _cookie: bytes, _address: bytes) -> bytes:
    raise ValueError("unknown address")


def packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed.hex().encode()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_over_udp_each_client_gets_its_own_address(serve: Serve, address: str) -> None:
    host = "127.0.0.5" if "." in address and address != "127.0.0.1" else address.replace("::", "::1")
    host = "::1" if ":" in address else host
    with (
        serve(echo, HostPort(address, 0), datagrams=AddressLookup(DatagramAnswers(echo), datagram)) as server,
        udp_client(host) as one,
        udp_client(host) as other,
    ):
        if "." in address:
            other.bind(("127.0.0.7", 0))
        for sock in (one, other):
            sock.connect((host, server.address.port))
        with server.udp_stopped():
            for number, sock in enumerate((one, other) * 3):
                sock.send(b"%2d" % number + (b"whoami", b"plain", b"later")[number // 2])
        for sock in (one, other):
            own = packed(sock.getsockname()[0])
            received = {sock.recv(100)[2:] for _ in range(3)}
            assert received == {own, b"late " + own, b"plain:udp"}
        assert server.udp.lost == 0


def test_over_udp_a_long_query_gets_its_address_too(serve: Serve) -> None:
    with serve(echo, datagrams=AddressLookup(DatagramAnswers(echo), datagram)) as server:
        long = b"idwhoami" + b"!" * 200
        assert ask("127.0.0.1", server.address.port, long)[0] == b"id" + packed("127.0.0.1")


def test_over_udp_an_internal_error_costs_one_response(serve: Serve) -> None:
    with (
        serve(echo, datagrams=AddressLookup(DatagramAnswers(echo), datagram)) as server,
        udp_client() as sock,
    ):
        sock.connect(server.at)
        with server.udp_stopped():
            for message in (b"a1wrong", b"b2whoami", b"c3wrong", b"d4"):
                sock.send(message)
        assert {sock.recv(100) for _ in range(2)} == {b"b2" + packed("127.0.0.1"), b"d4:udp"}
        assert receives_nothing_more(sock)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_over_tcp_per_client_responses_keep_their_order(host: str) -> None:
    streams = AddressLookup(StreamAnswers(echo), bytes)
    with serving(echo, HostPort(host, 0), streams=streams, idle_seconds=SECONDS) as server:
        for source in ("127.0.0.1", "127.0.0.9") if "." in host else ("::1",):
            with socket.create_connection(server.at, SECONDS, source_address=(source, 0)) as sock:
                sock.sendall(framed(b"a1", b"b2whoami", b"c3", b"d4whoami"))
                assert read_messages(sock, 4) == [
                    b"a1:tcp", b"b2" + packed(source), b"c3:tcp", b"d4" + packed(source)
                ]  # fmt: skip
                sock.sendall(framed(b"e5later"))
                assert read_messages(sock, 1) == [b"e5late " + packed(source)]


def test_over_tcp_an_internal_error_closes_only_its_connection() -> None:
    with serving(echo, streams=AddressLookup(StreamAnswers(echo), bytes)) as server:
        with socket.create_connection(server.at, SECONDS) as sock:
            sock.sendall(framed(b"a1wrong"))
            assert sock.recv(100) == b""
        with socket.create_connection(server.at, SECONDS) as sock:
            sock.sendall(framed(b"b2whoami"))
            assert read_messages(sock, 1) == [b"b2" + packed("127.0.0.1")]
