"""Counts the table's members by state, and reports the watcher's stats at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from zkdns.config import Config
from zkdns.daemon.ipc.child import Report, SendReport
from zkdns.daemon.ipc.feed import Publisher, PublisherListener
from zkdns.daemon.table_digests import zone_digests
from zkdns.names import Labels
from zkdns.serverset.changes import Change, SetChanged, SetDropped, SetPut
from zkdns.table import Table
from zkdns.telemetry.stats import MembersReport, NamespaceStats, ServiceMembers, WatcherStats

REPORT_SECONDS = 1.0
_SERVICES_PER_REPORT = 250  # 2 ms
_COUNTED_AT_ONCE = 500  # services, with ten members each in 1 to 2 ms


class MemberCounts:
    """Number of members in a table by state. Counts only services that have changed since the last count.

    Attributes:
        changes: changes of the table.

    Args:
        table: the table.
        statuses: statuses of members that belong in responses.
    """

    def __init__(self, table: Table, statuses: Iterable[str]) -> None:
        self.alive = self.hidden = self.held = 0
        self.changes = 0
        self._table = table
        self._statuses = frozenset(statuses)
        self._changed: set[Labels] = set()
        self._unreported: set[Labels] = set()
        self._counted: dict[Labels, tuple[int, int, int]] = {}
        self._names: dict[Labels, str] = {}  # that were reported

    def note(self, keys: set[Labels]) -> None:
        """Note that these services have changed."""
        self.changes += 1
        self._changed |= keys

    def update(self) -> bool:
        """Count the members of some changed services again; return whether there are more of them."""
        for _ in range(min(len(self._changed), _COUNTED_AT_ONCE)):
            key = self._changed.pop()
            alive, hidden, held = self._counted.pop(key, (0, 0, 0))
            self.alive, self.hidden, self.held = self.alive - alive, self.hidden - hidden, self.held - held
            if key in self._table.services:
                alive, hidden, held = self._counted[key] = self._count(key)
                self.alive, self.hidden, self.held = (
                    self.alive + alive,
                    self.hidden + hidden,
                    self.held + held,
                )
            self._unreported.add(key)
        return bool(self._changed)

    def take_reports(self, zone: Labels) -> Iterator[MembersReport]:
        """The members of the services that have changed since the last call, in parts.

        Args:
            zone: names are without this zone.
        """
        while self._unreported:
            services: dict[str, ServiceMembers] = {}
            gone: list[str] = []
            part = [self._unreported.pop() for _ in range(min(len(self._unreported), _SERVICES_PER_REPORT))]
            for key in part:
                service, counts = self._table.services.get(key), self._counted.get(key)
                if service is not None and counts is not None:
                    name = service.first.name.without(zone)
                    if self._names.setdefault(key, name) != name:  # only its spelling has changed
                        gone.append(self._names[key])
                        self._names[key] = name
                    services[name] = ServiceMembers(service.first.name.scope, *counts)
                elif key in self._names:
                    gone.append(self._names.pop(key))
            yield MembersReport(services, tuple(gone))

    def _count(self, key: Labels) -> tuple[int, int, int]:
        sets = self._table.services[key].sets.values()
        held = sum(len(owner.held) for owner in sets)
        members = [m for owner in sets for name, m in owner.members.items() if name not in owner.held]
        alive = sum(member.is_served(self._statuses) for member in members)
        return alive, len(members) - alive, held


class MemberMovements:
    """Counts members that changes add to a table and remove from it.

    Args:
        table: in its state before each change.
    """

    def __init__(self, table: Table) -> None:
        self.joined = self.left = 0
        self._table = table

    def note(self, change: Change) -> None:
        """Count a change before it is applied. A replaced member counts neither as joined nor as left."""
        if not isinstance(change, SetPut | SetChanged | SetDropped):
            return
        owner = self._table.set_of(change.origin)
        before = owner.members.keys() if owner is not None else set[str]()
        match change:
            case SetPut():
                after = {member.name for member in change.members}
                self.joined += len(after - before)
                self.left += len(before - after)
            case SetChanged() if owner is not None:
                added = {member.name for member in change.added}
                self.joined += len(added - before)
                self.left += len(before & set(change.removed) - added)
            case SetDropped():
                self.left += len(before)


class WatcherStatsReporter(PublisherListener):
    """Reports the watcher's stats while the process runs.

    Args:
        publisher: holds the table.
        config: statuses of members that belong in responses, and the zone that names leave out.
        collect: returns the stats about ZooKeeper, without those of the table.
        send: sends a report to the supervisor.
    """

    def __init__(
        self,
        publisher: Publisher,
        config: Config,
        collect: Callable[[], WatcherStats],
        send: SendReport,
    ) -> None:
        self._publisher = publisher
        self._collect = collect
        self._send = send
        self._zone = config.zone
        self._counts = MemberCounts(publisher.table, config.statuses)
        self._movements = MemberMovements(publisher.table)
        self._changed: float | None = None

    def before_change(self, change: Change) -> None:
        """Count the members that the change adds and removes."""
        self._movements.note(change)

    def after_change(self, keys: set[Labels]) -> None:
        """Note that these services have changed."""
        self._counts.note(keys)
        self._changed = time.time()

    async def run(self) -> None:
        """Send a report whenever the stats have changed, without end."""
        last: Report | None = None
        while True:
            has_more = self._publisher.health.ready  # saves time while the first read fills the table
            while has_more:
                has_more = self._counts.update()
                await asyncio.sleep(0)
            report = Report(self._publisher.health.ready, self._stats())
            if report != last:
                self._send(report)
            last = report
            for members in self._counts.take_reports(self._zone):
                self._send(members)
                await asyncio.sleep(0)
            await asyncio.sleep(REPORT_SECONDS)

    def _stats(self) -> WatcherStats:
        counts, stats, table = self._counts, self._collect(), self._publisher.table
        return msgspec.structs.replace(
            stats,
            namespaces=_with_digests(stats.namespaces, table),
            digests=zone_digests(table),
            services=len(table.services),
            alive=counts.alive,
            hidden=counts.hidden,
            held=counts.held,
            changes=counts.changes,
            joined=self._movements.joined,
            left=self._movements.left,
            serial=table.serial,
            changed=self._changed,
        )


def _with_digests(namespaces: Sequence[NamespaceStats], table: Table) -> tuple[NamespaceStats, ...]:
    digests = table.digests
    if digests is None or not digests.is_complete:
        return tuple(namespaces)
    return tuple(
        msgspec.structs.replace(one, digest=str(digests.of_source(one.namespace))) for one in namespaces
    )
