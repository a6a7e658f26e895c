"""The watcher process: what every source says goes into one table, and out to the workers.

snapshot (at start) ─┐   or, of a watcher in whose place this is put, its table
ZooKeeper ───────────┴─▶ Guarding ─┬─▶ Publisher ══feed══▶ workers
fixed file ────────────────────────┘        └──▶ snapshot
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from zkdns.config import Config
from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.child import Configure, Orders, Promote, SendReport, Task
from zkdns.daemon.ipc.control import ControlServer, private_control_path
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.control_handlers import respond_when_applied
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.daemon.watcher.snapshot_store import SnapshotSource, SnapshotStore
from zkdns.daemon.watcher.static_source import StaticSource
from zkdns.daemon.watcher.takeover import take_over_table
from zkdns.daemon.watcher.watcher_stats import StaleTimer, WatcherStatsReporter
from zkdns.serverset.changes import Change, SetPut, SetUnread
from zkdns.telemetry.stats import WatcherStats

if TYPE_CHECKING:
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
    from zkdns.forward.forward_zones import ForwardZones
    from zkdns.forward.host_lookup import HostAddresses

_TEND_SECONDS = 1.0
_RESTORED_AT_ONCE = 500  # changes


async def run_watcher(task: Task, tell: SendReport, orders: Orders) -> None:
    """Keep the workers' table current until cancelled."""
    config = task.config
    publisher = Publisher()
    await publisher.serve(task.feed)
    routes = _routes_of(task)
    find = _finder(routes, config) if routes is not None else None
    resolver = HostResolver(publisher.table, publisher.publish, find)
    keeper = SnapshotStore(config, publisher) if config.snapshot.path and config.zookeeper.hosts else None
    health = _Health(publisher.set_health)
    clock = StaleTimer(task.stale_since)
    history = History(publisher, config.zone)
    known = WatcherContext(config, publisher, history, resolver, clock, routes)
    is_leading = False

    # The first is for the server's own processes, whatever the configuration says of that for commands.
    own, control = (
        ControlServer(path, partial(respond_when_applied, known=known))
        for path in (private_control_path(task.feed), config.control)
    )
    reporter = WatcherStatsReporter(publisher, config.statuses, partial(_stats_of, known), tell)
    for listener in (history, reporter, resolver, *([keeper] if keeper else [])):
        publisher.add_listener(listener)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(resolver.run())
            if routes is not None:
                tasks.create_task(_tend(routes))
            if config.offline:
                tasks.create_task(SnapshotSource(config, publisher, health.of("snapshot")).run())
            if config.static or config.demo:
                tasks.create_task(StaticSource(config, publisher.publish, health.of("fixed")).run())
            if config.zookeeper.hosts:
                on_health = clock.before(health.of("zookeeper"))
                known.guarding = GuardedPublisher(
                    config, publisher, on_health, session_timeout=config.zookeeper.session_timeout
                )
                known.zookeeper = await _follow(config, known.guarding, await _kept(task, keeper, publisher))
            await own.start()
            tasks.create_task(reporter.run())
            predecessor = None if task.is_leader else await _predecessor(orders)
            is_leading = True
            await control.start(predecessor)
            if keeper:
                await keeper.run(succeeds=predecessor is not None)
            await _obey(orders, known)
    finally:
        own.close()
        control.close()
        if known.guarding:
            known.guarding.close()
        publisher.close()
        if keeper and is_leading:
            keeper.save()
        await asyncio.gather(*(source.stop() for source in known.zookeeper))


def _stats_of(known: WatcherContext) -> WatcherStats:
    """Return the stats that are not counted in the table."""
    since = known.stale.since
    if known.guarding is None or not known.zookeeper:
        return WatcherStats(stale_since=since)
    from zkdns.daemon.watcher.zookeeper_source import stats_of  # noqa: PLC0415 - it is loaded by now

    holds = known.guarding.guard.holds_total
    return msgspec.structs.replace(stats_of(known.zookeeper), stale_since=since, holds=holds)


def _routes_of(task: Task) -> ForwardZones | None:
    """Whom to ask for host names; None: nobody but the machine's own resolver."""
    if not task.config.forwards:
        return None
    from zkdns.forward.forward_zones import ForwardZones  # noqa: PLC0415 - see above
    from zkdns.forward.resolver import Resolver  # noqa: PLC0415 - OpenSSL takes its time to be loaded

    return ForwardZones(task.config, task.listening, None, Resolver)


def _finder(routes: ForwardZones, config: Config) -> Callable[[str], Awaitable[HostAddresses | None]]:
    from zkdns.forward.host_lookup import HostLookup  # noqa: PLC0415 - see above

    return HostLookup(routes, config.zones).find


async def _tend(routes: ForwardZones) -> None:
    """Let routes ask, and follow the machine's configuration."""
    routes.start()
    try:
        while True:
            routes.poll(time.monotonic())
            await asyncio.sleep(_TEND_SECONDS)
    finally:
        routes.stop()


async def _predecessor(orders: Orders) -> int:
    """Wait until it is said that this leads, in whose place."""
    while True:
        match await orders.get():
            case Promote(predecessor):
                return predecessor


async def _obey(orders: Orders, known: WatcherContext) -> None:
    """Do what the supervisor says, for ever."""
    while True:
        match await orders.get():
            case Configure(config):
                known.config = config  # of which this process explains what workers do


async def _kept(task: Task, keeper: SnapshotStore | None, publisher: Publisher) -> list[Change]:
    """What was known of ZooKeeper before this process."""
    if task.predecessor_feed is not None:
        return await take_over_table(task.predecessor_feed, publisher.table)
    return keeper.restore() if keeper and task.is_leader else []


async def _follow(config: Config, guarding: GuardedPublisher, kept: list[Change]) -> list[ZooKeeperSource]:
    """Follow all namespaces, beginning with what is known of them."""
    with gc_paused_for_loading():
        for start in range(0, len(kept), _RESTORED_AT_ONCE):
            guarding.publish(kept[start : start + _RESTORED_AT_ONCE])
            await asyncio.sleep(0)  # the workers take what there is, while the rest is restored
    if kept:
        guarding.heard(True, True)
        await asyncio.sleep(0)
    # Not before: kazoo takes nearly as long to load as a snapshot.
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource  # noqa: PLC0415 - see above

    together = _Health(lambda *, ready, stale: guarding.heard(ready, stale))
    sources = [
        ZooKeeperSource(
            config, namespace, guarding.publish, together.of(namespace.template, is_restored=bool(kept))
        )
        for namespace in config.namespaces
    ]
    origins = [change.origin for change in kept if isinstance(change, SetPut | SetUnread)]
    for source in sources:
        source.restore(origins)
        source.start()
    return sources


class _TellHealth(Protocol):
    def __call__(self, *, ready: bool, stale: bool) -> None: ...


class _Health:
    """Joins what the sources say: ready when all are, stale when one is."""

    def __init__(self, tell_all: _TellHealth) -> None:
        self._tell_all = tell_all
        self._sources: dict[str, tuple[bool, bool]] = {}

    def of(self, source: str, *, is_restored: bool = False) -> Callable[[bool, bool], None]:
        """What the source of this name tells (ready, stale); until then it is neither, or restored both."""
        self._sources[source] = is_restored, is_restored
        return partial(self._tell, source)

    def _tell(self, source: str, ready: bool, stale: bool) -> None:
        self._sources[source] = ready, stale
        self._tell_all(
            ready=all(ready for ready, _ in self._sources.values()),
            stale=any(stale for _, stale in self._sources.values()),
        )
