"""The client's side of zone transfers: valid ones, and everything that a primary can do wrong."""

from __future__ import annotations

from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.secondary.helpers import IDENT, Line, drain, full_copy, lines, messages, read, with_soa_last
from zkdns.dns.message import Type
from zkdns.dns.serial import is_newer
from zkdns.names import Labels
from zkdns.namespace import parse_namespace
from zkdns.secondary.inbound import (
    Inbound,
    Kind,
    RefusedTransferError,
    Version,
    build_query,
    read_soa,
)
from zkdns.secondary.records import BadTransferError, ZoneRecord, read_message, read_name

ZONE: Labels = (b"discovery",)
NAMESPACES = (parse_namespace("/discovery/{environment}/{service}"),)
WEB = (b"web", b"staging", b"discovery")


def soa(serial: int) -> Line:
    (line,) = lines(
        f"discovery.\t2\tIN\tSOA\tlocalhost. hostmaster.discovery. {serial} 60 10 86400 2",
    )
    return line


def member(number: int, address: str) -> list[Line]:
    """The needed records of a member of web.staging."""
    web = "web.staging.discovery."
    name = f"member_{number:010d}"
    text = f'"member={name}" "status=ALIVE" "znode=/discovery/staging/web/{name}"'
    return lines(
        "\n".join(
            [
                f"{web}\t5\tIN\tTXT\t{text}",
                f"m{number}.{web}\t5\tIN\tTXT\t{text}",
                f"m{number}.{web}\t5\tIN\tSRV\t0 100 80 m{number}.{web}",
                f"m{number}.{web}\t5\tIN\tA\t{address}",
                f"_web._tcp.staging.discovery.\t5\tIN\tSRV\t0 100 80 m{number}.{web}",
            ]
        )
    )


def zone(serial: int, *members: Sequence[Line]) -> list[Line]:
    return with_soa_last([soa(serial), *(line for one in members for line in one)])


def feed(transfer: Inbound, records: Sequence[Line], qtype: Type = Type.AXFR) -> None:
    for message in messages(records, qtype):
        transfer.feed(read_message(message))


def test_axfr_in_any_number_of_messages() -> None:
    records = zone(7, member(1, "10.0.0.1"), member(2, "10.0.0.2"))
    for per_message in (1, 2, 5, 100):
        transfer = Inbound(ZONE, Type.AXFR, IDENT)
        read(transfer, messages(records, per_message=per_message))
        assert transfer.kind is Kind.FULL
        assert transfer.soa == (7, 60, 10, 86400, 2)
        assert transfer.count == len(records)
        assert set(transfer.records) == {WEB, (b"m1", *WEB), (b"m2", *WEB)}


def test_records_without_members_are_left_out() -> None:
    transfer = Inbound(ZONE, Type.AXFR, IDENT)
    text = (
        "discovery.\t5\tIN\tNS\tlocalhost.\n"
        "b._dns-sd._udp.discovery.\t5\tIN\tPTR\tstaging.discovery.\n"
        "_admin._tcp.web.staging.discovery.\t5\tIN\tSRV\t0 1 1 m1.web.staging.discovery."
    )
    read(transfer, messages(zone(7, lines(text))))
    assert transfer.records == {}


def test_ixfr_of_a_current_zone() -> None:
    for serial in (7, 8):  # the client's serial is equal or newer
        transfer = Inbound(ZONE, Type.IXFR, IDENT, serial)
        read(transfer, messages([soa(7)], Type.IXFR))
        assert transfer.kind is Kind.CURRENT


def test_ixfr_answered_with_the_whole_zone() -> None:
    transfer = Inbound(ZONE, Type.IXFR, IDENT, 3)
    read(transfer, messages(zone(7, member(1, "10.0.0.1")), Type.IXFR, per_message=1))
    assert transfer.kind is Kind.FULL
    assert WEB in transfer.records


def test_ixfr_of_an_empty_zone_in_two_messages() -> None:
    transfer = Inbound(ZONE, Type.IXFR, IDENT, 3)
    read(transfer, messages(zone(7), Type.IXFR, per_message=1))
    assert (transfer.kind, transfer.records) == (Kind.FULL, {})


