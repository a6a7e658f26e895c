"""TCP (RFC 7766, RFC 9210): framed messages, pipelined, on connections that cannot hold anything up.

bytes ──▶ buffer ──▶ one message ──▶ respond ──▶ length and response in one write
             ▲                                          │ the asker does not read, or asks faster
             └────────── reading paused ◀───────────────┘ than its turns come
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
from collections import Counter

from zkdns.transport import Answers

IDLE_SECONDS = 10.0  # RFC 7766 §6.2.3 asks for a few seconds; counted from the last whole query
MOST_CONNECTIONS = 1024
MOST_PER_CLIENT = 128

# What a process has open beside connections: standard files, event loop, feed, and some to spare.
_OTHER_FILES = 64
_FILES_OF_LISTENER = 3  # its TCP socket, asyncio's copy of that, and the UDP socket beside it
# So many queries of one connection are answered before anybody else gets a turn.
_BURST = 32
_LENGTH = 2
_HEAD = 10  # bytes between id and question


class Streams:
    """The form of queries and responses: as they are, without their lengths and ids."""

    most_kept = 512
    is_spelled = False

    @staticmethod
    def key(query: bytes) -> bytes:
        """The query itself."""
        return query

    @staticmethod
    def query(key: bytes) -> bytes:
        """The key itself."""
        return key

    @staticmethod
    def response(body: bytes, _question: int) -> bytes:
        """The response itself."""
        return body

    @staticmethod
    def spell(response: bytes, key: bytes, name_end: int) -> bytes:
        """The response with the query's name as it is spelled there, before that end."""
        return response[:_HEAD] + key[_HEAD:name_end] + response[name_end:]


class TcpServer:
    """Answers what arrives at one listening socket.

    When there are too many connections the longest idle one is closed for a new one, so that a flood of
    idle connections locks nobody out.

    Args:
        sock: it must listen, and stays its owner's.
        answers: what answers, for queries and responses as `Streams` has them.
        idle_seconds: how long a connection may bring no whole query before it is closed.
        most_connections: how many there may be in all.
        most_per_client: how many one client may have of them.
    """

    def __init__(
        self,
        sock: socket.socket,
        answers: Answers,
        *,
        idle_seconds: float = IDLE_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
        most_per_client: int = MOST_PER_CLIENT,
    ) -> None:
        self._sock = sock
        self._answers = answers
        self._idle_seconds = idle_seconds
        self._most_connections = most_connections
        self._most_per_client = most_per_client
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, str] = {}  # the longest idle first
        self._per_client: Counter[str] = Counter()

    async def start(self) -> None:
        """Begin to accept connections in the running event loop."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, self._answers, self._idle_seconds),
            sock=self._sock.dup(),
            backlog=MOST_CONNECTIONS,
        )

    def stop(self) -> None:
        """Accept no more, and close all connections once their answers are sent."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()

    def opened(self, connection: _Connection, client: str) -> None:
        """A connection was accepted; make room for it where there are too many."""
        self._connections[connection] = client
        self._per_client[client] += 1
        if self._per_client[client] > self._most_per_client:
            self._evict(next(other for other, owner in self._connections.items() if owner == client))
        elif len(self._connections) > self._most_connections:
            self._evict(next(iter(self._connections)))

    def active(self, connection: _Connection) -> None:
        """A connection brought a query: it is the least idle one now."""
        client = self._connections.pop(connection, None)
        if client is not None:
            self._connections[connection] = client

    def closed(self, connection: _Connection) -> None:
        """A connection is gone."""
        client = self._connections.pop(connection, None)
        if client is not None:
            self._per_client[client] -= 1
            if not self._per_client[client]:
                del self._per_client[client]

    def _evict(self, connection: _Connection) -> None:
        self.closed(connection)  # at once: the transport tells of it only later
        connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, from its first byte to its last answer."""

    def __init__(self, server: TcpServer, answers: Answers, idle_seconds: float) -> None:
        self._server = server
        self._answers = answers
        self._idle_seconds = idle_seconds
        self._buffer = bytearray()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle
        self._is_paused = False
        self._is_scheduled = False
        self._is_at_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_server makes
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self.close)
        self._server.opened(self, _client_of(peer))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._timer.cancel()
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_scheduled:
            self._work()

    def eof_received(self) -> bool:
        """The asker says no more, yet may still read: what it asked is answered before closing."""
        self._is_at_end = True
        if not self._is_scheduled:
            self._work()
        return True

    def pause_writing(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        if not self._is_scheduled:
            self._work()

    def close(self) -> None:
        """Close when all that was written has been sent, and in any case after another idle time."""
        self._timer.cancel()
        if not self._transport.is_closing():
            self._transport.close()
            self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _work(self) -> None:
        """Answer a burst of what has arrived; the rest in the event loop's next round.

        Until that is done nothing more is read, or whoever asks without a pause would fill the memory.
        """
        self._is_scheduled = False
        for _ in range(_BURST):
            if self._is_paused or self._transport.is_closing():
                return
            message = self._next_message()
            if message is None:
                if self._is_at_end:
                    self.close()
                else:
                    self._transport.resume_reading()
                return
            if not message:  # a length of zero: nothing that could be answered will follow
                self.close()
                return
            self._answer(message)
        self._is_scheduled = True
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._work)

    def _next_message(self) -> bytes | None:
        """Take the next message out of the buffer; None while it has not arrived whole."""
        if len(self._buffer) < _LENGTH:
            return None
        end = _LENGTH + int.from_bytes(self._buffer[:_LENGTH])
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_LENGTH:end])
        del self._buffer[:end]
        return message

    def _answer(self, message: bytes) -> None:
        self._server.active(self)
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self.close)
        response = next(self._answers[message[2:]])
        if response:
            self._transport.write((len(response) + 2).to_bytes(_LENGTH) + message[:2] + response)


def affordable_connections(listeners: int) -> int:
    """How many connections each of so many listeners of this process may have.

    It takes the files that the system grants (a soft limit of 1,024 is common, the hard one far above it):
    without a file left no connection is accepted, and so none makes room for another.
    """
    others = _OTHER_FILES + _FILES_OF_LISTENER * listeners
    wanted = others + MOST_CONNECTIONS * listeners
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_CONNECTIONS
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    except (OSError, ValueError):
        granted = soft
    return max(1, (granted - others) // listeners)


def _client_of(peer: object) -> str:
    """Whose connection it is: its address, of IPv6 the /64 that one host can choose freely from."""
    host = str(peer[0]) if isinstance(peer, tuple) else ""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.version == 6:  # noqa: PLR2004 - IP version 6
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return host
