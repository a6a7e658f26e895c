"""Connections to the admin address: how many there may be, and how long each may do nothing.

They live in the supervisor's event loop, whose other work must never wait for an asker.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

MOST_CONNECTIONS: Final = 100
IDLE_SECONDS: Final = 5
"""How long a request may take to arrive, the first one of a connection too."""

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 35\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\ntoo many connections are open here\n"
)
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER without any time


def connection(server: web.Server | None) -> asyncio.Protocol:
    """What speaks with a new connection."""
    if server is None or len(server.connections) >= MOST_CONNECTIONS:
        return _TurnedAway()
    return Connection(
        server,
        loop=asyncio.get_running_loop(),
        access_log=None,  # type: ignore[arg-type]  # which its documentation has for none
        logger=_logger(),
        keepalive_timeout=IDLE_SECONDS,
        lingering_time=0,
        auto_decompress=False,
    )


def cut_off(transport: asyncio.BaseTransport | None) -> None:
    """End the connection of who does not read what is sent, and let the kernel keep nothing of it."""
    if isinstance(transport, asyncio.WriteTransport):
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        transport.abort()


class _TurnedAway(asyncio.Protocol):
    """A connection beyond the most that there may be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - TCP's is one
        transport.write(_FULL)
        transport.close()


class Connection(web.RequestHandler):
    """A connection whose requests are answered also where the asker says at once that there are no more.

    Attributes:
        is_stream: whether it ends with the asker's half, since its response never does.
    """

    __slots__ = ("is_stream",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read requests."""
        self.is_stream = False
        super().connection_made(transport)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """Half of the connection is closed; say whether the other one stays, as `printf … | nc` needs it."""
        if self.is_stream or (self._waiter is not None and not self._waiter.done()):
            return False  # nothing was asked that is not answered yet
        self.close()
        return True


def _logger() -> logging.Logger:
    """For aiohttp's own mistakes; those that askers make in HTTP are theirs, and answered with 400."""
    logger = logging.getLogger("zkdns.admin.http")
    logger.filters[:] = [_is_no_askers]
    return logger


def _is_no_askers(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
