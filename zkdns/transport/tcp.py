"""DNS over TCP (RFC 7766, RFC 9210): framed and pipelined messages on connections that cannot delay others.

    bytes ──▶ a burst ──▶ its messages ──▶ responses ──▶ lengths, ids and responses in one write
                ▲                                            │
                └── nothing is read while responses wait ◀───┘ the client does not read

A burst is the data of one read. Unread data waits in the kernel, and TCP's flow control stops the client, so
that no other flow control is needed. A connection that awaits too many deferred responses is not read either.
A deferred response is rendered when the socket can take it. `zkdns.transport.held_bytes` bounds the memory of
all connections.

A streamed response (a zone transfer) has the connection to itself: it is read at the client's pace, and other
messages wait until it has ended.

With TLS, a connection has a `TlsSocket` in place of its socket (`zkdns.transport.tls`).

All connections share one selector, which the event loop watches like a single socket. Each call of the event
loop serves connections for a limited time, whatever their number.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import selectors
import socket
import struct
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import structlog

from zkdns.transport.access_control import AccessControl
from zkdns.transport.contract import (
    DeferredResponse,
    MessageStream,
    PerClientResponse,
    QueryCounter,
    Render,
    ResponseLookup,
    ResponseObserver,
    StreamedResponse,
)
from zkdns.transport.counters import NOT_COUNTED, Counters
from zkdns.transport.event_loop import add_server, remove_server
from zkdns.transport.framing import LENGTH, MAX_WRITE_BYTES, NO_MESSAGE, answer_messages, queries_in
from zkdns.transport.held_bytes import HeldBytes
from zkdns.transport.log_once import LogOnce
from zkdns.transport.replaced_connections import ReplacedConnections
from zkdns.transport.sockets import MAX_CONNECTIONS, Address, client_of, packed_address

if TYPE_CHECKING:
    from zkdns.transport.tls import Tls, TlsSocket

    Stream: TypeAlias = socket.socket | TlsSocket

log = structlog.get_logger("zkdns.transport")

IDLE_SECONDS = 10.0  # RFC 7766 §6.2.3 recommends a few seconds; counted from the last complete query
MAX_PER_CLIENT = 128
MAX_AWAITED = 100
"""Maximum number of queries of a connection that await deferred responses; further ones are not read.

