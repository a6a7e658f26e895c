"""The blocking DNS client, with servers that respond once; `zkdns lookup` tests what they get wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.loopback import paired_sockets
from tests.support.web import closed_udp_port
from zkdns.address import HostPort
from zkdns.dns.client_messages import BadResponseError, build_query
from zkdns.dns.message import Type
from zkdns.names import parse_name
from zkdns.transport.dns_client import NoResponseError, exchange, exchange_tcp, exchange_udp

QUERY = build_query(parse_name("discovery"), Type.SOA, ident=7)
TIMEOUT = 10.0

Reply = Callable[[bytes], bytes]


def noerror(query: bytes) -> bytes:
    return query[:2] + b"\x81\x00" + query[4:]


def truncated(query: bytes) -> bytes:
    return query[:2] + b"\x83\x00" + query[4:]


def framed(query: bytes) -> bytes:
    return len(query).to_bytes(2) + noerror(query)


@contextlib.contextmanager
def responding(udp: Reply | None = None, tcp: Reply | None = None) -> Iterator[HostPort]:
    """A server that responds once over each transport that has a reply."""
    datagrams, listener = paired_sockets()
    with datagrams, listener:
        listener.listen()

        def serve() -> None:
            if udp is not None:
                query, client = datagrams.recvfrom(512)
                datagrams.sendto(udp(query), client)
            if tcp is not None:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(tcp(connection.recv(512)[2:]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield HostPort("127.0.0.1", listener.getsockname()[1])
        finally:
            thread.join()


def test_udp() -> None:
    with responding(udp=noerror) as server:
        response = exchange_udp(server, QUERY, TIMEOUT)
    assert (response.header.id, response.header.tc) == (7, 0)


def test_tcp() -> None:
    with responding(tcp=framed) as server:
        assert exchange_tcp(server, QUERY, TIMEOUT).header.id == 7


def test_a_truncated_response_is_fetched_over_tcp() -> None:
    with responding(udp=truncated) as server:
        assert exchange_udp(server, QUERY, TIMEOUT).header.tc == 1
    with responding(udp=truncated, tcp=framed) as server:
        assert exchange(server, QUERY, TIMEOUT).header.tc == 0


def test_a_response_to_another_query_is_refused() -> None:
    with (
        responding(udp=lambda query: b"\0\0" + noerror(query)[2:]) as server,
        pytest.raises(BadResponseError, match="another query"),
    ):
        exchange(server, QUERY, TIMEOUT)


@pytest.mark.parametrize("call", [exchange_udp, exchange_tcp])
def test_a_closed_port_is_reported_at_once(call: Callable[[HostPort, bytes, float], object]) -> None:
    with (
        closed_udp_port() as port,
        pytest.raises(NoResponseError, match="cannot be reached: connection refused"),
    ):
        call(HostPort("127.0.0.1", port), QUERY, TIMEOUT)


def test_a_silent_server_is_a_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = HostPort("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(NoResponseError, match=r"did not respond within 0\.1 s"):
            exchange(server, QUERY, 0.1)


def test_a_host_that_is_unknown_is_reported() -> None:
    with pytest.raises(NoResponseError, match="cannot be reached: "):
        exchange(HostPort("fe80::1%nowhere", 53), QUERY, 0.1)
