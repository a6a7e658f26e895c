"""Finds the service that a text in a request stands for (`zkdns.spelling`), and similar names."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from difflib import SequenceMatcher

import msgspec

from zkdns.daemon.explain.searches import MAX_SUGGESTIONS, AddressUsers, Search, SimilarNames
from zkdns.daemon.ipc.request_messages import AcceptLosses, CountMembers, Refused
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.errors import BadValueError
from zkdns.names import Labels, short_name, to_text
from zkdns.namespace import STATIC_PREFIX
from zkdns.serverset.member import Member
from zkdns.spelling import MemberAddress, ServiceText, ZnodePath, parse_spelling
from zkdns.table import MemberSet, Service

_MAX_NAMES = 1000  # service names with a beginning
_MAX_NAMED = 3  # services in an error
_LEAST_SIMILARITY = 0.6  # as in `difflib.get_close_matches`


def find_sets(text: str, context: WatcherContext) -> list[MemberSet]:
    """Return the sets of a service; the one set if the path of a znode is given. Empty: there is none.

    An address finds nothing, because that takes a search: `name_address` replaces it first.

    Raises:
        BadValueError: the text is no spelling of a service, or the path of a member.
    """
    table = context.publisher.table
    match parse_spelling(text):
        case ZnodePath(path):
            if (owner := table.set_of(path)) is not None:
                return [owner]
            parent = path.rpartition("/")[0]
            if table.set_of(parent) is not None:
                raise BadValueError(f"{path!r} is below the znode of a service; write {parent}")
            return _static_sets(path, context)
        case ServiceText() as name:
            keys = name.keys(context.config.zones)
            found = next((table.services[key] for key in keys if key in table.services), None)
            return found.by_precedence() if found is not None else []
        case MemberAddress():
            return []


def _static_sets(path: str, context: WatcherContext) -> list[MemberSet]:
    """Return the sets of the static file for a service that would have its znode at this path."""
    namespace = next((one for one in context.config.namespaces if one.matches_path(path)), None)
    if namespace is None:
        return []
    service = context.publisher.table.services.get(namespace.service_at(path).key)
    sets = service.by_precedence() if service is not None else []
    return [owner for owner in sets if owner.origin.startswith(STATIC_PREFIX)]


async def name_address(
    request: CountMembers | AcceptLosses, context: WatcherContext
) -> CountMembers | AcceptLosses | Refused:
    """If a request has the address of a member, put the name of its service in its place."""
    try:
        spelling = parse_spelling(request.service) if request.service is not None else None
    except BadValueError:  # the handler reports it
        return request
    if not isinstance(spelling, MemberAddress):
        return request
    keys = await find_users(spelling, context)
    if not keys:
        return request
    if len(keys) > 1:
        names = ", ".join(map(to_text, keys[:_MAX_NAMED])) + (", …" if len(keys) > _MAX_NAMED else "")
        return Refused("invalid", f"{request.service} belongs to {len(keys)} services; write one: {names}")
    return msgspec.structs.replace(request, service=f"{to_text(keys[0])}.")


async def find_users(spelling: MemberAddress, context: WatcherContext) -> list[Labels]:
    """Return the keys of the services with a member at an address, in order."""
    services = list(context.publisher.table.services.values())
    users = await AddressUsers(spelling.address, services).run()
    return sorted({key for key, member in users if has_address(member, spelling)})


def has_address(member: Member, wanted: MemberAddress) -> bool:
    """Whether a member has an address, at any of its ports or at the given one."""
    ports = {endpoint.port for endpoint in member.endpoints}
    return wanted.address in member.addresses and (wanted.port is None or wanted.port in ports)


async def similar_names(text: str, context: WatcherContext) -> tuple[str, ...]:
    """Return the names of services that a text of an unknown service may mean, the most similar one first.

    These are services with the name in front of their environment, and otherwise similar names.

    Raises:
        BadValueError: the text is no spelling of a service.
    """
    table, zones, first_zone = context.publisher.table, context.config.zones, context.config.zone
    match parse_spelling(text):
        case MemberAddress():
            return ()
        case ZnodePath(path):
            paths = await SimilarNames(path, table.origins, str).run()
            return tuple(one for one in paths if _differs_little(path, one, "/"))
        case ServiceText(labels):
            zone = next((zone for zone in zones if labels[-len(zone) :] == zone), ())
            below = labels[: len(labels) - len(zone)]
            keys = list(table.services)
            if below and (begun := await _BeginningWith(below, keys).run()):
                return tuple(short_name(key, first_zone) for key in begun[:MAX_SUGGESTIONS])
            wanted = short_name(labels, first_zone)
            found = await SimilarNames(wanted, keys, lambda key: short_name(key, first_zone)).run()
            return tuple(name for name in found if _differs_little(wanted, name, "."))


def _differs_little(wanted: str, name: str, separator: str) -> bool:
    """Whether two names are also similar without their equal parts, such as the environment."""
    one, other = wanted.split(separator), name.split(separator)
    for at in (-1, 0):
        while one and other and one[at] == other[at]:
            del one[at], other[at]
    return SequenceMatcher(None, separator.join(one), separator.join(other)).ratio() >= _LEAST_SIMILARITY


class _BeginningWith(Search[Labels, list[Labels]]):
    """The keys that begin with some labels, in order."""

    def __init__(self, labels: Labels, keys: Iterable[Labels]) -> None:
        super().__init__(keys)
        self._labels = labels
        self._found: list[Labels] = []

    def add(self, item: Labels) -> bool:
        """Keep a key if it begins with the labels."""
        if item[: len(self._labels)] == self._labels:
            self._found.append(item)
        return True

    def result(self) -> list[Labels]:
        """All of them."""
        return sorted(self._found)


class _NamesBeginningWith(Search[Service, tuple[str, ...]]):
    """The names of services that begin with a text, in order."""

    def __init__(self, text: str, services: Iterable[Service]) -> None:
        super().__init__(services)
        self._text = text
        self._found: list[str] = []

    def add(self, item: Service) -> bool:
        """Keep the name of a service if it begins with the text."""
        if (name := to_text(item.key)).startswith(self._text):
            self._found.append(name)
        return True

    def result(self) -> tuple[str, ...]:
        """The first ones."""
        return tuple(heapq.nsmallest(_MAX_NAMES, self._found))


async def names_with_beginning(text: str, services: Iterable[Service]) -> tuple[str, ...]:
    """Return the first names of services that begin with a text, in order."""
    return await _NamesBeginningWith(text, services).run()
