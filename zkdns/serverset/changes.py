"""The changes that sources publish and tables apply. The feed and snapshots consist of them as well.

A set is identified by its origin: the path of its znode, or `static:NAME`. Two origins may have one DNS name,
for instance znodes that differ only in case, or a static file and ZooKeeper. The table merges such sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from zkdns.namespace import Namespace, ServiceName, source_of
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
    since: float = 0.0
    """When they left, in seconds since the epoch, so that a restart does not extend their time."""
    whole: int = 0
    """How many served members the set had before. With as many live ones again, it is whole. 0: unknown."""


class SetDropped(msgspec.Struct, frozen=True, tag="dropped"):
    """The set's znode was deleted."""

    origin: str


class DirectoryUnread(msgspec.Struct, frozen=True, tag="directory"):
    """A znode above the sets cannot be listed, for instance because its ACL denies it.

    Sets below it that the table does not have may exist. Those that it has may be out of date until they are
    published again (`SetPut`).
    """

    path: str
    is_unread: bool = True
    """False: it was listed now, or no longer exists."""


class HostResolved(msgspec.Struct, frozen=True, tag="host"):
    """The IP addresses of a member's host name."""

    host: str
    addresses: tuple[str, ...]


def held_changes(origin: str, since: Mapping[str, float], whole: int) -> Iterator[MembersHeld]:
    """The changes that hold these members of a set: the names, and since when each is held."""
    by_time: dict[float, list[str]] = {}
    for name in sorted(since):
        by_time.setdefault(since[name], []).append(name)
    for time in sorted(by_time):
        yield MembersHeld(origin, tuple(by_time[time]), time, whole)


SetChange: TypeAlias = SetPut | SetUnread | SetChanged | MembersHeld | SetDropped
"""A change of one set, which has its origin."""
Change: TypeAlias = SetChange | DirectoryUnread | HostResolved


def path_of(change: SetChange | DirectoryUnread) -> str:
    """The origin of the set, or the path of the directory, that a change concerns."""
    return change.path if isinstance(change, DirectoryUnread) else change.origin


def divide_by_source(
    changes: Iterable[Change], namespaces: Sequence[Namespace]
) -> tuple[dict[str, list[SetChange | DirectoryUnread]], list[HostResolved]]:
    """The changes of each source (see `source_of`) in order, and the addresses, which belong to no source."""
    by_source: dict[str, list[SetChange | DirectoryUnread]] = {}
    hosts: list[HostResolved] = []
    for change in changes:
        if isinstance(change, HostResolved):
            hosts.append(change)
            continue
        by_source.setdefault(source_of(path_of(change), namespaces), []).append(change)
    return by_source, hosts
