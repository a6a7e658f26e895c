"""A blocking DNS client for tools and self-checks: one query over UDP, TCP or TLS, one response."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import dnslib

from zkdns.address import HostPort
from zkdns.causes import cause_of
from zkdns.dns.client_messages import BadResponseError, parse_response
from zkdns.transport.framing import LENGTH

if TYPE_CHECKING:
    import ssl

_MAX_MESSAGE = 65535


class NoResponseError(BadResponseError):
    """There was no complete response. The text gives the reason."""


def exchange(server: HostPort, query: bytes, timeout: float) -> dnslib.DNSRecord:
    """Send a query over UDP, and again over TCP if the response is truncated.

    Args:
        server: an address or a host name, and a port.
        query: as `build_query` returns it.
        timeout: seconds to wait for each of the two transports.

    Raises:
        NoResponseError: the server is unreachable, or does not respond in time.
        BadResponseError: the response is malformed, or does not match the query.
    """
    response = exchange_udp(server, query, timeout)
    return exchange_tcp(server, query, timeout) if response.header.tc else response


def exchange_udp(server: HostPort, query: bytes, timeout: float) -> dnslib.DNSRecord:
    """Send a query over UDP; see `exchange`."""
    try:
        # A connected socket reports a closed port at once.
        with _connected(server, socket.SOCK_DGRAM, timeout) as sock:
            sock.send(query)
            message = sock.recv(_MAX_MESSAGE)
    except OSError as error:
        raise _no_response(error, timeout) from None
    return parse_response(query, message)


def exchange_tcp(
    server: HostPort, query: bytes, timeout: float, tls: ssl.SSLContext | None = None
) -> dnslib.DNSRecord:
    """Send a query over TCP, or with `tls` over TLS; see `exchange`."""
    try:
        with (
            _connected(server, socket.SOCK_STREAM, timeout) as plain,
            tls.wrap_socket(plain, server_hostname=server.host) if tls is not None else plain as sock,
        ):
            sock.sendall(LENGTH.pack(len(query)) + query)
            with sock.makefile("rb") as stream:
                prefix = stream.read(LENGTH.size)
                length = int.from_bytes(prefix)
                message = stream.read(length)
    except OSError as error:
        raise _no_response(error, timeout) from None
    if len(prefix) < LENGTH.size or len(message) < length:
        raise NoResponseError("closed the connection before the end of the response")
    return parse_response(query, message)


def _connected(server: HostPort, kind: socket.SocketKind, timeout: float) -> socket.socket:
    to: tuple[Any, ...]
    family, _, _, _, to = socket.getaddrinfo(server.host, server.port, type=kind)[0]
    sock = socket.socket(family, kind)
    try:
        sock.settimeout(timeout)
        sock.connect(to)
    except OSError:
        sock.close()
        raise
    return sock


def _no_response(error: OSError, timeout: float) -> NoResponseError:
    if isinstance(error, TimeoutError):
        return NoResponseError(f"did not respond within {timeout:g} s")
    return NoResponseError(f"cannot be reached: {cause_of(error)}")
