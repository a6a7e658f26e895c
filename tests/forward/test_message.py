"""Queries to upstreams, and the checks of their replies."""

from __future__ import annotations

import struct
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.forward.helpers import (
    DATA,
    NAME,
    extended_error,
    message,
    option,
    question,
    read,
    reply,
    rrset,
    soa,
    to_wire,
)
from tests.support.line_count import at_most_lines
from zkdns.dns.message import parse_query
from zkdns.forward.message import build_query, read_reply
from zkdns.forward.records import BadReplyError
from zkdns.forward.reply import Reply
from zkdns.forward.rewriting import MAX_ALIASES

A = question()
HEADER = 12
START = HEADER + len(A.name) + 4
MAX_MESSAGE = 65535


def framed(
    records: bytes, answers: int = 0, authorities: int = 0, additionals: int = 0, *, flags: int = 0x8180
) -> bytes:
    """Return a reply to the A question with these records, valid or not."""
    header = struct.pack("!6H", 4711, flags, 1, answers, authorities, additionals)
    return header + A.name + b"\0\1\0\1" + records


def record(owner: bytes, rtype: int, data: bytes, ttl: int = 60) -> bytes:
    return owner + struct.pack("!HHIH", rtype, 1, ttl, len(data)) + data


def rejected(wire: bytes) -> str:
    """Return the reason why a message is rejected."""
    with pytest.raises(BadReplyError) as caught:
        read_reply(wire, A)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


# -- queries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("cd", [False, True])
@pytest.mark.parametrize("qtype", ["A", "TYPE65400"])
def test_query_has_the_question_an_opt_record_and_rd(qtype: str, *, do: bool, cd: bool) -> None:
    built = dns.message.from_wire(build_query(question(qtype, do=do, cd=cd), 0xABCD))
    assert built.id == 0xABCD
    assert [entry.to_text() for entry in built.question] == [f"{NAME} IN {qtype}"]
    assert built.flags == dns.flags.RD | dns.flags.AD | (dns.flags.CD if cd else 0)
    assert (built.edns, built.payload, built.options) == (0, 1232, ())
    assert built.ednsflags == (dns.flags.DO if do else 0)


def test_query_without_edns_has_only_header_and_question() -> None:
    built = dns.message.from_wire(build_query(question(do=True), 1, edns=False))
    assert built.edns == -1
    assert not built.additional


def test_parse_query_accepts_built_queries() -> None:
    parsed = parse_query(build_query(question("AAAA", do=True, cd=True), 7))
    assert (parsed.id, parsed.rd, parsed.ad, parsed.cd, parsed.qtype) == (7, True, True, True, 28)
    assert parsed.edns is not None
    assert parsed.edns.do
    assert (parse_query(build_query(A, 7)).cd, parse_query(build_query(A, 7)).ad) == (False, True)


# -- the question -----------------------------------------------------------------------------------------


def test_dns_31_case_of_the_question_does_not_matter() -> None:
    wire = message("A", [rrset("A")], name="wWw.eXample.COM.").to_wire()
    assert read_reply(wire, A).counts == (1, 0, 0)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (message("A", name="www.example.org.").to_wire(), "another name"),
        (message("A", name="ww.example.com.").to_wire(), "another name"),
        (message("A", name="www.example.com.org.").to_wire(), "another name"),
        (message("A", name=".").to_wire(), "another name"),
        (message("AAAA").to_wire(), "another type or class"),
        (framed(b"")[:-1] + b"\3", "another type or class"),
        (framed(b"")[:-1], "another type or class"),
        (framed(b"")[:20], "another name"),
        (dns.message.make_query(NAME, "A", id=4711).to_wire(), "a query"),
        (framed(b"", flags=0x8180 | 4 << 11), "opcode 4"),
        (b"", "0 bytes"),
        (framed(b"")[:11], "11 bytes"),
        (struct.pack("!6H", 4711, 0x8180, 0, 0, 0, 0) + b"\0", "0 questions"),
        (struct.pack("!6H", 4711, 0x8180, 2, 0, 0, 0) + 2 * (A.name + b"\0\1\0\1"), "2 questions"),
    ],
)
def test_dns_31_replies_to_another_question_are_rejected(wire: bytes, reason: str) -> None:
    assert reason in rejected(wire)


