"""The admin address: health, figures and what the server does over HTTP, for machines and people.

It is bound before anything is started, so that a mistake is told at once; and served when the server answers,
so that nobody waits for aiohttp to be loaded. What is asked meanwhile waits in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import structlog

from zkdns.address import HostPort
from zkdns.errors import ListenError
from zkdns.observe.status import Server
from zkdns.transport.sockets import socket_address

log = structlog.get_logger("zkdns.admin")

_BACKLOG = 128
_PATIENCE = 1.0  # seconds that a server may take to be ready until health is told in any case


class AdminServer:
    """Listens at the admin address.

    Args:
        address: where; port 0 means any free one.

    Raises:
        ListenError: it cannot be bound.
    """

    def __init__(self, address: HostPort) -> None:
        try:
            self._sock = _listen(address)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {address} for admin requests: {error.strerror}; "
                "choose another address with --admin ADDR:PORT, or none with --admin none"
            ) from None
        self.address = HostPort(address.host, self._sock.getsockname()[1])
        """Where it really listens."""
        self._serving: asyncio.Task[None] | None = None
        self._left = asyncio.Event()

    def start(self, find: Callable[[], Server], ready: asyncio.Event) -> None:
        """Begin to answer, in the event loop that runs.

        Args:
            find: makes what is told of, in another thread, when there is time to load what that needs.
            ready: set when the server is, after which there is.
        """
        self._serving = asyncio.create_task(self._serve(find, ready))
        self._serving.add_done_callback(lambda _: self.close())

    async def leave(self) -> None:
        """Listen no more; who has asked already is answered, where that takes but a moment."""
        if self._serving is None:
            self.close()
            return
        if not self._left.is_set():  # a second time would end what is still answered
            self._serving.cancel()
        await self._left.wait()

    async def stop(self) -> None:
        """Listen no more, and wait until nobody is answered any more."""
        await self.leave()
        if self._serving is not None:
            await asyncio.wait([self._serving])

    def close(self) -> None:
        """Listen no more, where it was not started, or is no more."""
        self._sock.close()
        self._left.set()

    async def _serve(self, find: Callable[[], Server], ready: asyncio.Event) -> None:
        """Answer until cancelled; what fails here costs the admin address alone."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await ready.wait()
            serve, server = await asyncio.to_thread(lambda: (_load(), find()))
            await serve(self._sock, server, self._left)
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


def _load() -> Callable[[socket.socket, Server, asyncio.Event], Awaitable[None]]:
    from zkdns.observe.web import serve  # noqa: PLC0415 - aiohttp takes as long to load as the server to start

    return serve
