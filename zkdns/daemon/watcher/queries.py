"""What of the watcher's knowledge is told in numbers and lists, without looking at DNS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from zkdns.daemon.ipc.control_messages import (
    CountMembers,
    HistoryPage,
    MemberCount,
    ReadHistory,
    Refused,
    ServiceLine,
    ServiceList,
)
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.history import short_name
from zkdns.errors import BadValueError
from zkdns.names import Labels, lower, parse_name
from zkdns.table import Service

# So many are counted before the event loop has its turn: a few milliseconds, with ten members each.
_SERVICES_IN_PART = 500
_MOST_ENTRIES = 10_000
_WORST_FIRST = ("reading", "away", "readonly", "live")


def state_of(known: WatcherContext) -> str | None:
    """How far what ZooKeeper said can be trusted; None: nothing is read from there."""
    states = {source.sync.state.value for source in known.zookeeper}
    return next((state for state in _WORST_FIRST if state in states), None)


def count_members(request: CountMembers, known: WatcherContext) -> MemberCount | Refused:
    """How many members a service is answered with."""
    table, statuses = known.publisher.table, known.config.statuses
    ready = known.publisher.health.ready
    try:
        keys = _keys_of(request.service, known)
    except BadValueError as error:
        return Refused("invalid", str(error))
    service = next((table.services[key] for key in keys if key in table.services), None)
    if service is None:
        return MemberCount(0, 0, exists=False, ready=ready)
    if service.is_unread:  # nobody knows how many there are
        return MemberCount(0, 0, exists=True, ready=False)
    weighing: set[tuple[str, int]] = set()
    drained: set[tuple[str, int]] = set()
    held: set[tuple[str, int]] = set()
    for owner in service.sets.values():
        for name, member in owner.members.items():
            at = member.service
            if at is None or not member.is_served(statuses):
                continue
            kind = held if name in owner.held else weighing if member.weight > 0 else drained
            kind.add((at.host.lower(), at.port))  # equal endpoints are one to whoever connects
    there = weighing or drained
    return MemberCount(len(there | held), len(held - there), exists=True, ready=ready)


def read_history(request: ReadHistory, known: WatcherContext) -> HistoryPage | Refused:
    """Who came and went; at most 10,000 entries at a time."""
    most = min(max(request.limit, 1), _MOST_ENTRIES)
    if request.service is None:
        return HistoryPage(*known.history.read(None, request.after, most))
    path = request.service.rstrip("/")
    try:
        keys = _keys_of(path, known)
    except BadValueError as error:
        return Refused("invalid", str(error))
    entries = known.history.read(lambda key, origin: key in keys or origin == path, request.after, most)
    return HistoryPage(*entries)


def list_services(known: WatcherContext) -> Iterator[ServiceList]:
    """All services by name, in parts, of which the last one is empty."""
    table = known.publisher.table
    state, stale, ready = state_of(known), known.stale_seconds, known.publisher.health.ready
    bad = Counter(path.rpartition("/")[0] for source in known.zookeeper for path in source.sync.bad)
    keys = sorted(table.services, key=lambda key: key[::-1])
    for start in range(0, len(keys), _SERVICES_IN_PART):
        there = [
            table.services[key] for key in keys[start : start + _SERVICES_IN_PART] if key in table.services
        ]
        if there:
            lines = tuple(_line(service, bad, known) for service in there)
            yield ServiceList(lines, state, stale, ready)
    yield ServiceList((), state, stale, ready)


def _line(service: Service, bad: Mapping[str, int], known: WatcherContext) -> ServiceLine:
    statuses = known.config.statuses
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
        name=short_name(service.first.name, known.config.zone),
        alive=alive,
        hidden=hidden,
        held=held,
        bad=sum(bad.get(origin, 0) for origin in service.sets),
        drained=drained,
        changed=known.history.changed(service.key),
    )


def _keys_of(text: str, known: WatcherContext) -> tuple[Labels, ...]:
    """The keys of services that a name, with the zone or without, or a znode's path may mean.

    Raises:
        BadValueError: it is no name.
    """
    if text.startswith("/"):
        owner = known.publisher.table.set_of(text)
        return (owner.name.key,) if owner is not None else ()
    labels = lower(parse_name(text))
    return (labels, *((*labels, *zone) for zone in known.config.zones))
