"""The changes that sources publish and tables apply. The feed and snapshots consist of them as well.

A set is identified by its origin: the path of its znode, or `static:NAME`. Two origins may have one DNS name,
for instance znodes that differ only in case, or a static file and ZooKeeper. The table merges such sets.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from zkdns.namespace import ServiceName
from zkdns.serverset.member import Member


class SetPut(msgspec.Struct, frozen=True, tag="put"):
    """The whole set: it now has exactly these members, none of which is held."""

    origin: str
    name: ServiceName
    members: tuple[Member, ...]


class SetUnread(msgspec.Struct, frozen=True, tag="unread"):
    """The set exists, but its members cannot be read. Members that the table already has stay."""

    origin: str
    name: ServiceName


class SetChanged(msgspec.Struct, frozen=True, tag="changed"):
    """Members joined or changed (`added`) and left (`removed`, by name)."""

    origin: str
    added: tuple[Member, ...]
    removed: tuple[str, ...]


class MembersHeld(msgspec.Struct, frozen=True, tag="held"):
    """Members that have left and are still answered, after all others.

    Other members that are already held stay held. A member is held until it joins again (`SetChanged.added`),
    it is removed, or the whole set is published (`SetPut`).
    """

    origin: str
    names: tuple[str, ...]


class SetDropped(msgspec.Struct, frozen=True, tag="dropped"):
    """The set's znode was deleted."""

    origin: str


class HostResolved(msgspec.Struct, frozen=True, tag="host"):
    """The IP addresses of a member's host name."""

    host: str
    addresses: tuple[str, ...]


Change: TypeAlias = SetPut | SetUnread | SetChanged | MembersHeld | SetDropped | HostResolved
