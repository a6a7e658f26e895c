"""Server-sent events (HTML Living Standard §9.2) at `/api/events`.

    status  the state of the server: every two seconds, and when it changes
    change  a member joined or left: a `HistoryEntry`, with its number as the event's id
    point   the newest point of the last hour, every ten seconds

All streams receive the same bytes. A client that does not read in time is disconnected. When it reconnects,
it sends the last id that it received (`Last-Event-ID`), and receives the entries that it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from zkdns.admin.status import Backend, Entry, RequestError, Status
from zkdns.admin.timing import Timing
from zkdns.telemetry.last_hour import STEP, Point

MAX_STREAMS: Final = 16
_MAX_ENTRIES = 1000  # in one request to the watcher
_BACKLOG = 64  # pieces that a stream may lag behind
_COMMENT = b": still here\n\n"
_RETRY = b"retry: 2000\n\n"


class Stream:
    """Pieces of bytes for one client, until it is closed.

    Args:
        after: number of the last entry that the client has received.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.is_dropped = False
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_BACKLOG)

    def send(self, piece: bytes) -> None:
        """Queue a piece. Drops the stream if its queue is full."""
        if self.is_dropped:
            return
        try:
            self._pieces.put_nowait(piece)
        except asyncio.QueueFull:
            self.is_dropped = True
            self.close()

    def send_entries(self, entries: Sequence[Entry]) -> None:
        """Queue the entries that the client has not received."""
        if new := [one for one in entries if one.number > self.after]:
            self.after = new[-1].number
            self.send(b"".join(_event("change", one, one.number) for one in new))

    def close(self) -> None:
        """End the stream, and discard its queue."""
        while not self._pieces.empty():
            self._pieces.get_nowait()
        self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield each piece as it arrives."""
        while (piece := await self._pieces.get()) is not None:
            yield piece


class Events:
    """Polls the server for changes while at least one stream is open.

    Args:
        backend: the server.
        timing: the intervals.
    """

    def __init__(self, backend: Backend, timing: Timing) -> None:
        self._timing = timing
        self._backend = backend
        self._streams: set[Stream] = set()
        self._behind: set[Stream] = set()  # streams that _catch_up serves
        self._wanted = asyncio.Event()
        self._after = 0  # number of the last entry that was sent
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def stream(self, last_id: int | None) -> AsyncIterator[Stream]:
        """Open a stream for one client.

        Args:
            last_id: number of the last entry that the client has received; None: send new entries only.

        Raises:
            RequestError: too many streams are open.
        """
        if self._is_closed or len(self._streams) >= MAX_STREAMS:
            raise RequestError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{MAX_STREAMS} event streams are open, which is the limit; close one, or try later",
            )
        now = time.time_ns() // 1000
        if not self._streams:
            self._after = now
        stream = Stream(self._after if last_id is None else min(last_id, now))
        stream.send(_RETRY + _event("status", self._backend.status()))
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
        """End all streams, and refuse new ones."""
        self._is_closed = True
        for stream in self._streams:
            stream.close()

    def send_point(self, until: float, point: Point) -> None:
        """Send the newest point of the last hour with its Unix time."""
        self._send(_event("point", {"step": STEP, "until": until, "series": point}))

    async def watch_status(self) -> None:
        """Send the status, without end."""
        clock = asyncio.get_running_loop().time
        sent: Status | None = None
        status_due = comment_due = 0.0
        while True:
            await self._wanted.wait()
            now, status = clock(), self._backend.status()
            if now >= status_due or sent is None or _lasting(status) != _lasting(sent):
                sent, status_due = status, now + self._timing.status
                self._send(_event("status", status))
            if now >= comment_due:
                comment_due = now + self._timing.comment
                self._send(_COMMENT)
            await asyncio.sleep(self._timing.check)

    async def watch_changes(self) -> None:
        """Send new entries, without end. A request to the watcher may take seconds."""
        while True:
            await self._wanted.wait()
            with contextlib.suppress(RequestError):  # the watcher is not running, which the status shows
                history = await self._backend.history(None, self._after, _MAX_ENTRIES)
                self._after = max(self._after, history.last)
                for stream in self._streams - self._behind:
                    stream.send_entries(history.entries)
            await asyncio.sleep(self._timing.changes)

    def _send(self, piece: bytes) -> None:
        for stream in self._streams:
            stream.send(piece)

    async def _catch_up(self, stream: Stream) -> None:
        """Send a new stream the entries that its client missed and the history still has."""
        while stream.after < self._after:
            sent = self._after  # grows during the request below, as other streams receive more
            try:
                history = await self._backend.history(None, stream.after, _MAX_ENTRIES)
            except RequestError:  # the watcher is not running
                await asyncio.sleep(self._timing.changes)
                continue
            stream.send_entries(history.entries)
            if len(history.entries) < _MAX_ENTRIES:
                stream.after = max(stream.after, history.last, sent)
        self._behind.discard(stream)


def _lasting(status: Status) -> Status:
    """Return a status without the values that change all the time."""
    zookeeper = status.zookeeper
    if zookeeper is not None:
        namespaces = tuple(
            msgspec.structs.replace(one, stale_seconds=float(one.stale_seconds > 0))
            for one in zookeeper.namespaces
        )
        zookeeper = msgspec.structs.replace(
            zookeeper, stale_seconds=float(zookeeper.stale_seconds > 0), namespaces=namespaces
        )
    primary = status.primary
    if primary is not None:
        primary = msgspec.structs.replace(primary, stale_seconds=float(primary.stale_seconds > 0))
    upstreams = tuple(msgspec.structs.replace(one, rtt_seconds=None) for one in status.upstreams)
    return msgspec.structs.replace(status, now=0.0, zookeeper=zookeeper, primary=primary, upstreams=upstreams)


def _event(kind: str, data: object, number: int | None = None) -> bytes:
    """Encode an event. msgspec writes JSON in one line."""
    ident = b"" if number is None else b"id: %d\n" % number
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), ident, msgspec.json.encode(data))
