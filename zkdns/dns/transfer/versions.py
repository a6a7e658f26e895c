"""The versions of a zone: its records now, and a journal of the differences between the last versions.

    stage(service, blocks) … ──▶ publish(serial) ──▶ the next version, and the difference between both

A transfer that has begun keeps the blocks of its version. They are shared by all versions that have them.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    content: tuple[tuple[Block, ...], ...]
    """All records except the SOA."""

    def blocks(self) -> Iterator[Block]:
        """All records except the SOA."""
        for blocks in self.content:
            yield from blocks


class ZoneVersions:
    """The present version of one zone, and the journal.

    No two versions have the same serial: staged records wait in `publish` until the serial is another one.

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
        self._content: dict[Labels, tuple[Block, ...]] = {}
        self._staged: dict[Labels, tuple[Block, ...]] = {}
        self._journal: dict[int, Difference] = {}  # by the older serial, the oldest difference first
        self._version: Version | None = None

    @property
    def journal_length(self) -> int:
        """Number of differences in the journal."""
        return len(self._journal)

    @property
    def serial(self) -> int | None:
        """The serial of the present version. None: there is none yet."""
        return self._serial

    def current(self) -> Version | None:
        """The present version. None: there is none yet."""
        if self._version is None and self._serial is not None:
            self._version = Version(self._serial, self._soa, tuple(self._content.values()))
        return self._version

    def stage(self, part: Labels, blocks: tuple[Block, ...]) -> None:
        """Set the records of a part of the next version.

        Args:
            part: the key of a service, or () for the records of the zone as a whole.
            blocks: all records of this part.
        """
        if blocks == self._content.get(part, ()):
            self._staged.pop(part, None)
        else:
            self._staged[part] = blocks

    def publish(self, serial: int) -> bool:
        """Make the staged records the present version.

        Returns:
            whether there is a new version. False: the serial is that of the present one. Records that differ
            stay staged, since a serial stands for one content.
        """
        if serial == self._serial:
            return False
        staged, self._staged = self._staged, {}
        if self._serial is not None:
            self._add_difference(self._difference(self._serial, serial, staged))
        for part, blocks in staged.items():
            self.size += size_of(blocks) - size_of(self._content.get(part, ()))
            if blocks:
                self._content[part] = blocks
            else:
                self._content.pop(part, None)
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

    def _difference(self, before: int, after: int, staged: dict[Labels, tuple[Block, ...]]) -> Difference:
        removed: dict[bytes, None] = {}
        added: dict[bytes, None] = {}
        for part, blocks in staged.items():
            # The first and last blocks of a large service are often the same.
            old, new = _without_common(self._content.get(part, ()), blocks)
            left, came = dict.fromkeys(split_records(old)), dict.fromkeys(split_records(new))
            removed |= {record: None for record in left if record not in came}
            added |= {record: None for record in came if record not in left}
        moved = removed.keys() & added.keys()  # a name that now belongs to another service
        return Difference(
            before,
            after,
            join_records([record for record in removed if record not in moved]),
            join_records([record for record in added if record not in moved]),
        )

    def _add_difference(self, difference: Difference) -> None:
        if not is_newer(difference.after, difference.before) or difference.before in self._journal:
            self._journal.clear()  # serials have begun anew: IXFR cannot describe that
            self.journal_bytes = 0
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


def _without_common(
    old: tuple[Block, ...], new: tuple[Block, ...]
) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """Both without the blocks that are the same at the beginning and at the end."""
    start, shortest = 0, min(len(old), len(new))
    while start < shortest and old[start] == new[start]:
        start += 1
    end = 0
    while end < shortest - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return old[start : len(old) - end], new[start : len(new) - end]