A resolver that keeps one connection open and waits 30 ms for each new name gets 3,300 responses a second.
"""
ACCEPT_RETRY_SECONDS = 1.0
"""Without a free file descriptor and a connection to close, nothing is accepted for this long."""

# Bytes to read from one connection before others are served: some 50 queries, or 1 ms if each of them is new.
_BURST_BYTES = 2048
# Connections are served for this long before the event loop serves UDP, the feed and timers.
_MAX_SERVE_SECONDS = 0.001
_MAX_ACCEPTED = 16  # new connections before others are served
# Sizes of a connection's buffers in the kernel, which doubles them. Without them, each connection of a client
# that does not read takes some megabytes (measured: 3.8 MB; see `tcp_wmem` and `tcp_rmem` in tcp(7)).
_SEND_BUFFER = _RECEIVE_BUFFER = 1 << 16
# Bytes that a query takes while it awaits its response, in addition to its own length. Measured: 1,300 if its
# question is being resolved already, otherwise 4,000.
_AWAITED_OVERHEAD = 2048
_MAX_AWAITED_BYTES = MAX_AWAITED * (_AWAITED_OVERHEAD + 512)  # long queries reach it earlier than others
_MIN_COUNTED = 4096  # held bytes of a connection that are worth counting
# After a server has stopped accepting, it closes connections that have been inactive for this long. Clients
# that have just connected or received a response may be about to send a query. A client whose connection is
# closed all the same retries (RFC 7766 §6.2.4).
_INACTIVE_SECONDS = 1.0
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0


class TcpServer:
    """Answers queries on connections to one listening socket.

    If there are too many, a new one replaces the longest idle one: idle ones cannot lock clients out.

    Attributes:
        received: number of queries.
        counters: counts responses.
        observer: as below; it may be replaced at any time.
        query_counter: receives all queries. None: not counted.
        log_once: logs internal errors.
        held: the bytes that connections hold.
        dropped: connections that were closed because they or their client held too much memory.
        replaced: connections that were closed for a new one, because there were too many.
        tls: as below.

    Args:
        sock: a listening socket, which the caller owns.
        answers: the responses.
        access: the clients that are answered. None: all.
        classify: the class of a response after its id.
        observer: receives each response; None: no observer.
        idle_seconds: maximum time without a complete query.
        max_connections: maximum number of connections.
        max_per_client: maximum number of connections of one client.
        accept_retry_seconds: how long nothing is accepted if there is no free file descriptor and no
            connection to close.
        max_awaited: maximum number of queries of a connection that await deferred responses.
        held: bounds the bytes that connections hold; other servers may share it. None: one of its own.
        tls: the certificate of a server for DNS over TLS. None: no TLS.
    """

    def __init__(
        self,
        sock: socket.socket,
        answers: ResponseLookup,
        *,
        access: AccessControl | None = None,
        classify: Callable[[bytes], int] = lambda _: NOT_COUNTED,
        observer: ResponseObserver | None = None,
        idle_seconds: float = IDLE_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        max_per_client: int = MAX_PER_CLIENT,
        accept_retry_seconds: float = ACCEPT_RETRY_SECONDS,
        max_awaited: int = MAX_AWAITED,
        held: HeldConnections | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.received = self.dropped = 0
        self.replaced = ReplacedConnections()
        self.held = HeldConnections() if held is None else held
        self.max_awaited = max_awaited
        self.counters = Counters()
        self.classify, self.observer, self.tls = classify, observer, tls
        self.query_counter: QueryCounter | None = None
        self._sock = sock
        self._answers = answers
        self._access = access
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._accept_retry_seconds = accept_retry_seconds
        self._loop: asyncio.AbstractEventLoop
        self._selector: selectors.DefaultSelector | None = None
        self._ready: deque[Callable[[float], None]] = deque()  # connections that are ready but not served yet
        self._connections: OrderedDict[_Connection, None] = OrderedDict()  # the longest idle one first
        self._per_client: Counter[str] = Counter()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._has_stopped_accepting = self._is_stopped = False
        self.log_once = LogOnce(log, "tcp_query_failed")

    async def start(self) -> None:
        """Start to accept connections in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._selector = selectors.DefaultSelector()
        self._sock.setblocking(False)
        # Accepted sockets inherit these.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._listen()
        add_server(self._selector.fileno(), self._serve_ready)

    @property
    def file(self) -> int:
        """The file descriptor of its socket."""
        return self._sock.fileno()

    @property
    def connection_count(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    @property
    def client_count(self) -> int:
        """The number of clients with open connections."""
        return len(self._per_client)

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that wait because their clients do not read."""
        return sum(connection.unsent_bytes for connection in self._connections)

    def count_held(self, connection: _Connection, size: int) -> None:
        """Set the bytes that a connection holds. Closes connections if that exceeds a bound."""
        while (largest := self.held.set(connection.client, connection, size)) is not None:
            largest.drop()
            if largest is connection:
                return

    def stop_accepting(self) -> None:
        """Accept no more connections; existing ones stay open until they are inactive or the server stops."""
        self._has_stopped_accepting = True
        if self._selector is not None and self._sock in self._selector.get_map():
            self._selector.unregister(self._sock)

    def close_inactive(self, now: float) -> bool:
        """Close the connections without pending queries or responses; return whether none are left."""
        for connection in list(self._connections):
            if connection.is_inactive(now):
                connection.close(now)
        return not self._connections

    def stop(self) -> None:
        """Accept no more connections, and close all of them once their responses are sent."""
        if self._selector is None or self._is_stopped:
            return
        self._is_stopped = True
        if self._sock in self._selector.get_map():
            self._selector.unregister(self._sock)
        for connection in list(self._connections):
            connection.close(time.monotonic())
        self._end_when_empty()

    def set_events(self, connection: _Connection, events: int) -> None:
        """Set the events that a connection waits for: read, write, or 0 for neither."""
        assert self._selector is not None  # noqa: S101 - set by start()
        if connection.sock not in self._selector.get_map():
            if events:
                self._selector.register(connection.sock, events, connection.ready)
        elif events:
            self._selector.modify(connection.sock, events, connection.ready)
        else:
            self._selector.unregister(connection.sock)

    def on_active(self, connection: _Connection, queries: int = 0) -> None:
        """Make a connection the least idle one: it has received queries or starts to close."""
        self.received += queries
        if connection in self._connections:
            self._connections.move_to_end(connection)

    def on_closed(self, connection: _Connection) -> None:
        """Forget a connection that is about to be closed."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        client = connection.client
        self.held.set(client, connection, 0)
        self.set_events(connection, 0)
        self._per_client[client] -= 1
        if not self._per_client[client]:
            del self._per_client[client]
        self._end_when_empty()

    def _serve_ready(self) -> bool:
        """Serve a burst of each connection that is ready, for a limited time.

        The rest is served first in the next call, before any connection gets a second burst.
        """
        assert self._selector is not None  # noqa: S101 - set by start()
        if not self._ready:
            self._ready.extend(key.data for key, _ in self._selector.select(0))
        now = time.monotonic()
        end = now + _MAX_SERVE_SECONDS
        while self._ready and now < end:
            self._ready.popleft()(now)
            now = time.monotonic()
        return False

    def _listen(self) -> None:
        if self._selector is not None and not self._has_stopped_accepting and not self._is_stopped:
            self._selector.register(self._sock, selectors.EVENT_READ, self._accept)

    def _accept(self, now: float) -> None:
        for number in range(_MAX_ACCEPTED):
            if self._is_stopped:
                return
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptor or memory is left; Linux reports that even without a client
                if not number:
                    self._free_file_descriptor(now)
                return
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                replacement = self._access.check_stream(peer[0]) if self._access else None
                answers = self._answers if replacement is None else replacement
                tls = None if self.tls is None else self.tls.accept(sock)
                self._open(_Connection(self, sock if tls is None else tls, answers, peer, now))
            except OSError:  # the client has closed it already, or it cannot be watched
                sock.close()

    def _free_file_descriptor(self, now: float) -> None:
        """Close the longest idle connection. If there is none, wait, because accepting would fail again."""
        if self._connections:
            self.replaced.add(now, self._sock, self._per_client, None)
            next(iter(self._connections)).abort()
        elif self._selector is not None:
            self._selector.unregister(self._sock)
            self._loop.call_later(self._accept_retry_seconds, self._listen)

    def _open(self, connection: _Connection) -> None:
        """Register a new connection, and close another one if there are too many."""
        assert self._selector is not None  # noqa: S101 - set by start()
        client = connection.client
        self._selector.register(connection.sock, selectors.EVENT_READ, connection.ready)
        self._connections[connection] = None
        self._per_client[client] += 1
        is_over = self._per_client[client] > self._max_per_client
        if is_over or len(self._connections) > self._max_connections:
            self.replaced.add(connection.active_at, self._sock, self._per_client, client if is_over else None)
            next(other for other in self._connections if not is_over or other.client == client).abort()
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(self._idle_seconds, self._sweep)
        if connection.tls is not None:
            self.count_held(connection, connection.tls.memory)

    def _sweep(self) -> None:
        """Close connections that were idle too long. The longest idle one comes first: a timer is enough."""
        self._sweep_timer = None
        now = time.monotonic()
        while self._connections:
            longest_idle = next(iter(self._connections))
            rest = longest_idle.active_at + self._idle_seconds - now
            if rest > 0:
                self._sweep_timer = self._loop.call_later(rest, self._sweep)
                return
            longest_idle.close(now)

    def _end_when_empty(self) -> None:
        if self._is_stopped and not self._connections and self._selector is not None:
            remove_server(self._selector.fileno())
            self._selector.close()
            self._selector = None
            if self._sweep_timer is not None:
                self._sweep_timer.cancel()


class _Deferred(NamedTuple):
    """A deferred response that has arrived, and waits until the socket can take it."""

    ident: bytes
    started: float
    """When its query arrived."""
    render: Render
    size: int


class _StreamSink:
    """Sends the messages of a streamed response on a connection."""

    def __init__(self, connection: _Connection, started: float) -> None:
        self._connection = connection
        self._started = started
        self._is_counted = False
        self.is_tls = connection.tls is not None and connection.tls.has_alpn

    def write(self, data: bytes) -> bool:
        """Send data. Returns whether the client has taken all of it."""
        is_first, self._is_counted = not self._is_counted, True
        return self._connection.write_streamed(data, self._started if is_first else None)

    def end(self, *, is_whole: bool) -> None:
        """Continue with other messages, or close the connection, so that the client notices the failure."""
        self._connection.end_stream(is_whole=is_whole)


class _Connection:
    """One connection.

    It reads only while no response waits to be sent, so that a client that does not read cannot send more
    queries, and while it awaits few deferred responses. These are sent when they arrive (RFC 7766 §7: in any
    order), also after the client has shut down its side.

    Attributes:
        sock: its socket, or the `TlsSocket`.
        tls: the `TlsSocket`. None: it does not use TLS.
        client: the key of its client, as `client_of` returns it.
        active_at: when it last received a complete query, or started to close.
    """

    def __init__(
        self, server: TcpServer, sock: Stream, answers: ResponseLookup, peer: Address, now: float
    ) -> None:
        self.sock = sock
        self.tls = None if isinstance(sock, socket.socket) else sock
        self.client = client_of(peer)
        self.active_at = now
        self._server = server
        self._answers = answers
        self._address = packed_address(peer[0])
        self._events = selectors.EVENT_READ
        self._buffer = b""  # data that was read but not answered
        self._unsent: bytes | memoryview = b""
        self._unsent_size = 0  # bytes that `_unsent` keeps in memory: a view keeps what was sent already
        self._deferred: deque[_Deferred] = deque()
        self._deferred_size = 0
        self._awaited = 0  # number of deferred responses, including those that have arrived
        self._awaited_size = 0
        self._stream: MessageStream | None = None  # no other message is sent before it has ended
        self._counted = 0
        self._is_behind = False  # whether `_buffer` may have complete messages
        self._is_answering = self._is_closing = self._is_closed = self._client_finished = False

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that wait to be sent."""
        return len(self._unsent)

    def ready(self, now: float) -> None:
        """Read and answer a burst, or send more of the waiting data; a failing connection is closed."""
        try:
            if self._unsent or self._deferred or self._is_behind:
                self._continue(now)
            elif more := self.sock.recv(_BURST_BYTES):
                self._buffer = self._buffer + more if self._buffer else more
                self._answer(now)
            else:
                self._client_finished = True
                self._continue(now)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset, or closed before it was served
            self.abort()

    def close(self, now: float) -> None:
        """Close once all data has been sent; close at once if called again."""
        if self._is_closing or self._stream is not None or not (self._unsent or self._deferred):
            self.abort()
            return
        self._is_closing = True
        self._buffer = b""
        self.active_at = now
        self._server.on_active(self)

    def is_inactive(self, now: float) -> bool:
        """Whether no query or response is in flight, as far as this side of the connection shows."""
        if self._buffer or self._unsent or self._awaited or now - self.active_at < _INACTIVE_SECONDS:
            return False
        pending = self.tls.pending if self.tls is not None else 0
        try:
            return not (pending or self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:  # it is broken; serving it will close it
            return False

    def drop(self) -> None:
        """Close at once, without the data that the kernel has not sent: the client holds too much memory."""
        self._server.dropped += 1
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._is_closed = True
        self._server.on_closed(self)
        self.sock.close()
        self._buffer = self._unsent = b""
        self._deferred.clear()
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def _may_answer(self) -> bool:
        """Whether few enough deferred responses are awaited, and none is streamed."""
        return (
            self._stream is None
            and self._awaited < self._server.max_awaited
            and self._awaited_size < _MAX_AWAITED_BYTES
        )

    def _continue(self, now: float) -> None:
        """Send waiting data and deferred responses, then answer the next queries, or close if requested."""
        if self._stream is not None:
            self._continue_stream(now)
            return
        self._send_waiting()
        if not (self._unsent or self._deferred or self._is_closed):
            if self._is_closing or (self._client_finished and not self._awaited and not self._is_behind):
                self.abort()
            elif self._is_behind and self._may_answer():
                self._answer(now)
        self._update()

    def _continue_stream(self, now: float) -> None:
        """Send waiting data of a streamed response, and request more of it when the client has taken all."""
        before = len(self._unsent)
        if self._unsent:
            self._send(self._unsent)
        if len(self._unsent) < before:
            self.active_at = now
            self._server.on_active(self)
        self._update()
        if not self._unsent and self._stream is not None:
            self._stream.resume()

    def write_streamed(self, data: bytes, started: float | None) -> bool:
        """Send data of the streamed response. Returns whether the client has taken all of it.

        Args:
            data: messages, or parts of them.
            started: when the query arrived, with the first data; otherwise None.
        """
        now = time.monotonic()
        if started is not None:
            response_class = bytes((self._classify(started, data[LENGTH.size + 2 :]),))
            self._server.counters.add(response_class, self._server.counters.forwarded, now - started)
        waiting = bytes(self._unsent) + data if self._unsent else data
        try:
            self._send(waiting)
        except OSError:
            self.abort()
            return False
        if len(self._unsent) < len(waiting):
            self.active_at = now
            self._server.on_active(self)
        self._update()
        return not self._unsent

    def end_stream(self, *, is_whole: bool) -> None:
        """Continue with other messages after a streamed response; close the connection if it is not whole."""
        self._stream = None
        if not is_whole:
            self.abort()
            return
        self._awaited -= 1
        self._is_behind = bool(self._buffer)
        try:
            self._continue(time.monotonic())
        except OSError:
            self.abort()

    def _send_waiting(self) -> None:
        """Send waiting data, and after it one write of deferred responses."""
        if self._unsent:
            self._send(self._unsent)
        if self._deferred and not self._unsent and (data := self._render_deferred()):
            self._send(data)

    def _update(self) -> None:
        """Wait for the events that this state needs, and report the memory that it holds."""
        if self._is_closed:
            return
        may_answer = self._may_answer()
        has_queries = self._is_behind or (self.tls is not None and self.tls.pending)
        if self._unsent or (self._deferred and self._stream is None) or (has_queries and may_answer):
            events = selectors.EVENT_WRITE
        else:
            events = selectors.EVENT_READ if may_answer and not self._client_finished else 0
        if events != self._events:
            self._events = events
            self._server.set_events(self, events)
        held = len(self._buffer) + self._unsent_size + self._awaited_size + self._deferred_size
        held += self.tls.memory if self.tls is not None else 0
        counted = held if held >= _MIN_COUNTED else 0
        if counted != self._counted:
            self._counted = counted
            self._server.count_held(self, counted)

    def _answer(self, now: float) -> None:
        """Answer the complete messages of the buffer, as far as the client reads the responses."""
        data = self._buffer
        at = queries = 0
        self._is_answering = True
        while at < len(data) and not self._unsent and (not self._awaited or self._may_answer()):
            try:
                classify = partial(self._classify, now) if self._server.observer else self._server.classify
                pieces, end, classes = answer_messages(data, at, self._answers, self._resolve_empty, classify)
            except Exception as error:  # noqa: BLE001 - no exception may reach the event loop
                self._server.log_once.error(error)
                self.abort()
                return
            if end == at:
                break
            if self._server.query_counter is not None:
                messages = list(queries_in(data, at, end))
                self._server.query_counter.add(messages, repeat(self._address, len(messages)))
            at, queries = end, queries + len(classes)
            if pieces:
                self._send(b"".join(pieces))
            counters = self._server.counters
            counters.add(classes, counters.computed, time.monotonic() - now)
        self._is_answering = False
        if self._is_closed:  # while a response was made
            return
        self._buffer = data[at:]
        self._is_behind = at < len(data) and bool(self._unsent or (self._awaited and not self._may_answer()))
        if at:
            self.active_at = now
            self._server.on_active(self, queries)
        if not (self._unsent or self._is_behind) and self._buffer[:2] == NO_MESSAGE:
            self.close(now)  # a message cannot have length 0
        if (  # otherwise nothing has changed, which is the usual case
            self._unsent
            or self._awaited
            or self._is_behind
            or self._counted
            or self._events != selectors.EVENT_READ
            or self.tls is not None
            or len(self._buffer) >= _MIN_COUNTED
        ):
            self._update()

    def _resolve_empty(self, empty: bytes, query: bytes) -> bytes | None:
        """Handle an empty response: deferred, per-client, or none. Returns None to answer no more for now."""
        if isinstance(empty, DeferredResponse):
            size = _AWAITED_OVERHEAD + len(query)
            self._awaited += 1
            self._awaited_size += size
            empty.start(partial(self._deliver, query[:2], size, time.monotonic()), self._address)
            return b"" if self._may_answer() else None
        if isinstance(empty, StreamedResponse):
            self._awaited += 1
            self._stream = empty.start(query[:2], self._address, _StreamSink(self, time.monotonic()))
            return None
        return empty.for_address(self._address) if isinstance(empty, PerClientResponse) else b""

    def _classify(self, started: float, body: bytes) -> int:
        """Report a response to the observer, and return its class."""
        server, observer = self._server, self._server.observer
        if observer is not None and body:
            source = observer.take_source()
            if observer.is_sampled():
                host = str(ipaddress.ip_address(self._address))
                transport = "tcp" if server.tls is None else "tls"
                observer.on_response(transport, host, bytes(2) + body, source, time.monotonic() - started)
        return server.classify(body)

    def _deliver(self, ident: bytes, awaited: int, started: float, render: Render, size: int = 0) -> None:
        """Take a deferred response, and send it if no other data waits.

        Args:
            ident: id of the query.
            awaited: bytes that the query took until now.
            started: when it arrived.
            render: as for `Deliver`.
            size: as for `Deliver`.
        """
        self._awaited_size -= awaited
        if self._is_closed or self._is_closing:
            self._awaited -= 1
            return
        self._deferred.append(_Deferred(ident, started, render, size))
        self._deferred_size += size
        if self._is_answering:  # its caller continues
            return
        try:
            if not self._unsent and self._stream is None:
                self._send_waiting()
            if self._client_finished and not (self._unsent or self._awaited or self._is_behind):
                self.abort()
            self._update()
        except OSError:
            self.abort()

    def _render_deferred(self) -> bytes:
        """Render deferred responses that have arrived, as much as one write may have."""
        counters, room = self._server.counters, MAX_WRITE_BYTES
        pieces: list[bytes] = []
        try:
            while self._deferred and room > 0:
                ident, started, render, size = self._deferred.popleft()
                self._deferred_size -= size
                self._awaited -= 1
                body = render()
                if isinstance(body, PerClientResponse):
                    body = body.for_address(self._address)
                response_class = bytes((self._classify(started, body),))
                counters.add(response_class, counters.forwarded, time.monotonic() - started)
                if body:
                    pieces += (LENGTH.pack(len(ident) + len(body)), ident, body)
                    room -= len(body)
        except Exception as error:  # noqa: BLE001 - no exception may reach the event loop or the forwarder
            self._server.log_once.error(error)
            self.abort()
            return b""
        return b"".join(pieces)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent_size = max(self._unsent_size, len(data))
            self._unsent = memoryview(data)[sent:]
        else:
            self._unsent, self._unsent_size = b"", 0


HeldConnections: TypeAlias = HeldBytes[_Connection]
"""The bytes that the connections of one or several servers hold."""
