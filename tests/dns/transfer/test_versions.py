"""Versions of a zone and the journal: one content for each serial, and differences that lead to a version."""

from __future__ import annotations

import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.transfer.helpers import Versions, records_in
from zkdns.dns.message import parse_query
from zkdns.dns.serial import is_newer
from zkdns.dns.transfer import messages
from zkdns.dns.transfer.contents import split_records
from zkdns.dns.transfer.versions import size_of

QUERY = parse_query(dns.message.make_query("discovery.", "AXFR", use_edns=0).to_wire())
WEB, DB = ["10.0.0.1:80", "10.0.0.2:80"], ["10.1.0.1:5432"]


def full(versions: Versions) -> list[str]:
    version = versions.zone.current()
    assert version is not None
    return records_in(messages.full_zone(QUERY, version, 0))


def differences(versions: Versions, serial: int) -> list[str] | None:
    found = versions.zone.differences_since(serial)
    version = versions.zone.current()
    assert version is not None
    if found is None:
        return None
    return records_in(messages.differences(QUERY, version.soa, found, version.serial, 0))


def patched(records: set[str], changes: list[str]) -> set[str]:
    """The records of a zone after the differences of an IXFR response (RFC 1995 §4)."""
    result, is_removing = set(records), False
    newest, *rest, last = changes
    assert newest == last
    for record in rest:
        if record.startswith("SOA "):
            is_removing = not is_removing
        elif is_removing:
            result.remove(record)
        else:
            assert record not in result
            result.add(record)
    return result


@pytest.mark.parametrize(
    ("serial", "other", "newer"),
    [(2, 1, True), (1, 2, False), (1, 1, False), (0, 0xFFFFFFFF, True), (0xFFFFFFFF, 0, False)],
)
def test_serials_wrap_around(serial: int, other: int, newer: bool) -> None:
    assert is_newer(serial, other) == newer


def test_there_is_no_version_before_the_first_serial() -> None:
    versions = Versions()
    assert versions.zone.current() is None
    assert versions.publish(7, web=WEB)
    version = versions.zone.current()
    assert version is not None
    assert version.serial == 7


def test_an_unchanged_serial_publishes_no_other_content() -> None:
    versions = Versions()
    versions.publish(1, web=WEB)
    before = full(versions)
    assert not versions.publish(1, web=DB)
    assert full(versions) == before
    assert versions.zone.has_unpublished
    assert versions.publish(2)
    assert not versions.zone.has_unpublished
    assert full(versions) != before


def test_the_difference_has_only_the_changed_records() -> None:
    versions = Versions()
    versions.publish(1, web=WEB, db=DB)
    before = set(full(versions)) - {"SOA 1"}
    versions.publish(2, web=[*WEB, "10.0.0.3:80"])
    changes = differences(versions, 1)
    assert changes is not None
    assert [each for each in changes if each.startswith("SOA")] == ["SOA 2", "SOA 1", "SOA 2", "SOA 2"]
    assert not any("db" in each for each in changes)
    assert patched(before, changes) == set(full(versions)) - {"SOA 2"}


def test_a_version_without_changed_records_has_an_empty_difference() -> None:
    versions = Versions()
    versions.publish(1, web=WEB)
    versions.publish(2)
    versions.publish(3)
    assert differences(versions, 1) == ["SOA 3", "SOA 1", "SOA 3", "SOA 3"]
    assert differences(versions, 2) == ["SOA 3", "SOA 2", "SOA 3", "SOA 3"]
    assert differences(versions, 3) == ["SOA 3"]


def test_differences_without_records_are_merged_into_their_neighbours() -> None:
    """A client may check that each difference begins with the serial at which the previous one ended."""
    versions = Versions()
    versions.publish(1, web=WEB, db=DB)
    versions.publish(2)
    versions.publish(3, web=WEB[:1])
    versions.publish(4)
    changes = differences(versions, 1)
    assert changes is not None
    serials = [each for each in changes if each.startswith("SOA")]
    assert serials == ["SOA 4", "SOA 1", "SOA 3", "SOA 3", "SOA 4", "SOA 4"]


def test_the_journal_is_bounded_by_versions_and_bytes() -> None:
    versions = Versions(max_versions=2)
    for serial in range(1, 6):
        versions.publish(serial, db=DB, web=[f"10.0.0.{serial}:80", *WEB])
    assert versions.zone.journal_length == 2
    assert differences(versions, 2) is None
    assert differences(versions, 3) is not None
    small = Versions(max_bytes=1000)
    for serial in range(1, 50):
        small.publish(serial, db=DB, web=[f"10.0.0.{serial}:80", *WEB])
    assert small.zone.journal_bytes <= 1000
    assert small.zone.journal_length >= 1


def test_a_difference_larger_than_the_zone_is_no_difference() -> None:
    versions = Versions()
    versions.publish(1, web=WEB)
    versions.publish(2, web=["10.9.0.1:80"])
    versions.publish(3, web=["10.9.0.2:80"])
    assert versions.zone.differences_since(1) is None


def test_a_serial_that_goes_back_empties_the_journal() -> None:
    versions = Versions()
    versions.publish(5, web=WEB)
    versions.publish(6, web=WEB[:1])
    versions.publish(3, web=WEB)
    assert versions.zone.journal_length == versions.zone.journal_bytes == 0
    assert versions.zone.differences_since(5) is None


def test_a_running_transfer_keeps_its_version() -> None:
    versions = Versions()
    versions.publish(1, web=WEB)
    expected = full(versions)
    version = versions.zone.current()
    assert version is not None
    running = messages.full_zone(QUERY, version, 0)
    versions.publish(2, web=["10.9.0.1:80"])
    assert records_in(running) == expected


def test_large_services_are_in_several_messages() -> None:
    versions = Versions()
    versions.publish(1, web=[f"10.0.{number // 250}.{number % 250 + 1}:80" for number in range(600)])
    version = versions.zone.current()
    assert version is not None
    wires = list(messages.full_zone(QUERY, version, 100))
    assert len(wires) > 3
    assert all(len(wire) <= 65535 - 100 for wire in wires)
    assert min(map(len, wires[:-1])) > 48_000
    assert len(records_in(wires)) == sum(block.records for block in version.blocks) + 2
    assert sum(map(len, split_records(version.blocks))) == size_of(version.blocks)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(1, 3))), min_size=2, max_size=6))
def test_all_differences_lead_to_the_present_version(steps: list[dict[str, set[int]]]) -> None:
    """For each earlier version: its records, changed by the differences, are those of the present one."""
    versions = Versions()
    versions.publish(1, base=[f"10.7.0.{number}:80" for number in range(1, 40)])
    contents: dict[int, set[bytes]] = {}
    for serial, step in enumerate(steps, 2):
        versions.publish(
            serial, **{name: [f"10.0.0.{n}:80" for n in sorted(hosts)] for name, hosts in step.items()}
        )
        version = versions.zone.current()
        assert version is not None
        contents[serial] = set(split_records(version.blocks))
    for serial, content in contents.items():
        records = content
        differences = versions.zone.differences_since(serial)
        if differences is None:  # they have more bytes than the zone
            continue
        for difference in differences:
            removed, added = (set(split_records(part)) for part in (difference.removed, difference.added))
            assert removed <= records
            assert not added & records
            records = records - removed | added
        assert records == contents[len(steps) + 1]
