"""`Table`: the services and members that the server answers from.

Only `apply`, `retain` and `expire` change a table. It does no I/O and has no clock: the caller passes the
time, in seconds of any monotonic clock. DNS messages are made in `zkdns.dns`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from zkdns.config import Config
from zkdns.digest import SetDigest, TableDigests
from zkdns.names import Labels
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    DirectoryUnread,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
    held_changes,
)
from zkdns.serverset.endpoint_index import EndpointIndex, endpoint_of
from zkdns.serverset.member import Member, is_ip

DEPARTED_SECONDS = 60.0
"""How long a departed member's name stays resolvable, for clients that have it from an SRV record."""
CHANGED_AT_ONCE = 1000
"""The members of a set that a step of a large change has. Each takes 1.2 µs (measured)."""


# If more members of a set change together, its digest is counted again later: each takes 6 µs (measured).
_COUNTED_AT_ONCE = 250
_EXAMINED_AT_ONCE = 50  # paths; dropping a service takes up to 40 µs in a worker (measured)

ANY_SERVICE: Labels = ()
"""In a set of keys: the names that belong to no single service."""

_NONE_HELD: Mapping[str, float] = MappingProxyType({})  # shared, because nearly no set has held members


def is_below(path: str, directory: str) -> bool:
    """Whether a znode's path is below that of another one."""
    return path.startswith(directory.rstrip("/") + "/")


class MemberSet:
    """The members of one origin by name, in the order in which they joined.

    `held` has the held members, which have left and are still answered, after all others: their names, and
    since when (`MembersHeld.since`); `whole` is that of these changes. If `is_unread`, the set exists, but
    its members are unknown. If `is_outdated`, the set was not published since a znode above it could not be
    listed, so its members may be out of date. `digest` is kept up to date, once `TableDigests` has set it.
    """

    __slots__ = (
        "_by_endpoint",
        "digest",
        "held",
        "is_outdated",
        "is_unread",
        "members",
        "name",
        "origin",
        "whole",
    )

    def __init__(self, origin: str, name: ServiceName) -> None:
        self.origin = origin
        self.name = name
        self.members: dict[str, Member] = {}
        self.held: Mapping[str, float] = _NONE_HELD
        self.whole = 0
        self.is_unread = False
        self.is_outdated = False
        self.digest: SetDigest | None = None
        self._by_endpoint: EndpointIndex | None = None

    def names_at(self, endpoint: tuple[str, int] | None) -> AbstractSet[str]:
        """The names of the members with this service endpoint.

        The first call makes an index. Processes that never call this need no memory for it.
        """
        if self._by_endpoint is None:
            self._by_endpoint = EndpointIndex(self.members.values())
        return self._by_endpoint.at(endpoint)

    def put(self, member: Member) -> Member | None:
        """Add a member, or replace the one with its name. Returns that one."""
        before = self.members.get(member.name)
        self.members[member.name] = member
        if self._by_endpoint is not None:
            if before is not None:
                self._by_endpoint.discard(before.name, endpoint_of(before))
            self._by_endpoint.add(member.name, endpoint_of(member))
        if self.digest is not None:
            is_held = member.name in self.held
            if before is not None:
                self.digest.replace(before, member, is_held=is_held)
            else:
                self.digest.count(member, +1, is_held=is_held)
        return before

    def pop(self, name: str) -> Member | None:
        """Remove and return a member. None: there is none with this name."""
        member = self.members.pop(name, None)
        if member is not None and self._by_endpoint is not None:
            self._by_endpoint.discard(name, endpoint_of(member))
        if member is not None and self.digest is not None:
            self.digest.count(member, -1, is_held=name in self.held)
        return member

    def hold(self, held: Mapping[str, float]) -> None:
        """Hold these members, and no others."""
        if self.digest is not None:
            for name in self.held.keys() ^ held.keys():
                member = self.members[name]
                self.digest.count(member, -1, is_held=name in self.held)
                self.digest.count(member, +1, is_held=name in held)
        self.held = held


