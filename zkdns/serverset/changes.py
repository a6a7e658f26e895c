"""The changes that sources publish and tables apply. They also travel between processes and into snapshots.

A set is identified by its origin: the path of its znode, or `fixed:NAME`. Two origins may have one DNS name,
for instance znodes that differ only in case, or a static file and ZooKeeper. The table joins them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from zkdns.namespace import ServiceName
from zkdns.serverset.member import Member


class SetPut(msgspec.Struct, frozen=True, tag="put"):
    """The set has exactly these members and no held ones, whatever it had before."""

    origin: str
    name: ServiceName
    members: tuple[Member, ...]


class SetUnread(msgspec.Struct, frozen=True, tag="unread"):
    """The set exists, but its members cannot be read. Known members stay."""

    origin: str
    name: ServiceName


class SetChanged(msgspec.Struct, frozen=True, tag="changed"):
    """Members joined (or changed) and left. `removed` holds names."""

    origin: str
    added: tuple[Member, ...]
    removed: tuple[str, ...]


class MembersHeld(msgspec.Struct, frozen=True, tag="held"):
    """Members that have left and are still answered, after all others.

    This adds to the members that are held already. A held member ends when it joins again or is removed, or
    when the set is put.
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
