"""`ZonePublisher`: publishes the services of transferred zones, each through the guard of its namespace.

Only differences to the table are published, those of one transfer together and before those of another one.
Other work is done between some hundred services. A member that the primary holds
is held here too, until the primary removes it: this bypasses the guard, which would count its time again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher, Rise
from zkdns.dns.serial import is_newer
from zkdns.names import Labels, to_text
from zkdns.namespace import STATIC_PREFIX, STATIC_SOURCE, source_of, template_of_static
from zkdns.secondary.members import ZoneService, ZoneSet
from zkdns.serverset.changes import (
    Change,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
)
from zkdns.table import MemberSet

if TYPE_CHECKING:
    from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
    from zkdns.secondary.zone_copy import ChangedServices

log = structlog.get_logger("zkdns.watcher")

MAX_LOGGED: Final = 100
"""Members that cannot be used and are logged."""

_SERVICES_AT_ONCE = 200  # compared in one piece, which takes 2 to 3 ms
_LOST = "the zone has lost most of its members"


class ZonePublisher:
    """Publishes what transfers have changed.

    Args:
        config: has the zones, and the limits of suspicious losses.
        publisher: has the table.
        guards: the publishers of the namespaces.
    """

    def __init__(self, config: Config, publisher: Publisher, guards: Sequence[GuardedPublisher]) -> None:
        self.publisher = publisher
        self._config = config
        self._zones = sorted(config.zones, key=len, reverse=True)
        self._guards = {guarded.namespace.template: guarded for guarded in guards}
        self._skipped: dict[Labels, dict[str, str]] = {}
        self._logged = 0
        self._serial: int | None = None
        self.is_publishing = asyncio.Lock()
        """Held while a transfer is published, so that a serial never includes a part of another transfer."""
        for guarded in guards:  # the sum of all versions is then the serial
            publisher.set_version(guarded.namespace.template, 0)

    def set_serial(self, serial: int) -> None:
        """Set the serial of a transferred zone.

        Nearly always, all zones of a primary have the same one. Otherwise, the table has the newest, and one
        more after each change in another zone.
        """
        if self._serial is None or is_newer(serial, self._serial):
            self._serial = serial
        self.publisher.set_version(STATIC_SOURCE, self._serial)

    @property
    def skipped(self) -> int:
        """Number of members that cannot be used, by the last transfer of their services."""
        return sum(map(len, self._skipped.values()))

    def begin(self, apex: Labels, serial: int, *, is_full: bool) -> ZoneUpdate:
        """Begin to publish a transfer of a zone.

        Args:
            apex: the apex of the zone.
            serial: its serial.
            is_full: whether services that are not added have ended.
        """
        return ZoneUpdate(self, apex, serial, is_full=is_full)

    def keys_in(self, apex: Labels) -> list[Labels]:
        """The keys of the table's services in a zone, without those in a nested zone."""
        return [key for key in self.publisher.table.services if self._apex_of(key) == apex]

    def _apex_of(self, key: Labels) -> Labels:
        return next((zone for zone in self._zones if key[-len(zone) :] == zone), ())

    def guard_of(self, origin: str) -> GuardedPublisher:
        """The publisher of a set's namespace."""
        namespaces = self._config.namespaces
        is_static = origin.startswith(STATIC_PREFIX)
        template = (template_of_static if is_static else source_of)(origin, namespaces)
        return self._guards[template]

    def differs(self, key: Labels, content: ZoneService | None) -> bool:
        """Whether a service differs from the table."""
        return (
            next(self.changes(key, content), None) is not None or next(self.marks(content), None) is not None
        )

    def changes(self, key: Labels, content: ZoneService | None) -> Iterator[Change]:
        """The changes that give the table's sets of a service this content, for the guard."""
        sets = self._followed_sets(content)
        service = self.publisher.table.services.get(key)
        for one in sets:
            yield from self._changes_of(one)
        for origin in sorted(service.sets.keys() - {one.origin for one in sets}) if service else ():
            yield SetDropped(origin)

    def _followed_sets(self, content: ZoneService | None) -> list[ZoneSet]:
        """The sets of a service, without those that the setting `only` of their namespace excludes."""
        return [
            one
            for one in (content.sets if content is not None else ())
            if all(
                namespace.follows_path(one.origin)
                for namespace in self._config.namespaces
                if namespace.only and namespace.matches_path(one.origin)
            )
        ]

    def _changes_of(self, wanted: ZoneSet) -> Iterator[Change]:
        owner = self.publisher.table.set_of(wanted.origin)
        if owner is None or owner.name != wanted.name or owner.is_unread:
            yield SetPut(wanted.origin, wanted.name, wanted.members)
            return
        held = self._held_by_guard(owner)
        ended = owner.held.keys() - held - wanted.held  # the primary holds these no longer
        added = tuple(
            member
            for member in wanted.members
            if owner.members.get(member.name) != member or member.name in held or member.name in ended
        )
        names = {member.name for member in wanted.members}
        removed = tuple(name for name in owner.members if name not in names and name not in held)
        if added or removed:
            yield SetChanged(wanted.origin, added, removed)

    def marks(self, content: ZoneService | None) -> Iterator[Change]:
        """The changes after those of `changes`: which members the primary holds, and addresses of hosts."""
        table = self.publisher.table
        for one in self._followed_sets(content):
            owner = table.set_of(one.origin)
            if one.held and (owner is None or not one.held <= owner.held.keys()):
                yield MembersHeld(one.origin, tuple(sorted(one.held)), time.time())
        for host, addresses in content.hosts.items() if content is not None else ():
            if table.addresses_of(host) != addresses:
                yield HostResolved(host, addresses)

    def _held_by_guard(self, owner: MemberSet) -> set[str]:
        if not owner.held:
            return set()
        return {held.member.name for held in self.guard_of(owner.origin).guard.held_of(owner.origin)}

    def loses_most(self, apex: Labels, changes: Iterable[Change]) -> bool:
        """Whether changes remove all members of a zone, or too many of them.

        Members that the primary holds do not count, and new ones replace as many lost ones.
        """
        table, guard = self.publisher.table, self._config.guard
        lost = 0
        for change in changes:
            if isinstance(change, SetPut):
                lost -= len(change.members)
                continue
            owner = table.set_of(change.origin) if isinstance(change, SetChanged | SetDropped) else None
            if owner is not None and isinstance(change, SetChanged):
                lost += sum(name not in owner.held for name in change.removed)
                lost -= sum(member.name not in owner.members for member in change.added)
            elif owner is not None:
                lost += len(owner.members) - len(owner.held)
        if lost <= 0:
            return False
        sets = (owner for key in self.keys_in(apex) for owner in table.services[key].sets.values())
        before = sum(len(owner.members) - len(owner.held) for owner in sets)
        return lost >= before or (before >= guard.minimum and lost > guard.share * before)

    def note_skipped(self, key: Labels, content: ZoneService | None) -> None:
        """Log members that cannot be used, each once, and at most `MAX_LOGGED` in all."""
        before = self._skipped.pop(key, {})
        if content is None or not content.skipped:
            return
        self._skipped[key] = content.skipped
        for member, reason in content.skipped.items():
            if before.get(member) != reason and self._logged < MAX_LOGGED:
                self._logged += 1
                log.warning("zone_member_skipped", service=to_text(key), member=member, reason=reason)


