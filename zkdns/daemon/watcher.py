"""The watcher process: what every source says goes into one table, and out to the answerers.

ZooKeeper ───────────────┐
fixed file ──────────────┼──▶ Publisher ══feed══▶ answerers
snapshot (at start) ─────┘        └──▶ snapshot
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from zkdns.config import Config
from zkdns.daemon.child import Task, Tell
from zkdns.daemon.feed import Publisher
from zkdns.daemon.hosts import HostResolver
from zkdns.daemon.sources import FixedSource, ZooKeeperSource
from zkdns.serverset.changes import SetPut
from zkdns.snapshot import Snapshot, SnapshotError, read_snapshot, write_snapshot

log = structlog.get_logger("zkdns.watcher")

SNAPSHOT_SECONDS = 5.0
"""The least time between two writings of the snapshot."""


async def watch(task: Task, tell: Tell) -> None:  # noqa: ARG001 - the answerers report readiness
    """Keep the answerers' table current until cancelled."""
    config = task.config
    publisher = Publisher()
    await publisher.serve(task.feed)
    resolver = HostResolver(publisher.table, publisher.publish)
    keeper = SnapshotKeeper(Path(config.snapshot), config, publisher) if config.snapshot else None
    publisher.on_change = partial(_wake, [resolver.wake, *([keeper.wake] if keeper else [])])
    health = _Health(publisher)
    zookeeper: ZooKeeperSource | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(resolver.run())
            if config.fixed or config.demo:
                tasks.create_task(FixedSource(config, publisher.publish, health.of("fixed")).run())
            if config.zookeeper:
                zookeeper = ZooKeeperSource(config, publisher.publish, health.of("zookeeper"))
                if keeper and (kept := keeper.restore()):
                    zookeeper.restore(kept)
                zookeeper.start()
            if keeper:
                tasks.create_task(keeper.run())
            await asyncio.Event().wait()
    finally:
        publisher.close()
        if keeper:
            keeper.save()
        if zookeeper:
            await zookeeper.stop()


def _wake(sleepers: list[Callable[[], None]]) -> None:
    for wake in sleepers:
        wake()


class _Health:
    """Joins what the sources say: ready when all are, stale when one is."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._sources: dict[str, tuple[bool, bool]] = {}

    def of(self, source: str) -> Callable[[bool, bool], None]:
        """What the source of this name tells (ready, stale); until then it is neither."""
        self._sources[source] = False, False
        return partial(self._tell, source)

    def _tell(self, source: str, ready: bool, stale: bool) -> None:
        self._sources[source] = ready, stale
        self._publisher.set_health(
            ready=all(ready for ready, _ in self._sources.values()),
            stale=any(stale for _, stale in self._sources.values()),
        )


class SnapshotKeeper:
    """Keeps what ZooKeeper told on disk; fixed files keep themselves."""

    def __init__(self, path: Path, config: Config, publisher: Publisher) -> None:
        self._path = path
        self._namespace = config.namespace.template
        self._publisher = publisher
        self._changed = asyncio.Event()
        self._complaint = ""

    def restore(self) -> tuple[SetPut, ...]:
        """The sets of the snapshot; none where there is none that can be used."""
        try:
            snapshot = read_snapshot(self._path, namespace=self._namespace)
        except SnapshotError as error:
            log.warning("snapshot ignored", reason=str(error))
            return ()
        if snapshot is None:
            return ()
        self._publisher.table.serial = snapshot.serial
        age = round(time.time() - snapshot.written)
        log.info(
            "answering from the snapshot until zookeeper has been read", path=str(self._path), age_seconds=age
        )
        return snapshot.sets

    def wake(self) -> None:
        """Say that the table is another than the one on disk."""
        self._changed.set()

    async def run(self) -> None:
        """Write the table after changes, at most every `SNAPSHOT_SECONDS`, while the event loop goes on."""
        while True:
            await self._changed.wait()
            if snapshot := self._take():
                await asyncio.to_thread(self._write, snapshot)
            await asyncio.sleep(SNAPSHOT_SECONDS)

    def save(self) -> None:
        """Write the table now, for the last time."""
        if self._changed.is_set() and (snapshot := self._take()):
            self._write(snapshot)

    def _take(self) -> Snapshot | None:
        """What is to be written; nothing while the table is not what ZooKeeper says now."""
        health = self._publisher.health
        if not health.ready or health.stale:
            return None
        self._changed.clear()
        table = self._publisher.table
        sets = tuple(c for c in table.contents() if isinstance(c, SetPut) and c.origin.startswith("/"))
        return Snapshot(time.time(), table.serial, self._namespace, sets)

    def _write(self, snapshot: Snapshot) -> None:
        """Write it; a failure is told once, and its cure."""
        try:
            write_snapshot(self._path, snapshot)
        except SnapshotError as error:
            if str(error) != self._complaint:
                log.error("snapshot not written", reason=str(error))
            self._complaint = str(error)
        else:
            if self._complaint:
                log.info("snapshot written again", path=str(self._path))
            self._complaint = ""