def test_dot_within_a_label_makes_another_name() -> None:
    wire = struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0) + b"\x0fwww\7example\3com\0\0\1\0\1"
    assert len(wire) == len(framed(b""))
    assert "another name" in rejected(wire)


@pytest.mark.parametrize("rcode", [0, 1, 4, 5])
def test_bare_header_is_rejected_with_its_rcode(rcode: int) -> None:
    with pytest.raises(BadReplyError) as caught:
        read_reply(struct.pack("!6H", 4711, 0x8180 | rcode, 0, 0, 0, 0), A)
    assert caught.value.rcode == rcode


def test_other_bad_replies_have_no_rcode() -> None:
    bare = struct.pack("!6H", 4711, 0x8181, 0, 0, 0, 0)
    for wire in (framed(b"")[:-1], struct.pack("!6H", 4711, 0x8181, 0, 1, 0, 0), bare + b"\0"):
        with pytest.raises(BadReplyError) as caught:
            read_reply(wire, A)
        assert caught.value.rcode is None


# -- well-formed records ----------------------------------------------------------------------------------

POINTER = b"\xc0\x0c"


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (framed(b"", 1), "ends within"),
        (framed(record(POINTER, 1, b"\1\2\3\4"), 2), "ends within"),
        (framed(record(POINTER, 1, b"\1\2\3\4")[:-1], 1), "ends within"),
        (framed(record(POINTER, 99, b"\1\2\3\4")[:-1], 1), "ends within"),
        (framed(record(POINTER, 1, b"\1\2\3\4")[:5], 1), "ends within"),
        (framed(b"\xc0", 1), "ends within"),
        (framed(b"\x05abc", 1), "ends within"),
        (framed(record(POINTER, 1, b"\1\2\3"), 1), "address of 3 bytes"),
        (framed(record(POINTER, 28, b"\1\2\3\4"), 1), "address of 4 bytes"),
        (framed(record(struct.pack("!H", 0xC000 | START), 1, bytes(4)), 1), "points to where no name"),
        (framed(record(b"\xff\xff", 1, bytes(4)), 1), "points to where no name"),
        (framed(record(b"\xc0\x0b", 1, bytes(4)), 1), "points to where no name"),
        (framed(record(b"\xc0\0", 1, bytes(4)), 1), "points to where no name"),
        (framed(record(b"\1a" + struct.pack("!H", 0xC000 | START), 1, bytes(4)), 1), "points to where no"),
        (framed(record(b"\x40" + bytes(64), 1, bytes(4)), 1), "unknown kind 0x40"),
        (framed(record(b"\x80\0", 1, bytes(4)), 1), "unknown kind 0x80"),
        (framed(record(4 * (b"\x3f" + bytes(63)) + b"\0", 1, bytes(4)), 1), "longer than 255"),
        (framed(record(POINTER, 5, POINTER + b"\0"), 1), "type 5"),
        (framed(record(POINTER, 5, b""), 1), "ends within"),
        (framed(record(POINTER, 5, b"") + record(POINTER, 5, POINTER), 2), "type 5"),
        (framed(record(POINTER, 15, b"\0\1"), 1), "ends within"),
        (framed(record(POINTER, 6, POINTER + POINTER + bytes(19)), 1), "type 6"),
        (framed(record(POINTER, 2, b"\3abc"), 1), "ends within"),
        (framed(record(POINTER, 2, b"\3abc") + record(POINTER, 2, POINTER), 2), "type 2"),
    ],
)
def test_malformed_replies_are_rejected(wire: bytes, reason: str) -> None:
    assert reason in rejected(wire)


def test_names_have_at_most_255_bytes() -> None:
    last = 255 - len(A.name) - 3 * 64 - 1
    begin = 3 * (b"\x3f" + b"x" * 63)
    longest = begin + bytes((last,)) + b"x" * last + POINTER
    assert read_reply(framed(record(longest, 1, bytes(4)), 0, 0, 1), A).ends == (len(longest) + 14,)
    too_long = begin + bytes((last + 1,)) + b"x" * (last + 1) + POINTER
    assert "longer than 255" in rejected(framed(record(too_long, 1, bytes(4)), 0, 0, 1))
    pointed = struct.pack("!H", 0xC000 | START)
    for more, fits in ((b"", True), (b"\1y", False)):
        wire = framed(record(longest, 1, bytes(4)) + record(more + pointed, 1, bytes(4)), 0, 0, 2)
        if fits:
            assert read_reply(wire, A).counts == (0, 0, 2)
        else:
            assert "longer than 255" in rejected(wire)


