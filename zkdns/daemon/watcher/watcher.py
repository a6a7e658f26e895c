"""The watcher process: merges all sources into one table, and streams its changes to the workers.

    previous watcher's feed, worker or snapshot
        │ at the start (restore)
        ▼
    ZooKeeperSource ──▶ GuardedPublisher ─┐      one of each per namespace
    PrimarySource ──▶ GuardedPublisher ───┤      of a secondary, in place of ZooKeeperSource
    StaticSource ─────────────────────────┤
    SnapshotSource ───────────────────────┼─▶ Publisher ══ feed ══▶ workers
    HostResolver ─────────────────────────┘      │
                                                 ├─▶ HostResolver: host names of the members
                                                 ├─▶ SnapshotStore ──▶ disk
                                                 ├─▶ History
                                                 └─▶ WatcherStatsReporter ──▶ supervisor

    HTTP API of the supervisor ◀──▶ RequestServer ◀──▶ respond_when_applied

    component             file                  task
    ZooKeeperSource       zookeeper_source.py   follows one namespace, with a ZooKeeper session of its own
    PrimarySource         primary_source.py     follows the zones of the primaries, for a secondary
    GuardedPublisher      guarded_publisher.py  holds members if their removal looks like a ZooKeeper failure
    StaticSource          static_source.py      reads the static file, or the built-in example
    SnapshotSource        snapshot_store.py     reads a snapshot, for a server without ZooKeeper
    SnapshotStore         snapshot_store.py     writes the table to disk, and reads it at the next start
    restore               restore.py            finds the table to start with
    HostResolver          host_resolver.py      resolves members whose host is a DNS name
    Publisher             ../ipc/feed.py        has the table, and sends its changes to the workers
    History               history.py            records the last changes, for `zkdns history`
    WatcherStatsReporter  watcher_stats.py      reports stats and readiness to the supervisor
    RequestServer         ../ipc/requests.py    accepts the supervisor's requests at a Unix socket
    respond_when_applied  request_handlers.py   executes them; they read the state in context.py

At the start, the table is filled from the feed of the previous watcher (after a reload), from a worker (after
a crash) or from the snapshot, so that the workers can answer while ZooKeeper is read. A watcher that replaces
another one on a reload writes the snapshot only after the supervisor has sent `Promote`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from zkdns.config import Config
from zkdns.daemon.gc_tuning import collect_while_idle, gc_paused_for_loading
from zkdns.daemon.ipc.child import Configure, Orders, Promote, SendReport, Task
from zkdns.daemon.ipc.feed import Publisher, Rise
from zkdns.daemon.ipc.requests import RequestServer, requests_path
from zkdns.daemon.table_digests import count_members
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.daemon.watcher.request_handlers import respond_when_applied
from zkdns.daemon.watcher.restore import restore
from zkdns.daemon.watcher.snapshot_store import SnapshotSource, SnapshotStore
from zkdns.daemon.watcher.static_source import StaticSource
from zkdns.daemon.watcher.watcher_stats import WatcherStatsReporter
from zkdns.namespace import ALL_SOURCES, STATIC_SOURCE
from zkdns.telemetry.stats import NamespaceStats, WatcherStats

if TYPE_CHECKING:
    from zkdns.forward.forward_zones import ForwardZones
    from zkdns.forward.host_lookup import HostAddresses

log = structlog.get_logger("zkdns.watcher")

_MAINTAIN_SECONDS = 1.0


async def run_watcher(task: Task, send_report: SendReport, orders: Orders) -> None:
    """Run the watcher until it is cancelled."""
    config = task.config
    publisher = Publisher(_sources_of(config))
    await publisher.serve(task.feed)
    forward_zones = _make_forward_zones(task)
    find = _make_host_lookup(forward_zones, config) if forward_zones is not None else None
    resolver = HostResolver(publisher.table, publisher.publish, find, is_active=not config.is_secondary)
    history = History(publisher, config.zone)
    context = WatcherContext(config, publisher, history, resolver, forward_zones)
    store = _add_namespaces(context)
    is_leading = False

    requests = RequestServer(requests_path(task.feed), partial(respond_when_applied, context=context))
    reporter = WatcherStatsReporter(publisher, config, partial(_collect_stats, context), send_report)
    for listener in (history, reporter, resolver, *([store] if store else [])):
        publisher.add_listener(listener)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(resolver.run())
            tasks.create_task(count_members(publisher.table, config, lambda: publisher.health.ready))
            if forward_zones is not None:
                tasks.create_task(_maintain(forward_zones))
            if config.offline:
                tasks.create_task(SnapshotSource(config, publisher).run())
            if config.static or config.demo:
                tasks.create_task(StaticSource(config, publisher).run())
            await _start_namespaces(task, context, store, tasks)
            await requests.start()
            tasks.create_task(reporter.run())
            tasks.create_task(
                collect_while_idle(lambda: publisher.last_sent_at, lambda: publisher.health.ready)
            )
            if not task.is_leader:
                await _wait_for_promotion(orders)
            is_leading = True
            if store:
                tasks.create_task(store.run(has_predecessor=not task.is_leader))
            await _execute_orders(orders, context)
    finally:
        requests.close()
        for guarded in context.namespaces:
            guarded.close()
        publisher.close()
        if store and is_leading:
            store.save()
        await asyncio.gather(*(source.stop() for source in context.zookeeper_sources))


def _add_namespaces(context: WatcherContext) -> SnapshotStore | None:
    """Make the publisher of each namespace. Return the store of the snapshot, if there is one."""
    config, publisher = context.config, context.publisher
    if not config.zookeeper.hosts and not config.is_secondary:
        return None
    context.namespaces = tuple(
        GuardedPublisher(config, namespace, publisher) for namespace in config.namespaces
    )
    return SnapshotStore(config, publisher, context.source_healths) if config.snapshot.path else None


def _sources_of(config: Config) -> Iterator[str]:
    """The names of the table's sources."""
    if config.offline:
        yield ALL_SOURCES
    if config.static or config.demo or config.is_secondary:
        yield STATIC_SOURCE
    if config.zookeeper.hosts or config.is_secondary:
        yield from (namespace.template for namespace in config.namespaces)


