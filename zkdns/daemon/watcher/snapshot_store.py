"""The snapshot in a server's life: answered from at a start, written while the table changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import structlog

from zkdns.config import Config
from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.feed import Publisher, PublisherListener
from zkdns.serverset.changes import Change, SetPut
from zkdns.snapshot import (
    Header,
    NoSnapshotError,
    Snapshot,
    SnapshotError,
    SnapshotWriter,
    encode_part,
    expected_by,
    namespaces_of,
    read_snapshot,
    remove_leftovers,
)

log = structlog.get_logger("zkdns.watcher")

SNAPSHOT_SECONDS = 5.0
"""The least time between two writings of the snapshot."""

# A table that does not change is written again now and then, so that its file does not seem old.
_RENEW_SECONDS = 3600.0
_RENEWALS_IN_AGE = 4
# So many members are encoded before the event loop has its turn: 1 ms. All 100,000 at once would hold up
# changes for 100 ms.
_MEMBERS_IN_PART = 1000
_END_SECONDS = 1.0  # how long a part that is being written is waited for at the end
_RETRY_SECONDS = 1.0


class SnapshotStore(PublisherListener):
    """Keeps what ZooKeeper told on disk; fixed files keep themselves."""

    def __init__(self, config: Config, publisher: Publisher) -> None:
        assert config.snapshot.path  # noqa: S101 - whoever makes a keeper was told a file
        self._path = Path(config.snapshot.path)
        self._config = config
        self._publisher = publisher
        self._changed = asyncio.Event()
        self._complaint = ""
        self._is_stuck = False
        age = config.snapshot.max_age
        self._renew_seconds = min(_RENEW_SECONDS, age / _RENEWALS_IN_AGE) if age else _RENEW_SECONDS

    def restore(self) -> list[Change]:
        """What the snapshot holds; nothing where there is none that can be used."""
        remove_leftovers(self._path)
        try:
            snapshot = read_snapshot(self._path, expected_by(self._config, time.time()))
        except NoSnapshotError:
            return []
        except SnapshotError as error:
            log.warning("snapshot_ignored", reason=str(error))
            return []
        log.info("snapshot_restored", **_fields_of(self._path, snapshot))
        self._publisher.table.serial = snapshot.header.serial
        return list(snapshot.changes)

    def after_batch(self) -> None:
        """Schedule a write of the changed table."""
        self._changed.set()

    async def run(self, *, succeeds: bool = False) -> None:
        """Write the table after changes, at most every `SNAPSHOT_SECONDS`, while the event loop goes on.

        Args:
            succeeds: whether another process writes it for the last time meanwhile.
        """
        if succeeds:
            self._changed.set()
            await asyncio.sleep(SNAPSHOT_SECONDS)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renew_seconds):
                    await self._changed.wait()
            if self._is_right:
                self._changed.clear()
                try:
                    await self._write()
                except SnapshotError as error:
                    self._failed(error)
                else:
                    self._succeeded()
            await asyncio.sleep(SNAPSHOT_SECONDS)

    def save(self) -> None:
        """Write the table now, for the last time."""
        if not self._is_right or self._is_stuck:
            return
        try:
            with SnapshotWriter(self._path, self._header()) as writer:
                for part in self._parts():
                    writer.add(part)
                writer.commit()
        except SnapshotError as error:
            self._failed(error)

    @property
    def _is_right(self) -> bool:
        """Whether the table is what ZooKeeper says now."""
        health = self._publisher.health
        return health.ready and not health.stale

    def _header(self) -> Header:
        config = self._config
        serial = self._publisher.table.serial
        return Header(time.time(), serial, namespaces_of(config), config.zookeeper.hosts or "")

    def _parts(self) -> Iterator[bytes]:
        """The table as it is written. It may change between two parts; each set is whole in itself."""
        table = self._publisher.table
        part: list[Change] = []
        count = 0
        for origin in [origin for origin in table.origins if origin.startswith("/")]:
            for change in table.contents_of(origin):
                part.append(change)
                count += len(change.members) + 1 if isinstance(change, SetPut) else 1
            if count >= _MEMBERS_IN_PART:
                yield encode_part(part)
                part, count = [], 0
        yield encode_part([*part, *table.resolved()])

    async def _write(self) -> None:
        """Write it, the disk's part in a thread, so that neither it nor the encoding holds up changes.

        Raises:
            SnapshotError: it cannot be written.
        """
        writer = SnapshotWriter(self._path, self._header())
        try:
            for part in self._parts():
                await self._in_thread(partial(writer.add, part))
            await self._in_thread(writer.commit)
        finally:
            if not self._is_stuck:
                writer.discard()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Do it in a thread; also who is cancelled waits for its end, since `save` may follow."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running], timeout=_END_SECONDS)
            self._is_stuck = not running.done()
            raise

    def _failed(self, error: SnapshotError) -> None:
        """Tell a failure, once; it is tried again all the same."""
        self._changed.set()
        if str(error) != self._complaint:
            log.error("snapshot_write_failed", reason=str(error))
        self._complaint = str(error)

    def _succeeded(self) -> None:
        if self._complaint:
            log.info("snapshot_write_recovered", path=str(self._path))
        self._complaint = ""


class SnapshotSource:
    """A snapshot by itself, read once; nobody says that it is right still."""

    def __init__(self, config: Config, publisher: Publisher, on_health: Callable[[bool, bool], None]) -> None:
        assert config.snapshot.path  # noqa: S101 - a configuration without it is refused
        self._path = Path(config.snapshot.path)
        self._config = config
        self._publisher = publisher
        self._on_health = on_health

    async def run(self) -> None:
        """Read it; where it has become unusable since the start, as soon as it can be used again."""
        complaint = ""
        while True:
            try:
                self._read()
            except SnapshotError as error:
                if str(error) != complaint:
                    log.error("snapshot_read_failed", reason=str(error))
                complaint = str(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    def _read(self) -> None:
        with gc_paused_for_loading():
            snapshot = read_snapshot(self._path, expected_by(self._config, time.time()))
            log.info("snapshot_loaded", **_fields_of(self._path, snapshot))
            self._publisher.table.serial = snapshot.header.serial
            self._publisher.publish(snapshot.changes)
            self._on_health(True, True)


def _fields_of(path: Path, snapshot: Snapshot) -> dict[str, object]:
    """The fields of a log event about a snapshot that is used."""
    header = snapshot.header
    age = round(time.time() - header.written)
    return {"path": str(path), "age_seconds": age, "zookeeper": header.zookeeper}
