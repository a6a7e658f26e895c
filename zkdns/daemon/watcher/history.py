"""Records the last changes of each service, for `zkdns history`.

The first read of the table is not recorded. Entries are in memory only, so a new watcher starts with an empty
history. Entry numbers are times in microseconds, so they keep rising when the watcher is replaced.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import TypeAlias

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.admin.api_types import HistoryEntry, HistoryKind
from zkdns.daemon.ipc.feed import Publisher, PublisherListener
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
)
from zkdns.serverset.endpoint_index import endpoint_of
from zkdns.serverset.member import Member
from zkdns.table import MemberSet

log = structlog.get_logger("zkdns.history")

MAX_PER_SERVICE = 1_000
"""Maximum number of entries of one service."""
MAX_ENTRIES = 100_000
"""Maximum number of entries of all services. They take 30 MB. The oldest is dropped for each new one."""

_PER_SECOND = 1_000_000  # entry numbers are microseconds
_MAX_LOGGED = 300  # characters of the changes in a log event
_number_of = attrgetter("number")
_DEPARTURES: tuple[HistoryKind, ...] = ("left", "released")

IsWanted: TypeAlias = Callable[[Labels, str, Member | None], bool]
"""Selects entries by the service's key, the set's origin, and the member, which some entries do not have."""


class _Entry(msgspec.Struct, frozen=True, gc=False):
    number: int
    kind: HistoryKind
    name: ServiceName
    origin: str
    member: Member | None
    """None: the entry is about the whole set."""


class _ServiceHistory:
    """The entries of one service, and the number of the newest one."""

    __slots__ = ("changed", "entries")

    def __init__(self, max_entries: int) -> None:
        self.entries: deque[_Entry] = deque(maxlen=max_entries)
        self.changed = 0


class History(PublisherListener):
    """Records changes from a publisher before it applies them.

    Attributes:
        last: number of the newest entry; 0 if there is none.

    Args:
        publisher: has the table. Nothing is recorded until it is ready.
        zone: the zone that is left out of service names.
        clock: returns Unix time.
        max_per_service: as `MAX_PER_SERVICE`.
        max_entries: as `MAX_ENTRIES`.
    """

    def __init__(
        self,
        publisher: Publisher,
        zone: Labels,
        *,
        clock: Callable[[], float] = time.time,
        max_per_service: int = MAX_PER_SERVICE,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self.last = 0
        self._publisher = publisher
        self._zone = zone
        self._clock = clock
        self._max_per_service = max_per_service
        self._max_entries = max_entries
        self._count = 0
        self._services: dict[Labels, _ServiceHistory] = {}
        # A heap of services with entries, by the number of the oldest one, or of one before that.
        self._oldest: list[tuple[int, Labels]] = []

    def before_publish(self, changes: Sequence[Change]) -> None:
        """Record changes that the table does not have yet. An internal error is logged."""
        if not self._publisher.health.ready:  # the first read of the table is not a change
            return
        try:
            self._record(changes)
        except Exception:
            log.exception("history_update_failed", changes=repr(changes)[:_MAX_LOGGED])

    def _record(self, changes: Sequence[Change]) -> None:
        # Members that the guard puts back into the table as held. They have not joined.
        restored = {
            (change.origin, name)
            for change in changes
            if isinstance(change, MembersHeld)
            for name in change.names
        }
        for change in changes:
            if isinstance(change, HostResolved | DirectoryUnread):
                continue
            owner = self._publisher.table.set_of(change.origin)
            match change:
                case SetPut() | SetUnread():
                    self._record_put(owner, change, restored)
                case SetChanged() if owner is not None:
                    self._record_members(owner, change.added, change.removed, restored)
                case MembersHeld():
                    self._record_held(owner, change, changes)
                case SetDropped() if owner is not None:
                    self._record_members(owner, (), tuple(owner.members), restored)
                    self._add("service gone", owner.name, change.origin)

    def read(
        self, is_wanted: IsWanted | None, after: int, limit: int
    ) -> tuple[tuple[HistoryEntry, ...], int]:
        """Return entries, the oldest first, and the number to pass as `after` next time (see `HistoryPage`).

        Args:
            is_wanted: selects entries. None: all entries.
            after: only entries with a greater number, the oldest of them. 0: the newest entries.
            limit: maximum number of entries.
        """
        streams = [
            _select(service.entries, key, is_wanted, after)
            for key, service in (self._services.items() if after < self.last else ())
            if service.changed > after
        ]
        if after:
            found = list(islice(heapq.merge(*streams, key=_number_of), limit + 1))
            is_all, found = len(found) <= limit, found[:limit]
        else:
            is_all, found = (
                True,
                list(islice(heapq.merge(*streams, key=_number_of, reverse=True), limit))[::-1],
            )
        return tuple(map(self._to_message, found)), self.last if is_all else found[-1].number

    def changed_at(self, key: Labels) -> float | None:
        """Return the time of a service's last change (Unix time). None: no change since the start."""
        service = self._services.get(key)
        return service.changed / _PER_SECOND if service else None

    def changed_after(self, number: int) -> set[Labels]:
        """Return the keys of the services that have entries with a greater number."""
        return {key for key, service in self._services.items() if service.changed > number}

    def name_of(self, key: Labels) -> ServiceName | None:
        """Return the name of a service that has entries, as it was spelled at its last change."""
        service = self._services.get(key)
        return service.entries[-1].name if service and service.entries else None

    def departures(
        self, seconds: float, keys: Iterable[Labels]
    ) -> Iterator[tuple[Labels, str, Member, float]]:
        """Yield the members of services that left within the last `seconds`, the newest of each first.

        Yields: the service's key, the set's origin, the member, and the seconds since it left.
        """
        now = self._clock()
        first = int((now - seconds) * _PER_SECOND)
        for key in keys:
            service = self._services.get(key)
            if service is None or service.changed <= first:
                continue
            for entry in _newer(service.entries, first):
                if entry.member is not None and entry.kind in _DEPARTURES:
                    yield key, entry.origin, entry.member, now - entry.number / _PER_SECOND

    # -- changes to entries --------------------------------------------------------------------------------

    def _record_put(
        self, owner: MemberSet | None, change: SetPut | SetUnread, restored: Collection[tuple[str, str]]
    ) -> None:
        if owner is None:
            self._add("service added", change.name, change.origin)
            owner = MemberSet(change.origin, change.name)
        if isinstance(change, SetPut):
            names = {member.name for member in change.members}
            removed = [name for name in owner.members if name not in names]
            self._record_members(owner, change.members, removed, restored)

    def _record_members(
        self,
        owner: MemberSet,
        added: Iterable[Member],
        removed: Iterable[str],
        restored: Collection[tuple[str, str]],
    ) -> None:
        """Record members that join, leave or change. A new member at a held member's endpoint is `back`."""
        current, held = owner.members, owner.held
        joining = {member.name: member for member in added}
        leaving = [current[name] for name in removed if name in current and name not in joining]
        joining_endpoints = _endpoints(joining.values()) if held else ()
        held_endpoints = _endpoints(current[name] for name in held) if joining else ()
        for member in leaving:
            is_released = member.name in held and endpoint_of(member) not in joining_endpoints
            self._add("released" if is_released else "left", owner.name, owner.origin, member)
        for name, member in joining.items():
            previous = current.get(name)
            if previous is None:
                is_back = endpoint_of(member) in held_endpoints
                if (owner.origin, name) not in restored:
                    self._add("back" if is_back else "joined", owner.name, owner.origin, member)
            elif name in held:
                self._add("back", owner.name, owner.origin, member)
            elif previous != member:
                kind: HistoryKind = "status" if previous.status != member.status else "changed"
                self._add(kind, owner.name, owner.origin, member)

    def _record_held(self, owner: MemberSet | None, change: MembersHeld, changes: Sequence[Change]) -> None:
        """Record members that become held. An earlier one of the same changes may have added them."""
        members = dict(owner.members) if owner is not None else {}
        for other in changes:
            if isinstance(other, SetPut) and other.origin == change.origin:
                owner = owner or MemberSet(other.origin, other.name)
                members |= {member.name: member for member in other.members}
            elif isinstance(other, SetChanged) and other.origin == change.origin:
                members |= {member.name: member for member in other.added}
        if owner is None:
            return
        for name in change.names:
            if name in members and name not in owner.held:
                self._add("held", owner.name, change.origin, members[name])

    # -- storage -------------------------------------------------------------------------------------------

    def _add(self, kind: HistoryKind, name: ServiceName, origin: str, member: Member | None = None) -> None:
        self.last = max(self.last + 1, int(self._clock() * _PER_SECOND))
        service = self._services.get(name.key)
        if service is None:
            service = self._services[name.key] = _ServiceHistory(self._max_per_service)
        if not service.entries:
            heapq.heappush(self._oldest, (self.last, name.key))
        self._count += len(service.entries) < self._max_per_service
        service.entries.append(_Entry(self.last, kind, name, origin, member))
        service.changed = self.last
        while self._count > self._max_entries:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop the oldest entry, and its service if that has no other one and is not in the table."""
        number, key = self._oldest[0]
        service = self._services[key]
        if service.entries[0].number == number:  # otherwise the service has dropped it to make room
            service.entries.popleft()
            self._count -= 1
        if service.entries:
            heapq.heapreplace(self._oldest, (service.entries[0].number, key))
            return
        heapq.heappop(self._oldest)
        if key not in self._publisher.table.services:
            del self._services[key]

    def _to_message(self, entry: _Entry) -> HistoryEntry:
        member = entry.member
        endpoint = member.service if member is not None else None
        return HistoryEntry(
            number=entry.number,
            at=entry.number / _PER_SECOND,
            service=entry.name.without(self._zone),
            member=member.name if member is not None else "",
            kind=entry.kind,
            endpoint=str(HostPort(endpoint.host, endpoint.port)) if endpoint is not None else None,
            znode=f"{entry.origin}/{member.name}" if member is not None else entry.origin,
        )


def _endpoints(members: Iterable[Member]) -> set[tuple[str, int]]:
    return {endpoint for member in members if (endpoint := endpoint_of(member)) is not None}


def _select(entries: deque[_Entry], key: Labels, is_wanted: IsWanted | None, after: int) -> Iterator[_Entry]:
    """Yield the wanted entries: in order those after the number `after`; if it is 0, from the newest back."""
    if after:
        found: Iterator[_Entry] = islice(entries, bisect_right(entries, after, key=_number_of), None)
    else:
        found = reversed(entries)
    if is_wanted is None:
        return found
    return (entry for entry in found if is_wanted(key, entry.origin, entry.member))


def _newer(entries: deque[_Entry], after: int) -> Iterator[_Entry]:
    """Yield the entries with a greater number, the newest first."""
    for entry in reversed(entries):
        if entry.number <= after:
            return
        yield entry
