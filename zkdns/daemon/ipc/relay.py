"""The relay: a worker passes a query to another process, and the response on to the client.

    client ──▶ worker ── address, transport, query ──▶ transfer process (one connection for each query)
           ◀──        ◀── messages … end ─────────────

Workers need none of the other process's data, secrets or libraries, and do hardly any work for a zone
transfer. The worker reads the messages at the pace of the client: one that does not read stops the sender
through the buffers of both sockets, and costs the worker one piece of a message.

Each message has its length in two bytes before it, as over TCP. The length 0 follows the last one, so that a
process that has died in the middle is no end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.dns.responder import MAX_RELAYED_QUERY, EncodeResponse
from zkdns.transport.contract import DeferredResponse, Deliver, MessageSink, StreamedResponse
from zkdns.transport.framing import LENGTH, NO_MESSAGE

log = structlog.get_logger("zkdns.relay")

MAX_OPEN: Final = 64
"""Queries that a worker relays at the same time; further ones wait."""
MAX_WAITING: Final = 2048
"""Queries that wait. Further ones get the response `unavailable`, as do further ones over UDP at once.

After a NOTIFY all secondaries come together. One that gets an error would request the whole zone instead.
"""
FIRST_SECONDS: Final = 8.0
"""Time until the first data. It is shorter than the time for which a TCP connection may be idle."""
REQUEST_SECONDS: Final = 5.0
PIECE_SECONDS: Final = 30.0
"""Time in which a worker takes a piece. It drops a client that reads nothing for 10 s before that."""

_PIECE_BYTES = 1 << 16
_BACKLOG = 1024  # connections of all workers that are not accepted yet
_ID = 2


class RelayedQuery(msgspec.Struct, frozen=True):
    """A query, as the client sent it."""

    address: bytes
    """The client's address in 4 or 16 bytes."""
    is_stream: bool
    """Whether it arrived over TCP."""
    message: bytes
    """Over UDP, its id is 0: the worker adds the id to the response."""
    is_tls: bool = False
    """Whether it arrived over TLS, as RFC 9103 requires it for zone transfers."""


_QUERIES: FrameCodec[RelayedQuery] = FrameCodec(RelayedQuery, max_bytes=MAX_RELAYED_QUERY + 64)


# -- worker --------------------------------------------------------------------------------------------------