@pytest.mark.parametrize("per_message", [1, 3, 100])
def test_ixfr_over_several_versions(per_message: int) -> None:
    copy, _ = full_copy("\n".join(text_of(zone(1, member(1, "10.0.0.1"))[:-1])), ZONE, NAMESPACES)
    records = [
        *(soa(4), soa(1), *member(1, "10.0.0.1"), soa(3), *member(2, "10.0.0.2"), *member(3, "10.0.0.3")),
        *(soa(3), *member(3, "10.0.0.3"), soa(4), *member(4, "10.0.0.4"), soa(4)),
    ]
    transfer = Inbound(ZONE, Type.IXFR, IDENT, 1)
    read(transfer, messages(records, Type.IXFR, per_message=per_message))
    assert transfer.kind is Kind.INCREMENTAL
    assert [(len(one.deleted), len(one.added)) for one in transfer.versions] == [(4, 8), (4, 4)]
    following, changed = drain(copy, transfer)
    assert (copy.serial, following.serial) == (1, 4)
    (content,) = changed.values()
    assert content is not None
    (found,) = content.sets
    assert [one.name for one in found.members] == ["member_0000000002", "member_0000000004"]


def test_a_service_that_loses_its_last_member_ends() -> None:
    copy, _ = full_copy("\n".join(text_of(zone(1, member(1, "10.0.0.1"))[:-1])), ZONE, NAMESPACES)
    transfer = Inbound(ZONE, Type.IXFR, IDENT, 1)
    read(transfer, messages([soa(2), soa(1), *member(1, "10.0.0.1"), soa(2), soa(2)], Type.IXFR))
    _, changed = drain(copy, transfer)
    assert changed == {WEB: None}


@pytest.mark.parametrize(
    "change",
    [
        [soa(2), soa(1), *member(9, "10.0.0.9"), soa(2), soa(2)],  # deletes what does not exist
        [soa(2), soa(1), soa(2), *member(1, "10.0.0.1"), soa(2)],  # adds what exists
    ],
)
def test_a_difference_that_does_not_fit_is_rejected(change: list[Line]) -> None:
    copy, _ = full_copy("\n".join(text_of(zone(1, member(1, "10.0.0.1"))[:-1])), ZONE, NAMESPACES)
    transfer = Inbound(ZONE, Type.IXFR, IDENT, 1)
    read(transfer, messages(change, Type.IXFR))
    with pytest.raises(BadTransferError, match="record"):
        drain(copy, transfer)


def text_of(records: Sequence[Line]) -> list[str]:
    kinds = {6: "SOA", 16: "TXT", 33: "SRV", 1: "A"}
    return [
        f"{owner}\t{ttl}\tIN\t{kinds[int(rdata.rdtype)]}\t{rdata.to_text()}" for owner, ttl, rdata in records
    ]


ONE = member(1, "10.0.0.1")
OUTSIDE = lines("www.example.com.\t5\tIN\tA\t10.0.0.1")


@pytest.mark.parametrize(
    ("qtype", "records", "reason"),
    [
        (Type.AXFR, [*ONE, soa(7)], "first record is not the SOA"),
        (Type.AXFR, [soa(7), *OUTSIDE, soa(7)], "outside of the zone"),
        (Type.AXFR, [soa(7), *ONE, soa(8)], "last record is not the SOA"),
        (Type.AXFR, [soa(7), soa(7), *ONE], "after its end"),
        (Type.IXFR, [soa(7), soa(3), *ONE, soa(5), soa(6)], "begins at another version"),
        (Type.IXFR, [soa(7), soa(3), *OUTSIDE], "outside of the zone"),
    ],
)
def test_invalid_transfers(qtype: Type, records: list[Line], reason: str) -> None:
    transfer = Inbound(ZONE, qtype, IDENT, 3 if qtype is Type.IXFR else None)
    with pytest.raises(BadTransferError, match=reason):
        feed(transfer, records, qtype)


def test_a_transfer_that_ends_early_is_not_complete() -> None:
    transfer = Inbound(ZONE, Type.AXFR, IDENT)
    assert [transfer.feed(read_message(one)) for one in messages([soa(7), *ONE], per_message=2)] == [
        False
    ] * 3


