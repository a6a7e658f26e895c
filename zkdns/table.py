"""`Table`: the services and members that the server answers from.

Only `apply`, `retain` and `expire` change a table. It does no I/O and has no clock: the caller passes the
time, in seconds of any monotonic clock. DNS messages are made in `zkdns.dns`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from zkdns.names import Labels
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Member, is_ip

DEPARTED_SECONDS = 60.0
"""How long a departed member's name stays resolvable, for clients that have it from an SRV record."""


class MemberSet:
    """The members of one origin by name, in the order in which they joined.

    `held` has the names of held members: they have left and are still answered, after all others. If
    `is_unread`, the set exists, but its members are unknown.
    """

    __slots__ = ("held", "is_unread", "members", "name", "origin")

    def __init__(self, origin: str, name: ServiceName) -> None:
        self.origin = origin
        self.name = name
        self.members: dict[str, Member] = {}
        self.held: frozenset[str] = frozenset()
        self.is_unread = False


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
        return sorted(self.sets.values(), key=_precedence)


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
    """

    def __init__(self, *, departed_seconds: float = DEPARTED_SECONDS, with_addresses: bool = False) -> None:
        self.addresses = AddressIndex() if with_addresses else None
        self.serial = 0
        """The SOA serial (RFC 1982). The publisher of changes sets it."""
        self._services: dict[Labels, Service] = {}
        self._sets: dict[str, MemberSet] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._host_users: dict[str, Counter[Labels]] = {}
        self._departed_seconds = departed_seconds
        self._with_departed: set[Labels] = set()

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

    def apply(self, change: Change, now: float = 0.0) -> set[Labels]:
        """Apply a change. Returns the keys of the services whose answers may change.

        A change of a set that is not in the table has no effect, since the source will publish the whole set.
        """
        match change:
            case SetPut():
                return self._put(change, now)
            case SetUnread():
                return self._put_unread(change)
            case SetChanged():
                member_set = self._sets.get(change.origin)
                return self._update(member_set, change.added, change.removed, now) if member_set else set()
            case MembersHeld():
                return self._hold(change)
            case SetDropped():
                return self._drop(change.origin)
            case HostResolved():
                return self._resolve(change)

    def retain(self, origins: set[str]) -> set[Labels]:
        """Drop all sets except those of these origins. Returns the keys of the dropped services."""
        return {key for origin in self._sets.keys() - origins for key in self._drop(origin)}

    def expire(self, now: float) -> set[Labels]:
        """Remove departed members after their time. Returns the keys of their services."""
        changed = set()
        for key in list(self._with_departed):
            service = self._services[key]
            over = [name for name, (_, until) in service.departed.items() if until <= now]
            for name in over:
                member, _ = service.departed.pop(name)
                self._count_hosts(member, key, -1)
            if over:
                changed.add(key)
            if not service.departed:
                self._with_departed.discard(key)
        return changed

    def contents(self) -> Iterator[Change]:
        """The changes that turn an empty table into a copy of this one."""
        for origin in self._sets:
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
            yield MembersHeld(member_set.origin, tuple(sorted(member_set.held)))

    def resolved(self) -> list[HostResolved]:
        """The addresses of all resolved host names."""
        return [HostResolved(host, addresses) for host, addresses in self._addresses.items()]

    def _put(self, change: SetPut, now: float) -> set[Labels]:
        member_set = self._sets.get(change.origin)
        changed: set[Labels] = set()
        if member_set is not None and (member_set.is_unread or member_set.name != change.name):
            changed |= self._drop(change.origin)
            member_set = None
        wanted = {member.name: member for member in change.members}
        if member_set is None:
            return changed | {self._add(change, wanted)}
        added = [member for name, member in wanted.items() if member_set.members.get(name) != member]
        removed = [name for name in member_set.members if name not in wanted]
        if member_set.held:
            member_set.held = frozenset()
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
        for member in members.values():
            self._count_hosts(member, key, +1)
        return key

    def _hold(self, change: MembersHeld) -> set[Labels]:
        member_set = self._sets.get(change.origin)
        new = member_set.members.keys() & set(change.names) - member_set.held if member_set else ()
        if member_set is None or not new:
            return set()
        member_set.held |= new
        return {member_set.name.key}

    def _update(
        self, member_set: MemberSet, added: Sequence[Member], removed: Sequence[str], now: float
    ) -> set[Labels]:
        service = self._services[member_set.name.key]
        changed = False
        if member_set.held:
            member_set.held -= {*removed, *(member.name for member in added)}
        gone: list[Member] = []
        for name in removed:
            member = member_set.members.pop(name, None)
            if member is None:
                continue
            changed = True
            if self._departed_seconds:
                service.departed[member_set.origin, name] = member, now + self._departed_seconds
                self._with_departed.add(service.key)
            else:
                gone.append(member)
        for member in added:
            changed = True
            before = member_set.members.get(member.name)
            departed = service.departed.pop((member_set.origin, member.name), None)
            gone += [before] if before else []
            gone += [departed[0]] if departed else []
            member_set.members[member.name] = member
            self._count_hosts(member, service.key, +1)
        for member in gone:  # last, so that a host that moves to another member keeps its addresses
            self._count_hosts(member, service.key, -1)
        return {service.key} if changed else set()

    def _drop(self, origin: str) -> set[Labels]:
        member_set = self._sets.pop(origin, None)
        if member_set is None:
            return set()
        key = member_set.name.key
        service = self._services[key]
        departed = [left for left in service.departed if left[0] == origin]
        for member in (*member_set.members.values(), *(service.departed.pop(left)[0] for left in departed)):
            self._count_hosts(member, key, -1)
        del service.sets[origin]
        if not service.sets:
            del self._services[key]
            self._with_departed.discard(key)
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
