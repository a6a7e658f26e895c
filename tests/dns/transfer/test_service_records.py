"""Records for transfers, updated after changes, are those that a zone file of the present table has."""

from __future__ import annotations

import random

import dns.message
import dns.zone
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.helpers import NAMESPACE, many, member, put
from tests.dns.test_view_updates import changes_of_services
from tests.dns.transfer.helpers import records_in
from tests.support.line_count import at_most_calls
from zkdns.config import Config
from zkdns.dns.authority import Authority
from zkdns.dns.message import parse_query
from zkdns.dns.steps import run_at_once
from zkdns.dns.transfer import messages
from zkdns.dns.transfer.contents import soa_template, split_records
from zkdns.dns.transfer.versions import Difference, ZoneVersions
from zkdns.dns.transfer.zone_records import ZoneRecords
from zkdns.dns.zonefile import service_records, zone_header
from zkdns.names import Labels, to_text
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import Change, SetChanged, SetDropped, SetPut, SetUnread
from zkdns.table import Table

ZONE = (b"discovery",)
INNER = (b"m1", b"web", b"staging", b"discovery")  # below a service, at the name of a member
DB = "/discovery/staging/db"


class Primary:
    """A table, the records of its zones for transfers, and their versions."""

    def __init__(self, tracked_members: int, *, inner: bool = False, **settings: object) -> None:
        namespaces = (NAMESPACE, parse_namespace("/inner/{service}", INNER))[: 1 + inner]
        config = Config(listen=(), namespaces=namespaces, **settings)  # type: ignore[arg-type]
        self.table = Table(departed_seconds=0)
        self.authority = Authority(self.table, config, _raise, random.Random(1))
        self.authority.set_health(ready=True, stale=False)
        self.versions = {
            apex: ZoneVersions(
                apex, soa_template(self.authority.zone, apex), max_versions=1000, max_bytes=1 << 24
            )
            for apex in config.zones
        }
        self._records = ZoneRecords(self.authority, self.versions, tracked_members=tracked_members)

    def apply(self, *changes: Change) -> None:
        for change in changes:
            self._records.refresh(self.table.apply(change))

    def publish(self) -> None:
        self.table.serial += 1
        run_at_once(self._records.stage())
        for apex in self.versions:
            self._records.publish(apex, self.table.serial)

    def transferred(self, apex: Labels) -> set[str]:
        """The records of a full transfer, as dnspython reads them."""
        version = self.versions[apex].current()
        assert version is not None
        query = parse_query(dns.message.make_query(to_text(apex), "AXFR").to_wire())
        first, *records, last = records_in(messages.full_zone(query, version, 0))
        assert first == last == f"SOA {self.table.serial}"
        assert len(records) == len(set(records))
        return set(records)

    def dumped(self, apex: Labels) -> set[str]:
        """The records of the zone file, as dnspython reads them."""
        zone = self.authority.zone
        text = zone_header(zone, apex) + "".join(service_records(zone, apex, key) for key in zone.services)
        origin = to_text(apex) + "."
        parsed = dns.zone.from_text(text, origin, relativize=False)
        return {
            f"{name} {rdataset.ttl} IN {dns.rdatatype.to_text(rdata.rdtype)} {rdata}"
            for name, rdataset in parsed.iterate_rdatasets()
            for rdata in rdataset
            if rdata.rdtype != dns.rdatatype.SOA
        }


def _raise(_query: bytes, error: Exception) -> None:
    raise error


def is_led_to(old: set[bytes], difference: Difference) -> set[bytes]:
    """The records after a difference. Its removed records must exist before, and its added ones must not."""
    removed, added = set(split_records(difference.removed)), set(split_records(difference.added))
    assert removed <= old
    assert not added & old
    return old - removed | added


@given(
    steps=st.lists(st.lists(changes_of_services, min_size=1, max_size=3), max_size=12),
    tracked_members=st.sampled_from([0, 0, 4]),
    dns_sd=st.booleans(),
    empty=st.sampled_from(["nodata", "nxdomain"]),
    inner=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_updated_records_are_those_of_the_zone_file(
    steps: list[list[Change]], tracked_members: int, dns_sd: bool, empty: str, inner: bool
) -> None:
    primary = Primary(tracked_members, inner=inner, dns_sd=dns_sd, empty=empty)
    contents: dict[Labels, set[bytes]] = {}
    for changes in steps:
        serial = primary.table.serial
        primary.apply(*changes)
        primary.publish()
        for apex, versions in primary.versions.items():
            assert primary.transferred(apex) == primary.dumped(apex)
            version = versions.current()
            assert version is not None
            records = set(split_records(version.blocks))
            assert versions.size == sum(map(len, records))
            if serial:
                for difference in versions.differences_since(serial) or ():
                    contents[apex] = is_led_to(contents[apex], difference)
            contents[apex] = records


def test_services_with_names_of_each_other() -> None:
    """A service takes the name of a shard, and gives it back, in the same batch as a change of members."""
    primary = Primary(0, dns_sd=True)
    web = [member(number, f"10.0.0.{number}:80", shard=3) for number in (1, 2)]
    primary.apply(put("web.staging", web))
    primary.publish()
    shard = put("s3.web.staging", ["10.9.9.9:80"])
    added = SetChanged("/discovery/staging/web", (member(7, "10.0.0.7:80", shard=3),), ())
    for changes in (
        (shard, added),
        (SetDropped(shard.origin), added),
        (added, shard),
        (SetDropped(shard.origin),),
    ):
        primary.apply(*changes)
        primary.publish()
        assert primary.transferred(ZONE) == primary.dumped(ZONE)


def test_a_service_that_becomes_unread_or_large_or_small() -> None:
    primary = Primary(20)
    web = put("web.staging", many(10))
    for members in (10, 30, 150, 21, 20, 3):
        primary.apply(SetPut(web.origin, web.name, put("web.staging", many(members)).members))
        primary.publish()
        assert primary.transferred(ZONE) == primary.dumped(ZONE)
    primary.apply(SetDropped(web.origin), SetUnread(web.origin, web.name))
    primary.publish()
    assert (
        primary.transferred(ZONE)
        == primary.dumped(ZONE)
        == {
            "discovery. 5 IN NS localhost.",
            '_digest.discovery. 5 IN TXT "v=1" "members=0" "digest=0000000000000000"',
        }
    )


def test_a_changed_member_of_a_large_service_costs_little() -> None:
    """One member takes some 3,500 calls, in a service of 500 or 8,000; all 500 take twenty times as many."""
    primary = Primary(200)
    web = put("web.staging", many(500))
    primary.apply(web)
    primary.publish()
    changed = member(5, "10.9.9.9:80", additional={"admin": "10.9.9.9:81"})
    for change in (SetChanged(web.origin, (changed,), ()), SetChanged(web.origin, (), (changed.name,))):
        primary.apply(change)
        with at_most_calls(5000):
            primary.publish()
    assert primary.transferred(ZONE) == primary.dumped(ZONE)
