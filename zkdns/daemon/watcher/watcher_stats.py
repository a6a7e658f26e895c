"""Counts the table's members by state, and reports the watcher's stats at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from zkdns.daemon.ipc.child import Report, SendReport
from zkdns.daemon.ipc.feed import Publisher, PublisherListener
from zkdns.names import Labels
from zkdns.serverset.changes import Change, SetChanged, SetDropped, SetPut
from zkdns.table import Table
from zkdns.telemetry.stats import WatcherStats

REPORT_SECONDS = 1.0


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
        self._counted: dict[Labels, tuple[int, int, int]] = {}

    def note(self, keys: set[Labels]) -> None:
        """Note that these services have changed."""
        self.changes += 1
        self._changed |= keys

    def update(self) -> None:
        """Count the members of the changed services again."""
        for key in self._changed:
            alive, hidden, held = self._counted.pop(key, (0, 0, 0))
            self.alive, self.hidden, self.held = self.alive - alive, self.hidden - hidden, self.held - held
            if key in self._table.services:
                alive, hidden, held = self._counted[key] = self._count(key)
                self.alive, self.hidden, self.held = (
                    self.alive + alive,
                    self.hidden + hidden,
                    self.held + held,
                )
        self._changed.clear()

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
        statuses: statuses of members that belong in responses.
        collect: returns the stats about ZooKeeper, without those of the table.
        send: sends a report to the supervisor.
    """

    def __init__(
        self,
        publisher: Publisher,
        statuses: Iterable[str],
        collect: Callable[[], WatcherStats],
        send: SendReport,
    ) -> None:
        self._publisher = publisher
        self._collect = collect
        self._send = send
        self._counts = MemberCounts(publisher.table, statuses)
        self._movements = MemberMovements(publisher.table)

    def before_change(self, change: Change) -> None:
        """Count the members that the change adds and removes."""
        self._movements.note(change)

    def after_change(self, keys: set[Labels]) -> None:
        """Note that these services have changed."""
        self._counts.note(keys)

    async def run(self) -> None:
        """Send a report whenever the stats have changed, without end."""
        last: Report | None = None
        while True:
            report = Report(self._publisher.health.ready, self._stats())
            if report != last:
                self._send(report)
            last = report
            await asyncio.sleep(REPORT_SECONDS)

    def _stats(self) -> WatcherStats:
        counts = self._counts
        if self._publisher.health.ready:  # saves time while the first read fills the table
            counts.update()
        return msgspec.structs.replace(
            self._collect(),
            services=len(self._publisher.table.services),
            alive=counts.alive,
            hidden=counts.hidden,
            held=counts.held,
            changes=counts.changes,
            joined=self._movements.joined,
            left=self._movements.left,
        )
