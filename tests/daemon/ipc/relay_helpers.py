"""Clients of a relay's streamed responses."""

from __future__ import annotations

import asyncio

from zkdns.daemon.ipc.relay import Relay
from zkdns.transport.contract import MessageStream, StreamedResponse

ADDRESS = bytes((10, 0, 0, 1))
UNAVAILABLE = b"unavailable"
IDENT = b"id"


class Sink:
    """A client of a streamed response.

    Args:
        room: how many bytes it takes before the stream is paused.
        is_tls: whether it is connected over TLS.

    Attributes:
        data: all bytes so far.
        is_whole: whether the response was whole; None before its end.
        has_data: set when there are any.
        ended: set at the end of the response.
    """

    def __init__(self, room: int = 1 << 30, *, is_tls: bool = False) -> None:
        self.room, self.is_tls = room, is_tls
        self.data = b""
        self.is_whole: bool | None = None
        self.has_data, self.ended = asyncio.Event(), asyncio.Event()

    def write(self, data: bytes) -> bool:
        self.data += data
        self.has_data.set()
        return len(self.data) < self.room

    def end(self, *, is_whole: bool) -> None:
        self.is_whole = is_whole
        self.ended.set()


def start(relay: Relay, sink: Sink, query: bytes = b"query") -> MessageStream:
    """Relay a query over TCP."""
    response = relay.respond(query, UNAVAILABLE, lambda body, _: body, stream=True)
    assert isinstance(response, StreamedResponse)
    return response.start(IDENT, ADDRESS, sink)


async def start_unread(relay: Relay) -> tuple[MessageStream, Sink]:
    """Relay a query over TCP from a client that takes no more than the first part of the response."""
    sink = Sink(room=1)
    stream = start(relay, sink)
    await sink.has_data.wait()
    return stream, sink


async def read_to_the_end(stream: MessageStream, sink: Sink) -> None:
    """Let a client that has taken a part take the rest."""
    sink.room = 1 << 30
    stream.resume()
    await sink.ended.wait()


def framed(*messages: bytes) -> bytes:
    """Messages with their lengths, as on a TCP connection."""
    return b"".join(len(message).to_bytes(2) + message for message in messages)
