"""Members that have left and are still answered: held in limbo, or waiting for a moment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from zkdns.guard.loss_window import endpoint_of
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change
from zkdns.serverset.member import Member


class HeldMember(NamedTuple):
    """A member that has left and is still answered; times in seconds of the caller's clock."""

    origin: str
    service: ServiceName
    member: Member
    since: float
    until: float
    why: str
    """What ZooKeeper's failure was seen by."""


class Hold:
    """Members of one set in limbo, by name, and which of them served where."""

    __slots__ = ("_by_endpoint", "due", "end", "members")

    def __init__(self) -> None:
        self.members: dict[str, HeldMember] = {}
        self.end: tuple[Change, ...] = ()
        """Where the set itself is gone as well: what becomes of it when nobody is held any more."""
        self.due = -math.inf
        """When it will be looked at, whether it is over for anybody."""
        self._by_endpoint: dict[tuple[str, int], set[str]] = {}

    def add(self, held: HeldMember) -> None:
        """Limbo begins for a member."""
        self.members[held.member.name] = held
        if where := endpoint_of(held.member):
            self._by_endpoint.setdefault(where, set()).add(held.member.name)

    def discard(self, name: str) -> None:
        """Limbo ends for a member, if it was in it."""
        held = self.members.pop(name, None)
        if held is not None and (where := endpoint_of(held.member)):
            self._by_endpoint[where].discard(name)
            if not self._by_endpoint[where]:
                del self._by_endpoint[where]

    def at(self, endpoints: Iterable[tuple[str, int]]) -> set[str]:
        """The names of those that served there."""
        return {name for where in endpoints for name in self._by_endpoint.get(where, ())}

    @property
    def first_until(self) -> float:
        """When the first of them may go."""
        return min(held.until for held in self.members.values())


class Wait:
    """Removals of one set that wait to see what becomes of the others."""

    __slots__ = ("deadline", "end", "names")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.names: set[str] = set()
        self.end: tuple[Change, ...] = ()
        """As a hold's."""