def test_name_that_overlaps_the_pointer_to_it_is_rejected() -> None:
    """The pointer leads to a label that includes the pointer: the name would contain itself."""
    data = b"\3"  # data of an unknown type; the last byte before the next owner
    at = START + 2 + 10
    wire = framed(record(POINTER, 65400, data) + record(struct.pack("!H", 0xC000 | at), 1, bytes(4)), 2)
    assert "points into itself" in rejected(wire)


TTL_AT = START + 2 + 4
"""Offset of the first record's TTL if its owner is the name of the question."""


@pytest.mark.parametrize(
    ("at", "ttl"),
    [
        (0, 0x01610000),  # a label and the root
        (3, 0x100),  # the root
        (2, 0xC00C),  # a pointer
        (1, 0x016100),
        (-1, 0x61000000),  # a label that starts before it
        (-3, 60),  # a label across it, whose length is the low byte of the type
    ],
)
def test_dns_35_name_with_a_ttl_inside_is_rejected(at: int, ttl: int) -> None:
    """A second later it would be another name, or malformed."""
    first = record(POINTER, 0xFF14, b"x" * 12 + b"\0", ttl)
    for stray in (
        record(struct.pack("!H", 0xC000 | TTL_AT + at), 1, bytes(4)),
        record(POINTER, 5, b"\1z" + struct.pack("!H", 0xC000 | TTL_AT + at)),
    ):
        assert rejected(framed(first + stray, 2)) == "a name has a TTL in it"


@pytest.mark.parametrize("at", [HEADER + 4, START + 2 + 10, START + 2 + 12])
def test_names_may_point_into_the_question_and_into_unknown_data(at: int) -> None:
    first = record(POINTER, 65400, b"\1a\1b\0")
    wire = framed(first + record(struct.pack("!H", 0xC000 | at), 1, bytes(4)), 1, 0, 1)
    assert read(wire).additional[0].name.to_text() in ("example.com.", "a.b.", "b.")
    assert read_reply(wire, A).counts == (1, 0, 1)


def test_data_of_other_classes_are_not_checked() -> None:
    chaos = POINTER + struct.pack("!HHIH", 1, 3, 60, 3) + b"abc"
    assert read_reply(framed(chaos, 0, 0, 1), A).counts == (0, 0, 1)


OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


ADDRESS = record(POINTER, 1, bytes(4))


@pytest.mark.parametrize(
    "wire",
    [
        framed(ADDRESS + OPT + OPT, 1, 0, 2),
        framed(ADDRESS + OPT, 2),
        framed(OPT + ADDRESS, 2),
        framed(ADDRESS + OPT, 1, 1),
        framed(ADDRESS + OPT + OPT, 1, 1, 1),
        framed(ADDRESS + POINTER + OPT[1:], 1, 0, 1),
        framed(ADDRESS + record(b"\0", 41, b"\0\x0f\0\1"), 1, 0, 1),
        framed(ADDRESS + record(b"\0", 41, b"\0\x0f\0"), 1, 0, 1),
        framed(ADDRESS + OPT[:5] + b"\1" + OPT[6:] + OPT, 1, 0, 2),
    ],
)
def test_dns_20_reply_is_used_without_a_bad_opt_record(wire: bytes) -> None:
    found = read_reply(wire, A)
    assert (found.rcode, found.has_edns, found.counts, found.records) == (0, False, (1, 0, 0), ADDRESS)


def test_records_behind_a_bad_opt_record_are_kept_with_their_names() -> None:
    pointer_to_target = struct.pack("!H", 0xC000 | START + len(OPT) + 2 + 10)
    alias = record(POINTER, 5, b"\3web" + b"\xc0\x10")
    wire = framed(OPT + alias + record(pointer_to_target, 1, bytes(4)) + OPT, 3, 0, 1)
    found = read_reply(wire, A)
    assert found.counts == (2, 0, 0)
    rebuilt = wire[:4] + struct.pack("!4H", 1, 2, 0, 0) + wire[12:START] + found.records
    assert [entry.to_text() for entry in read(rebuilt).answer] == [
        "www.example.com. 60 IN CNAME web.example.com.",
        "web.example.com. 60 IN A 0.0.0.0",
    ]


# -- aliases ----------------------------------------------------------------------------------------------


