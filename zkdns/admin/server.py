"""A listening socket of the HTTP API, and the task that serves HTTP on it.

There is one for the admin address, and one for the Unix socket, at which only the server's user and root may
connect (mode 0600). Each has limits of its own, so that clients of one cannot block those of the other.

The socket is bound before any process starts, so that an error is reported at once. HTTP is served only after
the DNS server is ready, because aiohttp takes long to load; earlier requests wait in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import structlog

from zkdns.address import HostPort
from zkdns.admin.backend import Backend
from zkdns.admin.timing import DEFAULT, Timing
from zkdns.causes import cause_of
from zkdns.errors import ListenError
from zkdns.transport.sockets import socket_address
from zkdns.transport.tls import Tls

log = structlog.get_logger("zkdns.admin")

_BACKLOG = 128
_MAX_WAIT = 1.0  # seconds for the server to become ready before HTTP is served regardless


class AdminServer:
    """Listens at the admin address, or at a Unix socket.

    Args:
        address: to bind; port 0 means any free port. The Unix socket of a server that has ended is replaced.
        timing: intervals and time limits of the HTTP server.
        tls: the certificate; None: HTTP without TLS.
        sock: the listening socket of another server at this address, which is duplicated.

    Raises:
        ListenError: it cannot be bound.
    """

    def __init__(
        self,
        address: HostPort | Path,
        *,
        timing: Timing = DEFAULT,
        tls: Tls | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self._timing = timing
        self._tls = tls
        self._inode: int | None = None
        self.address: HostPort | Path
        """The bound address."""
        if isinstance(address, Path):
            self.address = address
            self._sock = _listen_at_path(address)
            self._inode = address.stat().st_ino
        else:
            self._sock = sock.dup() if sock is not None else _listen(address)
            self.address = HostPort(address.host, self._sock.getsockname()[1])
        self._serving: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def with_tls(self, address: HostPort, tls: Tls | None) -> AdminServer:
        """Return another server at the same address, which begins to accept when this one stops."""
        return AdminServer(address, timing=self._timing, tls=tls, sock=self._sock)

    @property
    def url(self) -> str:
        """The address for people and programs: a URL, or the path of a Unix socket."""
        if isinstance(self.address, Path):
            return str(self.address)
        return f"{'https' if self._tls else 'http'}://{self.address}"

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
        if isinstance(self.address, Path) and self._inode is not None:
            with contextlib.suppress(OSError):  # removed, or replaced by another server
                if self.address.stat().st_ino == self._inode:
                    self.address.unlink()
            self._inode = None
        self._closed.set()

    async def _serve(self, make_backend: Callable[[], Backend], ready: asyncio.Event) -> None:
        """Serve until cancelled. An error here stops the admin address only."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MAX_WAIT):
                    await ready.wait()
            serve, backend = await asyncio.to_thread(lambda: (_load(), make_backend()))
            gc.freeze()  # the modules; otherwise each full garbage collection takes 10 ms
            is_local = isinstance(self.address, Path)
            await serve(self._sock, backend, self._closed, self._timing, is_local=is_local, tls=self._tls)
        except Exception:
            log.exception("admin_server_failed")


def _listen(address: HostPort) -> socket.socket:
    sock: socket.socket | None = None
    try:
        family, at = socket_address(address.host, address.port)
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(at)
        sock.listen(_BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        is_taken = error.errno == errno.EADDRINUSE
        other = f" (ss -lntp 'sport = :{address.port}' names the program)" if is_taken else ""
        raise ListenError(
            f"cannot listen on {address} for admin requests: {cause_of(error)}{other}; "
            "choose another address with --admin ADDR:PORT, or none with --admin none"
        ) from None
    return sock


def _listen_at_path(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead_socket(path)
        before = os.umask(0o177)  # no other user may connect, not even for a moment
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
        sock.setblocking(False)
        sock.listen(_BACKLOG)
    except (OSError, ListenError) as error:
        sock.close()
        raise ListenError(cause_of(error)) from None
    return sock


def _remove_dead_socket(path: Path) -> None:
    """Remove the Unix socket of a server that has ended.

    Raises:
        ListenError: a server listens there, or the path is not a socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError("the path exists and is not a socket")
        if _is_served(path):
            raise ListenError("another server listens there")
        path.unlink()


def _is_served(path: Path) -> bool:
    """Whether a process listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # its backlog is full
            return True
    return True


class _Serve(Protocol):
    """The type of `zkdns.admin.http.serve`."""

    def __call__(
        self,
        sock: socket.socket,
        backend: Backend,
        closed: asyncio.Event,
        timing: Timing,
        *,
        is_local: bool,
        tls: Tls | None,
    ) -> Awaitable[None]: ...


def _load() -> _Serve:
    from zkdns.admin.http import serve  # noqa: PLC0415 - aiohttp takes as long to load as the server to start

    return serve