def _set_outdated(member_set: MemberSet, is_outdated: bool) -> set[Labels]:
    """Set `is_outdated`. Returns the key of the service if this is a change."""
    if member_set.is_outdated == is_outdated:
        return set()
    member_set.is_outdated = is_outdated
    return {member_set.name.key}


def _difference(member_set: MemberSet, wanted: Mapping[str, Member]) -> tuple[list[Member], list[str]]:
    """The members that the set does not have yet, and the names of those that it has in addition."""
    added = [member for name, member in wanted.items() if member_set.members.get(name) != member]
    return added, [name for name in member_set.members if name not in wanted]


class Service:
    """The sets with the same DNS name: usually one, several for instance if their names differ only in case.

    `departed` has the members that have left, by origin and name, each with the time until which its own name
    (such as `m318.web.staging`) is answered.
    """

    __slots__ = ("departed", "key", "sets")

    def __init__(self, key: Labels) -> None:
        self.key = key
        self.sets: dict[str, MemberSet] = {}
        self.departed: dict[tuple[str, str], tuple[Member, float]] = {}

    @property
    def first(self) -> MemberSet:
        """The set whose spelling and member names have precedence: the one in lower case, then by origin."""
        if len(self.sets) == 1:
            return next(iter(self.sets.values()))
        return min(self.sets.values(), key=_precedence)

    @property
    def is_unread(self) -> bool:
        """Whether no member is known, but a set that could not be read may have some."""
        sets = self.sets.values()
        has_unread = any(member_set.is_unread for member_set in sets)
        return has_unread and not any(member_set.members for member_set in sets)

    def by_precedence(self) -> list[MemberSet]:
        """All sets in order of precedence."""
        sets = list(self.sets.values())
        return sorted(sets, key=_precedence) if len(sets) > 1 else sets


def _precedence(member_set: MemberSet) -> tuple[bool, str]:
    return member_set.name.labels != member_set.name.key, member_set.origin


class AddressIndex:
    """An index of the services by the IP addresses of their members, including departed ones.

    Only addresses that are known without a DNS lookup are indexed.
    """

    def __init__(self) -> None:
        self._users: dict[str, dict[Labels, int]] = {}
        self._new: set[str] = set()

    def __contains__(self, address: str) -> bool:
        return address in self._users

    def users(self, address: str) -> Collection[Labels]:
        """The keys of the services with this address."""
        return self._users.get(address, {}).keys()

    def take_new(self) -> set[str]:
        """The addresses that have come into use since the last call."""
        new, self._new = self._new, set()
        return new

    def count(self, member: Member, key: Labels, step: int) -> None:
        """Count a member of a service: `step` is 1 if it has joined, -1 if it has left."""
        for address in member.addresses:
            users = self._users.setdefault(address, {})
            if key not in users:
                users[key] = 0
                self._new.add(address)
            users[key] += step
            if not users[key]:
                del users[key]
            if not users:
                del self._users[address]


