"""The feed: the stream of table changes from the watcher to every worker, over a Unix socket.

    worker connects ──▶ Begin, Changes…, SourceHealth…, End   a copy of the table
                        Changes, SourceHealth, Changes, …     then each change, in order

The data has one or more sources: the namespaces, the static file. A publisher that is still reading a source
sends the part that it has read, and `SourceHealth` when it is ready. So the workers become ready together
with it. A worker drops nothing of a source from its table until all of it has arrived, so responses do not
change when either side restarts. A subscriber that falls too far behind is disconnected; it connects again
and gets a new copy. It decodes and applies a change of many members in steps (`pack`, `Table.steps_of`).

A `Flush` of the forward caches uses the same stream. It reaches the workers that are connected at that time.

Subscribers reply to a `Barrier` when they have processed everything before it. A command waits for these
replies before it returns, so that queries sent after it are answered from the new state. A subscriber can
request the same with `WaitForAll`: the transfer process does before a NOTIFY.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.feed_messages import (
    FRAMES,
    REPLIES,
    VERSION_SECONDS,
    AppliedByAll,
    Barrier,
    Begin,
    Changes,
    End,
    Flush,
    Health,
    SourceHealth,
    WaitForAll,
    copy_frames,
    divide_by_work,
    merge_health,
    pack,
    unpack,
)
from zkdns.daemon.ipc.zone_serial import DETOUR_SECONDS, ZoneSerial
from zkdns.names import Labels
from zkdns.namespace import ALL_SOURCES, Namespace, source_of
from zkdns.serverset.changes import Change, DirectoryUnread, SetPut, SetUnread
from zkdns.table import Table

log = structlog.get_logger("zkdns.feed")

MAX_BACKLOG = 64 << 20
"""Number of bytes that a subscriber may fall behind."""
BARRIER_SECONDS = 1.0
"""Time in which a worker applies the changes that it was sent. One that takes longer hangs, and sends no
outdated responses either."""
RECONNECT_SECONDS = 0.02
"""Pause of a subscriber between two connections: short, because both processes start at the same time."""


class Rise(enum.Enum):
    """When the serial rises after some changes."""

    NOW = enum.auto()
    """When they are sent."""
    WITH_VERSION = enum.auto()
    """When `set_version` is called next, but at the latest after `VERSION_SECONDS`."""
    NEVER = enum.auto()
    """They come from a source that is not ready, or belong to the restored serial."""


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
        table: the table. `publish` applies its changes. Its serial is that of `ZoneSerial`.
        sources: the last health of each source, by its name.
        last_sent_at: when changes were last sent, by `time.monotonic`.

    Args:
        sources: the names of the sources. None of them is ready yet.
        max_backlog: as `MAX_BACKLOG`.
        barrier_seconds: as `BARRIER_SECONDS`.
        version_seconds: as `VERSION_SECONDS`.
        detour_seconds: as `zone_serial.DETOUR_SECONDS`.
    """

    def __init__(
        self,
        sources: Iterable[str] = (ALL_SOURCES,),
        *,
        max_backlog: int = MAX_BACKLOG,
        barrier_seconds: float = BARRIER_SECONDS,
        version_seconds: float = VERSION_SECONDS,
        detour_seconds: float = DETOUR_SECONDS,
    ) -> None:
        self.table = Table(departed_seconds=0)
        self.sources = {source: SourceHealth(ready=False, source=source) for source in sources}
        self.last_sent_at = -math.inf
        self._serial = ZoneSerial(self.sources, detour_seconds=detour_seconds)
        self._version_seconds = version_seconds
        self._is_changed = False  # so that the serial rises
        self._awaits_version: asyncio.TimerHandle | None = None
        self._detour_end: asyncio.TimerHandle | None = None
        self._is_scheduled = False
        self._max_backlog = max_backlog
        self._barrier_seconds = barrier_seconds
        self._listeners: list[PublisherListener] = []
        self._pending: list[Change] = []
        self._subscribers: dict[asyncio.StreamWriter, _Later | None] = {}  # None: it has its copy
        self._barrier = 0
        self._reached: dict[asyncio.StreamWriter, int] = {}  # the last barrier that each subscriber sent back
        self._progress = asyncio.Event()
        self._server: asyncio.Server | None = None

    def add_listener(self, listener: PublisherListener) -> None:
        """Call the listener's methods from now on, after those of earlier listeners."""
        self._listeners.append(listener)

    @property
    def health(self) -> Health:
        """The health of all sources together."""
        return merge_health(self.sources.values())

    @property
    def subscriber_count(self) -> int:
        """Number of connected subscribers."""
        return len(self._subscribers)

    async def serve(self, path: str) -> None:
        """Accept subscribers at a Unix socket."""
        self._server = await asyncio.start_unix_server(self._serve_subscriber, path)

    def publish(self, changes: Sequence[Change], rise: Rise = Rise.NOW) -> None:
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
            self._send_soon()
            self._pending.append(change)
            if rise is Rise.NOW:
                self._is_changed = True
            elif rise is Rise.WITH_VERSION and self._awaits_version is None:
                loop = asyncio.get_running_loop()
                self._awaits_version = loop.call_later(self._version_seconds, self._end_wait_for_version)

    def restore_serial(self, serial: int) -> None:
        """Set the serial of a restored table. The next one will be newer."""
        self.table.serial = serial
        self._serial.is_restored = True

    def raise_serial(self) -> None:
        """Let the serial rise, because a setting has changed the responses."""
        self._is_changed = True
        self._send_soon()

    def set_version(self, source: str, version: int) -> None:
        """Set the version of a source's contents, after they were published (see `ZoneSerial`)."""
        self._serial.set_version(source, version)
        self._end_wait_for_version()

    def set_health(self, health: SourceHealth) -> None:
        """Set and send the health of a source, after all changes published before."""
        self._send_pending()
        if self.sources.get(health.source) != health:
            self.sources[health.source] = health
            self._broadcast(FRAMES.encode(health))

    def flush_caches(self, name: bytes | None) -> int:
        """Flush the workers' forward caches, and return the number of workers that this reaches.

        Args:
            name: only entries of this name and of names below it, in wire format and lower case. None: all.
        """
        self._broadcast(FRAMES.encode(Flush(name)))
        return self.subscriber_count

    async def wait_until_applied(self, seconds: float | None = None) -> None:
        """Wait until all current subscribers have processed everything sent so far, or a time-out ends.

        Args:
            seconds: the time-out. None: `BARRIER_SECONDS`.
        """
        self._send_pending()
        self._barrier += 1
        number, waited_for = self._barrier, tuple(self._subscribers)
        self._broadcast(FRAMES.encode(Barrier(number)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._barrier_seconds if seconds is None else seconds):
                while any(
                    subscriber in self._subscribers and self._reached.get(subscriber, 0) < number
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
        for writer in self._subscribers:
            writer.close()

    def _end_wait_for_version(self) -> None:
        """Let the serial rise for all changes so far that have waited for a version."""
        if self._awaits_version is not None:
            self._awaits_version.cancel()
            self._awaits_version = None
            self._is_changed = True
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_pending)

    def _send_pending(self) -> None:
        self._is_scheduled = False
        changes, self._pending = tuple(self._pending), []
        is_changed, self._is_changed = self._is_changed, False
        serial = self._serial.following(self.table.serial, time.monotonic(), is_changed=is_changed)
        if not changes and serial == self.table.serial:
            return
        self.table.serial = serial
        self.last_sent_at = time.monotonic()
        self._watch_detour()
        parts = list(divide_by_work(changes)) or [()]
        for part in parts:
            has_more, is_ahead = part is not parts[-1], self._awaits_version is not None
            self._broadcast(FRAMES.encode(Changes(serial, tuple(map(pack, part)), has_more, is_ahead)))
        for listener in self._listeners:
            listener.after_batch()

    def _watch_detour(self) -> None:
        """Let the serial rise again when a detour ends."""
        if self._detour_end is not None:
            self._detour_end.cancel()
            self._detour_end = None
        if (left := self._serial.detour_until - time.monotonic()) > -math.inf:
            self._detour_end = asyncio.get_running_loop().call_later(max(0.0, left), self._send_pending)

    async def _serve_subscriber(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._send_pending()
        tasks = {asyncio.create_task(self._send_copy(writer))}
        while (message := await REPLIES.read(reader)) is not None:
            match message:
                case Barrier(number):
                    self._reached[writer] = number
                    self._progress.set()
                case WaitForAll():
                    tasks.add(task := asyncio.create_task(self._report_applied(writer, message)))
                    task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
        self._subscribers.pop(writer, None)
        self._reached.pop(writer, None)
        self._progress.set()
        writer.close()

    async def _report_applied(self, writer: asyncio.StreamWriter, request: WaitForAll) -> None:
        await self.wait_until_applied(request.seconds)
        writer.write(FRAMES.encode(AppliedByAll(request.number)))

    async def _send_copy(self, writer: asyncio.StreamWriter) -> None:
        """Send a copy of the present table in pieces, and then the frames that were broadcast meanwhile."""
        later = self._subscribers[writer] = _Later()
        contents = list(self.table.contents())  # fast: members are immutable, so they are not copied
        with contextlib.suppress(OSError):
            end = End(self.table.serial, self._awaits_version is not None)
            for frame in copy_frames(contents, tuple(self.sources.values()), end):
                writer.write(frame)
                await writer.drain()
                await asyncio.sleep(0)  # drain() alone does not yield to other tasks
            if writer in self._subscribers:
                self._subscribers[writer] = None
                writer.write(b"".join(later.frames))

    def _broadcast(self, frame: bytes) -> None:
        for writer, later in list(self._subscribers.items()):
            if later is None:
                writer.write(frame)
                backlog = writer.transport.get_write_buffer_size()
            else:
                backlog = later.add(frame)
            if backlog > self._max_backlog:
                log.warning("worker_feed_lagging", effect="worker reconnects and reads the table again")
                del self._subscribers[writer]
                writer.transport.abort()


class _Later:
    """The frames that a subscriber gets after its copy."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._size = 0

    def add(self, frame: bytes) -> int:
        """Add a frame; return the size of all."""
        self.frames.append(frame)
        self._size += len(frame)
        return self._size


class _IncomingCopy:
    """What a copy has contained so far."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        """Origins of sets, and unread directories."""
        self.sources: set[str] = set()
        self.read: set[str] = set()
        """The sources that are ready, so that all their changes have arrived."""
        self.has_ended = False

    def note(self, change: Change) -> None:
        """Note a change that was received."""
        if isinstance(change, SetPut | SetUnread):
            self.paths.add(change.origin)
        elif isinstance(change, DirectoryUnread):
            self.paths.add(change.path)


class Subscriber:
    """The worker's side: applies received changes to a table.

    Attributes:
        table: the table.
        sources: the health of each source of the publisher, by its name. Once ready, it stays ready; it is
            stale while the feed is disconnected.

    Args:
        path: Unix socket of the publisher.
        table: the table to keep current.
        on_change: called with the keys of services whose responses may have changed.
        on_health: called with the new health of a source.
        on_flush: called with the name of each `Flush`. Its exceptions are logged.
        namespaces: the namespaces in ZooKeeper. They determine the source of each set.
        reconnect_seconds: as `RECONNECT_SECONDS`.
    """

    def __init__(
        self,
        path: str,
        table: Table,
        on_change: Callable[[set[Labels]], object],
        on_health: Callable[[SourceHealth], None],
        on_flush: Callable[[bytes | None], None] = lambda _: None,
        *,
        namespaces: Sequence[Namespace] = (),
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self.sources: dict[str, SourceHealth] = {}
        self.table = table
        self._path = path
        self._namespaces = namespaces
        self._on_change = on_change
        self._on_health = on_health
        self._on_flush = on_flush
        self._reconnect_seconds = reconnect_seconds
        self._copy: _IncomingCopy | None = None  # until it has arrived, and all its sources are ready
        self._copying = contextlib.ExitStack()  # pauses garbage collection, while a copy arrives
        self._is_partial = True  # until all frames of a copy, or of the changes with one serial, have arrived
        self._writer: asyncio.StreamWriter | None = None
        self._requests = itertools.count()
        self._requested: dict[int, asyncio.Event] = {}

    def follow(self, path: str) -> None:
        """Follow another publisher. The table stays until that one's copy has arrived."""
        self._path = path
        if self._writer is not None:
            self._writer.close()

    @property
    def health(self) -> Health:
        """The health of all sources together."""
        return merge_health(self.sources.values())

    def is_whole(self, source: str) -> bool:
        """Whether the table has exactly the publisher's content of this source at the table's serial."""
        return not self._is_partial and (self._copy is None or source in self._copy.read)

    async def wait_until_applied_by_all(self, seconds: float) -> None:
        """Wait until all subscribers have processed what this one has, or for this time at most."""
        if self._writer is None:
            return
        number = next(self._requests)
        is_applied = self._requested[number] = asyncio.Event()
        self._writer.write(REPLIES.encode(WaitForAll(number, seconds)))
        try:
            async with asyncio.timeout(seconds):
                await is_applied.wait()
        except TimeoutError:
            pass
        finally:
            del self._requested[number]

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
            self._is_partial |= self._copy is not None
            self._copy = None
            if path != self._path:
                continue  # `follow` closed the connection; the publisher did not end
            for health in list(self.sources.values()):
                if health.is_current:
                    self._set_health(msgspec.structs.replace(health, stale_since=time.time()))
            await asyncio.sleep(self._reconnect_seconds)

    async def _process(self, reader: asyncio.StreamReader) -> None:
        while (message := await FRAMES.read(reader)) is not None:
            match message:
                case Barrier() | AppliedByAll():
                    self._handle_barrier(message)
                case Begin():
                    self._is_partial = True
                    self._copy = _IncomingCopy()
                    self._copying.close()
                    self._copying.enter_context(gc_paused_for_loading())
                case Changes():
                    await self._apply(message)
                    await asyncio.sleep(0)  # serve queries before the next buffered frame
                case SourceHealth():
                    await self._update_source(message)
                case End():
                    self.table.serial = message.serial
                    await self._end_copy()
                    self._is_partial = message.is_ahead
                case Flush():
                    self._flush(message.name)

    def _handle_barrier(self, message: Barrier | AppliedByAll) -> None:
        if isinstance(message, AppliedByAll):
            if (is_applied := self._requested.get(message.number)) is not None:
                is_applied.set()
        elif self._writer is not None:
            self._writer.write(REPLIES.encode(message))

    async def _apply(self, message: Changes) -> None:
        changed: set[Labels] = set()
        changes = await unpack(message.changes, self.table)
        now = time.monotonic()
        for change in changes:
            steps = self.table.steps_of(change)
            for step in steps:
                if len(steps) > 1:  # serve queries between two steps
                    self._is_partial = True
                    self._on_change(changed)
                    changed = set()
                    await asyncio.sleep(0)
                changed |= self.table.apply(step, now)
            if self._copy is not None:
                self._copy.note(change)
        self.table.serial = message.serial
        if self._copy is None or self._copy.has_ended:
            self._is_partial = message.has_more or message.is_ahead
        self._on_change(changed)

    async def _update_source(self, message: SourceHealth) -> None:
        """Note the health of a source. When all of it has arrived, drop the sets that it has lost."""
        before = self.sources.get(message.source)
        if self._copy is not None:
            self._copy.sources.add(message.source)
            if message.ready and message.source not in self._copy.read:
                await self._retain(message.source, self._copy.paths)
                self._copy.read.add(message.source)
        if not message.ready and (before.ready if before is not None else self.health.ready):
            # A new publisher is not ready before it has read its sources; the table is stale until then, and
            # still used.
            known = before.stale_since if before is not None else None
            message = msgspec.structs.replace(message, ready=True, stale_since=known or time.time())
        self._set_health(message)
        self._end_copy_if_read()

    async def _end_copy(self) -> None:
        """Forget the sources that the publisher does not have any more, with their sets."""
        if self._copy is not None:
            self._copy.has_ended = True
            for source in self.sources.keys() - self._copy.sources:
                await self._retain(source, self._copy.paths)
                self._set_health(SourceHealth(ready=True, source=source))
                del self.sources[source]
        self._end_copy_if_read()

    def _end_copy_if_read(self) -> None:
        copy = self._copy
        if copy is not None and copy.has_ended and copy.read >= copy.sources:
            self._copy = None
            self._copying.close()

    async def _retain(self, source: str, paths: set[str]) -> None:
        """Drop the sets and directories of a source except those at these paths."""
        for changed in self.table.retain(paths, lambda path: self._source_of(path) == source):
            self._on_change(changed)
            await asyncio.sleep(0)  # serve queries before the next ones

    def _source_of(self, path: str) -> str:
        source = source_of(path, self._namespaces)
        return source if source in self.sources else ALL_SOURCES

    def _flush(self, name: bytes | None) -> None:
        try:
            self._on_flush(name)
        except Exception:
            log.exception("cache_flush_failed", name=name)

    def _set_health(self, health: SourceHealth) -> None:
        if health != self.sources.get(health.source):
            self.sources[health.source] = health
            self._on_health(health)