def answers_of(*records: str, qtype: str = "A", authority: str | None = None, **options: Any) -> list[str]:
    """Read a reply with these answer records, each as `name type data`; return those that are kept."""
    found = reply_with(*records, qtype=qtype, authority=authority, **options)
    rendered = found.render(parse_query(build_query(question(qtype), 1)), MAX_MESSAGE, 0)
    return [entry.to_text().replace("300 IN ", "") for entry in read(rendered).answer]


def reply_with(*records: str, qtype: str = "A", authority: str | None = None, **options: Any) -> Reply:
    split = [one.split(maxsplit=2) for one in records]
    answer = [rrset(rtype, name, data) for name, rtype, data in split]
    soa = [dns.rrset.from_text(authority, 900, "IN", "SOA", DATA["SOA"])] if authority else []
    return reply(qtype, answer, soa, **options)


OWN = f"{NAME} A 192.0.2.1"
ALIAS = f"{NAME} CNAME web.example.com."


@pytest.mark.parametrize(
    ("records", "strangers"),
    [
        ((OWN,), ("web.example.com. A 192.0.2.2",)),
        ((OWN,), (". A 192.0.2.2",)),
        ((OWN,), ("example.com. A 192.0.2.2", "a.www.example.com. A 192.0.2.2")),
        ((ALIAS, "web.example.com. A 192.0.2.1"), ("other.example.com. A 192.0.2.2",)),
        ((ALIAS, "web.example.com. A 192.0.2.1"), ("other.example.com. CNAME evil.example.",)),
        (("WWW.example.com. A 192.0.2.1",), ("evil.example. A 192.0.2.2",)),
        (("example.com. DNAME example.net.", f"{NAME} CNAME www.example.net."), ("com. A 192.0.2.2",)),
        (("web.example.com. A 192.0.2.1", ALIAS), ("x.example. A 192.0.2.2",)),  # in another order
    ],
)
def test_records_of_other_names_are_left_out(records: tuple[str, ...], strangers: tuple[str, ...]) -> None:
    kept = [record.replace("WWW", "www") for record in records]
    assert answers_of(*records) == kept
    assert answers_of(*records, *strangers) == kept
    assert answers_of(*strangers, *records) == kept


def test_answer_with_records_of_other_names_only_is_rejected() -> None:
    for stranger in ("web.example.com. A 192.0.2.2", "other.example. CNAME www.example.com."):
        with pytest.raises(BadReplyError, match="about another name"):
            reply_with(stranger)


def test_aliases_are_followed_in_order() -> None:
    chain = [f"{NAME} CNAME n0.example.", *(f"n{n}.example. CNAME N{n + 1}.example." for n in range(20))]
    found = reply_with(*reversed(chain), "n20.example. A 192.0.2.1")
    assert found.aliases == tuple(question(name=f"n{n}.example.").name for n in range(21))
    assert found.counts == (22, 0, 0)
    assert reply_with(ALIAS, qtype="CNAME").aliases == ()


def test_number_of_aliases_is_limited() -> None:
    for count in (MAX_ALIASES, MAX_ALIASES + 1):
        chain = [
            f"{NAME} CNAME n1.example.",
            *(f"n{n}.example. CNAME n{n + 1}.example." for n in range(1, count)),
        ]
        if count == MAX_ALIASES:
            assert len(reply_with(*chain).aliases) == count
        else:
            with pytest.raises(BadReplyError, match="more than 64 aliases"):
                reply_with(*chain)


@pytest.mark.parametrize(
    "records",
    [
        (f"{NAME} CNAME {NAME}",),
        (ALIAS, f"web.example.com. CNAME {NAME}"),
        (ALIAS, "web.example.com. CNAME a.example.", "a.example. CNAME web.example.com."),
    ],
)
def test_loops_of_aliases_are_rejected(records: tuple[str, ...]) -> None:
    with pytest.raises(BadReplyError, match="loop"):
        reply_with(*records)


@pytest.mark.parametrize(
    ("records", "zone", "is_kept"),
    [
        ((), "example.com.", True),
        ((), NAME, True),
        ((), ".", True),
        ((), "example.org.", False),
        ((), "a.www.example.com.", False),
        ((f"{NAME} CNAME web.example.org.",), "example.org.", True),
        ((f"{NAME} CNAME web.example.org.",), "example.net.", False),
    ],
)
@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_soa_of_a_zone_without_the_name_is_left_out(
    records: tuple[str, ...], zone: str, rcode: str, *, is_kept: bool
) -> None:
    found = reply_with(*records, authority=zone, rcode=rcode)
    assert found.is_negative
    assert found.counts == (len(records), is_kept, 0)
    assert (found.ttl > 0) == is_kept


