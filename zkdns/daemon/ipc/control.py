"""The control socket: a Unix socket over which commands send requests to a running server.

    client ──▶ one request ──▶ server ──▶ one response, then the server closes the connection
                                      ├─▶ Dumped, Contents, Contents, …, ended by an empty one
                                      ╰─▶ ServiceList, ServiceList, …, ended by an empty one

Every process that can write to the socket controls the server, so only the server's user may (mode 0600). If
the socket cannot be created, or another server listens at its path, the server runs without one.

The messages are in `control_messages.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import structlog

from zkdns.daemon.ipc.control_messages import Refused, Request, Response
from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.errors import ZkdnsError

log = structlog.get_logger("zkdns.control")

TIMEOUT_SECONDS = 5.0
"""Time-out of a request, and of each response."""
_MAX_REQUEST_BYTES = 1 << 16
_UCRED = struct.Struct("3i")  # unix(7): pid, uid, gid

Responses: TypeAlias = Response | Iterator[Response]
Respond: TypeAlias = Callable[[Request], Responses | Awaitable[Responses]]
REQUESTS: FrameCodec[Request] = FrameCodec(Request, max_bytes=_MAX_REQUEST_BYTES)  # type: ignore[arg-type]  # as below
RESPONSES: FrameCodec[Response] = FrameCodec(Response)  # type: ignore[arg-type]  # a union is no type to mypy


def private_control_path(feed: str) -> str:
    """Return the path of the watcher's control socket for the supervisor, next to its feed socket."""
    return f"{feed}.control"


def reload_socket_path(control: str) -> str:
    """Return the path of the supervisor's control socket for `Reload`, next to that of the watcher.

    The supervisor has its own, because a reload may replace the watcher.
    """
    return f"{control}.reload"


class ControlError(ZkdnsError):
    """The server is unreachable or does not respond. The text gives the reason and a remedy."""


# -- server --------------------------------------------------------------------------------------------------


class ControlServer:
    """Listens at a control socket and answers requests.

    Args:
        path: path of the socket; the socket of a server that has ended is replaced. None: do not listen.
        respond: called in the event loop with each request. It returns a response, an iterator of responses,
            or an awaitable of one of those. The next response of an iterator is created when the previous one
            has been sent, and other tasks run in between.
        timeout: seconds in which a client must send its request, and read each response.
    """

    def __init__(self, path: str | None, respond: Respond, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._path = Path(path) if path is not None else None
        self._respond = respond
        self._timeout = timeout
        self._server: asyncio.Server | None = None
        self._inode: int | None = None

    async def start(self, predecessor: int | None = None) -> None:
        """Listen. A failure is logged and not raised.

        Args:
            predecessor: process id of a server that this one replaces. Its socket is taken over while it
                still listens; the sockets of other processes are not.
        """
        if self._path is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        takes_over = predecessor is not None and _listening_pid(self._path) == predecessor
        # Renamed over the predecessor's socket when it listens, so that connecting never fails.
        bound = self._path.with_name(f"{self._path.name}.new") if takes_over else self._path
        try:
            _bind(sock, bound)
        except (OSError, ControlError) as error:
            sock.close()
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            log.warning("control_socket_failed", path=str(self._path), reason=reason)
            return
        self._inode = bound.stat().st_ino
        self._server = await asyncio.start_unix_server(self._serve_connection, sock=sock)
        bound.replace(self._path)

    def close(self) -> None:
        """Stop listening and remove the socket, unless another server has replaced it."""
        if self._server is None or self._path is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                request = await REQUESTS.read(reader)
            if request is None:
                return
            async with contextlib.aclosing(self._responses_to(request)) as responses:
                async for response in responses:
                    writer.write(RESPONSES.encode(response))
                    async with asyncio.timeout(self._timeout):
                        await writer.drain()
                    await asyncio.sleep(0)  # drain() alone does not yield to other tasks
        except msgspec.DecodeError:
            reason = "the request is unknown to this version of zkdns"
            writer.write(RESPONSES.encode(Refused("invalid", reason)))
        except asyncio.CancelledError:
            return  # the process ends; asyncio of Python 3.11 would log a cancellation as an error
        except (TimeoutError, ConnectionError):
            writer.transport.abort()  # the client does not read
        finally:
            writer.close()

    async def _responses_to(self, request: Request) -> AsyncGenerator[Response]:
        try:
            response = self._respond(request)
            if isinstance(response, Awaitable):
                response = await response
            if isinstance(response, Iterator):
                for part in response:
                    yield part
            else:
                yield response
        except Exception:  # an internal error must not end the server
            log.exception("control_request_failed", request=repr(request))
            yield Refused("invalid", "internal error; the server's log has the details")


def _bind(sock: socket.socket, path: Path) -> None:
    """Bind a socket to a path at which no server listens.

    Raises:
        OSError, ControlError: the reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError("the path exists and is not a socket")
        if _is_served(path):
            raise ControlError("another server listens there")
        path.unlink()
    before = os.umask(0o177)  # no other user may connect, not even for a moment
    try:
        sock.bind(os.fspath(path))
    finally:
        os.umask(before)


def _listening_pid(path: Path) -> int | None:
    """Return the id of the process that listens at a socket. None: no process does, or it is unknown."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(TIMEOUT_SECONDS)
        probe.connect(os.fspath(path))
        pid, _, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(pid)
    return None


def _is_served(path: Path) -> bool:
    """Whether a process listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TIMEOUT_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            return True
    return True


# -- client --------------------------------------------------------------------------------------------------


async def send_request(path: str, request: Request, seconds: float = TIMEOUT_SECONDS) -> Response:
    """Send a request and return the first response.

    Args:
        path: path of the control socket.
        request: the request.
        seconds: time-out of the response.

    Raises:
        ControlError: the server is unreachable, does not permit the connection, or does not respond.
    """
    async with contextlib.aclosing(stream_responses(path, request, seconds)) as received:
        return await anext(received)


async def stream_responses(
    path: str, request: Request, seconds: float = TIMEOUT_SECONDS
) -> AsyncGenerator[Response]:
    """Send a request and yield all responses. The caller stops after the last one, as the request defines it.

    Args:
        path: path of the control socket.
        request: the request.
        seconds: time-out of each response.

    Raises:
        ControlError: as for `send_request`; also if the server closes the connection.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(REQUESTS.encode(request))
        while True:
            async with asyncio.timeout(seconds):
                response = await RESPONSES.read(reader)
            if response is None:
                raise ControlError(f"the server at {path} closed the connection without a response")
            yield response
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(
            f"no server listens at {path}; start one, or name another's socket with --control"
        ) from None
    except PermissionError:
        raise ControlError(
            f"this user may not use {path}; run the command as the user that the server runs as"
        ) from None
    except TimeoutError:
        raise ControlError(f"the server at {path} does not answer within {seconds:g} s") from None
    except msgspec.DecodeError:
        raise ControlError(f"the server at {path} is of another version of zkdns") from None
    except OSError as error:
        raise ControlError(f"{path} cannot be reached: {error.strerror or error}") from None
    finally:
        if writer is not None:
            writer.close()
