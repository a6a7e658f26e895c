"""The members of a set that have left but are still answered: held ones, and ones whose removal waits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from zkdns.guard.loss_window import endpoint_of
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change
from zkdns.serverset.member import Member


class HeldMember(NamedTuple):
    """A member that has left and is still answered, from `since` to `until` by the caller's clock."""

    origin: str
    service: ServiceName
    member: Member
    since: float
    until: float
    why: str
    """The disturbance that made the removal suspicious."""


class Hold:
    """The held members of one set, by name and by endpoint."""

    __slots__ = ("_by_endpoint", "due", "final_changes", "members", "whole")

    def __init__(self) -> None:
        self.members: dict[str, HeldMember] = {}
        self.final_changes: tuple[Change, ...] = ()
        """If the set itself was dropped: the changes to pass on when its last held member is released."""
        self.whole = 0
        """How many served members the set had when it lost the first held ones."""
        self.due = -math.inf
        """When the guard checks next whether the time of a member is over."""
        self._by_endpoint: dict[tuple[str, int], set[str]] = {}

    def add(self, held: HeldMember) -> None:
        """Hold a member."""
        self.members[held.member.name] = held
        if endpoint := endpoint_of(held.member):
            self._by_endpoint.setdefault(endpoint, set()).add(held.member.name)

    def discard(self, name: str) -> None:
        """Release a member, if it is held."""
        held = self.members.pop(name, None)
        if held is not None and (endpoint := endpoint_of(held.member)):
            self._by_endpoint[endpoint].discard(name)
            if not self._by_endpoint[endpoint]:
                del self._by_endpoint[endpoint]

    def extend(self, until: float) -> None:
        """Hold every member at least until this time."""
        for name, held in self.members.items():
            self.members[name] = held._replace(until=max(held.until, until))

    def names_at(self, endpoints: Iterable[tuple[str, int]]) -> set[str]:
        """The names of the held members with one of these endpoints."""
        return {name for endpoint in endpoints for name in self._by_endpoint.get(endpoint, ())}

    @property
    def first_until(self) -> float:
        """When the time of the first member is over."""
        return min(held.until for held in self.members.values())


class Wait:
    """Removals of one set that wait until it is clear whether the whole table collapses."""

    __slots__ = ("deadline", "final_changes", "names")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.names: set[str] = set()
        self.final_changes: tuple[Change, ...] = ()
        """As in `Hold`."""