@pytest.mark.parametrize(
    ("flags", "rcode", "authority", "answer", "expected"),
    [
        (0, "NOERROR", [rrset("NS", "example.com.")], [], True),
        (dns.flags.RA, "NOERROR", [rrset("NS", "example.com.")], [], False),
        (dns.flags.AA, "NOERROR", [rrset("NS", "example.com.")], [], False),
        (0, "NXDOMAIN", [rrset("NS", "example.com.")], [], False),
        (0, "NOERROR", [rrset("NS", "example.com."), soa()], [], False),
        (0, "NOERROR", [rrset("NS", "example.com.")], [rrset("A")], False),
        (0, "NOERROR", [], [], False),
    ],
)
def test_referral_names_only_other_servers(
    flags: int, rcode: str, authority: list[dns.rrset.RRset], answer: list[dns.rrset.RRset], *, expected: bool
) -> None:
    made = message("A", answer, authority, rcode=rcode)
    made.flags = made.flags & ~dns.flags.RA | flags
    assert read_reply(made.to_wire(), A).is_referral == expected


# -- forbidden compression --------------------------------------------------------------------------------

EXAMPLE = b"\xc0\x10"
"""A pointer to `example.com` in the question."""


@pytest.mark.parametrize(
    ("qtype", "data", "expected"),
    [
        ("SRV", b"\0\1\0\2\0\3\2m1" + EXAMPLE, "1 2 3 m1.example.com."),
        ("SRV", b"\0\1\0\2\0\3" + EXAMPLE, "1 2 3 example.com."),
        ("NAPTR", b"\0\1\0\2\1S\7SIP+D2U\0\4_sip" + EXAMPLE, '1 2 "S" "SIP+D2U" "" _sip.example.com.'),
        ("KX", b"\0\1\2kx" + EXAMPLE, "1 kx.example.com."),
        ("AFSDB", b"\0\1\2fs" + EXAMPLE, "1 fs.example.com."),
        ("RP", b"\1a" + EXAMPLE + b"\1b" + EXAMPLE, "a.example.com. b.example.com."),
        ("DNAME", EXAMPLE, "example.com."),
    ],
)
def test_dns_33_forbidden_compression_is_undone(qtype: str, data: bytes, expected: str) -> None:
    what = question(qtype)
    header = struct.pack("!6H", 4711, 0x8180, 1, 2, 0, 1)
    records = record(POINTER, what.qtype, data) * 2 + OPT
    wire = header + what.name + what.qtype.to_bytes(2) + b"\0\1" + records
    found = read_reply(wire, what)
    assert (found.counts, found.has_edns) == ((2, 0, 0), True)
    rendered = found.render(parse_query(build_query(what, 1)), 512, 0)
    assert [entry[0].to_text() for entry in read(rendered).answer] == [expected] * 2
    assert b"\xc0\x10" not in found.records


def test_mx_keeps_its_compression() -> None:
    wire = to_wire(message("MX", [rrset("MX")]))
    assert read_reply(wire, question("MX")).records in wire


def test_records_that_become_too_long_are_rejected() -> None:
    long_name = 3 * (b"\x3f" + b"x" * 63) + b"\0"
    first = record(POINTER, 33, bytes(6) + long_name)
    pointer = struct.pack("!H", 0xC000 | START + 2 + 10 + 6)
    count = 1000
    what = question("SRV")
    wire = struct.pack("!6H", 1, 0x8180, 1, 1 + count, 0, 0) + what.name + b"\0\x21\0\1" + first
    with pytest.raises(BadReplyError, match="more than 65535 bytes"):
        read_reply(wire + count * record(POINTER, 33, bytes(6) + pointer), what)


# -- contents of a reply ----------------------------------------------------------------------------------


@pytest.mark.parametrize("edns", [False, True])
def test_flags_and_counts(*, edns: bool) -> None:
    found = reply(
        "A", [rrset("A")], [rrset("NS", "example.com.")], [rrset("AAAA", "ns1.example.com.")], edns=edns
    )
    assert found.counts == (1, 1, 1)
    assert (found.rcode, found.truncated, found.authentic, found.has_edns) == (0, False, False, edns)
    found = reply("A", flags=dns.flags.TC | dns.flags.AD, rcode="SERVFAIL", edns=edns)
    assert (found.rcode, found.truncated, found.authentic, found.has_edns) == (2, True, True, edns)


