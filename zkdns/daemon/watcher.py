"""The watcher process: what every source says goes into one table, and out to the answerers.

snapshot (at start) ─┐
ZooKeeper ───────────┴─▶ Guarding ─┬─▶ Publisher ══feed══▶ answerers
fixed file ────────────────────────┘        └──▶ snapshot
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from zkdns.daemon.child import Task, Tell
from zkdns.daemon.control import ControlServer
from zkdns.daemon.feed import Publisher
from zkdns.daemon.guarding import Guarding, accept_losses
from zkdns.daemon.hosts import HostResolver
from zkdns.daemon.keep_snapshot import SnapshotKeeper, SnapshotSource
from zkdns.daemon.loading import loading
from zkdns.daemon.sources import FixedSource, ZooKeeperSource
from zkdns.serverset.client import SESSION_TIMEOUT


async def watch(task: Task, tell: Tell) -> None:  # noqa: ARG001 - the answerers report readiness
    """Keep the answerers' table current until cancelled."""
    config = task.config
    publisher = Publisher()
    await publisher.serve(task.feed)
    resolver = HostResolver(publisher.table, publisher.publish)
    keeper = SnapshotKeeper(config, publisher) if config.snapshot and config.zookeeper else None
    publisher.on_change = partial(_wake, [resolver.wake, *([keeper.wake] if keeper else [])])
    health = _Health(publisher)
    zookeeper: ZooKeeperSource | None = None
    guarding: Guarding | None = None
    control = ControlServer(
        config.control, lambda asked: accept_losses(asked, guarding, publisher.table, config.zone)
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(resolver.run())
            if config.offline:
                tasks.create_task(SnapshotSource(config, publisher, health.of("snapshot")).run())
            if config.fixed or config.demo:
                tasks.create_task(FixedSource(config, publisher.publish, health.of("fixed")).run())
            if config.zookeeper:
                on_health = health.of("zookeeper")
                guarding = Guarding(config, publisher, on_health, session_timeout=SESSION_TIMEOUT)
                zookeeper = ZooKeeperSource(config, guarding.publish, guarding.heard)
                with loading():
                    if keeper and (kept := keeper.restore()):
                        zookeeper.restore(kept)
                zookeeper.start()
            if keeper:
                tasks.create_task(keeper.run())
            await control.start()
            await asyncio.Event().wait()
    finally:
        control.close()
        if guarding:
            guarding.close()
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