async def _wait_for_promotion(orders: Orders) -> None:
    """Wait for `Promote`."""
    while not isinstance(await orders.get(), Promote):
        pass


async def _execute_orders(orders: Orders, context: WatcherContext) -> None:
    """Execute the supervisor's orders, without end."""
    while True:
        match await orders.get():
            case Configure(config):
                context.config = config  # `zkdns explain` evaluates the workers' settings in this process
                context.publisher.raise_serial()


def _collect_stats(context: WatcherContext) -> WatcherStats:
    """Return the stats about ZooKeeper or the primaries, and the guard."""
    if context.primary_source is not None:
        return context.primary_source.stats
    if not context.zookeeper_sources:
        return WatcherStats(
            namespaces=tuple(NamespaceStats(guarded.namespace.template) for guarded in context.namespaces)
        )
    from zkdns.daemon.watcher.zookeeper_source import stats_of  # noqa: PLC0415 - already loaded here

    stats = stats_of(context.zookeeper_sources)
    return msgspec.structs.replace(stats, problem=context.source_problem)


async def _start_namespaces(
    task: Task, context: WatcherContext, store: SnapshotStore | None, tasks: asyncio.TaskGroup
) -> None:
    """Publish the restored table, then follow ZooKeeper or the primaries."""
    if task.config.zookeeper.hosts:
        await _publish_restored(task, context, store)
        _follow_zookeeper(task, context)
    elif task.config.is_secondary:
        await _publish_restored(task, context, store)
        from zkdns.daemon.watcher.notify_receiver import NotifyReceiver  # noqa: PLC0415 - only for secondaries
        from zkdns.daemon.watcher.primary_source import PrimarySource  # noqa: PLC0415 - as above

        context.primary_source = PrimarySource(task.config, context.publisher, context.namespaces)
        if task.notify:
            await NotifyReceiver(task.notify, task.config, context.primary_source).start()
        tasks.create_task(context.primary_source.run())


def _follow_zookeeper(task: Task, context: WatcherContext) -> None:
    """Start one source for each namespace."""
    # Imported after the restored table is published, because loading kazoo takes as long as restoring it.
    from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource  # noqa: PLC0415 - see above

    context.zookeeper_sources = [ZooKeeperSource(task.config, guarded) for guarded in context.namespaces]
    for source in context.zookeeper_sources:
        source.restore(context.publisher.table)
        source.start()


async def _publish_restored(task: Task, context: WatcherContext, store: SnapshotStore | None) -> None:
    """Publish the table to start with, if there is one."""
    restored = await restore(task, store, context.publisher)
    with gc_paused_for_loading():
        for guarded in context.namespaces:
            template = guarded.namespace.template
            if template in restored.sources:
                await guarded.restore(restored.changes[template], restored.sources[template])
        context.publisher.publish(restored.hosts, Rise.NEVER)
    if task.predecessor_feed is not None:
        context.publisher.raise_serial()  # the settings have changed
    await asyncio.sleep(0)


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
