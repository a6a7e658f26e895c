"""Reads the snapshot at start, and writes it while the table changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import structlog

from zkdns.config import Config
from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.feed import Publisher, PublisherListener, Rise
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.table_copies import TableCopy
from zkdns.serverset.changes import Change, SetPut, divide_by_source
from zkdns.snapshot import (
    Header,
    NamespaceState,
    NoSnapshotError,
    Snapshot,
    SnapshotError,
    SnapshotWriter,
    encode_part,
    expected_by,
    read_snapshot,
    remove_leftovers,
)
from zkdns.table import Table

log = structlog.get_logger("zkdns.watcher")

SNAPSHOT_SECONDS = 5.0
"""Minimum time between two writes of the snapshot."""

# An unchanged table is written again from time to time, so that its file does not exceed the maximum age.
_RENEW_SECONDS = 3600.0
_RENEWALS_IN_AGE = 4
# Members that are encoded in one round of the event loop: 1 ms. All 100,000 at once would take 100 ms.
_MEMBERS_PER_PART = 1000
_CANCEL_SECONDS = 1.0  # how long a cancelled write waits for its thread
_RETRY_SECONDS = 1.0


class SnapshotStore(PublisherListener):
    """Keeps the sets from ZooKeeper or a primary on disk. Sets from the static file are not stored.

    Args:
        config: has the path and the maximum age of the snapshot, and the namespaces.
        publisher: has the table.
        sources: returns the present state of each namespace.
        snapshot_seconds: as `SNAPSHOT_SECONDS`.
    """

    def __init__(
        self,
        config: Config,
        publisher: Publisher,
        sources: Callable[[], Sequence[SourceHealth]],
        *,
        snapshot_seconds: float = SNAPSHOT_SECONDS,
    ) -> None:
        assert config.snapshot.path  # noqa: S101 - the caller checks it
        self._path = Path(config.snapshot.path)
        self._config = config
        self._publisher = publisher
        self._sources = sources
        self._snapshot_seconds = snapshot_seconds
        self._changed = asyncio.Event()
        self._last_error = ""
        self._is_stuck = False
        max_age = config.snapshot.max_age
        self._renew_seconds = min(_RENEW_SECONDS, max_age / _RENEWALS_IN_AGE) if max_age else _RENEW_SECONDS

    def restore(self) -> TableCopy | None:
        """Read the snapshot. None: there is no usable one.

        Its sources are the accepted namespaces. Its changes may have sets of others too.
        """
        remove_leftovers(self._path)
        try:
            snapshot = read_snapshot(self._path, expected_by(self._config, time.time()))
        except NoSnapshotError:
            return None
        except SnapshotError as error:
            log.warning("snapshot_ignored", reason=str(error))
            return None
        log.info("snapshot_restored", **_log_fields(self._path, snapshot))
        sources = {
            source: SourceHealth(True, state.current_at, source, state.ensemble)
            for source, state in snapshot.header.by_source(self._config.namespaces).items()
        }
        return TableCopy(snapshot.header.serial, list(snapshot.changes), sources)

    def after_batch(self) -> None:
        """Write the table soon, because it has changed."""
        self._changed.set()

    async def run(self, *, has_predecessor: bool = False) -> None:
        """Write the table after changes, at most once in `snapshot_seconds`, without end.

        Args:
            has_predecessor: another watcher is exiting and writes its last snapshot now.
        """
        if has_predecessor:
            self._changed.set()
            await asyncio.sleep(self._snapshot_seconds)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renew_seconds):
                    await self._changed.wait()
            if self._is_any_current:
                self._changed.clear()
                try:
                    await self._write()
                except SnapshotError as error:
                    self._note_failure(error)
                else:
                    self._note_success()
            await asyncio.sleep(self._snapshot_seconds)

    def save(self) -> None:
        """Write the table before the process exits. Blocks the event loop."""
        if not self._is_any_current or self._is_stuck:
            return
        try:
            with SnapshotWriter(self._path, self._header()) as writer:
                for part in self._parts():
                    writer.add(part)
                writer.commit()
        except SnapshotError as error:
            self._note_failure(error)

    @property
    def _is_any_current(self) -> bool:
        """True if a namespace has been read and is connected. Without one, there is nothing new to write."""
        return any(health.is_current for health in self._sources())

    def _header(self) -> Header:
        """The header, with the namespaces that have been read. One that is stale has its last time."""
        now = time.time()
        healths = {health.source: health for health in self._sources() if health.ready}
        states = tuple(
            NamespaceState(
                str(namespace), now if health.stale_since is None else health.stale_since, health.ensemble
            )
            for namespace in self._config.namespaces
            if (health := healths.get(namespace.template)) is not None
        )
        return Header(now, self._publisher.table.serial, states, self._config.zookeeper.hosts or "")

    def _parts(self) -> Iterator[bytes]:
        """The encoded table. The static sets of a secondary are its primary's."""
        return encode_parts(self._publisher.table, with_static=self._config.is_secondary)

    async def _write(self) -> None:
        """Write the table in parts, with disk access in a thread, so that changes are not delayed.

        Raises:
            SnapshotError: the file cannot be written.
        """
        writer = SnapshotWriter(self._path, self._header())
        try:
            for part in self._parts():
                await self._run_in_thread(partial(writer.add, part))
            await self._run_in_thread(writer.commit)
        finally:
            if not self._is_stuck:
                writer.discard()

    async def _run_in_thread(self, work: Callable[[], None]) -> None:
        """Run a function in a thread. If cancelled, wait until it has returned, because `save` may follow."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running], timeout=_CANCEL_SECONDS)
            self._is_stuck = not running.done()
            raise

    def _note_failure(self, error: SnapshotError) -> None:
        """Log an error, unless it is the same as the last one, and let `run` try again."""
        self._changed.set()
        if str(error) != self._last_error:
            log.error("snapshot_write_failed", reason=str(error))
        self._last_error = str(error)

    def _note_success(self) -> None:
        if self._last_error:
            log.info("snapshot_write_recovered", path=str(self._path))
        self._last_error = ""


class SnapshotSource:
    """Publishes a snapshot once, for a server without ZooKeeper. Its table is stale from the start."""

    def __init__(self, config: Config, publisher: Publisher) -> None:
        assert config.snapshot.path  # noqa: S101 - required by the configuration's checks
        self._path = Path(config.snapshot.path)
        self._config = config
        self._publisher = publisher

    async def run(self) -> None:
        """Read and publish the snapshot. If it is not usable, try again every second."""
        last_error = ""
        while True:
            try:
                self._load()
            except SnapshotError as error:
                if str(error) != last_error:
                    log.error("snapshot_read_failed", reason=str(error))
                last_error = str(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    def _load(self) -> None:
        with gc_paused_for_loading():
            snapshot = read_snapshot(self._path, expected_by(self._config, time.time()))
            log.info("snapshot_loaded", **_log_fields(self._path, snapshot))
            self._publisher.restore_serial(snapshot.header.serial)
            by_source, hosts = divide_by_source(snapshot.changes, self._config.namespaces)
            for source in snapshot.header.by_source(self._config.namespaces):
                self._publisher.publish(by_source.get(source, []), Rise.NEVER)
            self._publisher.publish(hosts, Rise.NEVER)
            self._publisher.set_health(SourceHealth(ready=True, stale_since=snapshot.header.written))


def encode_parts(table: Table, *, with_static: bool = False) -> Iterator[bytes]:
    """Encode the sets from ZooKeeper in parts of about 1,000 members, with the addresses of host names.

    With `with_static`, all sets are encoded.

    The table may change between two parts. A set is never split between parts.
    """
    part: list[Change] = []
    count = 0
    for origin in [origin for origin in table.origins if with_static or origin.startswith("/")]:
        for change in table.contents_of(origin):
            part.append(change)
            count += len(change.members) + 1 if isinstance(change, SetPut) else 1
        if count >= _MEMBERS_PER_PART:
            yield encode_part(part)
            part, count = [], 0
    yield encode_part([*part, *table.resolved()])


def _log_fields(path: Path, snapshot: Snapshot) -> dict[str, object]:
    header = snapshot.header
    age = round(time.time() - header.written)
    return {"path": str(path), "age_seconds": age, "zookeeper": header.zookeeper}
