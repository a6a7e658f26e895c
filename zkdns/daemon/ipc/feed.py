"""The feed: the stream of changes from the watcher to every worker.

    worker connects ──▶ Begin, Changes…, End, Health          a whole copy of the table
                          Changes, Health, Changes, …           then every difference, in order

A publisher that is still reading sends what it has read so far, and `End` when it is ready: so the workers
are ready with it. A worker keeps what it has until a whole copy has arrived, so neither side's end is ever
seen in answers. A subscriber that does not keep up is cut off, and begins anew with a copy.

What people ask of all workers (`Flush`) goes the same way, to those who are there, and to nobody later.

A subscriber says one thing, and only where it is asked to (`Barrier`): that it has come so far. Who has been
told that something is done can ask the workers at once, and must not find them on their way to it.
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

# A copy is cut into frames of so many changes, that a worker may answer between two of them.
_CHANGES_IN_FRAME = 200
# How far a subscriber may fall behind, beside the copy that it was sent.
_MOST_BACKLOG = 64 << 20
_RECONNECT_SECONDS = 0.02  # at a start both ends begin at once, and one has to wait for the other
# So long a worker is waited for that has something to do. One that hangs gives no old answer either.
_DELIVERY_SECONDS = 1.0


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """A whole copy follows; what it does not hold is over at its end."""


class Changes(msgspec.Struct, frozen=True, tag="changes"):
    """What changed, and the zone's serial thereafter."""

    serial: int
    changes: tuple[Change, ...]


class End(msgspec.Struct, frozen=True, tag="end"):
    """The copy is complete, and has this serial, also where it holds nothing."""

    serial: int


class SourceHealth(msgspec.Struct, frozen=True, tag="health"):
    """Whether the table has been read at all, and whether its source is out of reach now."""

    ready: bool
    stale: bool


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """What is cached of upstreams' answers is to be forgotten."""

    name: bytes | None
    """Of this name and what lies below it, in wire form and lower case; None: all of it."""


class Barrier(msgspec.Struct, frozen=True, tag="mark"):
    """To be sent back by the subscriber, when what came before it is done."""

    number: int


FeedMessage: TypeAlias = Begin | Changes | End | SourceHealth | Flush | Barrier
FRAMES: FrameCodec[FeedMessage] = FrameCodec(FeedMessage)  # type: ignore[arg-type]  # a union is no type to mypy
BARRIERS: FrameCodec[Barrier] = FrameCodec(Barrier)
"""What subscribers say."""


