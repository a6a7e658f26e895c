"""A zone of a table, its versions, and messages as dnspython reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dns.message
import dns.rdatatype

from tests.dns.helpers import put
from zkdns.config import load_config
from zkdns.daemon.transfer.zone_store import Parts, StoredZone
from zkdns.daemon.transfer.zone_updates import restore_zone
from zkdns.dns.authority import Authority
from zkdns.dns.steps import run_at_once
from zkdns.dns.transfer.contents import soa_template
from zkdns.dns.transfer.versions import ZoneVersions
from zkdns.dns.transfer.zone_records import ZoneRecords
from zkdns.names import Labels
from zkdns.table import Table

ZONE = (b"discovery",)


class Versions:
    """A table, and the versions of its zone.

    Attributes:
        zone: the versions.
        authority: the names of the table.
    """

    def __init__(self, *, max_versions: int = 100, max_bytes: int = 1 << 20, ttl: int = 5) -> None:
        self.table = Table(departed_seconds=0)
        config = load_config(flags={"ttl": ttl}, environment={}, file=None)
        self.authority = Authority(self.table, config, _raise)
        self.authority.set_health(ready=True, stale=False)
        soa = soa_template(self.authority.zone, ZONE)
        self.zone = ZoneVersions(ZONE, soa, max_versions=max_versions, max_bytes=max_bytes)
        self._records = ZoneRecords(self.authority, {ZONE: self.zone})

    def publish(self, serial: int, **services: Sequence[str]) -> bool:
        """Set the members of services of the environment `prod`, and publish a version."""
        keys: set[Labels] = set()
        for name, members in services.items():
            keys |= self.table.apply(put(f"{name}.prod", members))
        self.table.serial = serial
        self._records.refresh(keys)
        run_at_once(self._records.stage())
        return self._records.publish(ZONE, serial)

    def restore(self, stored: StoredZone) -> None:
        """Restore the version that was stored."""
        restore_zone(self.zone, self._records, stored)

    def parts(self) -> Parts:
        """The records of the present version, to store them."""
        return self._records.parts(ZONE)


def records_in(messages: Iterable[bytes]) -> list[str]:
    """The answer records of messages, in their order; an SOA record as its serial."""
    found = []
    for wire in messages:
        message = dns.message.from_wire(wire, one_rr_per_rrset=True, ignore_trailing=False)
        for rrset in message.answer:
            is_soa = rrset.rdtype == dns.rdatatype.SOA
            found.append(f"SOA {rrset[0].serial}" if is_soa else rrset.to_text())
    return found


def _raise(_query: bytes, error: Exception) -> None:
    raise error
