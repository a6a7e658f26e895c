"""The watcher process: what every source says goes into one table, and out to the answerers.

snapshot (at start) ─┐
ZooKeeper ───────────┴─▶ Guarding ─┬─▶ Publisher ══feed══▶ answerers
fixed file ────────────────────────┘        └──▶ snapshot
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from zkdns.config import Config
from zkdns.daemon.child import Task, Tell
from zkdns.daemon.control import ControlServer
from zkdns.daemon.feed import Publisher
from zkdns.daemon.figures import FiguresTeller, StaleClock
from zkdns.daemon.fixed_source import FixedSource
from zkdns.daemon.guarding import Guarding, accept_losses
from zkdns.daemon.hosts import HostResolver
from zkdns.daemon.keep_snapshot import SnapshotKeeper, SnapshotSource
from zkdns.daemon.loading import loading
from zkdns.daemon.zookeeper_source import ZooKeeperSource, figures_of
from zkdns.observe.figures import WatcherFigures
from zkdns.serverset.changes import SetPut, SetUnread


async def watch(task: Task, tell: Tell) -> None:
    """Keep the answerers' table current until cancelled."""
    config = task.config
    publisher = Publisher()
    await publisher.serve(task.feed)
    resolver = HostResolver(publisher.table, publisher.publish)
    keeper = SnapshotKeeper(config, publisher) if config.snapshot and config.zookeeper else None
    publisher.on_change = partial(_wake, [resolver.wake, *([keeper.wake] if keeper else [])])
    health = _Health(publisher.set_health)
    clock = StaleClock()
    guarding: Guarding | None = None
    zookeeper: list[ZooKeeperSource] = []

    def figures() -> WatcherFigures:
        holds = guarding.guard.holds_total if guarding else 0
        return msgspec.structs.replace(figures_of(zookeeper), stale_since=clock.since, holds=holds)

    control = ControlServer(
        config.control, lambda asked: accept_losses(asked, guarding, publisher.table, config.zones)
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
                guarding = Guarding(config, publisher, on_health, session_timeout=config.session_timeout)
                zookeeper += _follow(config, guarding, keeper)
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
        await asyncio.gather(*(source.stop() for source in zookeeper))


def _wake(sleepers: list[Callable[[], None]]) -> None:
    for wake in sleepers:
        wake()


def _follow(config: Config, guarding: Guarding, keeper: SnapshotKeeper | None) -> list[ZooKeeperSource]:
    """Follow all namespaces, beginning with what a snapshot holds."""
    together = _Health(lambda *, ready, stale: guarding.heard(ready, stale))
    sources = [
        ZooKeeperSource(config, namespace, guarding.publish, together.of(namespace.template))
        for namespace in config.namespaces
    ]
    with loading():
        if keeper and (kept := keeper.restore()):
            guarding.publish(kept)
            origins = [change.origin for change in kept if isinstance(change, SetPut | SetUnread)]
            for source in sources:
                source.restore(origins)
    for source in sources:
        source.start()
    return sources


class _TellHealth(Protocol):
    def __call__(self, *, ready: bool, stale: bool) -> None: ...


class _Health:
    """Joins what the sources say: ready when all are, stale when one is."""

    def __init__(self, tell_all: _TellHealth) -> None:
        self._tell_all = tell_all
        self._sources: dict[str, tuple[bool, bool]] = {}

    def of(self, source: str) -> Callable[[bool, bool], None]:
        """What the source of this name tells (ready, stale); until then it is neither."""
        self._sources[source] = False, False
        return partial(self._tell, source)

    def _tell(self, source: str, ready: bool, stale: bool) -> None:
        self._sources[source] = ready, stale
        self._tell_all(
            ready=all(ready for ready, _ in self._sources.values()),
            stale=any(stale for _, stale in self._sources.values()),
        )
