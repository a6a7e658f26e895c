"""`ZoneRecords`: makes the records of changed services, and stages them for the next versions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping

from zkdns.digest import DIGEST_LABEL
from zkdns.dns.authority import Authority
from zkdns.dns.transfer.contents import Block, zone_blocks
from zkdns.dns.transfer.service_records import TRACKED_MEMBERS, ServiceRecords
from zkdns.dns.transfer.versions import ZoneVersions
from zkdns.names import Labels
from zkdns.table import ANY_SERVICE


class ZoneRecords:
    """The records of all services in all zones.

    Args:
        authority: the names of the table.
        versions: by the apex of each zone.
        tracked_members: as `TRACKED_MEMBERS`.
    """

    def __init__(
        self,
        authority: Authority,
        versions: Mapping[Labels, ZoneVersions],
        *,
        tracked_members: int = TRACKED_MEMBERS,
    ) -> None:
        self._authority, self._versions = authority, versions
        self._tracked_members = tracked_members
        self._services: dict[Labels, ServiceRecords] = {}
        self._zone_blocks: dict[Labels, tuple[Block, ...]] = dict.fromkeys(versions, ())
        self._changed: set[Labels] = set()
        self._renamed: set[Labels] = set()

    @property
    def has_changed(self) -> bool:
        """Whether there are changed services that are not staged."""
        return bool(self._changed)

    def refresh(self, keys: Iterable[Labels]) -> None:
        """Note that these services have changed."""
        zone = self._authority.zone
        moves = zone.moves
        changed = self._authority.refresh(keys) - {ANY_SERVICE}
        self._changed |= changed
        if zone.moves != moves:  # names of these may belong to other services now
            self._renamed |= changed

    def stage(self) -> Generator[None, None, None]:
        """Stage the services that have changed so far, in steps. Others may change meanwhile."""
        zone = self._authority.zone
        changed, self._changed = self._changed, set()
        for key in changed:
            is_renamed = key in self._renamed
            self._renamed.discard(key)
            records = self._services.get(key)
            if records is None:
                records = self._services[key] = ServiceRecords(tracked_members=self._tracked_members)
            staged = yield from records.update(zone, key, is_renamed=is_renamed)
            for apex, (removed, added) in staged.items():
                self._versions[apex].stage(removed, added)
            if key not in zone.services:
                del self._services[key]
            yield
        for apex in self._versions:  # so that `publish` need not count all members
            yield from zone.steps.in_pieces(lambda: zone.find((DIGEST_LABEL, *apex)))  # noqa: B023 - called here

    def publish(self, apex: Labels, serial: int) -> bool:
        """Make the staged records the present version of a zone. Returns as `ZoneVersions.publish`."""
        versions = self._versions[apex]
        blocks = zone_blocks(self._authority.zone, apex)
        versions.stage(self._zone_blocks[apex], blocks)
        self._zone_blocks[apex] = blocks
        return versions.publish(serial)
