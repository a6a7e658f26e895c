"""Limits on connections to the admin address: their number and their idle time.

They share the supervisor's event loop with other work, which must not wait for a client.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from zkdns.transport.tls import Tls

MAX_CONNECTIONS: Final = 100

_FULL_TEXT = b"too many connections are open\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: zkdns\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s" % (len(_FULL_TEXT), _FULL_TEXT)
)
_RETRY_SECONDS = 0.1
_SHUTDOWN_SECONDS = 1.0  # for a client to end TLS when the connection is closed
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0


def connection(server: web.Server | None, idle_seconds: float) -> asyncio.Protocol:
    """Return the protocol for a new connection.

    Args:
        server: aiohttp's server. None: it has stopped.
        idle_seconds: maximum time for a request to arrive, also for the first one.
    """
    if server is None or len(server.connections) >= MAX_CONNECTIONS:
        return _Rejected()
    return Connection(
        server,
        loop=asyncio.get_running_loop(),
        access_log=None,  # type: ignore[arg-type]  # aiohttp's documentation allows it
        logger=_logger(),
        keepalive_timeout=idle_seconds,
        lingering_time=0,
        auto_decompress=False,
    )


async def accept_tls(sock: socket.socket, tls: Tls, server: web.Server | None, idle_seconds: float) -> None:
    """Accept TLS connections, without end. Clients that have not finished the handshake count too.

    Args:
        sock: the listening socket.
        tls: the certificate.
        server: aiohttp's server.
        idle_seconds: maximum time of a handshake, and for a request to arrive.
    """
    loop = asyncio.get_running_loop()
    handshakes: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                accepted, _ = await loop.sock_accept(sock)
            except OSError:  # too many open files
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if server is None or len(server.connections) + len(handshakes) >= MAX_CONNECTIONS:
                accepted.close()
                continue
            handshake = loop.create_task(_handshake(accepted, tls.context, server, idle_seconds))
            handshakes.add(handshake)
            handshake.add_done_callback(handshakes.discard)
    finally:
        for handshake in handshakes:
            handshake.cancel()


async def _handshake(
    accepted: socket.socket, context: ssl.SSLContext, server: web.Server, seconds: float
) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection(server, seconds),
            accepted,
            ssl=context,
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )
    except OSError:  # also errors of TLS and the time-out
        accepted.close()


def cut_off(transport: asyncio.BaseTransport | None) -> None:
    """Reset the connection of a client that does not read, and discard the kernel's send buffer."""
    if isinstance(transport, asyncio.WriteTransport):
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        transport.abort()


class _Rejected(asyncio.Protocol):
    """A connection over the limit: responds with 503."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - TCP's is one
        transport.write(_FULL)
        transport.close()


class Connection(web.RequestHandler):
    """A connection that still responds after the client has closed its sending side.

    Attributes:
        is_stream: true for an event stream, which has no end of its own, and so ends with the client's side.
    """

    __slots__ = ("_is_tls", "is_stream")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to read requests."""
        self.is_stream = False
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        super().connection_made(transport)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """Return whether to keep the sending side open, as `printf … | nc` needs it. TLS cannot keep it."""
        if self.is_stream or self._is_tls or (self._waiter is not None and not self._waiter.done()):
            return False  # every request has its response
        self.close()
        return True


def _logger() -> logging.Logger:
    """Return a logger for aiohttp's internal errors. Malformed requests get 400 and no log line."""
    logger = logging.getLogger("zkdns.admin.http")
    logger.filters[:] = [_is_internal]
    return logger


def _is_internal(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
