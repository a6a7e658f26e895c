"""`TableAudit`: compares the table with the sets that audits of ZooKeeper have read.

An audit compares the watcher's copy of the znodes with ZooKeeper. This compares the table with the copy, so
that no error between the two stays in the answers, and the digest of each set with one computed from scratch.
Sets that only the table has are searched for in steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.serverset.changes import SetChanged, SetDropped, SetPut
from zkdns.table import MemberSet

log = structlog.get_logger("zkdns.watcher")

MAX_COUNTED: Final = 1000
"""Members of a set whose digest is computed from scratch, which takes 3 ms. That of a larger set is not."""
MAX_SETS: Final = 500
"""Sets in one step of the search, which takes 2 ms."""


class TableAudit:
    """Compares the sets of one namespace.

    Attributes:
        repairs: differences that were found and corrected. Expected: 0.

    Args:
        guarded: has the table, and publishes corrections, which are judged like other changes.
    """

    def __init__(self, guarded: GuardedPublisher) -> None:
        self.repairs = 0
        self._guarded = guarded
        self._table = guarded.table
        self._unchecked: list[str] = []

    def check(self, read: SetPut) -> None:
        """Compare a set of the table with what ZooKeeper has, after all changes were published."""
        if self._guarded.guard.is_waiting:
            return  # for changes that the table does not have yet
        found = self._table.set_of(read.origin)
        correction = read if found is None else _correction(found, read)
        if correction is not None:
            self._correct(correction, "members")
        elif found is not None:
            self._check_digest(found)

    def begin(self) -> None:
        """Begin to search for sets that ZooKeeper does not have, unless the last search has not ended."""
        if not self._unchecked:
            self._unchecked = list(self._table.origins)

    def check_some(self, may_exist: Callable[[str], bool]) -> None:
        """Drop sets of the table that do not exist. A set with held members may stay without its znode."""
        guard, namespace = self._guarded.guard, self._guarded.namespace
        if guard.is_waiting:
            return
        paths = self._unchecked[-MAX_SETS:]
        del self._unchecked[-MAX_SETS:]
        for path in paths:
            if not namespace.matches_path(path) or may_exist(path) or guard.held_of(path):
                continue
            if self._table.set_of(path) is not None:
                self._correct(SetDropped(path), "set")

    def _correct(self, change: SetPut | SetChanged | SetDropped, difference: str) -> None:
        self._count(change.origin, difference)
        self._guarded.publish([change])

    def _check_digest(self, found: MemberSet) -> None:
        digests = self._table.digests
        if digests is None or not digests.is_complete or len(found.members) > MAX_COUNTED:
            return
        if not digests.is_right(found):
            self._count(found.origin, "digest")
            digests.recount(found)

    def _count(self, origin: str, what: str) -> None:
        self.repairs += 1
        log.error("table_repaired", path=origin, difference=what)


def _correction(found: MemberSet, read: SetPut) -> SetChanged | None:
    """The change that gives a set of the table the members that were read. Held members stay. None: equal."""
    added = tuple(member for member in read.members if found.members.get(member.name) != member)
    if not added and len(found.members) == len(read.members):
        return None
    names = {member.name for member in read.members}
    removed = tuple(name for name in found.members if name not in names and name not in found.held)
    return SetChanged(read.origin, added, removed) if added or removed else None
