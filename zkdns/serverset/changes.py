"""What can happen to server sets: the words in which sources speak to tables, across processes too.

A set is known by its origin: the path of its znode, or `fixed:NAME`. Two origins may carry one name (znodes
that differ only in case, a fixed file beside ZooKeeper); whoever serves names joins them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from zkdns.namespace import ServiceName
from zkdns.serverset.member import Member


class SetPut(msgspec.Struct, frozen=True, tag="put"):
    """The set has exactly these members, whatever it had before; none of them is held."""

    origin: str
    name: ServiceName
    members: tuple[Member, ...]


class SetUnread(msgspec.Struct, frozen=True, tag="unread"):
    """The set exists, and who its members are cannot be read; what is known of it stays."""

    origin: str
    name: ServiceName


class SetChanged(msgspec.Struct, frozen=True, tag="changed"):
    """Members joined a set, or left it (`removed` holds their names)."""

    origin: str
    added: tuple[Member, ...]
    removed: tuple[str, ...]


class MembersHeld(msgspec.Struct, frozen=True, tag="held"):
    """Members of a set that have left, and are answered with all the same, after all others.

    Those that were held before are held on, until they join again or are removed, or the set is put.
    """

    origin: str
    names: tuple[str, ...]


class SetDropped(msgspec.Struct, frozen=True, tag="dropped"):
    """The set is no more: its znode is gone, not only its members."""

    origin: str


class HostResolved(msgspec.Struct, frozen=True, tag="host"):
    """A member's host name has these IP addresses now."""

    host: str
    addresses: tuple[str, ...]


Change: TypeAlias = SetPut | SetUnread | SetChanged | MembersHeld | SetDropped | HostResolved