def test_rcode_includes_the_bits_of_the_opt_record() -> None:
    assert reply("A", rcode="BADVERS").rcode == 16
    assert reply("A", rcode="BADCOOKIE").rcode == 23


def test_only_extended_errors_are_kept_of_the_options() -> None:
    options = [
        option(10, b"12345678"),
        extended_error(22, "no way"),
        extended_error(9),
    ]
    found = reply("A", rcode="SERVFAIL", options=options)
    assert found.ede == b"\0\x0f\0\x08\0\x16no way" + b"\0\x0f\0\2\0\x09"


def test_invalid_text_of_an_extended_error_is_removed() -> None:
    wire = framed(record(b"\0", 41, b"\0\x0f\0\4\0\xff\xff\xfe"), 0, 0, 1)
    assert read_reply(wire, A).ede == b"\0\x0f\0\2\0\xff"


def test_records_after_the_opt_record_are_removed() -> None:
    """They would move, and pointers into them would be wrong."""
    address = record(POINTER, 1, bytes(4))
    found = read_reply(framed(address * 2 + OPT + address * 2, 1, 0, 4), A)
    assert found.counts == (1, 0, 1)
    assert found.records == address * 2
    assert found.ends == (16, 32)
    assert found.has_edns
    assert read_reply(framed(OPT + address, 0, 0, 2), A).counts == (0, 0, 0)


# -- TTLs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "ttl", "is_negative"),
    [
        (reply("A", [rrset("A")]), 300, False),
        (reply("A", [rrset("A")], [rrset("NS", "example.com.", ttl=60)]), 60, False),
        (reply("A", [rrset("CNAME", ttl=20), rrset("A", "web.example.com.")]), 20, False),
        (reply("A", [rrset("A", ttl=0)]), 0, False),
        (reply("CNAME", [rrset("CNAME")]), 300, False),
        (reply("ANY", [rrset("HINFO")]), 300, False),
        (reply("SOA", [soa(minimum=5, ttl=900)], name="example.com."), 900, False),
        # Negative replies: the minimum of TTL and MINIMUM (RFC 2308 §5); 0 without an SOA record.
        (reply("A", [], [soa(minimum=60, ttl=900)]), 60, True),
        (reply("A", [], [soa(minimum=900, ttl=60)]), 60, True),
        (reply("A", [], [soa(minimum=60, ttl=900)], rcode="NXDOMAIN"), 60, True),
        (reply("A", [rrset("CNAME", ttl=20)], [soa(minimum=60)]), 20, True),
        (reply("A", [rrset("CNAME", ttl=200)], [soa(minimum=60)], rcode="NXDOMAIN"), 60, True),
        (reply("ANY", [], [soa(minimum=60)]), 60, True),
        (reply("A", [], [soa(minimum=0)]), 0, True),
        (reply("A", [rrset("CNAME")]), 0, True),
        (reply("A", rcode="NXDOMAIN"), 0, True),
        (reply("A"), 0, True),
        (reply("A", [], [rrset("NS", "example.com.")]), 0, True),
        (reply("A", [soa()], name="example.com."), 0, True),
        # Inconclusive replies.
        (reply("A", rcode="SERVFAIL"), 0, False),
        (reply("A", [], [soa()], rcode="REFUSED"), 0, False),
        (reply("A", [rrset("A")], flags=dns.flags.TC), 0, False),
        (reply("A", [], [soa()], flags=dns.flags.TC), 0, True),
    ],
)
def test_dns_35_ttl_of_a_reply(found: Reply, ttl: int, *, is_negative: bool) -> None:
    assert (found.ttl, found.is_negative) == (ttl, is_negative)


def test_ttl_with_the_top_bit_set_is_zero() -> None:
    for ttl, counted in ((0x7FFFFFFF, 0x7FFFFFFF), (0x80000000, 0), (0xFFFFFFFF, 0)):
        found = read_reply(framed(record(POINTER, 1, bytes(4), ttl), 1), A)
        assert (found.ttl, found.ttls) == (counted, (counted,))
        found = reply("A", [], [soa(minimum=ttl)])
        assert found.ttl == min(counted, 900)