def test_too_many_records() -> None:
    transfer = Inbound(ZONE, Type.AXFR, IDENT, max_records=4)
    with pytest.raises(BadTransferError, match="more than 4 records"):
        feed(transfer, zone(7, ONE))


@pytest.mark.parametrize(
    ("rcode", "name"), [(2, "SERVFAIL"), (5, "REFUSED"), (9, "NOTAUTH"), (11, "RCODE 11")]
)
def test_errors_of_a_primary(rcode: int, name: str) -> None:
    query = dns.message.make_query("discovery.", "AXFR", id=IDENT)
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode(rcode))
    with pytest.raises(RefusedTransferError, match=name):
        Inbound(ZONE, Type.AXFR, IDENT).feed(read_message(response.to_wire()))


@pytest.mark.parametrize("fault", ["id", "query", "question", "empty"])
def test_messages_that_are_no_response(fault: str) -> None:
    (message,) = messages(zone(7), apex="example." if fault == "question" else "discovery.")
    if fault == "id":
        message = b"\0\0" + message[2:]
    elif fault == "query":
        message = message[:2] + b"\0" + message[3:]
    elif fault == "empty":
        message = message[:6] + bytes(6) + message[12:]
    with pytest.raises(BadTransferError):
        Inbound(ZONE, Type.AXFR, IDENT).feed(read_message(message))


def test_queries_are_those_of_dnspython() -> None:
    axfr = dns.message.from_wire(build_query(ZONE, Type.AXFR, 5))
    assert (axfr.id, axfr.question[0].to_text()) == (5, "discovery. IN AXFR")
    ixfr = dns.message.from_wire(build_query(ZONE, Type.IXFR, 5, 1 << 31))
    assert ixfr.authority[0].to_text() == "discovery. 0 IN SOA . . 2147483648 0 0 0 0"


def test_the_soa_of_a_response() -> None:
    (message,) = messages([soa(9)], Type.SOA)
    found = read_soa(read_message(message), ZONE, IDENT)
    assert found is not None
    assert found.serial == 9
    truncated = dns.message.from_wire(message)
    truncated.flags |= dns.flags.TC
    truncated.answer.clear()
    assert read_soa(read_message(truncated.to_wire()), ZONE, IDENT) is None
    (empty,) = messages(OUTSIDE, Type.SOA)
    with pytest.raises(RefusedTransferError, match="no SOA"):
        read_soa(read_message(empty), ZONE, IDENT)


def test_serials_wrap_around() -> None:
    assert is_newer(0, 0xFFFFFFFF)
    assert is_newer(5, 3)
    assert not is_newer(3, 5)
    assert not is_newer(3, 3)
    assert not is_newer(1 << 31, 0)


@given(st.data())
def test_any_damage_of_a_message_is_an_error_or_a_message(data: st.DataObject) -> None:
    """The reader raises nothing but `BadTransferError`, however a message is changed or cut."""
    (message,) = messages(zone(7, ONE))
    changed = bytearray(message)
    for at in data.draw(st.lists(st.integers(0, len(message) - 1), max_size=5)):
        changed[at] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(message)))])
    try:
        found = read_message(cut)
    except BadTransferError:
        return
    assert found.ident <= 0xFFFF


@given(st.binary(max_size=300))
def test_any_bytes_are_an_error_or_a_message(message: bytes) -> None:
    try:
        read_message(message)
    except BadTransferError:
        return
    assert len(message) >= 12


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",
        b"\xc0\x0e\0",
        b"\x03abc\xc0\x0c",
        b"\x40abc\0",
        b"\x80\0",
        b"\x3f" + b"x" * 63 + b"\xc0\x0c",
    ],
)
def test_malformed_names(name: bytes) -> None:
    with pytest.raises(BadTransferError):
        read_name(bytes(12) + name, 12, {})


def test_a_name_that_is_too_long() -> None:
    labels = (b"\x3f" + b"x" * 63) * 4
    with pytest.raises(BadTransferError, match="longer than 255"):
        read_name(labels + b"\0", 0, {})


def test_versions_have_no_unneeded_records() -> None:
    version = Version([], [ZoneRecord(WEB, int(Type.A), b"\x0a\0\0\1")])
    assert version.added[0].soa is None
