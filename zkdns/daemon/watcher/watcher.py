"""The watcher process: merges all sources into one table, and streams its changes to the workers.

    snapshot, or the previous watcher's feed
        │ at the start
        ▼
    ZooKeeperSource ──▶ GuardedPublisher ─┐
    StaticSource ─────────────────────────┤
    SnapshotSource ───────────────────────┼─▶ Publisher ══ feed ══▶ workers
    HostResolver ─────────────────────────┘      │
                                                 ├─▶ HostResolver: host names of the members
                                                 ├─▶ SnapshotStore ──▶ disk
                                                 ├─▶ History
                                                 └─▶ WatcherStatsReporter ──▶ supervisor

    commands, HTTP API ◀──▶ ControlServer ◀──▶ respond_when_applied

    component             file                  task
    ZooKeeperSource       zookeeper_source.py   follows one namespace, with a ZooKeeper session of its own
    GuardedPublisher      guarded_publisher.py  holds members if their removal looks like a ZooKeeper failure
    StaticSource          static_source.py      reads the static file, or the built-in example
    SnapshotSource        snapshot_store.py     reads a snapshot, for a server without ZooKeeper
    SnapshotStore         snapshot_store.py     writes the table to disk, and restores it at the next start
    HostResolver          host_resolver.py      resolves members whose host is a DNS name
    Publisher             ../ipc/feed.py        has the table, and sends its changes to the workers
    History               history.py            records the last changes, for `zkdns history`
    WatcherStatsReporter  watcher_stats.py      reports stats and readiness to the supervisor
    ControlServer         ../ipc/control.py     accepts control requests at a Unix socket
    respond_when_applied  control_handlers.py   executes them; they read the state in context.py

At the start, the table is filled from the feed of the previous watcher (after a reload) or from the snapshot,
so that the workers can answer while ZooKeeper is read. A watcher that replaces another one uses the control
socket and the snapshot only after the supervisor has sent `Promote`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from zkdns.config import Config
from zkdns.daemon.gc_tuning import gc_paused_for_loading
from zkdns.daemon.ipc.child import Configure, Orders, Promote, SendReport, Task
from zkdns.daemon.ipc.control import ControlServer, private_control_path
from zkdns.daemon.ipc.feed import FRAMES, Changes, End, Publisher, SourceHealth
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.control_handlers import respond_when_applied
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.daemon.watcher.snapshot_store import SnapshotSource, SnapshotStore
from zkdns.daemon.watcher.static_source import StaticSource
from zkdns.daemon.watcher.watcher_stats import StaleTimer, WatcherStatsReporter
from zkdns.serverset.changes import Change, HostResolved, SetPut, SetUnread
from zkdns.table import Table
from zkdns.telemetry.stats import WatcherStats

if TYPE_CHECKING:
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
    from zkdns.forward.forward_zones import ForwardZones
    from zkdns.forward.host_lookup import HostAddresses

log = structlog.get_logger("zkdns.watcher")

_MAINTAIN_SECONDS = 1.0
_CHANGES_PER_ROUND = 500  # restored changes that are published in one round of the event loop
_TAKEOVER_SECONDS = 5.0  # a copy of 100,000 members takes one second


async def run_watcher(task: Task, send_report: SendReport, orders: Orders) -> None:
    """Run the watcher until it is cancelled."""
    config = task.config
    publisher = Publisher()
    await publisher.serve(task.feed)
    forward_zones = _make_forward_zones(task)
    find = _make_host_lookup(forward_zones, config) if forward_zones is not None else None
    resolver = HostResolver(publisher.table, publisher.publish, find)
    store = SnapshotStore(config, publisher) if config.snapshot.path and config.zookeeper.hosts else None
    health = _HealthMerger(publisher.set_health)
    stale_timer = StaleTimer(task.stale_since)
    history = History(publisher, config.zone)
    context = WatcherContext(config, publisher, history, resolver, stale_timer, forward_zones)
    is_leading = False

    # The supervisor uses the private socket. The public one may be switched off by the configuration.
    private_control, control = (
        ControlServer(path, partial(respond_when_applied, context=context))
        for path in (private_control_path(task.feed), config.control)
    )
    reporter = WatcherStatsReporter(publisher, config.statuses, partial(_collect_stats, context), send_report)
    for listener in (history, reporter, resolver, *([store] if store else [])):
        publisher.add_listener(listener)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(resolver.run())
            if forward_zones is not None:
                tasks.create_task(_maintain(forward_zones))
            if config.offline:
                tasks.create_task(SnapshotSource(config, publisher, health.add("snapshot")).run())
            if config.static or config.demo:
                tasks.create_task(StaticSource(config, publisher.publish, health.add("static")).run())
            if config.zookeeper.hosts:
                await _start_zookeeper(task, context, store, health.add("zookeeper"))
            await private_control.start()
            tasks.create_task(reporter.run())
            predecessor = None if task.is_leader else await _wait_for_promotion(orders)
            is_leading = True
            await control.start(predecessor)
            if store:
                tasks.create_task(store.run(has_predecessor=predecessor is not None))
            await _execute_orders(orders, context)
    finally:
        private_control.close()
        control.close()
        if context.guarded_publisher:
            context.guarded_publisher.close()
        publisher.close()
        if store and is_leading:
            store.save()
        await asyncio.gather(*(source.stop() for source in context.zookeeper_sources))


async def _wait_for_promotion(orders: Orders) -> int:
    """Wait for `Promote`, and return the process id of the previous watcher."""
    while True:
        match await orders.get():
            case Promote(predecessor):
                return predecessor


async def _execute_orders(orders: Orders, context: WatcherContext) -> None:
    """Execute the supervisor's orders, without end."""
    while True:
        match await orders.get():
            case Configure(config):
                context.config = config  # `zkdns explain` evaluates the workers' settings in this process