def test_records_of_one_set_get_the_shortest_ttl() -> None:
    """RFC 2181 §5.2."""
    addresses = [rrset("A", "web.example.com.", f"192.0.2.{ttl}", ttl=ttl) for ttl in (50, 20, 90)]
    found = reply("A", [rrset("CNAME", ttl=70), *addresses], [rrset("NS", "example.com.", ttl=80)])
    assert found.ttls == (70, 20, 20, 20, 80)
    assert found.ttl == 20


# -- properties -------------------------------------------------------------------------------------------


def check_arbitrary(wire: bytes) -> None:
    """Check that any bytes give a consistent reply or `BadReplyError`."""
    try:
        found = read_reply(wire, A)
    except BadReplyError:
        return
    assert START + len(found.records) <= MAX_MESSAGE
    assert len(found.ends) == len(found.ttls) == len(found.ttls_at) == sum(found.counts)
    assert list(found.ends) == sorted(found.ends)
    assert all(at + 4 <= len(found.records) for at in found.ttls_at)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Replies with records of all types in all sections."""
    names = st.sampled_from([NAME, "example.com.", "web.example.com.", "a.b.c.example.net.", "."])
    records = st.lists(st.builds(rrset, st.sampled_from(sorted(DATA)), names), max_size=4)
    above = st.sampled_from([NAME, "example.com.", "."])
    answer = st.lists(st.builds(rrset, st.sampled_from(sorted(DATA)), st.just(NAME)), max_size=4)
    authority = st.lists(st.builds(rrset, st.sampled_from(sorted(DATA)), above), max_size=4)
    options = draw(st.sampled_from([(), (extended_error(3, "stale"),), (option(3, b"x"),)]))
    edns = draw(st.booleans())
    return message("A", draw(answer), draw(authority), draw(records), edns=edns, options=options).to_wire(
        max_size=MAX_MESSAGE
    )


@st.composite
def mutated_messages(draw: st.DrawFn) -> bytes:
    """Such replies with bytes replaced, removed or inserted after the question."""
    wire = bytearray(draw(messages()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(START, max(START, len(wire))))
        until = at + draw(st.integers(0, 3))
        wire[at:until] = draw(
            st.binary(max_size=3) | st.builds(lambda low: b"\xc0" + bytes((low,)), st.integers(0, 255))
        )
    return bytes(wire)


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
@example(b"", 65535, 65535, 65535)
@settings(max_examples=300, deadline=None)
def test_arbitrary_records_are_read_or_rejected(
    records: bytes, answers: int, authorities: int, additionals: int
) -> None:
    check_arbitrary(records)
    check_arbitrary(framed(records, answers, authorities, additionals))


@given(mutated_messages())
@settings(max_examples=500, deadline=None)
def test_mutated_replies_are_read_or_rejected(wire: bytes) -> None:
    check_arbitrary(wire)


@given(messages())
@settings(max_examples=200, deadline=None)
def test_replies_are_read_and_rejected_if_a_byte_is_missing(wire: bytes) -> None:
    found = read_reply(wire, A)
    parsed = read(wire)
    expected = tuple(map(len, (parsed.answer, parsed.authority, parsed.additional)))
    assert found.counts == expected
    for size in range(len(wire)):
        rejected(wire[:size])
    assert read_reply(wire + bytes(20), A) == found


def test_dns_05_reading_takes_linear_time_with_many_pointers() -> None:
    """Thousands of names with thousands of pointers: each pointer is followed once."""
    pointers_at = START + len(record(POINTER, 65400, b""))
    count = (0x3FFF - pointers_at) // 2
    chain = POINTER + b"".join(struct.pack("!H", 0xC000 | pointers_at + 2 * at) for at in range(count - 1))
    first = record(POINTER, 65400, chain)
    rest = (MAX_MESSAGE - START - len(first)) // 12
    owners = (pointers_at + 2 * (count - 1 - at % count) for at in range(rest))
    others = b"".join(record(struct.pack("!H", 0xC000 | owner), 65400, b"") for owner in owners)
    wire = framed(first + others, 1 + rest)
    assert len(wire) > MAX_MESSAGE - 12
    with at_most_lines(
        10 * len(wire)
    ):  # it would be thousands of times more if each name were read to its end
        assert read_reply(wire, A).counts == (1 + rest, 0, 0)
