"""What commands may ask of a running server, and what it does then."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator

from zkdns.config import Config
from zkdns.daemon.ipc.control_messages import (
    AcceptLosses,
    Contents,
    CountMembers,
    Dump,
    Dumped,
    Explain,
    Explanation,
    FlushCaches,
    Flushed,
    ListNames,
    ListServices,
    Names,
    ReadHistory,
    Refused,
    Reload,
    Request,
    Response,
)
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher, accept_losses
from zkdns.daemon.watcher.queries import count_members, list_services, read_history
from zkdns.errors import BadValueError
from zkdns.names import lower, parse_name, to_text, to_wire
from zkdns.serverset.changes import Change, SetPut
from zkdns.table import Table

# So many members are encoded before the event loop has its turn: 1 ms.
_MEMBERS_IN_PART = 1000
_MOST_NAMES = 1000  # more than anybody would read


def respond(request: Request, known: WatcherContext) -> Response | Iterator[Response] | Awaitable[Response]:
    """Do what is asked for.

    Args:
        request: what that is.
        known: what this process knows, and by what it reaches others.
    """
    config, publisher = known.config, known.publisher
    response: Response | Iterator[Response] | Awaitable[Response]
    match request:
        case AcceptLosses():
            response = accept_losses(request, known.guarding, publisher.table, config.zones)
        case FlushCaches():
            response = _flush(request, config, publisher)
        case Dump():
            response = _dump(config, publisher)
        case Explain():
            response = _explain(request, known)
        case ReadHistory():
            response = read_history(request, known)
        case ListServices():
            response = list_services(known)
        case CountMembers():
            response = count_members(request, known)
        case Reload():
            sentence = "configurations are the supervisor's, which listens elsewhere"
            response = Refused("invalid", sentence)
        case ListNames():
            response = _list_names(request, known.guarding, publisher.table)
    return response


async def respond_when_applied(request: Request, known: WatcherContext) -> Response | Iterator[Response]:
    """Do what is asked for; what workers have to do with it, they have done when it is responded.

    Who reads here that members are gone, or a cache empty, would else be answered as before for a moment.
    """
    response = respond(request, known)
    if isinstance(response, Awaitable):
        return await response
    if isinstance(request, AcceptLosses | FlushCaches | CountMembers):
        await known.publisher.wait_until_applied()
    return response


async def _explain(request: Explain, known: WatcherContext) -> Explanation | Refused:
    """Do what `zkdns explain` asks for."""
    from zkdns.daemon.explain.explain import explain  # noqa: PLC0415 - nobody else here needs all of DNS

    return await explain(request, known)


def _flush(request: FlushCaches, config: Config, publisher: Publisher) -> Flushed | Refused:
    """Do what `zkdns flush` asks for."""
    if not config.forward.upstreams and not any(domain.upstreams for domain in config.forward.zones.values()):
        return Refused("not_found", "this server forwards nothing, so nothing is cached")
    if request.name is None:
        return Flushed(publisher.flush_caches(None), config.workers)
    try:
        name = lower(parse_name(request.name))
    except BadValueError as error:
        return Refused("invalid", str(error))
    for zone in config.zones:
        if name[-len(zone) :] == zone:
            return Refused(
                "not_found",
                f"{request.name} lies in the zone {to_text(zone)}, which is never forwarded or cached",
            )
    return Flushed(publisher.flush_caches(to_wire(name) if name else None), config.workers)


def _dump(config: Config, publisher: Publisher) -> Refused | Iterator[Response]:
    """Do what `zkdns dump` asks for."""
    if not publisher.health.ready:
        return Refused("not_found", "the table has not been read yet; try again when it has")
    contents = publisher.copy()  # of one moment, and quickly: members never change, so they are not copied
    return _parts(Dumped(config, publisher.table.serial, publisher.health.stale), contents)


def _list_names(request: ListNames, guarding: GuardedPublisher | None, table: Table) -> Names:
    """Do what a shell asks for that completes a name."""
    held = {one.origin for one in guarding.guard.held} if guarding else set()
    beginning = request.beginning.lower()
    names = (
        to_text(service.key)
        for service in table.services.values()
        if not request.only_held or not held.isdisjoint(service.sets)
    )
    return Names(tuple(sorted(name for name in names if name.startswith(beginning))[:_MOST_NAMES]))


def _parts(head: Dumped, contents: list[Change]) -> Iterator[Response]:
    yield head
    part: list[Change] = []
    count = 0
    for change in contents:
        part.append(change)
        count += len(change.members) + 1 if isinstance(change, SetPut) else 1
        if count >= _MEMBERS_IN_PART:
            yield Contents(tuple(part))
            part, count = [], 0
    if part:
        yield Contents(tuple(part))
    yield Contents(())