def _collect_stats(context: WatcherContext) -> WatcherStats:
    """Return the stats about ZooKeeper and the guard."""
    since = context.stale_timer.since
    if context.guarded_publisher is None or not context.zookeeper_sources:
        return WatcherStats(stale_since=since)
    from zkdns.daemon.watcher.zookeeper_source import stats_of  # noqa: PLC0415 - already loaded here

    stats = stats_of(context.zookeeper_sources)
    holds = context.guarded_publisher.guard.holds_total
    return msgspec.structs.replace(stats, stale_since=since, holds=holds)


# -- ZooKeeper, and the table at the start -------------------------------------------------------------------


async def _start_zookeeper(
    task: Task, context: WatcherContext, store: SnapshotStore | None, on_health: Callable[[bool, bool], None]
) -> None:
    """Publish the restored table, then follow ZooKeeper.

    Args:
        task: the task of this process.
        context: gets the guarded publisher and the sources.
        store: has the snapshot. None: there is no snapshot.
        on_health: called with the health of ZooKeeper (ready, stale).
    """
    config = task.config
    guarded = context.guarded_publisher = GuardedPublisher(
        config,
        context.publisher,
        context.stale_timer.wrap(on_health),
        session_timeout=config.zookeeper.session_timeout,
    )
    restored = await _restore(task, store, context.publisher)
    context.zookeeper_sources = await _start_zookeeper_sources(config, guarded, restored)


async def _restore(task: Task, store: SnapshotStore | None, publisher: Publisher) -> list[Change]:
    """Return ZooKeeper's sets as the previous watcher or the snapshot has them."""
    if task.predecessor_feed is not None:
        return await _copy_table(task.predecessor_feed, publisher.table)
    return store.restore() if store and task.is_leader else []


