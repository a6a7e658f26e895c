"""The versions of a zone: its records now, and a journal of the differences between the last versions.

    stage(removed, added) … ──▶ publish(serial) ──▶ the next version, and the difference between both

A version is a set of blocks. A transfer that has begun keeps those of its version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zkdns.dns.serial import is_newer
from zkdns.dns.transfer.contents import Block, SoaTemplate, join_records, split_records
from zkdns.names import Labels

_CHANGE_OVERHEAD = 200
"""Approximate bytes of an empty difference in memory."""


class Difference(NamedTuple):
    """The difference between two consecutive versions."""

    before: int
    """Serial of the older one."""
    after: int
    """Serial of the newer one."""
    removed: tuple[Block, ...]
    added: tuple[Block, ...]

    @property
    def size(self) -> int:
        """Bytes of its records."""
        return size_of(self.removed) + size_of(self.added)


class Version(NamedTuple):
    """One version of a zone."""

    serial: int
    soa: SoaTemplate
    blocks: tuple[Block, ...]
    """All records except the SOA."""


class ZoneVersions:
    """The present version of one zone, and the journal.

    No two versions have the same serial: staged records wait in `publish` until the serial is another one.
    Only a restored version may have had other records; there are then no differences from its serial.

    Attributes:
        apex: the zone's name.
        size: bytes of the present version.
        journal_bytes: approximate memory of the journal.

    Args:
        apex: see above.
        soa: its SOA record.
        max_versions: maximum number of differences in the journal. 0: no journal.
        max_bytes: maximum of `journal_bytes`.
    """

    def __init__(self, apex: Labels, soa: SoaTemplate, *, max_versions: int, max_bytes: int) -> None:
        self.apex = apex
        self.size = self.journal_bytes = 0
        self._soa = soa
        self._max_versions, self._max_bytes = max_versions, max_bytes
        self._serial: int | None = None
        self._restored: int | None = None
        self._ambiguous: int | None = None  # a serial that has stood for two contents
        self._blocks: Counter[Block] = Counter()
        self._staged: Counter[Block] = Counter()  # negative numbers for removed blocks
        self._journal: dict[int, Difference] = {}  # by the older serial, the oldest difference first
        self._version: Version | None = None

    @property
    def journal_length(self) -> int:
        """Number of differences in the journal."""
        return len(self._journal)

    def is_outdated(self, serial: int) -> bool:
        """Whether a version with this serial would be the first one, and older than the restored one."""
        return self._serial is None and self._restored is not None and is_newer(self._restored, serial)

    @property
    def is_ambiguous(self) -> bool:
        """Whether the serial had other records in an earlier process."""
        return self._serial is not None and self._serial == self._ambiguous

    @property
    def journal(self) -> Iterable[Difference]:
        """The differences, the oldest first."""
        return self._journal.values()

    @property
    def latest_difference(self) -> Difference | None:
        """The difference that leads to the present version. None: it is not in the journal."""
        latest = next(reversed(self._journal.values()), None)
        return latest if latest is not None and latest.after == self._serial else None

    @property
    def serial(self) -> int | None:
        """The serial of the present version. None: there is none yet."""
        return self._serial

    def current(self) -> Version | None:
        """The present version. None: there is none yet."""
        if self._version is None and self._serial is not None:
            self._version = Version(self._serial, self._soa, tuple(self._blocks))
        return self._version

    def stage(self, removed: Iterable[Block], added: Iterable[Block]) -> None:
        """Replace blocks in the next version."""
        staged = self._staged
        for blocks, step in ((removed, -1), (added, +1)):
            for block in blocks:
                staged[block] += step
                if not staged[block]:
                    del staged[block]

    def restore(
        self,
        serial: int,
        blocks: Iterable[Block],
        past: Iterable[Difference],
        following: Sequence[Difference],
    ) -> None:
        """Restore the version of an earlier process, before the first `publish` adds a difference to it.

        It is not served. The caller stages all of its blocks as removed.

        Args:
            serial: the serial of these blocks.
            blocks: all records of the zone.
            past: the differences that lead to this serial, the oldest first.
            following: those that follow, so that the version has the last one's serial.
        """
        restored = Counter(blocks)
        for difference in following:
            restored.update(difference.added)
            restored.subtract(difference.removed)
            # All blocks of the version must be staged as removed, not only those that the caller knows.
            self.stage(difference.added, difference.removed)
        self._apply(restored)
        self._restored = following[-1].after if following else serial
        for difference in (*past, *following):
            self._add_difference(difference)

    def publish(self, serial: int) -> bool:
        """Make the staged records the present version.

        Returns:
            whether there is a new version. False: the serial is that of the present one. Records that differ
            stay staged, since a serial stands for one content.
        """
        if serial == self._serial:
            return False
        staged, self._staged = self._staged, Counter()
        before = self._restored if self._serial is None else self._serial
        if before is not None:
            difference = _difference(before, serial, staged)
            if before != serial:
                self._add_difference(difference)
            elif difference.size:
                self._ambiguous = serial
                self._clear_journal()
        self._apply(staged)
        self._serial, self._version = serial, None
        return True

    @property
    def has_unpublished(self) -> bool:
        """Whether staged records differ from the present version."""
        return bool(self._staged)

    def differences_since(self, serial: int) -> list[Difference] | None:
        """The differences from a version to the present one; those without records are left out.

        Returns:
            None: the journal does not reach back to this version, or the zone itself is smaller.
        """
        found: list[Difference] = []
        start, at, room = serial, serial, self.size
        while at != self._serial:
            difference = self._journal.get(at)
            if difference is None:
                return None
            at = difference.after
            if difference.removed or difference.added:
                room -= difference.size
                if room < 0:
                    return None
                found.append(difference._replace(before=start))
                start = at
        if start != at:
            # A client may reject differences that do not end with the present serial.
            found.append(Difference(start, at, (), ()))
        return found

    def _apply(self, staged: Counter[Block]) -> None:
        for block, step in staged.items():
            self.size += step * len(block.data)
            self._blocks[block] += step
            if not self._blocks[block]:
                del self._blocks[block]

    def _clear_journal(self) -> None:
        self._journal.clear()
        self.journal_bytes = 0

    def _add_difference(self, difference: Difference) -> None:
        is_next = is_newer(difference.after, difference.before) and difference.before not in self._journal
        if not is_next or difference.before == self._ambiguous:
            self._clear_journal()  # serials have started again, which IXFR cannot describe
            return
        self._journal[difference.before] = difference
        self.journal_bytes += difference.size + _CHANGE_OVERHEAD
        while self._journal and (
            len(self._journal) > self._max_versions or self.journal_bytes > self._max_bytes
        ):
            oldest = self._journal.pop(next(iter(self._journal)))
            self.journal_bytes -= oldest.size + _CHANGE_OVERHEAD


def size_of(blocks: tuple[Block, ...]) -> int:
    """Bytes of blocks."""
    return sum(len(block.data) for block in blocks)


def _difference(before: int, after: int, staged: Counter[Block]) -> Difference:
    counts: Counter[bytes] = Counter()
    for block, step in staged.items():
        for record in split_records((block,)):
            counts[record] += step
    removed = [record for record, count in counts.items() if count < 0]
    added = [record for record, count in counts.items() if count > 0]
    return Difference(before, after, join_records(removed), join_records(added))
