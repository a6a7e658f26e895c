"""TCP and TLS to upstreams (RFC 7766, RFC 7858): one connection each, kept for a while, queries pipelined.

    send ──▶ connection ──▶ connected? ──▶ written ──▶ a message with its id ──▶ handed over
                 │              └── no: waits ──┐
                 └── closes ──▶ asked once more on a new one, if it had been of use before; else an error

A server may close a connection that has been idle at any time: a query that met such an end was not refused.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Collection
from typing import Any, Final

import structlog

from zkdns.address import UpstreamAddress
from zkdns.forward.ids import RandomIds
from zkdns.transport.log_once import LogOnce

log = structlog.get_logger("zkdns.forward")

CONNECT_SECONDS: Final = 3.5
IDLE_SECONDS: Final = 3.0
"""So long a TCP connection is kept without a question: for the next long answer, which often follows soon."""
TLS_IDLE_SECONDS: Final = 60.0
"""The same with TLS, which costs more to begin; most servers hang up earlier (RFC 7858 §3.4)."""
STALLED_SECONDS: Final = 1.0
"""A connection from which nothing has come for so long, though it was asked, gets no more questions."""

# So long messages are handed over before UDP, the feed and timers get their turn.
_TURN_SECONDS = 0.0003
_MOST_FORGOTTEN = (
    4096  # ids of questions whose answers were not waited for; a connection with more is replaced
)

_length = struct.Struct("!H")

Arrived = Callable[[Any, bytes | OSError, float], None]
"""What is told of an answer, or of an error: the query's owner, and when it was sent."""


class StreamQuery:
    """A query on a stream, and who asked it."""

    __slots__ = ("ident", "is_dropped", "owner", "query", "sent_at", "stream", "was_sent_again")

    def __init__(self, query: bytes, owner: object) -> None:
        self.query = query
        self.owner: Any = owner
        self.ident = 0
        self.sent_at = 0.0
        self.stream: _Stream | None = None
        self.is_dropped = self.was_sent_again = False