async def _copy_table(feed: str, table: Table) -> list[Change]:
    """Copy ZooKeeper's sets, with their held members, from the feed of the previous watcher.

    Sets of the static file are left out, because this process reads the file itself.

    Args:
        feed: path of its Unix socket.
        table: gets the serial of the copy, so that serials keep rising.

    Returns:
        No changes if the previous watcher has not read its sources yet, or does not answer in time.
    """
    copied: list[Change] = []
    with contextlib.suppress(OSError, TimeoutError, msgspec.DecodeError):
        async with asyncio.timeout(_TAKEOVER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(feed)
            with contextlib.closing(writer):
                while (message := await FRAMES.read(reader)) is not None:
                    match message:
                        case Changes(changes=changes):
                            copied += changes
                        case End(serial):
                            table.serial = serial
                            return list(filter(_is_from_zookeeper, copied))
                        case SourceHealth():  # without an `End` before it: the watcher is still reading
                            return []
    log.warning("table_takeover_failed")
    return []


def _is_from_zookeeper(change: Change) -> bool:
    return isinstance(change, HostResolved) or change.origin.startswith("/")


async def _start_zookeeper_sources(
    config: Config, guarded: GuardedPublisher, restored: list[Change]
) -> list[ZooKeeperSource]:
    """Publish the restored changes, then start a source for each namespace."""
    with gc_paused_for_loading():
        for start in range(0, len(restored), _CHANGES_PER_ROUND):
            guarded.publish(restored[start : start + _CHANGES_PER_ROUND])
            await asyncio.sleep(0)  # the workers apply these while the rest is restored
    if restored:
        guarded.set_health(True, True)
        await asyncio.sleep(0)
    # Imported after the restored table is published, because loading kazoo takes as long as restoring it.
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource  # noqa: PLC0415 - see above

    health = _HealthMerger(lambda *, ready, stale: guarded.set_health(ready, stale))
    sources = [
        ZooKeeperSource(
            config,
            namespace,
            guarded.publish,
            health.add(namespace.template, is_restored=bool(restored)),
        )
        for namespace in config.namespaces
    ]
    origins = [change.origin for change in restored if isinstance(change, SetPut | SetUnread)]
    for source in sources:
        source.restore(origins)
        source.start()
    return sources


# -- forwarding, to resolve members' host names --------------------------------------------------------------


def _make_forward_zones(task: Task) -> ForwardZones | None:
    """Return the forward zones, or None if the server forwards nothing."""
    if not task.config.forwards:
        return None
    # Imported here, because a watcher that forwards nothing starts faster without these modules.
    from zkdns.forward.forward_zones import ForwardZones  # noqa: PLC0415
    from zkdns.forward.resolver import Resolver  # noqa: PLC0415

    return ForwardZones(task.config, task.listening, None, Resolver)


def _make_host_lookup(
    forward_zones: ForwardZones, config: Config
) -> Callable[[str], Awaitable[HostAddresses | None]]:
    from zkdns.forward.host_lookup import HostLookup  # noqa: PLC0415 - as above

    return HostLookup(forward_zones, config.zones).find


async def _maintain(forward_zones: ForwardZones) -> None:
    """Keep the forward zones running. They follow changes of /etc/resolv.conf."""
    forward_zones.start()
    try:
        while True:
            forward_zones.poll(time.monotonic())
            await asyncio.sleep(_MAINTAIN_SECONDS)
    finally:
        forward_zones.stop()


# -- health --------------------------------------------------------------------------------------------------


class _OnHealth(Protocol):
    def __call__(self, *, ready: bool, stale: bool) -> None: ...


class _HealthMerger:
    """Merges the health of several sources: ready if all are ready, stale if any is stale."""

    def __init__(self, on_health: _OnHealth) -> None:
        self._on_health = on_health
        self._sources: dict[str, tuple[bool, bool]] = {}

    def add(self, source: str, *, is_restored: bool = False) -> Callable[[bool, bool], None]:
        """Return the health callback (ready, stale) of a source.

        Before its first call, the source is ready and stale if it was restored, otherwise neither.
        """
        self._sources[source] = is_restored, is_restored
        return partial(self._set, source)

    def _set(self, source: str, ready: bool, stale: bool) -> None:
        self._sources[source] = ready, stale
        self._on_health(
            ready=all(ready for ready, _ in self._sources.values()),
            stale=any(stale for _, stale in self._sources.values()),
        )
