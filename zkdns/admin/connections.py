"""Limits on connections to the admin address: their number and their idle time.

They share the supervisor's event loop with other work, which must not wait for a client.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

MAX_CONNECTIONS: Final = 100

_FULL_TEXT = b"too many connections are open\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: zkdns\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s" % (len(_FULL_TEXT), _FULL_TEXT)
)
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

    __slots__ = ("is_stream",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to read requests."""
        self.is_stream = False
        super().connection_made(transport)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """Return whether to keep the sending side open, as `printf … | nc` needs it."""
        if self.is_stream or (self._waiter is not None and not self._waiter.done()):
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
