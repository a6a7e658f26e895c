"""Who came and went: the last changes of each service, as they pass on their way to the workers.

What is there when the table has been read for the first time is no change. All of it is in memory, and begins
anew with this process; numbers are times, so that they rise over that as well.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.daemon.ipc.control_messages import HistoryEntry, HistoryKind
from zkdns.daemon.ipc.feed import Publisher
from zkdns.guard.loss_window import endpoint_of
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
from zkdns.serverset.member import Member
from zkdns.table import MemberSet

log = structlog.get_logger("zkdns.history")

MAX_PER_SERVICE = 1_000
"""So many changes are kept of each service,"""
MAX_ENTRIES = 100_000
"""and so many of all together; the oldest go first. They take 30 MB at most."""

_FORGOTTEN = 10  # one in so many goes at once when there are too many: 30 ms each ten thousand changes
_PER_SECOND = 1_000_000
_SHOWN = 300  # characters of changes that help to find a mistake
_number_of = attrgetter("number")
_LEAVES: tuple[HistoryKind, ...] = ("left", "let go")


class _Entry(msgspec.Struct, frozen=True, gc=False):
    number: int
    kind: HistoryKind
    name: ServiceName
    origin: str
    member: Member | None
    """None: it is about the set as a whole."""


class _Story:
    """What happened to one service."""

    __slots__ = ("changed", "entries")

    def __init__(self, most: int) -> None:
        self.entries: deque[_Entry] = deque(maxlen=most)
        self.changed = 0


class History:
    """Keeps what a publisher is about to publish.

    Args:
        publisher: whose table is the one that changes; nothing is kept until that has been read.
        zone: names in it are told without it.
        clock: Unix time.
        each: as `MAX_PER_SERVICE`.
        most: as `MAX_ENTRIES`.
    """

    def __init__(
        self,
        publisher: Publisher,
        zone: Labels,
        *,
        clock: Callable[[], float] = time.time,
        each: int = MAX_PER_SERVICE,
        most: int = MAX_ENTRIES,
    ) -> None:
        self.last = 0
        """The number of the newest entry; 0: there is none."""
        self._publisher = publisher
        self._zone = zone
        self._clock = clock
        self._each = each
        self._most = most
        self._count = 0
        self._stories: dict[Labels, _Story] = {}
        publisher.on_publish = self.note

    def note(self, changes: Sequence[Change]) -> None:
        """Take notice of changes before the table does; a mistake of ours costs none of them."""
        if not self._publisher.health.ready:
            return
        try:
            self._note(changes)
        except Exception:
            log.exception("history_update_failed", changes=repr(changes)[:_SHOWN])

    def _note(self, changes: Sequence[Change]) -> None:
        # Those that the table is given back, because it was not right to take them: they have not joined.
        returned = {
            (change.origin, name)
            for change in changes
            if isinstance(change, MembersHeld)
            for name in change.names
        }
        for change in changes:
            if isinstance(change, HostResolved):
                continue
            owner = self._publisher.table.set_of(change.origin)
            match change:
                case SetPut() | SetUnread():
                    self._put(owner, change, returned)
                case SetChanged() if owner is not None:
                    self._exchange(owner, change.added, change.removed, returned)
                case MembersHeld():
                    self._hold(owner, change, changes)
                case SetDropped() if owner is not None:
                    self._exchange(owner, (), tuple(owner.members), returned)
                    self._add("service gone", owner.name, change.origin)

    def read(
        self, wanted: Callable[[Labels, str], bool] | None, after: int, most: int
    ) -> tuple[tuple[HistoryEntry, ...], int]:
        """Entries, the oldest first, and the number after which to ask next (see `ReadHistory`).

        Args:
            wanted: told a service's key and a set's origin; None: all of them.
            after: only entries with a greater number.
            most: at most so many.
        """
        streams = [
            _selected(story.entries, key, wanted, after)
            for key, story in (self._stories.items() if after < self.last else ())
            if story.changed > after
        ]
        if after:
            found = list(islice(merge(*streams, key=_number_of), most + 1))
            is_all, found = len(found) <= most, found[:most]
        else:
            is_all, found = True, list(islice(merge(*streams, key=_number_of, reverse=True), most))[::-1]
        return tuple(map(self._told, found)), self.last if is_all else found[-1].number

    def changed(self, key: Labels) -> float | None:
        """When the service with that key last changed (Unix time); None: never since the start."""
        story = self._stories.get(key)
        return story.changed / _PER_SECOND if story else None

    def leavers(self, seconds: float) -> Iterator[tuple[Labels, str, Member, float]]:
        """Who left within so many seconds, the last of a service first.

        Yields: the service's key, the set's origin, the member, and how many seconds ago it left.
        """
        now = self._clock()
        first = int((now - seconds) * _PER_SECOND)
        for key, story in self._stories.items():
            for entry in _newer(story.entries, first) if story.changed > first else ():
                if entry.member is not None and entry.kind in _LEAVES:
                    yield key, entry.origin, entry.member, now - entry.number / _PER_SECOND

    # -- what happened -------------------------------------------------------------------------------------

    def _put(
        self, owner: MemberSet | None, change: SetPut | SetUnread, returned: Collection[tuple[str, str]]
    ) -> None:
        if owner is None:
            self._add("service added", change.name, change.origin)
            owner = MemberSet(change.origin, change.name)
        if isinstance(change, SetPut):
            there = {member.name for member in change.members}
            gone = [name for name in owner.members if name not in there]
            self._exchange(owner, change.members, gone, returned)

    def _exchange(
        self,
        owner: MemberSet,
        added: Iterable[Member],
        removed: Iterable[str],
        returned: Collection[tuple[str, str]],
    ) -> None:
        """Members join and leave; one that was held is back where another one has its endpoint."""
        known, held = owner.members, owner.held
        joining = {member.name: member for member in added}
        leaving = [known[name] for name in removed if name in known and name not in joining]
        there = _endpoints(joining.values()) if held else ()
        missed = _endpoints(known[name] for name in held) if joining else ()
        for member in leaving:
            is_over = member.name in held and endpoint_of(member) not in there
            self._add("let go" if is_over else "left", owner.name, owner.origin, member)
        for name, member in joining.items():
            before = known.get(name)
            if before is None:
                is_back = endpoint_of(member) in missed
                if (owner.origin, name) not in returned:
                    self._add("back" if is_back else "joined", owner.name, owner.origin, member)
            elif name in held:
                self._add("back", owner.name, owner.origin, member)
            elif before != member:
                kind: HistoryKind = "status" if before.status != member.status else "changed"
                self._add(kind, owner.name, owner.origin, member)

    def _hold(self, owner: MemberSet | None, change: MembersHeld, changes: Sequence[Change]) -> None:
        """Limbo begins; of those that the table is only just given, a change before this one knows more."""
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

    # -- keeping -------------------------------------------------------------------------------------------

    def _add(self, kind: HistoryKind, name: ServiceName, origin: str, member: Member | None = None) -> None:
        self.last = max(self.last + 1, int(self._clock() * _PER_SECOND))
        story = self._stories.get(name.key)
        if story is None:
            story = self._stories[name.key] = _Story(self._each)
        self._count += len(story.entries) < self._each
        story.entries.append(_Entry(self.last, kind, name, origin, member))
        story.changed = self.last
        if self._count > self._most:
            self._forget()

    def _forget(self) -> None:
        """Let the oldest go; and services of which nothing is left, neither in the table nor here."""
        numbers = sorted(entry.number for story in self._stories.values() for entry in story.entries)
        last = numbers[len(numbers) // _FORGOTTEN]
        for key, story in list(self._stories.items()):
            while story.entries and story.entries[0].number <= last:
                story.entries.popleft()
                self._count -= 1
            if not story.entries and key not in self._publisher.table.services:
                del self._stories[key]

    def _told(self, entry: _Entry) -> HistoryEntry:
        member = entry.member
        at = member.service if member is not None else None
        return HistoryEntry(
            number=entry.number,
            at=entry.number / _PER_SECOND,
            service=short_name(entry.name, self._zone),
            member=member.name if member is not None else "",
            kind=entry.kind,
            endpoint=str(HostPort(at.host, at.port)) if at is not None else None,
            znode=f"{entry.origin}/{member.name}" if member is not None else entry.origin,
        )


def short_name(name: ServiceName, zone: Labels) -> str:
    """A service's name without its zone, where that is the one given."""
    return str(name) if name.zone == zone else name.absolute


def _endpoints(members: Iterable[Member]) -> set[tuple[str, int]]:
    return {where for member in members if (where := endpoint_of(member)) is not None}


def _selected(
    entries: deque[_Entry], key: Labels, wanted: Callable[[Labels, str], bool] | None, after: int
) -> Iterator[_Entry]:
    """Those that are wanted: in order behind the number `after`; where that is 0 from the newest one back."""
    if after:
        found: Iterator[_Entry] = islice(entries, bisect_right(entries, after, key=_number_of), None)
    else:
        found = reversed(entries)
    return found if wanted is None else (entry for entry in found if wanted(key, entry.origin))


def _newer(entries: deque[_Entry], after: int) -> Iterator[_Entry]:
    """Those with a greater number, the newest first."""
    for entry in reversed(entries):
        if entry.number <= after:
            return
        yield entry
