"""The feed: the stream of table changes from the watcher to every worker, over a Unix socket.

    worker connects ──▶ Begin, Changes…, End, SourceHealth    a copy of the table
                        Changes, SourceHealth, Changes, …     then each change, in order

A publisher that is still reading its source sends the part that it has read, and `End` when it is ready. So
the workers become ready together with it. A worker drops nothing from its table until a complete copy has
arrived, so responses do not change when either side restarts. A subscriber that falls too far behind is
disconnected; it connects again and gets a new copy.

A `Flush` of the forward caches uses the same stream. It reaches the workers that are connected at that time.

Subscribers send one message, the reply to a `Barrier`: they have processed everything before it. A command
waits for these replies before it returns, so that queries sent after it are answered from the new state.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import structlog

from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.framing import FrameCodec
from zkdns.names import Labels
from zkdns.serverset.changes import Change, SetPut, SetUnread
from zkdns.table import Table

log = structlog.get_logger("zkdns.feed")

_CHANGES_PER_FRAME = 200  # a worker serves queries between two frames of a copy
MAX_BACKLOG = 64 << 20
"""Number of bytes that a subscriber may fall behind, in addition to its copy."""
BARRIER_SECONDS = 1.0
"""Time in which a worker applies the changes that it was sent. One that takes longer hangs, and sends no
outdated responses either."""
RECONNECT_SECONDS = 0.02
"""Pause of a subscriber between two connections: short, because both processes start at the same time."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """A copy of the table follows. At its end, the subscriber drops all sets that are not in it."""


class Changes(msgspec.Struct, frozen=True, tag="changes"):
    """Changes of the table, and the zone's serial after them."""

    serial: int
    changes: tuple[Change, ...]


class End(msgspec.Struct, frozen=True, tag="end"):
    """The copy is complete. It has a serial even if it is empty."""

    serial: int


