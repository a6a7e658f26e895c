"""Counts what the watcher process knows, and reports it to the supervisor at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec

from zkdns.daemon.child import Report, Tell
from zkdns.daemon.feed import Publisher
from zkdns.names import Labels
from zkdns.observe.figures import WatcherFigures
from zkdns.serverset.changes import Change, SetChanged, SetDropped, SetPut
from zkdns.table import Table

REPORT_SECONDS = 1.0


class Census:
    """How many members there are in a table; only services that changed are counted again.

    `changes` is how often there was something to be counted again.

    Args:
        table: what to count.
        statuses: of members that are answered with.
    """

    def __init__(self, table: Table, statuses: Iterable[str]) -> None:
        self.alive = self.hidden = self.held = 0
        self.changes = 0
        self._table = table
        self._statuses = frozenset(statuses)
        self._changed: set[Labels] = set()
        self._counted: dict[Labels, tuple[int, int, int]] = {}

    def note(self, keys: set[Labels]) -> None:
        """These services are others than before."""
        self.changes += 1
        self._changed |= keys

    def take(self) -> None:
        """Bring the numbers up to date."""
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


class Movements:
    """Counts the members that changes of a table bring and take.

    Args:
        table: as it is before each change.
    """

    def __init__(self, table: Table) -> None:
        self.joined = self.left = 0
        self._table = table

    def note(self, change: Change) -> None:
        """This change is about to be made; who is replaced neither comes nor goes."""
        if not isinstance(change, SetPut | SetChanged | SetDropped):
            return
        owner = self._table.set_of(change.origin)
        there = owner.members.keys() if owner is not None else set[str]()
        match change:
            case SetPut():
                after = {member.name for member in change.members}
                self.joined += len(after - there)
                self.left += len(there - after)
            case SetChanged() if owner is not None:
                added = {member.name for member in change.added}
                self.joined += len(added - there)
                self.left += len(there & set(change.removed) - added)
            case SetDropped():
                self.left += len(there)


class FiguresTeller:
    """Reports figures while the process runs.

    Args:
        publisher: whose table is counted.
        statuses: of members that are answered with.
        collect: figures of ZooKeeper, to be completed with those of the table.
        tell: sends a report to the supervisor.
    """

    def __init__(
        self, publisher: Publisher, statuses: Iterable[str], collect: Callable[[], WatcherFigures], tell: Tell
    ) -> None:
        self._publisher = publisher
        self._collect = collect
        self._tell = tell
        self._census = Census(publisher.table, statuses)
        self._movements = Movements(publisher.table)
        publisher.before_applied = self._movements.note
        publisher.on_applied = self._census.note

    async def run(self) -> None:
        """Report for ever, whenever something has changed."""
        last: Report | None = None
        while True:
            report = Report(self._publisher.health.ready, self._take())
            if report != last:
                self._tell(report)
            last = report
            await asyncio.sleep(REPORT_SECONDS)

    def _take(self) -> WatcherFigures:
        census = self._census
        if self._publisher.health.ready:  # what is being read need not be counted meanwhile
            census.take()
        return msgspec.structs.replace(
            self._collect(),
            services=len(self._publisher.table.services),
            alive=census.alive,
            hidden=census.hidden,
            held=census.held,
            changes=census.changes,
            joined=self._movements.joined,
            left=self._movements.left,
        )


class StaleClock:
    """Since when a source is stale, by a clock of our own: kazoo tells of a lost session only afterwards.

    Args:
        since: when that was where it began under another process; None: it did not.
    """

    def __init__(self, since: float | None = None) -> None:
        self.since = since

    def before(self, on_health: Callable[[bool, bool], None]) -> Callable[[bool, bool], None]:
        """What a source may tell (ready, stale), which is passed on."""

        def heard(ready: bool, stale: bool) -> None:
            if not stale:
                self.since = None
            elif self.since is None:
                self.since = time.monotonic()
            on_health(ready, stale)

        return heard
