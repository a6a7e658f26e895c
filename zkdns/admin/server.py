"""The listening socket of the admin address, and the task that serves HTTP on it.

The socket is bound before any process starts, so that an error is reported at once. HTTP is served only after
the DNS server is ready, because aiohttp takes long to load; earlier requests wait in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import structlog

from zkdns.address import HostPort
from zkdns.admin.status import Backend
from zkdns.admin.timing import DEFAULT, Timing
from zkdns.errors import ListenError
from zkdns.transport.sockets import socket_address

log = structlog.get_logger("zkdns.admin")

_BACKLOG = 128
_MAX_WAIT = 1.0  # seconds for the server to become ready before HTTP is served regardless


class AdminServer:
    """Listens at the admin address.

    Args:
        address: to bind; port 0 means any free port.
        timing: intervals and time limits of the HTTP server.

    Raises:
        ListenError: it cannot be bound.
    """

    def __init__(self, address: HostPort, *, timing: Timing = DEFAULT) -> None:
        self._timing = timing
        try:
            self._sock = _listen(address)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address} for admin requests: {error.strerror}; "
                "choose another address with --admin ADDR:PORT, or none with --admin none"
            ) from None
        self.address = HostPort(address.host, self._sock.getsockname()[1])
        """The bound address."""
        self._serving: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def start(self, make_backend: Callable[[], Backend], ready: asyncio.Event) -> None:
        """Serve in the running event loop.

        Args:
            make_backend: creates the backend. Called in another thread, since it may load modules.
            ready: set when the DNS server is ready.
        """
        self._serving = asyncio.create_task(self._serve(make_backend, ready))
        self._serving.add_done_callback(lambda _: self.close())

    async def stop_listening(self) -> None:
        """Close the socket, and return. Requests in progress may finish within a moment."""
        if self._serving is None:
            self.close()
            return
        if not self._closed.is_set():  # a second cancellation would end the requests in progress
            self._serving.cancel()
        await self._closed.wait()

    async def stop(self) -> None:
        """Close the socket, and wait for the requests in progress."""
        await self.stop_listening()
        if self._serving is not None:
            await asyncio.wait([self._serving])

    def close(self) -> None:
        """Close the socket of a server that was not started or has ended."""
        self._sock.close()
        self._closed.set()

    async def _serve(self, make_backend: Callable[[], Backend], ready: asyncio.Event) -> None:
        """Serve until cancelled. An error here stops the admin address only."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MAX_WAIT):
                    await ready.wait()
            serve, backend = await asyncio.to_thread(lambda: (_load(), make_backend()))
            await serve(self._sock, backend, self._closed, self._timing)
        except Exception:
            log.exception("admin_server_failed")


def _listen(address: HostPort) -> socket.socket:
    family, at = socket_address(address.host, address.port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(at)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _load() -> Callable[[socket.socket, Backend, asyncio.Event, Timing], Awaitable[None]]:
    from zkdns.admin.http import serve  # noqa: PLC0415 - aiohttp takes as long to load as the server to start

    return serve