class Table:
    """All services, the resolved addresses of their host names, and a serial number.

    Args:
        departed_seconds: how long departed members are kept in `Service.departed`. 0: not at all.
        with_addresses: whether to maintain the index `addresses`.

    Attributes:
        addresses: the index by address, or None.
        digests: the digests of its sets, since the first call of `need_digests`.
    """

    def __init__(self, *, departed_seconds: float = DEPARTED_SECONDS, with_addresses: bool = False) -> None:
        self.addresses = AddressIndex() if with_addresses else None
        self.digests: TableDigests | None = None
        self.serial = 0
        """The SOA serial (RFC 1982). The publisher of changes sets it."""
        self._services: dict[Labels, Service] = {}
        self._sets: dict[str, MemberSet] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._host_users: dict[str, Counter[Labels]] = {}
        self._departed_seconds = departed_seconds
        # A heap of departed members by time, with the key of the service; some have joined again since.
        self._departures: list[tuple[float, Labels, tuple[str, str]]] = []
        self._unread_directories: set[str] = set()

    @property
    def unread_directories(self) -> Collection[str]:
        """Paths of the znodes above the sets that cannot be listed."""
        return self._unread_directories

    @property
    def services(self) -> Mapping[Labels, Service]:
        """The services by the labels of their names in lower case, including the zone."""
        return self._services

    @property
    def origins(self) -> set[str]:
        """The origins of all sets."""
        return set(self._sets)

    @property
    def hosts(self) -> set[str]:
        """The host names (not IP addresses) of all members."""
        return set(self._host_users)

    def set_of(self, origin: str) -> MemberSet | None:
        """The set of this origin, or None."""
        return self._sets.get(origin)

    def addresses_of(self, host: str) -> tuple[str, ...]:
        """The IP addresses of a host name at its last lookup."""
        return self._addresses.get(host, ())

    def need_digests(self, config: Config) -> TableDigests:
        """The digests, which are kept up to date from the first call on. They may be incomplete."""
        if self.digests is None:
            self.digests = TableDigests(self._sets.values(), config)
        return self.digests

    def apply(self, change: Change, now: float = 0.0) -> set[Labels]:
        """Apply a change. Returns the keys of the services whose answers may change.

        The keys contain `ANY_SERVICE` if answers for names of no service may change.

        A change of a set that is not in the table has no effect, since the source will publish the whole set.
        """
        match change:
            case SetPut():
                changed = self._put(change, now)
            case SetUnread():
                changed = self._put_unread(change)
            case SetChanged():
                member_set = self._sets.get(change.origin)
                changed = self._update(member_set, change.added, change.removed, now) if member_set else set()
            case MembersHeld():
                changed = self._hold(change)
            case SetDropped():
                changed = self._drop(change.origin)
            case DirectoryUnread():
                changed = self._set_unread(change.path, is_unread=change.is_unread)
            case HostResolved():
                changed = self._resolve(change)
        return changed

    def steps_of(self, change: Change) -> Sequence[Change]:
        """The change itself, or smaller ones with the same result if it is about many members of a set.

        In between, members that leave are still there with those that have joined.
        """
        member_set = self._sets.get(change.origin) if isinstance(change, SetPut | SetChanged) else None
        if member_set is None or member_set.is_unread:
            return (change,)
        origin, size = member_set.origin, CHANGED_AT_ONCE
        added: Sequence[Member] = ()
        removed: Sequence[str] = ()
        end: list[Change] = []
        match change:
            case SetPut(_, name, members) if name == member_set.name:
                if len(members) + len(member_set.members) <= size:
                    return (change,)
                added, removed = _difference(member_set, {member.name: member for member in members})
                # The change itself also ends states that its members do not have.
                end = [change] if member_set.held or member_set.is_outdated else []
            case SetChanged(_, added, removed) if len(added) + len(removed) > size:
                joining = {member.name for member in added}
                removed = [name for name in removed if name not in joining]
            case _:
                return (change,)
        if len(added) + len(removed) <= size:
            return end or (SetChanged(origin, tuple(added), tuple(removed)),)
        return [
            *(SetChanged(origin, tuple(added[at : at + size]), ()) for at in range(0, len(added), size)),
            *(SetChanged(origin, (), tuple(removed[at : at + size])) for at in range(0, len(removed), size)),
            *end,
        ]

    def retain(
        self, paths: Collection[str], within: Callable[[str], bool] = lambda _: True
    ) -> Iterator[set[Labels]]:
        """Drop all sets, and unread directories, except those at these paths.

        Args:
            paths: origins of sets, and paths of unread directories.
            within: only those for whose path this returns True are dropped.

        Yields:
            the keys of services whose answers may change, each time that some paths were examined. The caller
            may do other work in between.
        """
        changed: set[Labels] = set()
        for number, origin in enumerate(self._sets.keys() - paths, 1):
            if within(origin):
                changed |= self._drop(origin)
            if number % _EXAMINED_AT_ONCE == 0:
                yield changed
                changed = set()
        for path in self._unread_directories.difference(paths):
            if within(path):
                changed |= self._set_unread(path, is_unread=False)
        yield changed

    def has_expired(self, now: float) -> bool:
        """Whether the time of a departed member has ended, so that `expire` must be called."""
        return bool(self._departures) and self._departures[0][0] <= now

    def expire(self, now: float, limit: int | None = None) -> set[Labels]:
        """Remove departed members after their time. Returns the keys of their services.

        Args:
            now: the time.
            limit: maximum number of members, including those that have joined again since, or whose set was
                dropped. None: all.
        """
        changed: set[Labels] = set()
        for _ in range(len(self._departures) if limit is None else limit):
            if not self.has_expired(now):
                break
            until, key, name = heapq.heappop(self._departures)
            service = self._services.get(key)
            departed = service.departed.get(name) if service is not None else None
            if service is None or departed is None or departed[1] != until:
                continue  # it has joined again, or its set was dropped
            del service.departed[name]
            self._count_hosts(departed[0], key, -1)
            changed.add(key)
        return changed

    def contents(self) -> Iterator[Change]:
        """The changes that turn an empty table into a copy of this one."""
        # A directory comes after the sets that are outdated because of it, and before those read since.
        outdated: list[str] = []
        current: list[str] = []
        for origin, member_set in self._sets.items():
            (outdated if member_set.is_outdated else current).append(origin)
        for origin in outdated:
            yield from self.contents_of(origin)
        yield from (DirectoryUnread(path) for path in sorted(self._unread_directories))
        for origin in current:
            yield from self.contents_of(origin)
        yield from self.resolved()

    def contents_of(self, origin: str) -> Iterator[SetPut | SetUnread | MembersHeld]:
        """The changes that create this set in another table. No changes if the set does not exist."""
        member_set = self._sets.get(origin)
        if member_set is None:
            return
        if member_set.is_unread:
            yield SetUnread(member_set.origin, member_set.name)
            return
        yield SetPut(member_set.origin, member_set.name, tuple(member_set.members.values()))
        if member_set.held:
            yield from held_changes(member_set.origin, member_set.held, member_set.whole)

    def resolved(self) -> list[HostResolved]:
        """The addresses of all resolved host names."""
        return [HostResolved(host, addresses) for host, addresses in self._addresses.items()]

    def _put(self, change: SetPut, now: float) -> set[Labels]:
        member_set = self._sets.get(change.origin)
        changed = set() if member_set is None else _set_outdated(member_set, False)
        if member_set is not None and (member_set.is_unread or member_set.name != change.name):
            changed |= self._drop(change.origin)
            member_set = None
        wanted = {member.name: member for member in change.members}
        if member_set is None:
            return changed | {self._add(change, wanted)}
        added, removed = _difference(member_set, wanted)
        if member_set.held:
            member_set.hold(_NONE_HELD)
            changed.add(member_set.name.key)
        return changed | self._update(member_set, added, removed, now)

    def _put_unread(self, change: SetUnread) -> set[Labels]:
        if change.origin in self._sets:
            return set()
        key = self._add(change, {})
        self._sets[change.origin].is_unread = True
        return {key}

    def _add(self, change: SetPut | SetUnread, members: dict[str, Member]) -> Labels:
        """Add a new set. Returns the key of its service."""
        member_set = self._sets[change.origin] = MemberSet(change.origin, change.name)
        member_set.members = members
        key = change.name.key
        service = self._services.get(key)
        if service is None:
            service = self._services[key] = Service(key)
        service.sets[change.origin] = member_set
        if self.digests is not None:
            self.digests.add(member_set)
        for member in members.values():
            self._count_hosts(member, key, +1)
        return key

    def _hold(self, change: MembersHeld) -> set[Labels]:
        member_set = self._sets.get(change.origin)
        if member_set is None:
            return set()
        new = member_set.members.keys() & set(change.names) - member_set.held.keys()
        if not new:
            return set()
        self._count_later(member_set, len(new))
        member_set.hold({**member_set.held, **dict.fromkeys(new, change.since)})
        member_set.whole = change.whole
        return {member_set.name.key}

    def _set_unread(self, path: str, *, is_unread: bool) -> set[Labels]:
        """Add or remove an unread directory. Returns the services that this changes, and `ANY_SERVICE`."""
        changed = set() if (path in self._unread_directories) == is_unread else {ANY_SERVICE}
        if is_unread:
            self._unread_directories.add(path)
        else:
            self._unread_directories.discard(path)
        for origin, member_set in self._sets.items():
            if is_below(origin, path):
                is_outdated = is_unread or (
                    member_set.is_outdated
                    and any(is_below(origin, other) for other in self._unread_directories)
                )
                changed |= _set_outdated(member_set, is_outdated)
        return changed

    def _update(
        self, member_set: MemberSet, added: Sequence[Member], removed: Sequence[str], now: float
    ) -> set[Labels]:
        service = self._services[member_set.name.key]
        changed = False
        self._count_later(member_set, len(added) + len(removed))
        if member_set.held:
            ended = {*removed, *(member.name for member in added)}
            still = {name: since for name, since in member_set.held.items() if name not in ended}
            member_set.hold(still or _NONE_HELD)
        gone: list[Member] = []
        for name in removed:
            member = member_set.pop(name)
            if member is None:
                continue
            changed = True
            if self._departed_seconds:
                until = now + self._departed_seconds
                service.departed[member_set.origin, name] = member, until
                heapq.heappush(self._departures, (until, service.key, (member_set.origin, name)))
            else:
                gone.append(member)
        for member in added:
            changed = True
            before = member_set.put(member)
            departed = service.departed.pop((member_set.origin, member.name), None)
            gone += [before] if before else []
            gone += [departed[0]] if departed else []
            self._count_hosts(member, service.key, +1)
        for member in gone:  # last, so that a host that moves to another member keeps its addresses
            self._count_hosts(member, service.key, -1)
        return {service.key} if changed else set()

    def _count_later(self, member_set: MemberSet, changes: int) -> None:
        """Stop maintaining the digest of a set if many members change; it is counted again in steps."""
        if changes > _COUNTED_AT_ONCE and self.digests is not None:
            self.digests.recount(member_set)

    def _drop(self, origin: str) -> set[Labels]:
        member_set = self._sets.pop(origin, None)
        if member_set is None:
            return set()
        if self.digests is not None:
            self.digests.drop(member_set)
        key = member_set.name.key
        service = self._services[key]
        departed = [service.departed.pop(left)[0] for left in list(service.departed) if left[0] == origin]
        if self._host_users or self.addresses is not None:  # usually no member has a host name
            for member in (*member_set.members.values(), *departed):
                self._count_hosts(member, key, -1)
        del service.sets[origin]
        if not service.sets:
            del self._services[key]
        return {key}

    def _resolve(self, change: HostResolved) -> set[Labels]:
        if change.host not in self._host_users or self._addresses.get(change.host) == change.addresses:
            return set()
        self._addresses[change.host] = change.addresses
        return set(self._host_users[change.host])

    def _count_hosts(self, member: Member, key: Labels, step: int) -> None:
        """Count the use of host names and addresses by services."""
        if self.addresses is not None:
            self.addresses.count(member, key, step)
        own = member.service.host if member.service else ""
        is_own_a_name = bool(own) and not is_ip(own)
        if is_own_a_name:
            self._count_host(own, key, step)
        for endpoint in member.additional.values():
            # Most endpoints have the member's own host. A start runs this for every endpoint of the table.
            if is_own_a_name if endpoint.host == own else not is_ip(endpoint.host):
                self._count_host(endpoint.host, key, step)

    def _count_host(self, host: str, key: Labels, step: int) -> None:
        users = self._host_users.setdefault(host, Counter())
        users[key] += step
        if not users[key]:
            del users[key]
        if not users:
            del self._host_users[host]
            self._addresses.pop(host, None)