class Publisher:
    """The watcher's end: keeps the table, and tells every subscriber of each change.

    Changes of one round of the event loop go out together, under one serial.
    """

    def __init__(self) -> None:
        self.table = Table(departed_seconds=0)
        self.health = SourceHealth(ready=False, stale=False)
        self.on_publish: Callable[[Sequence[Change]], None] = lambda _: None
        """Called with changes before they are made."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after changes were made."""
        self.before_applied: Callable[[Change], None] = lambda _: None
        """Called before each change is made."""
        self.on_applied: Callable[[set[Labels]], None] = lambda _: None
        """Called with the keys of the services that a change may have altered, at each change."""
        self._pending: list[Change] = []
        self._subscribers: dict[asyncio.StreamWriter, int] = {}  # with the backlog that each may have
        self._mark = 0
        self._reached: dict[asyncio.StreamWriter, int] = {}  # the last mark that each has sent back
        self._has_moved = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def serve(self, path: str) -> None:
        """Accept subscribers at a Unix socket."""
        self._server = await asyncio.start_unix_server(self._subscribed, path)

    def publish(self, changes: Sequence[Change]) -> None:
        """Make changes at once, and tell of them at the end of this round of the event loop."""
        self.on_publish(changes)
        for change in changes:
            self.before_applied(change)
            keys = self.table.apply(change)
            if not keys:
                continue
            self.on_applied(keys)
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._flush)
            self._pending.append(change)

    def set_health(self, *, ready: bool, stale: bool) -> None:
        """Say how far the table can be trusted; what was published before arrives before."""
        self._flush()
        before, self.health = self.health, SourceHealth(ready, stale)
        if ready and not before.ready:
            self._broadcast(FRAMES.encode(End(self.table.serial)))
        if self.health != before:
            self._broadcast(FRAMES.encode(self.health))

    def flush_caches(self, name: bytes | None) -> int:
        """Let the workers forget what they cached; return how many of them are told.

        Args:
            name: of this name and what lies below it, in wire form and lower case; None: all of it.
        """
        self._broadcast(FRAMES.encode(Flush(name)))
        return len(self._subscribers)

    async def delivered(self) -> None:
        """Wait until all subscribers that are there have done what they were told; for a while at most."""
        self._flush()
        self._mark += 1
        mark, told = self._mark, tuple(self._subscribers)
        self._broadcast(FRAMES.encode(Barrier(mark)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DELIVERY_SECONDS):
                while any(one in self._subscribers and self._reached.get(one, 0) < mark for one in told):
                    self._has_moved.clear()
                    await self._has_moved.wait()

    def copy(self) -> list[Change]:
        """The changes that make the table as it is now, under the serial that it has now."""
        self._flush()
        return list(self.table.contents())

    def close(self) -> None:
        """Send what is pending, and let go of all subscribers."""
        self._flush()
        if self._server is not None:
            self._server.close()
        for writer in self._subscribers:
            writer.close()

    def _flush(self) -> None:
        changes, self._pending = tuple(self._pending), []
        if not changes:
            return
        # Time keeps the serial rising over restarts, counting keeps it rising within a second (RFC 1982).
        self.table.serial = max(self.table.serial + 1, int(time.time())) & 0xFFFFFFFF
        for start in range(0, len(changes), _CHANGES_IN_FRAME):
            part = changes[start : start + _CHANGES_IN_FRAME]
            self._broadcast(FRAMES.encode(Changes(self.table.serial, part)))
        self.on_change()

    async def _subscribed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._flush()
        self._send_copy(writer)
        while (reached := await BARRIERS.read(reader)) is not None:
            self._reached[writer] = reached.number
            self._has_moved.set()
        self._subscribers.pop(writer, None)
        self._reached.pop(writer, None)
        self._has_moved.set()
        writer.close()

    def _send_copy(self, writer: asyncio.StreamWriter) -> None:
        """All at once, so that no change can fall between the copy and what follows it."""
        contents = self.table.contents()
        messages: list[FeedMessage] = [Begin()]
        while part := tuple(itertools.islice(contents, _CHANGES_IN_FRAME)):
            messages.append(Changes(self.table.serial, part))
        if self.health.ready:
            messages.append(End(self.table.serial))
        frames = b"".join(map(FRAMES.encode, (*messages, self.health)))
        self._subscribers[writer] = _MOST_BACKLOG + len(frames)
        writer.write(frames)

    def _broadcast(self, frame: bytes) -> None:
        for writer, most in list(self._subscribers.items()):
            writer.write(frame)
            if writer.transport.get_write_buffer_size() > most:
                log.warning("worker_feed_lagging", effect="worker reconnects and reads the table again")
                del self._subscribers[writer]
                writer.transport.abort()


class Subscriber:
    """The worker's end: applies what arrives to a table.

    Args:
        path: the Unix socket of the publisher.
        table: what to keep current.
        on_change: called with the keys of services whose answers may have changed.
        on_health: called whenever readiness or staleness becomes another.
        on_flush: called with what a `Flush` names; what it raises is logged, and costs no change.
    """

    def __init__(
        self,
        path: str,
        table: Table,
        on_change: Callable[[set[Labels]], None],
        on_health: Callable[[SourceHealth], None],
        on_flush: Callable[[bytes | None], None] = lambda _: None,
    ) -> None:
        self.health = SourceHealth(ready=False, stale=False)
        self._path = path
        self._table = table
        self._on_change = on_change
        self._on_health = on_health
        self._on_flush = on_flush
        self._copied: set[str] | None = None  # the origins of a copy that is not complete yet
        self._copying = contextlib.ExitStack()  # open while such a copy arrives
        self._writer: asyncio.StreamWriter | None = None

    def follow(self, path: str) -> None:
        """Follow another publisher from now on; what is known stays until its copy has arrived."""
        self._path = path
        if self._writer is not None:
            self._writer.close()

    async def run(self) -> None:
        """Follow the publisher for ever, connecting again whenever it goes."""
        while True:
            path = self._path
            with contextlib.suppress(OSError):
                reader, self._writer = await asyncio.open_unix_connection(path)
                try:
                    await self._follow(reader)
                finally:
                    self._writer.close()
                    self._writer = None
                    self._copying.close()
            self._copied = None
            if path != self._path:
                continue  # nobody has gone
            self._heard(SourceHealth(self.health.ready, stale=self.health.ready))
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _follow(self, reader: asyncio.StreamReader) -> None:
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
                    await asyncio.sleep(0)  # a whole buffer of frames must not hold up answers
                case End():
                    self._table.serial = message.serial
                    if self._copied is not None:
                        self._on_change(self._table.retain(self._copied))
                    self._copied = None
                    self._copying.close()
                case SourceHealth():
                    # A publisher that is still reading is no reason to forget what is known.
                    self._heard(
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

    def _heard(self, health: SourceHealth) -> None:
        if health != self.health:
            self.health = health
            self._on_health(health)
