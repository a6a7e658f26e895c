"""Requests of the supervisor to the watcher, over a Unix socket in the server's private directory.

    supervisor ──▶ one request ──▶ watcher ──▶ one response, then the watcher closes the connection
                                           ├─▶ ServiceList, ServiceList, …, ended by an empty one
                                           ╰─▶ Lines, Lines, …, ended by an empty one

The HTTP API is the only user, and `zkdns dump` with a watcher in its own process. The messages are in
`request_messages.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
import structlog

from zkdns.causes import cause_of
from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.daemon.ipc.request_messages import Refused, Request, Response
from zkdns.errors import ZkdnsError

log = structlog.get_logger("zkdns.watcher")

TIMEOUT_SECONDS = 5.0
"""Time-out of a request, and of each response."""
_MAX_REQUEST_BYTES = 1 << 16
_RETRY_SECONDS = 0.02

T = TypeVar("T")

Responses: TypeAlias = Response | Iterator[Response]
Respond: TypeAlias = Callable[[Request], Responses | Awaitable[Responses]]


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The frame of a response. The request determines the type of its body."""

    refused: Refused | None
    body: msgspec.Raw = msgspec.Raw(b"\xc0")  # nil


REQUESTS: FrameCodec[Request] = FrameCodec(Request, max_bytes=_MAX_REQUEST_BYTES)  # type: ignore[arg-type]  # a union is no type to mypy
REPLIES = FrameCodec(Reply)


def requests_path(feed: str) -> str:
    """Return the path of the watcher's socket for requests, next to its feed socket."""
    return f"{feed}.requests"


class RequestFailedError(ZkdnsError):
    """The watcher is unreachable, or does not respond."""


class RequestRefusedError(ZkdnsError):
    """The watcher refused the request."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused
        super().__init__(refused.message)


# -- watcher -------------------------------------------------------------------------------------------------


class RequestServer:
    """Listens at a socket of its own and answers requests.

    Args:
        path: path of the socket.
        respond: called in the event loop with each request. It returns a response, an iterator of responses,
            or an awaitable of one of those. The next response of an iterator is created when the previous one
            has been sent, and other tasks run in between.
        timeout: seconds in which the supervisor must send its request, and read each response.
    """

    def __init__(self, path: str, respond: Respond, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._path = Path(path)
        self._respond = respond
        self._timeout = timeout
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: it is impossible.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path.unlink(missing_ok=True)  # of a watcher that was killed
        before = os.umask(0o177)  # no other user may connect, not even for a moment
        try:
            sock.bind(os.fspath(self._path))
        finally:
            os.umask(before)
        self._server = await asyncio.start_unix_server(self._serve_connection, sock=sock)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                request = await REQUESTS.read(reader)
            if request is None:
                return
            async with contextlib.aclosing(self._responses_to(request)) as responses:
                async for response in responses:
                    writer.write(_encode(response))
                    async with asyncio.timeout(self._timeout):
                        await writer.drain()
                    await asyncio.sleep(0)  # drain() alone does not yield to other tasks
        except msgspec.DecodeError:
            writer.write(_encode(Refused("invalid", "the request is unknown to this version of zkdns")))
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
        except Exception:  # an internal error must not end the watcher
            log.exception("watcher_request_failed", request=repr(request))
            yield Refused("failed", "internal error; the server's log has the details")


def _encode(response: Response) -> bytes:
    if isinstance(response, Refused):
        return REPLIES.encode(Reply(response))
    return REPLIES.encode(Reply(None, msgspec.Raw(msgspec.msgpack.encode(response))))


# -- supervisor ----------------------------------------------------------------------------------------------


async def send_request(path: str, request: Request, response: type[T], *, wait: float = 0.0) -> T:
    """Send a request and return the first response.

    Args:
        path: path of the watcher's socket.
        request: the request.
        response: the type of its response.
        wait: seconds to wait for a watcher that is starting.

    Raises:
        RequestFailedError: the watcher is unreachable or does not respond.
        RequestRefusedError: it refused the request.
    """
    async with contextlib.aclosing(stream_responses(path, request, response, wait=wait)) as received:
        return await anext(received)


async def stream_responses(
    path: str, request: Request, response: type[T], *, wait: float = 0.0
) -> AsyncGenerator[T]:
    """Send a request and yield all responses. The caller stops after the last one, as the request defines it.

    Args:
        path: path of the watcher's socket.
        request: the request.
        response: the type of its responses.
        wait: seconds to wait for a watcher that is starting.

    Raises:
        RequestFailedError, RequestRefusedError: as for `send_request`; also if the connection closes.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(wait + TIMEOUT_SECONDS):
            reader, writer = await _connect(path, wait)
        writer.write(REQUESTS.encode(request))
        while True:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reply = await REPLIES.read(reader)
            if reply is None:
                raise RequestFailedError("the watcher closed the connection without a response")
            if reply.refused is not None:
                raise RequestRefusedError(reply.refused)
            yield msgspec.msgpack.decode(reply.body, type=response)
    except TimeoutError:
        raise RequestFailedError(f"the watcher does not respond within {TIMEOUT_SECONDS:g} s") from None
    except msgspec.DecodeError as error:
        raise RequestFailedError(f"the watcher sent an invalid response: {error}") from None
    except OSError as error:
        raise RequestFailedError(f"the watcher cannot be reached: {cause_of(error)}") from None
    finally:
        if writer is not None:
            writer.close()


async def _connect(path: str, wait: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if clock() >= deadline:
                raise
        await asyncio.sleep(_RETRY_SECONDS)
