"""Handlers of the requests that the supervisor sends to the watcher for the HTTP API.

`respond_when_applied` is the entry point: `daemon/ipc/requests.py` calls it with each request. One handler
for each type of request reads the watcher's state from a `WatcherContext`, and changes it through its parts.
`zkdns explain` has a package of its own, `daemon/explain`.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from heapq import nsmallest

from zkdns.admin.api_types import (
    Explanation,
    Flushed,
    HistoryPage,
    LossesAccepted,
    MemberCount,
    MemberRow,
    Names,
    ServiceDigest,
    ServiceDigests,
    ServiceLine,
    ServiceList,
    TableChanges,
    TableHead,
    UnreadZnode,
)
from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.request_messages import (
    AcceptLosses,
    CountMembers,
    Explain,
    FlushCaches,
    Lines,
    ListDigests,
    ListMembers,
    ListNames,
    ListServices,
    ListSets,
    ListSimilar,
    ReadHistory,
    ReadTable,
    Refused,
    Request,
    Response,
)
from zkdns.daemon.member_rows import encode_lines, member_rows
from zkdns.daemon.table_digests import complete_digests
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.find_service import (
    find_sets,
    has_address,
    name_address,
    names_with_beginning,
    similar_names,
)
from zkdns.daemon.watcher.history import IsWanted
from zkdns.daemon.watcher.set_counts import NOT_READ, list_sets
from zkdns.digest import TableDigests
from zkdns.errors import BadValueError
from zkdns.names import Labels, reverse_name, to_text, to_wire
from zkdns.serverset.changes import Change, SetPut
from zkdns.spelling import MemberAddress, ServiceText, ZnodePath, parse_spelling
from zkdns.table import Service, Table

_MEMBERS_PER_PART = 250  # members of a dump that are encoded in one round of the event loop: 1 ms
_SERVICES_PER_PART = 250  # services that are counted in one round: 1 ms with ten members each
_MAX_UNREAD = 100  # znodes in a list of services
_MAX_HISTORY_ENTRIES = 10_000


async def respond_when_applied(request: Request, context: WatcherContext) -> Response | Iterator[Response]:
    """Execute a request, and wait until the workers have applied the changes that it made.

    Without the wait, a client that reads that members or cache entries are removed could still get them from
    a worker for a moment.
    """
    if isinstance(request, AcceptLosses | CountMembers):
        named = await name_address(request, context)
        if isinstance(named, Refused):
            return named
        request = named
    response = respond(request, context)
    if isinstance(response, Awaitable):
        response = await response
    if isinstance(request, AcceptLosses | FlushCaches | CountMembers):
        await context.publisher.wait_until_applied()
    return response


def respond(  # noqa: C901 - a case for each request
    request: Request, context: WatcherContext
) -> Response | Iterator[Response] | Awaitable[Response | Iterator[Response]]:
    """Execute a request, and return its response, or an iterator of its parts."""
    response: Response | Iterator[Response] | Awaitable[Response | Iterator[Response]]
    match request:
        case AcceptLosses():
            response = accept_losses(request, context)
        case FlushCaches():
            response = _flush_caches(request, context.config, context.publisher)
        case ReadTable():
            response = _read_table(context.config, context.publisher)
        case ListMembers():
            response = _list_members(request, context)
        case ListDigests():
            response = _list_digests(context)
        case Explain():
            response = _explain(request, context)
        case ReadHistory():
            response = read_history(request, context)
        case ListServices():
            response = list_services(context, request.after)
        case CountMembers():
            response = count_members(request, context)
        case ListNames():
            response = _list_names(request, context)
        case ListSimilar():
            response = _list_similar(request, context)
        case ListSets():
            response = list_sets(request, context)
    return response


# -- requests that change something --------------------------------------------------------------------------


async def accept_losses(request: AcceptLosses, context: WatcherContext) -> LossesAccepted | Refused:
    """Handle `zkdns accept`: remove the held members of one service, or of all."""
    await context.wait_until_published()  # so that the members of a large loss are all held
    wanted, held = request.service, context.held_origins
    if wanted is not None:
        try:
            sets = find_sets(wanted, context)
        except BadValueError as error:
            return Refused("invalid", str(error))
        if not sets:
            return Refused("not_found", f"there is no service {wanted}")
        held &= {owner.origin for owner in sets}
    if not held:
        return Refused("not_found", f"no members of {wanted} are held" if wanted else "no members are held")
    return LossesAccepted(await context.release(held))


def _flush_caches(request: FlushCaches, config: Config, publisher: Publisher) -> Flushed | Refused:
    """Handle `zkdns flush`."""
    if not config.forward.upstreams and not any(zone.upstreams for zone in config.forward.zones.values()):
        return Refused("not_found", "this server forwards nothing, so nothing is cached")
    if request.name is None:
        return Flushed(publisher.flush_caches(None), config.workers)
    try:
        name = _name_to_flush(request.name)
    except BadValueError as error:
        return Refused("invalid", str(error))
    for zone in config.zones:
        if name[-len(zone) :] == zone:
            return Refused(
                "not_found",
                f"{request.name} lies in the zone {to_text(zone)}, which is never forwarded or cached",
            )
    return Flushed(publisher.flush_caches(to_wire(name) if name else None), config.workers)


def _name_to_flush(text: str) -> Labels:
    """Return a domain name, or the reverse name of an address.

    Raises:
        BadValueError: it is the path of a znode, or invalid.
    """
    match parse_spelling(text):
        case ServiceText(labels):
            return labels
        case MemberAddress(address):
            return reverse_name(address)
        case ZnodePath():
            raise BadValueError(f"{text!r} is the path of a znode; write a domain name or an address")


# -- requests that read the table ----------------------------------------------------------------------------


_FOR_RESPONSES = (
    "namespaces",
    "ttl",
    "negative_ttl",
    "order",
    "max_answers",
    "statuses",
    "empty",
    "dns_sd",
    "service",
)


def _read_table(config: Config, publisher: Publisher) -> Refused | Iterator[Response]:
    """Handle `zkdns dump --zone`. The lines have the state of the table at the time of the request."""
    if not publisher.health.ready:
        return NOT_READ
    contents = publisher.copy()  # fast: members are immutable, so they are not copied
    head = TableHead(_for_responses(config), publisher.table.serial, publisher.health.stale)
    return _table_lines(head, contents)


def _for_responses(config: Config) -> Config:
    """Return the settings that determine responses, without others, which may be secret.

    The supervisor sends the watcher those that only workers use (`Configure`).
    """
    return Config(listen=(), **{field: getattr(config, field) for field in _FOR_RESPONSES})


def _table_lines(head: TableHead, contents: list[Change]) -> Iterator[Response]:
    yield Lines(encode_lines([head]))
    part: list[Change] = []
    count = 0
    for change in contents:
        part.append(change)
        count += len(change.members) + 1 if isinstance(change, SetPut) else 1
        if count >= _MEMBERS_PER_PART:
            yield Lines(encode_lines([TableChanges(tuple(part))]))
            part, count = [], 0
    if part:
        yield Lines(encode_lines([TableChanges(tuple(part))]))
    yield Lines(b"")


def _list_members(request: ListMembers, context: WatcherContext) -> Refused | Iterator[Response]:
    """Handle `zkdns dump --json`. Each service has the state of the moment at which its lines are made."""
    table = context.publisher.table
    if not context.publisher.health.ready:
        return NOT_READ
    if request.service is None:
        return _member_lines(member_rows(table))
    try:
        sets = find_sets(request.service, context)
    except BadValueError as error:
        return Refused("invalid", str(error))
    return _member_lines(member_rows(table, {owner.name.key for owner in sets}))


def _member_lines(rows: Iterator[MemberRow]) -> Iterator[Response]:
    while part := list(itertools.islice(rows, _MEMBERS_PER_PART)):
        yield Lines(encode_lines(part))
    yield Lines(b"")


async def _list_digests(context: WatcherContext) -> Refused | Iterator[Response]:
    """Handle the first part of `zkdns diff`."""
    if not context.publisher.health.ready:
        return NOT_READ
    digests = await complete_digests(context.publisher.table, context.config)
    return _digest_parts(context.publisher.table, digests)


def _digest_parts(table: Table, digests: TableDigests) -> Iterator[Response]:
    keys = sorted(table.services, key=lambda key: key[::-1])
    for start in range(0, len(keys), _SERVICES_PER_PART):
        part: list[ServiceDigest] = []
        for key in keys[start : start + _SERVICES_PER_PART]:
            if key in table.services:
                one = digests.of_service(table.services[key].sets.values())
                part.append(ServiceDigest(to_text(key), one.members, str(one)))
        if part:
            yield ServiceDigests(tuple(part))
    yield ServiceDigests(())


async def _list_names(request: ListNames, context: WatcherContext) -> Names:
    """Return the service names that a shell offers to complete a word."""
    held = context.held_origins
    services = [
        service
        for service in context.publisher.table.services.values()
        if not request.only_held or not held.isdisjoint(service.sets)
    ]
    return Names(await names_with_beginning(request.beginning.lower(), services))


async def _list_similar(request: ListSimilar, context: WatcherContext) -> Names | Refused:
    """Return the names of services that are similar to an unknown one."""
    try:
        return Names(await similar_names(request.text, context))
    except BadValueError as error:
        return Refused("invalid", str(error))


def count_members(request: CountMembers, context: WatcherContext) -> MemberCount | Refused:
    """Handle `zkdns wait`: count the distinct endpoints that a service is answered with."""
    table, statuses = context.publisher.table, context.config.statuses
    ready, problem = context.publisher.health.ready, context.source_problem
    try:
        sets = find_sets(request.service, context)
    except BadValueError as error:
        return Refused("invalid", str(error))
    if not sets:
        return MemberCount(0, 0, exists=False, ready=ready, problem=problem)
    service = table.services[sets[0].name.key]
    found = to_text(service.key)
    if service.is_unread:  # the number of members is unknown
        return MemberCount(0, 0, exists=True, ready=False, service=found, problem=problem)
    weighted: set[tuple[str, int]] = set()
    drained: set[tuple[str, int]] = set()
    held: set[tuple[str, int]] = set()
    for owner in service.sets.values():
        for name, member in owner.members.items():
            endpoint = member.service
            if endpoint is None or not member.is_served(statuses):
                continue
            group = held if name in owner.held else weighted if member.weight > 0 else drained
            group.add((endpoint.host.lower(), endpoint.port))  # members with equal endpoints count once
    live = weighted or drained
    return MemberCount(
        len(live | held), len(held - live), exists=True, ready=ready, service=found, problem=problem
    )


def list_services(context: WatcherContext, after: int = 0) -> Iterator[ServiceList]:
    """Yield services in parts, sorted by name: all, or those that have changed. The last part is empty."""
    table, history = context.publisher.table, context.history
    last = history.last
    changed = history.changed_after(after) if after else set(table.services)
    state, stale, ready = context.source_state(), context.stale_seconds(), context.publisher.health.ready
    bad = Counter(path.rpartition("/")[0] for source in context.zookeeper_sources for path in source.sync.bad)
    keys = sorted(changed & table.services.keys(), key=lambda key: key[::-1])
    for start in range(0, len(keys), _SERVICES_PER_PART):
        part = [
            table.services[key] for key in keys[start : start + _SERVICES_PER_PART] if key in table.services
        ]
        if part:
            yield ServiceList(
                tuple(_service_line(service, bad, context) for service in part), state, stale, ready
            )
    gone = filter(None, map(history.name_of, changed - table.services.keys()))
    unread = {path: reason for one in context.zookeeper_sources for path, reason in one.sync.unread.items()}
    first = nsmallest(_MAX_UNREAD, unread.items())
    yield ServiceList(
        (),
        state,
        stale,
        ready,
        gone=tuple(sorted(name.without(context.config.zone) for name in gone)),
        last=last,
        unread=tuple(UnreadZnode(path, reason) for path, reason in first),
        unread_count=len(unread),
    )


def _service_line(service: Service, bad: Mapping[str, int], context: WatcherContext) -> ServiceLine:
    statuses = context.config.statuses
    alive = hidden = held = drained = 0
    for owner in service.sets.values():
        held += len(owner.held)
        for name, member in owner.members.items():
            if name in owner.held:
                continue
            if member.is_served(statuses):
                alive += 1
                drained += not member.weight
            else:
                hidden += 1
    return ServiceLine(
        name=service.first.name.without(context.config.zone),
        alive=alive,
        hidden=hidden,
        held=held,
        bad=sum(bad.get(origin, 0) for origin in service.sets),
        drained=drained,
        changed=context.history.changed_at(service.key),
        environment=service.first.name.scope,
    )


# -- other requests ------------------------------------------------------------------------------------------


def read_history(request: ReadHistory, context: WatcherContext) -> HistoryPage | Refused:
    """Handle `zkdns history`: return at most 10,000 changes of one service, or of all."""
    limit = min(max(request.limit, 1), _MAX_HISTORY_ENTRIES)
    if request.service is None:
        return HistoryPage(*context.history.read(None, request.after, limit))
    try:
        is_wanted = _history_filter(request.service, context)
    except BadValueError as error:
        return Refused("invalid", str(error))
    return HistoryPage(*context.history.read(is_wanted, request.after, limit))


def _history_filter(text: str, context: WatcherContext) -> IsWanted:
    """Select the changes of a service, of a set (given by its path), or of all members at an address.

    Services that no longer exist have changes too.

    Raises:
        BadValueError: the text is no spelling of a service.
    """
    history, services = context.history, context.publisher.table.services
    match parse_spelling(text):
        case MemberAddress() as wanted:
            return lambda _key, _origin, member: member is not None and has_address(member, wanted)
        case ZnodePath(path):
            sets = find_sets(path, context)
            keys = {owner.name.key for owner in sets}
            return lambda key, origin, _member: key in keys or origin == path
        case ServiceText() as name:
            possible = name.keys(context.config.zones)
            known = (key for key in possible if key in services or history.name_of(key) is not None)
            wanted_key = next(known, possible[0])
            return lambda key, _origin, _member: key == wanted_key


async def _explain(request: Explain, context: WatcherContext) -> Explanation | Refused:
    """Handle `zkdns explain`."""
    # Only this request needs `zkdns.dns`. In a thread, because loading it takes 30 ms (measured).
    module = await asyncio.to_thread(importlib.import_module, "zkdns.daemon.explain.explain")
    explanation: Explanation | Refused = await module.explain(request, context)
    return explanation
