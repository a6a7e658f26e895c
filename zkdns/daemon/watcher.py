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
from zkdns.daemon.figures import FiguresTeller, StaleClock
from zkdns.daemon.guarding import Guarding, accept_losses
from zkdns.daemon.hosts import HostResolver
from zkdns.daemon.keep_snapshot import SnapshotKeeper, SnapshotSource
from zkdns.daemon.loading import loading
from zkdns.daemon.sources import FixedSource, ZooKeeperSource
from zkdns.observe.figures import WatcherFigures
from zkdns.serverset.client import SESSION_TIMEOUT


async def watch(task: Task, tell: Tell) -> None:
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
    clock = StaleClock()

    def figures() -> WatcherFigures:
        return _figures(zookeeper, guarding, clock)

    control = ControlServer(
        config.control, lambda asked: accept_losses(asked, guarding, publisher.table, config.zone)
    )
    teller = FiguresTeller(publisher, config.statuses, figures, tell)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(resolver.run())
            if config.offline:
                tasks.create_task(SnapshotSource(config, publisher, health.of("snapshot")).run())
            if config.fixed or config.demo:
                tasks.create_task(FixedSource(config, publisher.publish, health.of("fixed")).run())
            if config.zookeeper:
                on_health = clock.before(health.of("zookeeper"))
                guarding = Guarding(config, publisher, on_health, session_timeout=SESSION_TIMEOUT)
                zookeeper = ZooKeeperSource(config, guarding.publish, guarding.heard)
                with loading():
                    if keeper and (kept := keeper.restore()):
                        zookeeper.restore(kept)
                zookeeper.start()
            if keeper:
                tasks.create_task(keeper.run())
            await control.start()
            tasks.create_task(teller.run())
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


def _figures(
    zookeeper: ZooKeeperSource | None, guarding: Guarding | None, clock: StaleClock
) -> WatcherFigures:
    """What is counted of ZooKeeper."""
    if zookeeper is None or guarding is None:
        return WatcherFigures()
    return WatcherFigures(
        state=zookeeper.sync.state.value,
        stale_since=clock.since,
        bad_members=dict(zookeeper.sync.bad_members),
        bad_names=zookeeper.sync.bad_names,
        holds=guarding.guard.holds_total,
    )


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
