"""Finds the table that a watcher starts with: that of the previous watcher, of a worker, or of a snapshot.

So the workers can be answered from it while ZooKeeper is read, and a member that was held stays held. The
first of these that has a table is used:

1. The feed of the previous watcher, after a reload.
2. A worker, if the previous watcher has died: the table has all changes that it had sent.
3. The snapshot, if the server has just been started.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.child import Task, find_copies
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.table_copies import TableCopy, read_copy
from zkdns.daemon.watcher.snapshot_store import SnapshotStore
from zkdns.namespace import STATIC_SOURCE, template_of_static
from zkdns.serverset.changes import Change, HostResolved, SetPut, divide_by_source, path_of

log = structlog.get_logger("zkdns.watcher")

_TAKEOVER_SECONDS = 5.0  # a copy of 100,000 members takes one second


class Restored(msgspec.Struct, frozen=True):
    """The table of another process or of a snapshot, without the sets of the static file."""

    changes: dict[str, list[Change]]
    """The changes of each namespace, by its template."""
    sources: dict[str, SourceHealth]
    """The state of each of these namespaces."""
    hosts: tuple[HostResolved, ...] = ()
    """Addresses of the members' host names."""


async def restore(task: Task, store: SnapshotStore | None, publisher: Publisher) -> Restored:
    """The table to start with; empty if there is none.

    Args:
        task: the task of this process.
        store: reads the snapshot. None: there is none.
        publisher: gets the serial of the restored table, so that serials keep rising.
    """
    copy: TableCopy | None = None
    if task.predecessor_feed is not None:
        copy = await _take_over([task.predecessor_feed])
        if copy is None:
            log.warning("table_takeover_failed")
    elif task.is_leader:
        copy = await _take_over(find_copies(task.feed))
        if copy is not None:
            log.info("table_taken_over", services=sum(isinstance(change, SetPut) for change in copy.changes))
        elif store is not None:
            copy = store.restore()
    if copy is None:
        return Restored({}, {})
    publisher.restore_serial(copy.serial)
    return _select(copy, task.config)


async def _take_over(paths: Sequence[str]) -> TableCopy | None:
    """Copy the table of the first of these processes that has one. None: none has, or responds in time."""
    for path in paths:
        with contextlib.suppress(OSError, TimeoutError, msgspec.DecodeError):
            async with asyncio.timeout(_TAKEOVER_SECONDS):
                copy = await read_copy(path)
            if copy is not None and any(health.ready for health in copy.sources.values()):
                return copy
    return None


def _select(copy: TableCopy, config: Config) -> Restored:
    """The followed sets of a copy that belong to the namespaces, and that had been read completely.

    Sets of a static file belong to a secondary's namespaces: they are from its primary.
    """
    namespaces = config.namespaces
    templates = {namespace.template for namespace in namespaces}
    sources = {
        source: health for source, health in copy.sources.items() if source in templates and health.ready
    }
    by_source, hosts = divide_by_source(copy.changes, namespaces)
    for change in by_source.pop(STATIC_SOURCE, ()) if config.is_secondary else ():
        by_source.setdefault(template_of_static(path_of(change), namespaces), []).append(change)
    changes: dict[str, list[Change]] = {
        namespace.template: [
            change
            for change in by_source.get(namespace.template, [])
            if config.is_secondary or not namespace.only or namespace.follows_path(path_of(change))
        ]
        for namespace in namespaces
        if namespace.template in sources
    }
    return Restored(changes, sources, tuple(hosts))
