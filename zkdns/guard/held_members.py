"""The members of a set that have left but are still answered: held ones, and ones whose removal waits."""

from __future__ import annotations

import math
from typing import NamedTuple

from zkdns.guard.time_order import TimeOrder
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change
from zkdns.serverset.endpoint_index import EndpointIndex, endpoint_of
from zkdns.serverset.member import Member


class HeldMember(NamedTuple):
    """A member that has left and is still answered, from `since` to `until` by the caller's clock.

    Until everything was read after a disturbance or a restart, it is answered longer.
    """

    origin: str
    service: ServiceName
    member: Member
    since: float
    until: float
    why: str
    """The disturbance that made the removal suspicious."""


class Hold:
    """The held members of one set, by name and by endpoint."""

    __slots__ = ("_new", "_until", "at", "due", "final_changes", "live", "members", "whole")

    def __init__(self) -> None:
        self.members: dict[str, HeldMember] = {}
        self.at = EndpointIndex()
        """The same members by endpoint."""
        self.final_changes: tuple[Change, ...] = ()
        """If the set itself was dropped: the changes to pass on when its last held member is released."""
        self.whole = 0
        """How many served members the set had when it lost the first held ones."""
        self.live = 0
        """How many served members the set has in ZooKeeper."""
        self.due = math.inf
        """When the guard checks next whether the time of a member is over. Infinite: not scheduled."""
        self._until: TimeOrder[str] = TimeOrder()
        self._new: set[str] = set()

    def add(self, held: HeldMember) -> None:
        """Hold a member."""
        name = held.member.name
        self.members[name] = held
        self.at.add(name, endpoint_of(held.member))
        self._until.set(name, held.until)
        self._new.add(name)

    def discard(self, name: str) -> None:
        """Release a member, if it is held."""
        held = self.members.pop(name, None)
        if held is not None:
            self.at.discard(name, endpoint_of(held.member))
            self._until.discard(name)
            self._new.discard(name)

    def extend(self, until: float) -> None:
        """Hold every member at least until this time."""
        for name in self._until.raise_to(until):
            self.members[name] = self.members[name]._replace(until=until)

    def take_new(self) -> dict[str, float]:
        """Since when each member is held that was added after the last call."""
        new, self._new = self._new, set()
        return {name: self.members[name].since for name in new}

    def over(self, now: float) -> list[str]:
        """The names of the members whose time is over."""
        return self._until.until(now)

    def has_replacement(self, member: Member) -> bool:
        """Whether this member is held itself, or replaces a held one at its endpoint."""
        return member.name in self.members or endpoint_of(member) in self.at

    @property
    def first_until(self) -> float:
        """When the time of the first member is over. Infinite: there is no member."""
        first = self._until.first
        return math.inf if first is None else first


class Wait:
    """Removals of one set that wait until it is clear whether the whole table collapses."""

    __slots__ = ("at", "deadline", "final_changes", "members")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.members: dict[str, Member] = {}
        self.at = EndpointIndex()
        """The same members by endpoint."""
        self.final_changes: tuple[Change, ...] = ()
        """As in `Hold`."""

    def add(self, member: Member) -> None:
        """Let the removal of a member wait."""
        self.members[member.name] = member
        self.at.add(member.name, endpoint_of(member))

    def discard(self, name: str) -> None:
        """End the wait of a member, if it waits."""
        member = self.members.pop(name, None)
        if member is not None:
            self.at.discard(name, endpoint_of(member))


class Absent:
    """The names in the table's set that ZooKeeper does not have any more: held and waiting members."""

    __slots__ = ("_hold", "_wait")

    def __init__(self, hold: Hold | None, wait: Wait | None) -> None:
        self._hold = hold.members if hold is not None else {}
        self._wait = wait.members if wait is not None else {}

    def __contains__(self, name: object) -> bool:
        return name in self._hold or name in self._wait


NONE_ABSENT = Absent(None, None)
"""Of a set without held and waiting members, as nearly all sets are."""
