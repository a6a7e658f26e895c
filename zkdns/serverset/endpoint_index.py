"""`EndpointIndex`: finds the members of a set at an endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from zkdns.serverset.member import Member


def endpoint_of(member: Member) -> tuple[str, int] | None:
    """A member's service endpoint. Members with equal endpoints replace each other."""
    return (member.service.host, member.service.port) if member.service else None


class EndpointIndex:
    """Names of members by their endpoints. Members without an endpoint are not in it."""

    __slots__ = ("_names",)

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self._names: dict[tuple[str, int], set[str]] = {}
        for member in members:
            self.add(member.name, endpoint_of(member))

    def __contains__(self, endpoint: tuple[str, int] | None) -> bool:
        return endpoint in self._names

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, endpoint: tuple[str, int] | None) -> None:
        """Add a member."""
        if endpoint is not None:
            self._names.setdefault(endpoint, set()).add(name)

    def discard(self, name: str, endpoint: tuple[str, int] | None) -> None:
        """Remove a member, if it is in the index."""
        if endpoint is not None and (names := self._names.get(endpoint)) is not None:
            names.discard(name)
            if not names:
                del self._names[endpoint]

    def clear(self) -> None:
        """Remove all members."""
        self._names.clear()

    def at(self, endpoint: tuple[str, int] | None) -> AbstractSet[str]:
        """The names of the members at an endpoint."""
        return self._names.get(endpoint, frozenset()) if endpoint is not None else frozenset()

    def at_any(self, endpoints: Iterable[tuple[str, int]]) -> set[str]:
        """The names of the members at these endpoints."""
        return {name for endpoint in endpoints for name in self.at(endpoint)}