class Relay:
    """The worker's side.

    Attributes:
        path: the other process's socket. A later process may listen there at any time.
        open: number of queries whose response has not ended.

    Args:
        path: see above.
        max_open: as `MAX_OPEN`.
    """

    def __init__(self, path: str, *, max_open: int = MAX_OPEN) -> None:
        self.path = path
        self.open = 0
        self._max_open = max_open
        self._waiting: dict[_Exchange, None] = {}  # the first one comes first

    def respond(self, query: bytes, unavailable: bytes, encode: EncodeResponse, *, stream: bool) -> bytes:
        """The response to a query, for the transport.

        Args:
            query: the query after its id.
            unavailable: the response after its id if the other process does not respond.
            encode: makes a response after its id ready to send over UDP.
            stream: whether the query arrived over TCP.
        """
        if stream:
            return StreamedResponse(partial(self._start_stream, query, unavailable))
        return DeferredResponse(partial(self._start_datagram, query, unavailable, encode))

    def _start_stream(
        self, query: bytes, unavailable: bytes, ident: bytes, address: bytes, sink: MessageSink
    ) -> _Exchange:
        message = ident + unavailable
        request = RelayedQuery(address, True, ident + query, sink.is_tls)
        return _Exchange(self, request, sink, LENGTH.pack(len(message)) + message)

    def _start_datagram(
        self, query: bytes, unavailable: bytes, encode: EncodeResponse, deliver: Deliver, address: bytes
    ) -> None:
        message = bytes(_ID) + unavailable
        request = RelayedQuery(address, False, bytes(_ID) + query)
        _Exchange(self, request, _Datagram(deliver, encode), LENGTH.pack(len(message)) + message)

    def begin(self, exchange: _Exchange, *, may_wait: bool) -> bool:
        """Start an exchange, now or when others have ended. Returns False if there is no room."""
        if self.open < self._max_open:
            self.open += 1
            exchange.start()
        elif may_wait and len(self._waiting) < MAX_WAITING:
            self._waiting[exchange] = None
        else:
            return False
        return True

    def end(self, exchange: _Exchange, *, has_started: bool) -> None:
        """Forget an exchange, and start the next one in its place."""
        self._waiting.pop(exchange, None)
        if has_started:
            self.open -= 1
            if self._waiting:
                following = next(iter(self._waiting))
                del self._waiting[following]
                self.begin(following, may_wait=False)

    def connect(self, request: bytes) -> socket.socket | None:
        """Send a request to the other process.

        Returns:
            the connection. None: the process does not listen.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self.path)  # at once, or never: a Unix socket has no handshake
            sock.sendall(request)  # the buffer of a new socket takes all of it
        except OSError:
            sock.close()
            return None
        return sock


class _Datagram:
    """Takes the only message of a response over UDP."""

    is_tls = False

    def __init__(self, deliver: Deliver, encode: EncodeResponse) -> None:
        self._deliver, self._encode = deliver, encode
        self._data = b""

    def write(self, data: bytes) -> bool:
        """Keep the data until the end."""
        self._data += data
        return True

    def end(self, *, is_whole: bool) -> None:
        """Deliver the message."""
        body = self._data[LENGTH.size + _ID :]
        if is_whole and body:
            self._deliver(lambda: self._encode(body, 0), len(body))


class _Exchange:
    """One relayed query, until its response has ended: a `MessageStream`."""

    def __init__(self, relay: Relay, query: RelayedQuery, sink: MessageSink, unavailable: bytes) -> None:
        self._relay, self._sink, self._unavailable = relay, sink, unavailable
        self._loop = asyncio.get_running_loop()
        self._messages = MessageFollower()
        self._has_data = self._is_reading = False
        self._request = _QUERIES.encode(query)
        self._sock: socket.socket | None = None
        self._has_started = False
        self._timer = self._loop.call_later(FIRST_SECONDS, self._fail)
        if not relay.begin(self, may_wait=query.is_stream):
            self._loop.call_soon(self._fail)  # the sink is called later

    def start(self) -> None:
        """Send the query to the other process."""
        self._has_started = True
        self._sock = self._relay.connect(self._request)
        if self._sock is None:
            self._loop.call_soon(self._fail)
        else:
            self.resume()

    def resume(self) -> None:
        """Read more."""
        if self._sock is not None and not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._sock, self._read)

    def cancel(self) -> None:
        """Write nothing more, and close the connection, so that the other process stops."""
        self._sink = _NO_SINK
        self._close()

    def _close(self) -> None:
        self._timer.cancel()
        if self._sock is not None:
            self._pause()
            self._sock.close()
            self._sock = None
        has_started, self._has_started = self._has_started, False
        self._relay.end(self, has_started=has_started)

    def _pause(self) -> None:
        if self._is_reading and self._sock is not None:
            self._is_reading = False
            self._loop.remove_reader(self._sock)

    def _read(self) -> None:
        assert self._sock is not None  # noqa: S101 - it is watched
        try:
            data = self._sock.recv(_PIECE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._fail()
            return
        piece, has_ended = self._messages.take(data)
        if piece:
            self._has_data = True
            self._timer.cancel()
            if not self._sink.write(piece) and not has_ended:
                self._pause()
        if has_ended:
            self._close()
            self._sink.end(is_whole=True)

    def _fail(self) -> None:
        """The other process does not respond, or not to the end."""
        self._close()
        sink, self._sink = self._sink, _NO_SINK
        if not self._has_data:
            sink.write(self._unavailable)
        sink.end(is_whole=not self._has_data)


class _NoSink:
    """Takes nothing."""

    is_tls = False

    def write(self, data: bytes) -> bool:
        """Ignore the data."""
        del data
        return True

    def end(self, *, is_whole: bool) -> None:
        """Do nothing."""


_NO_SINK = _NoSink()


class MessageFollower:
    """Finds the end of a stream of messages."""

    def __init__(self) -> None:
        self._left = 0  # bytes of the present message that have not arrived
        self._rest = b""  # the first byte of a length

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """Return the data of messages, and whether the end has come."""
        data, self._rest = self._rest + data, b""
        at = min(self._left, len(data))
        self._left -= at
        while at + LENGTH.size <= len(data):
            (length,) = LENGTH.unpack_from(data, at)
            if not length:
                return data[:at], True
            end = at + LENGTH.size + length
            self._left = max(0, end - len(data))
            at = min(end, len(data))
        if at < len(data):
            self._rest = data[at:]
        return data[:at], False


# -- the other process ---------------------------------------------------------------------------------------

Respond = Callable[[RelayedQuery], AsyncGenerator[bytes, None]]
"""Yields the messages of the response. It is closed early if the client goes away."""


class RelayServer:
    """Listens at a Unix socket, and answers relayed queries.

    Args:
        path: path of the socket. A previous process at this path keeps its connections.
        respond: makes the messages. The next one is made when the worker has taken the previous one.
        max_seconds: maximum time of one response.
    """

    def __init__(self, path: str, respond: Respond, *, max_seconds: float) -> None:
        self._path, self._respond, self._max_seconds = Path(path), respond, max_seconds
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, in place of a previous process at this path.

        Raises:
            OSError: it is impossible.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own = self._path.with_suffix(f".{os.getpid()}")
        before = os.umask(0o177)  # no other user may connect, not even for a moment
        try:
            sock.bind(os.fspath(own))
        finally:
            os.umask(before)
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, backlog=_BACKLOG)
        own.rename(self._path)

    def stop_accepting(self) -> None:
        """Accept no more queries; responses that have begun go on."""
        if self._server is not None:
            self._server.close()

    async def wait_until_idle(self) -> None:
        """Wait until all responses have ended."""
        while self._serving:
            await asyncio.wait(set(self._serving))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in a task
        self._serving.add(task)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                query = await _QUERIES.read(reader)
            if query is None:
                return
            async with asyncio.timeout(self._max_seconds), contextlib.aclosing(self._respond(query)) as parts:
                async for message in parts:
                    writer.write(LENGTH.pack(len(message)))
                    writer.write(message)
                    async with asyncio.timeout(PIECE_SECONDS):
                        await writer.drain()
                    await asyncio.sleep(0)  # drain() alone does not yield to other tasks
            writer.write(NO_MESSAGE)
        except asyncio.CancelledError:
            return  # the process ends; asyncio of Python 3.11 would log a cancellation as an error
        except (TimeoutError, ConnectionError, msgspec.DecodeError):
            writer.transport.abort()  # the client or the worker has gone, or does not read
        except Exception:  # an internal error must not end the process
            log.exception("relayed_query_failed", query=query.message[:512].hex() if query else None)
            writer.transport.abort()
        finally:
            self._serving.discard(task)
            writer.close()
