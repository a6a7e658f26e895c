"""What browsers are told while it happens, as server-sent events (HTML Living Standard §9.2).

    status   the server, every two seconds and when it is another one
    change   who came or went: a `HistoryEntry` each, whose number is the event's id
    figures  the newest points of the last hour, each ten seconds

All streams are told the same bytes. Who does not read them in time is dropped: the next connection says what
it had last (`Last-Event-ID`), and is told what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from zkdns.observe.series import STEP, Point
from zkdns.observe.status import Entry, RequestError, Server, Status

MOST_STREAMS: Final = 16
_LOOK_SECONDS = 0.5
_STATUS_SECONDS = 2.0
_CHANGES_SECONDS = 1.0
_COMMENT_SECONDS = 15.0  # what lies between closes connections that say nothing, some after 30 s
_MOST_ENTRIES = 1000  # at a time; others follow
_BACKLOG = 64  # pieces of bytes that a stream may lag behind
_COMMENT = b": still here\n\n"
_RETRY = b"retry: 2000\n\n"


class Stream:
    """What one reader is told: pieces of bytes, until it is closed.

    Args:
        after: the number of the last entry that its reader knows.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.is_dropped = False
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_BACKLOG)

    def tell(self, piece: bytes) -> None:
        """Queue a piece; who lags too far behind is dropped."""
        if self.is_dropped:
            return
        try:
            self._pieces.put_nowait(piece)
        except asyncio.QueueFull:
            self.is_dropped = True
            self.close()

    def tell_entries(self, entries: Sequence[Entry]) -> None:
        """Queue those entries that are new to the reader."""
        if new := [one for one in entries if one.number > self.after]:
            self.after = new[-1].number
            self.tell(b"".join(_event("change", one, one.number) for one in new))

    def close(self) -> None:
        """End it, whatever is still queued."""
        while not self._pieces.empty():
            self._pieces.get_nowait()
        self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Each piece, when it is there."""
        while (piece := await self._pieces.get()) is not None:
            yield piece


class Events:
    """Looks what has changed, as long as there is anybody to be told."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._streams: set[Stream] = set()
        self._behind: set[Stream] = set()  # those of which _catch_up takes care
        self._wanted = asyncio.Event()
        self._after = 0  # the number of the last entry that was told
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def stream(self, known: int | None) -> AsyncIterator[Stream]:
        """A stream for one reader.

        Args:
            known: the number of the last entry that its reader knows; None: it is told what is new alone.

        Raises:
            RequestError: there are too many.
        """
        if self._is_closed or len(self._streams) >= MOST_STREAMS:
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MOST_STREAMS} streams of events are open, which is the most; close one, or try later",
            )
        now = time.time_ns() // 1000
        if not self._streams:
            self._after = now
        stream = Stream(self._after if known is None else min(known, now))
        stream.tell(_RETRY + _event("status", self._server.status()))
        self._streams.add(stream)
        self._behind.add(stream)
        self._wanted.set()
        catching_up = asyncio.create_task(self._catch_up(stream))
        try:
            yield stream
        finally:
            catching_up.cancel()
            self._behind.discard(stream)
            self._streams.discard(stream)
            if not self._streams:
                self._wanted.clear()

    def close(self) -> None:
        """End all streams, and begin none."""
        self._is_closed = True
        for stream in self._streams:
            stream.close()

    def tell_figures(self, until: float, point: Point) -> None:
        """Tell the newest points of the last hour, and their Unix time."""
        self._tell(_event("figures", {"step": STEP, "until": until, "series": point}))

    async def look_at_status(self) -> None:
        """Tell the status, for ever."""
        clock = asyncio.get_running_loop().time
        told: Status | None = None
        status_due = comment_due = 0.0
        while True:
            await self._wanted.wait()
            now, status = clock(), self._server.status()
            if now >= status_due or told is None or _lasting(status) != _lasting(told):
                told, status_due = status, now + _STATUS_SECONDS
                self._tell(_event("status", status))
            if now >= comment_due:
                comment_due = now + _COMMENT_SECONDS
                self._tell(_COMMENT)
            await asyncio.sleep(_LOOK_SECONDS)

    async def look_for_changes(self) -> None:
        """Tell who comes and goes, for ever; asking for that may take seconds."""
        while True:
            await self._wanted.wait()
            with contextlib.suppress(RequestError):  # the process that watches is away, as the status tells
                history = await self._server.history(None, self._after, _MOST_ENTRIES)
                self._after = max(self._after, history.last)
                for stream in self._streams - self._behind:
                    stream.tell_entries(history.entries)
            await asyncio.sleep(_CHANGES_SECONDS)

    def _tell(self, piece: bytes) -> None:
        for stream in self._streams:
            stream.tell(piece)

    async def _catch_up(self, stream: Stream) -> None:
        """Tell a stream what its reader has missed, as far as that is known."""
        while stream.after < self._after:
            told = self._after  # which grows while this is waited for: others are told more meanwhile
            try:
                history = await self._server.history(None, stream.after, _MOST_ENTRIES)
            except RequestError:  # the process that watches is away
                await asyncio.sleep(_CHANGES_SECONDS)
                continue
            stream.tell_entries(history.entries)
            if len(history.entries) < _MOST_ENTRIES:
                stream.after = max(stream.after, history.last, told)
        self._behind.discard(stream)


def _lasting(status: Status) -> Status:
    """What of a status does not change with each moment."""
    zookeeper = status.zookeeper
    if zookeeper is not None:
        zookeeper = msgspec.structs.replace(zookeeper, stale_seconds=float(zookeeper.stale_seconds > 0))
    upstreams = tuple(msgspec.structs.replace(one, rtt_seconds=None) for one in status.upstreams)
    return msgspec.structs.replace(status, now=0.0, zookeeper=zookeeper, upstreams=upstreams)


def _event(kind: str, data: object, number: int | None = None) -> bytes:
    """An event's bytes; JSON in one line, as msgspec writes it."""
    ident = b"" if number is None else b"id: %d\n" % number
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), ident, msgspec.json.encode(data))
