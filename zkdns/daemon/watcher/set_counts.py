"""Lists the server sets of all namespaces and of the static file, as `zkdns services` prints them.

The rows are those that a client of ZooKeeper would count (`zkdns.serverset.listing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from zkdns.daemon.ipc.request_messages import ListSets, Refused, Response
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.namespace import STATIC_PREFIX
from zkdns.serverset.formats import guess_common_format
from zkdns.serverset.service_counts import MAX_RECOGNIZED, Listing, ServiceCount
from zkdns.table import MemberSet

NOT_READ = Refused("not_found", "the table has not been read yet; try again when it has")
_ROWS_PER_PIECE = 500  # rows that are made in one round of the event loop: 1 ms


async def list_sets(request: ListSets, context: WatcherContext) -> Refused | Iterator[Response]:
    """Handle `zkdns services`."""
    if not context.publisher.health.ready:
        return NOT_READ
    rows = [row for row in await _rows(context) if _is_wanted(row.path, row, request, context)]
    rows.sort(key=lambda row: (row.environment, row.service, row.path))
    return _parts(await _with_formats(rows, context), request, context)


async def _rows(context: WatcherContext) -> list[ServiceCount]:
    """Return a row for each set of the table, with the numbers of ZooKeeper if they are known."""
    counted: dict[str, ServiceCount] = {}
    for source in context.zookeeper_sources:
        for number, row in enumerate(source.sync.service_counts(), 1):
            counted[row.path] = row
            if number % _ROWS_PER_PIECE == 0:
                await asyncio.sleep(0)
    owners = [
        owner for service in context.publisher.table.services.values() for owner in service.sets.values()
    ]
    return [replace(counted.get(owner.origin) or _row(owner), held=len(owner.held)) for owner in owners]


def _row(owner: MemberSet) -> ServiceCount:
    """Count the members of a set that was not read from ZooKeeper."""
    count = None if owner.is_unread else len(owner.members) - len(owner.held)
    return ServiceCount(owner.name.scope, owner.name.service, count, owner.origin)


def _is_wanted(path: str, row: ServiceCount | None, request: ListSets, context: WatcherContext) -> bool:
    """Whether a znode belongs to the requested environment, or is above all of them."""
    if request.environment is None:
        return True
    if path.startswith(STATIC_PREFIX):
        return row is not None and row.environment == request.environment
    namespace = next(one for one in context.config.namespaces if one.contains(path))
    return namespace.environment_of(path) in {None, request.environment}


async def _with_formats(rows: list[ServiceCount], context: WatcherContext) -> list[ServiceCount]:
    """Add the formats of the other children to the first services without members."""
    foreign = [index for index, row in enumerate(rows) if row.is_foreign][:MAX_RECOGNIZED]
    paths = {index: [f"{rows[index].path}/{name}" for name in rows[index].examples] for index in foreign}
    wanted = [path for each in paths.values() for path in each]
    stats = await context.znode_stats.read(wanted, context.zookeeper_sources) if wanted else {}
    for index, examples in paths.items():
        data = {
            name: stats[path].data if path in stats else None
            for name, path in zip(rows[index].examples, examples, strict=True)
        }
        rows[index] = replace(rows[index], format=guess_common_format(data))
    return rows


def _parts(rows: list[ServiceCount], request: ListSets, context: WatcherContext) -> Iterator[Response]:
    for start in range(0, len(rows), _ROWS_PER_PIECE):
        yield Listing(tuple(rows[start : start + _ROWS_PER_PIECE]), empty=(), denied=(), exists=True)
    syncs = [source.sync for source in context.zookeeper_sources]

    def wanted(paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(path for path in paths if _is_wanted(path, None, request, context)))

    unread = {path for sync in syncs for path in sync.unread_directories}
    unread |= {row.path for row in rows if row.members is None}
    yield Listing(
        services=(),
        empty=wanted(path for sync in syncs for path in sync.empty_directories()),
        denied=wanted(unread),
        exists=not any(sync.missing for sync in syncs),
        is_read_only=context.source_state() == "readonly",
    )