class SourceHealth(msgspec.Struct, frozen=True, tag="health"):
    """`ready`: the table has been read; `stale`: its source is disconnected."""

    ready: bool
    stale: bool


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Flush the forward cache."""

    name: bytes | None
    """Only entries of this name and of names below it, in wire format and lower case. None: all entries."""


class Barrier(msgspec.Struct, frozen=True, tag="barrier"):
    """The subscriber sends this back when it has processed everything before it."""

    number: int


FeedMessage: TypeAlias = Begin | Changes | End | SourceHealth | Flush | Barrier
FRAMES: FrameCodec[FeedMessage] = FrameCodec(FeedMessage)  # type: ignore[arg-type]  # a union is no type to mypy
BARRIERS: FrameCodec[Barrier] = FrameCodec(Barrier)
"""Messages from subscribers."""


class PublisherListener:
    """Observes a publisher in the same process. The methods do nothing; override the ones you need."""

    def before_publish(self, changes: Sequence[Change]) -> None:
        """Called with the changes of one `publish`, before the first of them is applied."""

    def before_change(self, change: Change) -> None:
        """Called before each change is applied to the table."""

    def after_change(self, keys: set[Labels]) -> None:
        """Called after each change that altered the table, with the keys of the affected services."""

    def after_batch(self) -> None:
        """Called after the changes of one round of the event loop have been sent to the subscribers."""


class Publisher:
    """The watcher's side: keeps the table, and sends every change to all subscribers.

    Changes of one round of the event loop are sent together, with one serial.

    Attributes:
        table: the table. `publish` applies its changes.
        health: last value of `set_health`.

    Args:
        max_backlog: as `MAX_BACKLOG`.
        barrier_seconds: as `BARRIER_SECONDS`.
    """

    def __init__(self, *, max_backlog: int = MAX_BACKLOG, barrier_seconds: float = BARRIER_SECONDS) -> None:
        self.table = Table(departed_seconds=0)
        self.health = SourceHealth(ready=False, stale=False)
        self._max_backlog = max_backlog
        self._barrier_seconds = barrier_seconds
        self._listeners: list[PublisherListener] = []
        self._pending: list[Change] = []
        self._max_backlogs: dict[asyncio.StreamWriter, int] = {}  # bytes, by subscriber
        self._barrier = 0
        self._reached: dict[asyncio.StreamWriter, int] = {}  # the last barrier that each subscriber sent back
        self._progress = asyncio.Event()
        self._server: asyncio.Server | None = None

    def add_listener(self, listener: PublisherListener) -> None:
        """Call the listener's methods from now on, after those of earlier listeners."""
        self._listeners.append(listener)

    @property
    def subscriber_count(self) -> int:
        """Number of connected subscribers."""
        return len(self._max_backlogs)

    async def serve(self, path: str) -> None:
        """Accept subscribers at a Unix socket."""
        self._server = await asyncio.start_unix_server(self._serve_subscriber, path)

    def publish(self, changes: Sequence[Change]) -> None:
        """Apply changes at once, and send them at the end of this round of the event loop."""
        for listener in self._listeners:
            listener.before_publish(changes)
        for change in changes:
            for listener in self._listeners:
                listener.before_change(change)
            keys = self.table.apply(change)
            if not keys:
                continue
            for listener in self._listeners:
                listener.after_change(keys)
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._send_pending)
            self._pending.append(change)

    def set_health(self, *, ready: bool, stale: bool) -> None:
        """Set and send the health of the source, after all changes published before."""
        self._send_pending()
        before, self.health = self.health, SourceHealth(ready, stale)
        if ready and not before.ready:
            self._broadcast(FRAMES.encode(End(self.table.serial)))
        if self.health != before:
            self._broadcast(FRAMES.encode(self.health))

    def flush_caches(self, name: bytes | None) -> int:
        """Flush the workers' forward caches, and return the number of workers that this reaches.

        Args:
            name: only entries of this name and of names below it, in wire format and lower case. None: all.
        """
        self._broadcast(FRAMES.encode(Flush(name)))
        return self.subscriber_count

    async def wait_until_applied(self) -> None:
        """Wait until all current subscribers have processed everything sent so far, or a time-out ends."""
        self._send_pending()
        self._barrier += 1
        number, waited_for = self._barrier, tuple(self._max_backlogs)
        self._broadcast(FRAMES.encode(Barrier(number)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._barrier_seconds):
                while any(
                    subscriber in self._max_backlogs and self._reached.get(subscriber, 0) < number
                    for subscriber in waited_for
                ):
                    self._progress.clear()
                    await self._progress.wait()

    def copy(self) -> list[Change]:
        """Return the changes that build the present table, with its present serial."""
        self._send_pending()
        return list(self.table.contents())

    def close(self) -> None:
        """Send pending changes and disconnect all subscribers."""
        self._send_pending()
        if self._server is not None:
            self._server.close()
        for writer in self._max_backlogs:
            writer.close()

    def _send_pending(self) -> None:
        changes, self._pending = tuple(self._pending), []
        if not changes:
            return
        # The serial follows the clock, so that it rises across restarts, and is at least one more than the
        # previous one. It wraps around as in RFC 1982.
        self.table.serial = max(self.table.serial + 1, int(time.time())) & 0xFFFFFFFF
        for start in range(0, len(changes), _CHANGES_PER_FRAME):
            part = changes[start : start + _CHANGES_PER_FRAME]
            self._broadcast(FRAMES.encode(Changes(self.table.serial, part)))
        for listener in self._listeners:
            listener.after_batch()

    async def _serve_subscriber(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._send_pending()
        self._send_copy(writer)
        while (barrier := await BARRIERS.read(reader)) is not None:
            self._reached[writer] = barrier.number
            self._progress.set()
        self._max_backlogs.pop(writer, None)
        self._reached.pop(writer, None)
        self._progress.set()
        writer.close()

    def _send_copy(self, writer: asyncio.StreamWriter) -> None:
        """Send a copy in one step, so that no change comes between the copy and the changes after it."""
        contents = self.table.contents()
        messages: list[FeedMessage] = [Begin()]
        while part := tuple(itertools.islice(contents, _CHANGES_PER_FRAME)):
            messages.append(Changes(self.table.serial, part))
        if self.health.ready:
            messages.append(End(self.table.serial))
        frames = b"".join(map(FRAMES.encode, (*messages, self.health)))
        self._max_backlogs[writer] = self._max_backlog + len(frames)
        writer.write(frames)

    def _broadcast(self, frame: bytes) -> None:
        for writer, max_backlog in list(self._max_backlogs.items()):
            writer.write(frame)
            if writer.transport.get_write_buffer_size() > max_backlog:
                log.warning("worker_feed_lagging", effect="worker reconnects and reads the table again")
                del self._max_backlogs[writer]
                writer.transport.abort()


class Subscriber:
    """The worker's side: applies received changes to a table.

    Attributes:
        health: health of the publisher's source. Stays ready once it was; stale while disconnected.

    Args:
        path: Unix socket of the publisher.
        table: the table to keep current.
        on_change: called with the keys of services whose responses may have changed.
        on_health: called with each new health.
        on_flush: called with the name of each `Flush`. Its exceptions are logged.
        reconnect_seconds: as `RECONNECT_SECONDS`.
    """

    def __init__(
        self,
        path: str,
        table: Table,
        on_change: Callable[[set[Labels]], None],
        on_health: Callable[[SourceHealth], None],
        on_flush: Callable[[bytes | None], None] = lambda _: None,
        *,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self.health = SourceHealth(ready=False, stale=False)
        self._path = path
        self._table = table
        self._on_change = on_change
        self._on_health = on_health
        self._on_flush = on_flush
        self._reconnect_seconds = reconnect_seconds
        self._copied: set[str] | None = None  # origins received so far, while a copy arrives
        self._copying = contextlib.ExitStack()  # pauses garbage collection, while a copy arrives
        self._writer: asyncio.StreamWriter | None = None

    def follow(self, path: str) -> None:
        """Follow another publisher. The table stays until that one's copy has arrived."""
        self._path = path
        if self._writer is not None:
            self._writer.close()

    async def run(self) -> None:
        """Follow the publisher without end, and connect again whenever the connection ends."""
        while True:
            path = self._path
            with contextlib.suppress(OSError):
                reader, self._writer = await asyncio.open_unix_connection(path)
                try:
                    await self._process(reader)
                finally:
                    self._writer.close()
                    self._writer = None
                    self._copying.close()
            self._copied = None
            if path != self._path:
                continue  # `follow` closed the connection; the publisher did not end
            self._set_health(SourceHealth(self.health.ready, stale=self.health.ready))
            await asyncio.sleep(self._reconnect_seconds)

    async def _process(self, reader: asyncio.StreamReader) -> None:
        while (message := await FRAMES.read(reader)) is not None:
            match message:
                case Barrier():
                    if self._writer is not None:
                        self._writer.write(BARRIERS.encode(message))
                case Begin():
                    self._copied = set()
                    self._copying.close()
                    self._copying.enter_context(gc_paused_for_loading())
                case Changes():
                    self._apply(message)
                    await asyncio.sleep(0)  # serve queries before the next buffered frame
                case End():
                    self._table.serial = message.serial
                    if self._copied is not None:
                        self._on_change(self._table.retain(self._copied))
                    self._copied = None
                    self._copying.close()
                case SourceHealth():
                    # A new publisher is not ready before it has read its source; the table is stale until
                    # then, and still used.
                    self._set_health(
                        SourceHealth(message.ready or self.health.ready, message.stale or not message.ready)
                    )
                case Flush():
                    self._flush(message.name)

    def _apply(self, message: Changes) -> None:
        changed: set[Labels] = set()
        now = time.monotonic()
        for change in message.changes:
            changed |= self._table.apply(change, now)
            if self._copied is not None and isinstance(change, SetPut | SetUnread):
                self._copied.add(change.origin)
        self._table.serial = message.serial
        self._on_change(changed)

    def _flush(self, name: bytes | None) -> None:
        try:
            self._on_flush(name)
        except Exception:
            log.exception("cache_flush_failed", name=name)

    def _set_health(self, health: SourceHealth) -> None:
        if health != self.health:
            self.health = health
            self._on_health(health)