class ZoneUpdate:
    """The publication of one transfer: `add` for each part, then `finish`."""

    def __init__(self, owner: ZonePublisher, apex: Labels, serial: int, *, is_full: bool) -> None:
        self._owner, self._apex, self._serial = owner, apex, serial
        self._absent = set(owner.keys_in(apex)) if is_full else set()
        # An empty table is filled in parts: the server is not ready yet.
        self._is_first = is_full and not self._absent
        self._differing: dict[Labels, ZoneService | None] = {}
        self._count = 0

    async def add(self, services: ChangedServices) -> None:
        """Add services, which are published later if they differ from the table."""
        for key, content in services:
            self._absent.discard(key)
            self._owner.note_skipped(key, content)
            if self._owner.differs(key, content):
                self._differing[key] = content
        if self._is_first and self._differing:
            async with self._owner.is_publishing:
                await self._publish()

    async def finish(self) -> int:
        """Publish all differences. Returns the number of changed sets, when the table has all of them."""
        self._differing |= dict.fromkeys(sorted(self._absent))
        async with self._owner.is_publishing:
            await self._publish()
            self._owner.set_serial(self._serial)
        return self._count

    async def _publish(self) -> None:
        owner = self._owner
        changes: list[Change] = []
        for number, (key, content) in enumerate(self._differing.items(), 1):
            changes += owner.changes(key, content)
            if number % _SERVICES_AT_ONCE == 0:
                await asyncio.sleep(0)
        by_guard: dict[str, list[Change]] = {}
        guards: dict[str, GuardedPublisher] = {}
        for change in changes:
            assert isinstance(change, SetPut | SetChanged | SetDropped)  # noqa: S101 - as `changes` makes them
            guarded = owner.guard_of(change.origin)
            guards[guarded.namespace.template] = guarded
            by_guard.setdefault(guarded.namespace.template, []).append(change)
        is_suspicious = not self._is_first and owner.loses_most(self._apex, changes)
        for template, guarded in guards.items():
            if is_suspicious:
                guarded.disturb(_LOST)
            guarded.publish(by_guard[template])
            guarded.end_waits()
            if is_suspicious:
                guarded.settle()
        for guarded in guards.values():
            await guarded.wait_until_published()
        for number, content in enumerate(self._differing.values(), 1):
            owner.publisher.publish(list(owner.marks(content)), Rise.WITH_VERSION)
            if number % _SERVICES_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._count += len(changes)
        self._differing = {}
