"""TCP and TLS to upstreams (RFC 7766, RFC 7858): a persistent connection to each, with pipelined queries.

    send ──▶ connection ──▶ connected? ──▶ written ──▶ message with the same id ──▶ on_message
                 │              └── no: query waits
                 └── closed ──▶ query is sent again on a new connection if there was a response on this one;
                                otherwise, or the second time, on_message with the error

A server may close an idle connection at any time, even when a query is on its way. So a query without a
response on a closed connection was not necessarily rejected.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Iterator
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec
import structlog

from zkdns.address import UpstreamAddress
from zkdns.forward.message import random_ids
from zkdns.transport.framing import LENGTH
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")


class TcpTimes(msgspec.Struct, frozen=True):
    """Times of a connection in seconds."""

    connect: float = 3.5
    """Maximum time until the connection is established, including the TLS handshake."""
    idle: float = 3.0
    """How long an idle TCP connection is kept: the next long response is often needed soon."""
    tls_idle: float = 60.0
    """The same with TLS: its handshake costs more. Most servers close earlier (RFC 7858 §3.4)."""
    stalled: float = 1.0
    """A connection gets no more queries if nothing was received for this long after a query."""


TCP_TIMES: Final = TcpTimes()

# Messages are passed on for this long before other sockets, the feed and timers are served.
_RECEIVE_SECONDS = 0.0003
_MAX_CANCELLED = (
    4096  # cancelled queries whose ids are still reserved; after more, the connection is replaced
)
_ID_SIZE = 2

OwnerT = TypeVar("OwnerT")
"""The owner of a query, which is passed on with its response."""

OnMessage: TypeAlias = Callable[[OwnerT, bytes | OSError, float], None]
"""Receives the owner of a query, its response or an error, and the time at which the query was sent."""


class TcpQuery(Generic[OwnerT]):
    """A query without a response so far, and its owner."""

    __slots__ = ("connection", "is_cancelled", "owner", "query", "query_id", "sent_at", "was_repeated")

    def __init__(self, query: bytes, owner: OwnerT) -> None:
        self.query = query
        self.owner = owner
        self.query_id = 0
        self.sent_at = 0.0
        self.connection: _Connection[OwnerT] | None = None
        self.is_cancelled = self.was_repeated = False


class TcpClient(Generic[OwnerT]):
    """Connections to upstreams, opened when needed, in the running event loop.

    Attributes:
        opened: connections established so far.
        times: the times of each connection.

    Args:
        on_message: receives responses and errors, never within `send` or `cancel`.
        tls: the TLS context; None: one with the certification authorities of the system.
        times: see above.
    """

    def __init__(
        self,
        on_message: OnMessage[OwnerT],
        tls: ssl.SSLContext | None = None,
        *,
        times: TcpTimes = TCP_TIMES,
    ) -> None:
        self.opened = 0
        self.times = times
        self._on_message = on_message
        self._tls = tls
        self._ids = random_ids()
        self._current: dict[UpstreamAddress, _Connection[OwnerT]] = {}
        self._all: set[_Connection[OwnerT]] = set()
        self._log_once = LogOnce(log, "upstream_tcp_response_failed")

    def __len__(self) -> int:
        """Return the number of connections that are open or being opened."""
        return len(self._all)

    def send(self, address: UpstreamAddress, query: bytes, owner: OwnerT) -> TcpQuery[OwnerT]:
        """Send a query as soon as there is a connection; its id is replaced by another random one."""
        sent = TcpQuery(query, owner)
        self._send(address, sent)
        return sent

    def cancel(self, query: TcpQuery[OwnerT]) -> None:
        """Ignore the response to a query."""
        query.is_cancelled = True
        if query.connection is not None:
            query.connection.cancel(query)

    def retire_others(self, addresses: Collection[UpstreamAddress]) -> None:
        """Close connections to all but these addresses, once their open queries have a response."""
        for address in self._current.keys() - set(addresses):
            self._current.pop(address).close_when_unused()

    def close(self) -> None:
        """Close all connections without a call of `on_message`."""
        for connection in list(self._all):
            connection.close()
        self._all.clear()
        self._current.clear()

    # -- called by connections -----------------------------------------------------------------------------

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS context; created when first needed, because that takes 20 ms."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def deliver(self, query: TcpQuery[OwnerT], message: bytes | OSError) -> None:
        """Pass a response or an error on."""
        query.connection = None
        try:
            self._on_message(query.owner, message, query.sent_at)
        except Exception as error:  # noqa: BLE001 - no exception may reach the event loop
            self._log_once.error(error)

    def retire(self, connection: _Connection[OwnerT]) -> None:
        """Send no more queries over this connection."""
        if self._current.get(connection.address) is connection:
            del self._current[connection.address]

    def on_closed(
        self, connection: _Connection[OwnerT], unanswered: list[TcpQuery[OwnerT]], error: OSError
    ) -> None:
        """Handle the end of a connection: send its unanswered queries again, or report the error."""
        self.retire(connection)
        self._all.discard(connection)
        for query in unanswered:
            query.connection = None
        for query in unanswered:
            if query.is_cancelled:  # by the receiver of an earlier error of this loop
                continue
            if connection.was_useful and not query.was_repeated:
                query.was_repeated = True
                self._send(connection.address, query)
            else:
                self.deliver(query, error)

    def _send(self, address: UpstreamAddress, query: TcpQuery[OwnerT]) -> None:
        connection = self._current.get(address)
        if connection is not None and connection.is_stalled:
            self.retire(connection)
            connection.close_when_unused()
            connection = None
        if connection is None:
            connection = self._current[address] = _Connection(self, address, self._ids)
            self._all.add(connection)
        connection.send(query)


class _Connection(asyncio.Protocol, Generic[OwnerT]):
    """One connection, from its first query until it is closed.

    Attributes:
        address: the address of the upstream.
        was_useful: whether there was a response to a query.
    """

    def __init__(self, client: TcpClient[OwnerT], address: UpstreamAddress, ids: Iterator[int]) -> None:
        self.address = address
        self.was_useful = False
        self._client = client
        self._ids = ids
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, TcpQuery[OwnerT]] = {}
        self._cancelled: set[int] = set()
        self._buffer = bytearray()
        self._received_at = self._used_at = self._loop.time()
        self._is_retired = self._is_closed = self._may_be_stalled = False
        self._times = client.times
        self._idle_seconds = self._times.idle if address.tls is None else self._times.tls_idle
        self._idle_timer: asyncio.TimerHandle | None = None
        self._connecting = self._loop.create_task(self._connect())

    @property
    def is_stalled(self) -> bool:
        """Whether it seems to be broken, for example because a firewall has forgotten it."""
        if self._may_be_stalled or len(self._cancelled) > _MAX_CANCELLED:
            return True
        oldest = next(iter(self._waiting.values()), None)
        return oldest is not None and self._is_overdue(oldest)

    def send(self, query: TcpQuery[OwnerT]) -> None:
        """Send a query as soon as the connection is established."""
        query_id = next(self._ids)
        while query_id in self._waiting or query_id in self._cancelled:
            query_id = next(self._ids)
        query.query_id, query.connection = query_id, self
        self._waiting[query_id] = query
        self._used_at = self._loop.time()
        query.sent_at = self._used_at
        if self._transport is not None:
            self._write([query])

    def cancel(self, query: TcpQuery[OwnerT]) -> None:
        """Ignore the response to a query; it may still arrive."""
        self._may_be_stalled = self._may_be_stalled or self._is_overdue(query)
        del self._waiting[query.query_id]
        query.connection = None
        if self._transport is not None:
            self._cancelled.add(query.query_id)
        self._close_if_unused()

    def close_when_unused(self) -> None:
        """Close once all open queries have a response; the client sends no more queries here."""
        self._is_retired = True
        self._close_if_unused()

    def close(self) -> None:
        """Close at once, without a report to the owners of open queries."""
        self._waiting.clear()
        self._close(OSError("closed"))

    # -- called by asyncio ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        self._received_at = self._loop.time()
        self._may_be_stalled = False
        self._buffer += data
        self._process_buffer()

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection, whichever side has closed it."""
        if self._transport is None:
            return  # the exception in `_connect` has the reason
        self._close(error if isinstance(error, OSError) else ConnectionResetError("closed the connection"))

    # -- connecting ----------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Connect, and with TLS do the handshake. Cancelling closes the socket in both steps."""
        transport: asyncio.Transport | None
        host, port, name = self.address.host, self.address.port, self.address.tls
        try:
            async with asyncio.timeout(self._times.connect):
                transport, _ = await self._loop.create_connection(asyncio.Protocol, host, port)
                if name is None:
                    transport.set_protocol(self)
                else:
                    context = self._client.tls_context()
                    transport = await self._loop.start_tls(transport, self, context, server_hostname=name)
            assert transport is not None  # noqa: S101 - start_tls returns None only for a closed transport
            self._on_connected(transport)
        except TimeoutError:
            self._close(TimeoutError(f"does not accept connections within {self._times.connect:g} s"))
        except ssl.SSLCertVerificationError as error:
            self._close(OSError(f"has no certificate for {name}: {error.verify_message}"))
        except OSError as error:
            self._close(error)
        except ValueError as error:  # the name is not valid in a certificate
            self._close(OSError(f"cannot have a certificate for {name}: {error}"))

    def _on_connected(self, transport: asyncio.Transport) -> None:
        """Send the waiting queries; with TLS, the certificate has been verified."""
        self._transport = transport
        self._client.opened += 1
        now = self._received_at = self._used_at = self._loop.time()
        for query in self._waiting.values():
            query.sent_at = now
        self._write(list(self._waiting.values()))
        self._idle_timer = self._loop.call_later(self._idle_seconds, self._on_idle_timer)

    # -- messages ------------------------------------------------------------------------------------------

    def _write(self, queries: list[TcpQuery[OwnerT]]) -> None:
        assert self._transport is not None  # noqa: S101 - called while connected only
        pieces: list[bytes] = []
        for sent in queries:
            pieces += (LENGTH.pack(len(sent.query)), sent.query_id.to_bytes(_ID_SIZE), sent.query[_ID_SIZE:])
        if pieces and not self._transport.is_closing():  # if it is, connection_lost follows in this turn
            self._transport.write(b"".join(pieces))  # RFC 7766 §8: lengths and messages together

    def _process_buffer(self) -> None:
        """Pass complete messages on for a limited time; pause if there are more."""
        pause_at = self._loop.time() + _RECEIVE_SECONDS
        at, buffer = 0, self._buffer
        while not self._is_closed and len(buffer) >= at + LENGTH.size:
            start = at + LENGTH.size
            end = start + LENGTH.unpack_from(buffer, at)[0]
            if end > len(buffer):
                break
            self._on_message(bytes(buffer[start:end]))
            at = end
            if self._loop.time() >= pause_at and len(buffer) > at:
                self._pause()
                break
        del buffer[:at]
        self._close_if_unused()

    def _pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._is_closed:
            self._transport.resume_reading()
            self._process_buffer()

    def _on_message(self, message: bytes) -> None:
        if len(message) < _ID_SIZE:
            return
        query_id = int.from_bytes(message[:_ID_SIZE])
        self._cancelled.discard(query_id)
        query = self._waiting.pop(query_id, None)
        if query is not None:
            self.was_useful = True
            self._client.deliver(query, message)

    # -- closing -------------------------------------------------------------------------------------------

    def _is_overdue(self, query: TcpQuery[OwnerT]) -> bool:
        """Return whether nothing was received after a query, which was sent some time ago."""
        return (
            self._transport is not None
            and query.sent_at >= self._received_at
            and self._loop.time() - query.sent_at > self._times.stalled
        )

    def _on_idle_timer(self) -> None:
        left = self._used_at + self._idle_seconds - self._loop.time()
        if left <= 0 and not self._waiting:
            self._close(OSError("idle"))
        else:
            self._idle_timer = self._loop.call_later(max(left, 1.0), self._on_idle_timer)

    def _close_if_unused(self) -> None:
        if self._is_retired and not self._waiting:
            self._close(OSError("retired"))

    def _close(self, error: OSError) -> None:
        """Close the connection, and report its open queries to the client. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        elif self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        unanswered = list(self._waiting.values())
        self._waiting.clear()
        self._client.on_closed(self, unanswered, error)
