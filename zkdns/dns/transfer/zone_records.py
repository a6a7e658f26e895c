"""`ZoneRecords`: makes the records of changed services, and stages them for the next versions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping

from zkdns.digest import DIGEST_LABEL
from zkdns.dns.authority import Authority
from zkdns.dns.steps import run_at_once
from zkdns.dns.transfer.contents import Block, zone_blocks
from zkdns.dns.transfer.service_records import TRACKED_MEMBERS, Buckets, ServiceRecords
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
        self._restored: set[Labels] = set()

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
            yield from self._stage(key)
            yield
        for apex in self._versions:  # so that `publish` need not count all members
            yield from zone.steps.in_pieces(lambda: zone.find((DIGEST_LABEL, *apex)))  # noqa: B023 - called here

    def parts(self, apex: Labels) -> list[tuple[Labels, Buckets]]:
        """The blocks of each service in a zone, and with the key () those of the zone as a whole."""
        services = [(key, records.buckets(apex)) for key, records in self._services.items()]
        return [(ANY_SERVICE, (self._zone_blocks[apex],)), *(each for each in services if each[1])]

    def restore(self, apex: Labels, parts: Iterable[tuple[Labels, Buckets]]) -> None:
        """Set the blocks of a zone, as `parts` returned them, before the first call of `stage`."""
        for key, buckets in parts:
            if key == ANY_SERVICE:
                self._zone_blocks[apex] = tuple(block for blocks in buckets for block in blocks)
            else:
                self._records_of(key).restore(apex, buckets)
                self._restored.add(key)

    def _records_of(self, key: Labels) -> ServiceRecords:
        records = self._services.get(key)
        if records is None:
            records = self._services[key] = ServiceRecords(tracked_members=self._tracked_members)
        return records

    def _stage(self, key: Labels) -> Generator[None, None, None]:
        is_renamed = key in self._renamed
        self._renamed.discard(key)
        self._restored.discard(key)
        records = self._records_of(key)
        staged = yield from records.update(self._authority.zone, key, is_renamed=is_renamed)
        for apex, (removed, added) in staged.items():
            self._versions[apex].stage(removed, added)
        if key not in self._authority.zone.services:
            del self._services[key]

    def publish(self, apex: Labels, serial: int) -> bool:
        """Make the staged records the present version of a zone. Returns as `ZoneVersions.publish`."""
        services = self._authority.zone.services
        for key in [key for key in self._restored if key not in services]:  # gone meanwhile
            run_at_once(self._stage(key))
        versions = self._versions[apex]
        blocks = zone_blocks(self._authority.zone, apex)
        versions.stage(self._zone_blocks[apex], blocks)
        self._zone_blocks[apex] = blocks
        return versions.publish(serial)