class TcpClient:
    """The connections to upstreams, made as they are needed, in the running event loop.

    Attributes:
        opened: connections so far that came about.

    Args:
        arrived: told of what comes, never from within `send` and `drop`.
        tls: checks certificates; None: those that this machine trusts.
    """

    def __init__(self, arrived: Arrived, tls: ssl.SSLContext | None = None) -> None:
        self.opened = 0
        self._arrived = arrived
        self._tls = tls
        self._ids = RandomIds()
        self._current: dict[UpstreamAddress, _Stream] = {}
        self._all: set[_Stream] = set()
        self._mistakes = LogOnce(log, "upstream_tcp_response_failed")

    def send(self, address: UpstreamAddress, query: bytes, owner: object) -> StreamQuery:
        """Send a query, as soon as there is a connection; its id is replaced by a fresh one."""
        asked = StreamQuery(query, owner)
        self._ask(address, asked)
        return asked

    def drop(self, asked: StreamQuery) -> None:
        """Wait for that answer no more."""
        asked.is_dropped = True
        if asked.stream is not None:
            asked.stream.forget(asked)

    def keep(self, addresses: Collection[UpstreamAddress]) -> None:
        """Send no more questions to others than these; what was asked of them may still be answered."""
        for address in self._current.keys() - set(addresses):
            self._current.pop(address).close_when_unused()

    def close(self) -> None:
        """Close all connections, and hand over nothing more."""
        for stream in list(self._all):
            stream.close()
        self._all.clear()
        self._current.clear()

    # -- for the connections -------------------------------------------------------------------------------

    def tls_context(self) -> ssl.SSLContext:
        """What connects to those with TLS; made when it is first needed, since that takes 20 ms."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def arrived(self, asked: StreamQuery, message: bytes | OSError) -> None:
        """Hand over what came."""
        asked.stream = None
        try:
            self._arrived(asked.owner, message, asked.sent_at)
        except Exception as error:  # noqa: BLE001 - nothing may escape into the event loop
            self._mistakes.tell(error)

    def retire(self, stream: _Stream) -> None:
        """Send no more questions there."""
        if self._current.get(stream.address) is stream:
            del self._current[stream.address]

    def closed(self, stream: _Stream, left: list[StreamQuery], error: OSError) -> None:
        """A connection is gone, and has left questions without an answer."""
        self.retire(stream)
        self._all.discard(stream)
        for asked in left:
            asked.stream = None
        for asked in left:
            if asked.is_dropped:  # by who was told of another a moment ago
                continue
            if stream.was_useful and not asked.was_sent_again:
                asked.was_sent_again = True
                self._ask(stream.address, asked)
            else:
                self.arrived(asked, error)

    def _ask(self, address: UpstreamAddress, asked: StreamQuery) -> None:
        stream = self._current.get(address)
        if stream is not None and stream.is_stalled:
            self.retire(stream)
            stream.close_when_unused()
            stream = None
        if stream is None:
            stream = self._current[address] = _Stream(self, address, self._ids)
            self._all.add(stream)
        stream.ask(asked)


class _Stream(asyncio.Protocol):
    """One connection, from before it is made until it is closed.

    Attributes:
        address: where it goes.
        was_useful: whether an answer has come.
    """

    def __init__(self, streams: TcpClient, address: UpstreamAddress, ids: RandomIds) -> None:
        self.address = address
        self.was_useful = False
        self._streams = streams
        self._ids = ids
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, StreamQuery] = {}
        self._forgotten: set[int] = set()
        self._buffer = bytearray()
        self._heard_at = self._used_at = self._loop.time()
        self._is_retired = self._is_closed = self._is_suspect = False
        self._idle_seconds = IDLE_SECONDS if address.tls is None else TLS_IDLE_SECONDS
        self._idle_timer: asyncio.TimerHandle | None = None
        self._connecting = self._loop.create_task(self._connect())

    @property
    def is_stalled(self) -> bool:
        """Whether it seems to lead nowhere any more, as behind a firewall that has forgotten it."""
        if self._is_suspect or len(self._forgotten) > _MOST_FORGOTTEN:
            return True
        longest = next(iter(self._waiting.values()), None)
        return longest is not None and self._lacks_an_answer(longest)

    def ask(self, asked: StreamQuery) -> None:
        """Send a query when it is connected."""
        ident = self._ids.take()
        while ident in self._waiting or ident in self._forgotten:
            ident = self._ids.take()
        asked.ident, asked.stream = ident, self
        self._waiting[ident] = asked
        self._used_at = self._loop.time()
        asked.sent_at = self._used_at
        if self._transport is not None:
            self._write([asked])

    def forget(self, asked: StreamQuery) -> None:
        """Nobody waits for that answer any more, which may come all the same."""
        self._is_suspect = self._is_suspect or self._lacks_an_answer(asked)
        del self._waiting[asked.ident]
        asked.stream = None
        if self._transport is not None:
            self._forgotten.add(asked.ident)
        self._close_if_unused()

    def close_when_unused(self) -> None:
        """It gets no more questions: close it when it has answered those that it has."""
        self._is_retired = True
        self._close_if_unused()

    def close(self) -> None:
        """Close at once, and say nothing to those that wait."""
        self._waiting.clear()
        self._end(OSError("closed"))

    # -- called by asyncio ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._heard_at = self._loop.time()
        self._is_suspect = False
        self._buffer += data
        self._hand_over()

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed, by whomever."""
        if self._transport is None:
            return  # whoever connects is told more
        self._end(error if isinstance(error, OSError) else ConnectionResetError("closed the connection"))

    # -- inside --------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """In two steps, of which each closes what it has made when it is interrupted."""
        transport: asyncio.Transport | None
        host, port, name = self.address.host, self.address.port, self.address.tls
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, _ = await self._loop.create_connection(asyncio.Protocol, host, port)
                if name is None:
                    transport.set_protocol(self)
                else:
                    context = self._streams.tls_context()
                    transport = await self._loop.start_tls(transport, self, context, server_hostname=name)
            assert transport is not None  # noqa: S101 - nobody has closed it
            self._connected(transport)
        except TimeoutError:
            self._end(TimeoutError(f"cannot be connected to within {CONNECT_SECONDS:g} s"))
        except ssl.SSLCertVerificationError as error:
            self._end(OSError(f"has no certificate for {name}: {error.verify_message}"))
        except OSError as error:
            self._end(error)
        except ValueError as error:  # no name that a certificate can have
            self._end(OSError(f"cannot have a certificate for {name}: {error}"))

    def _connected(self, transport: asyncio.Transport) -> None:
        """It is connected, and with TLS the certificate is that of the upstream."""
        self._transport = transport
        self._streams.opened += 1
        now = self._heard_at = self._used_at = self._loop.time()
        for asked in self._waiting.values():
            asked.sent_at = now
        self._write(list(self._waiting.values()))
        self._idle_timer = self._loop.call_later(self._idle_seconds, self._look_whether_idle)

    def _write(self, several: list[StreamQuery]) -> None:
        assert self._transport is not None  # noqa: S101 - it is connected
        pieces: list[bytes] = []
        for asked in several:
            pieces += (_length.pack(len(asked.query)), _length.pack(asked.ident), asked.query[2:])
        if pieces:
            self._transport.write(b"".join(pieces))  # RFC 7766 §8: lengths and messages together

    def _hand_over(self) -> None:
        """Hand over the messages that came whole; some of them later, when others have had their turn."""
        begun = self._loop.time()
        at, buffer = 0, self._buffer
        while not self._is_closed and len(buffer) >= at + 2:
            end = at + 2 + _length.unpack_from(buffer, at)[0]
            if end > len(buffer):
                break
            self._take(bytes(buffer[at + 2 : end]))
            at = end
            if self._loop.time() >= begun + _TURN_SECONDS and len(buffer) > at:
                self._pause()
                break
        del buffer[:at]
        self._close_if_unused()

    def _pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self._is_closed:
            self._transport.resume_reading()
            self._hand_over()

    def _take(self, message: bytes) -> None:
        if len(message) < _length.size:
            return
        (ident,) = _length.unpack_from(message)
        self._forgotten.discard(ident)
        asked = self._waiting.pop(ident, None)
        if asked is not None:
            self.was_useful = True
            self._streams.arrived(asked, message)

    def _lacks_an_answer(self, asked: StreamQuery) -> bool:
        """Whether nothing has come since that was asked, and that is long ago."""
        return (
            self._transport is not None
            and asked.sent_at >= self._heard_at
            and self._loop.time() - asked.sent_at > STALLED_SECONDS
        )

    def _look_whether_idle(self) -> None:
        rest = self._used_at + self._idle_seconds - self._loop.time()
        if rest <= 0 and not self._waiting:
            self._end(OSError("idle"))
        else:
            self._idle_timer = self._loop.call_later(max(rest, 1.0), self._look_whether_idle)

    def _close_if_unused(self) -> None:
        if self._is_retired and not self._waiting:
            self._end(OSError("retired"))

    def _end(self, error: OSError) -> None:
        """It is over, for whatever reason; called again, it does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        elif self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        left = list(self._waiting.values())
        self._waiting.clear()
        self._streams.closed(self, left, error)
