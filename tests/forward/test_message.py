"""Queries to upstreams, and the checks of their replies."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.rcode
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
)
from tests.support.line_count import at_most_lines
from zkdns.dns.message import parse_query
from zkdns.forward.message import BadReplyError, build_query, read_reply
from zkdns.forward.reply import Reply

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
        (framed(b"\0"), "1 bytes after"),
        (framed(record(POINTER, 1, b"\1\2\3\4")), "16 bytes after"),
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
    assert read_reply(framed(record(longest, 1, bytes(4)), 1), A).ends == (len(longest) + 14,)
    too_long = begin + bytes((last + 1,)) + b"x" * (last + 1) + POINTER
    assert "longer than 255" in rejected(framed(record(too_long, 1, bytes(4)), 1))
    pointed = struct.pack("!H", 0xC000 | START)
    for more, fits in ((b"", True), (b"\1y", False)):
        wire = framed(record(longest, 1, bytes(4)) + record(more + pointed, 1, bytes(4)), 2)
        if fits:
            assert read_reply(wire, A).counts == (2, 0, 0)
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
    wire = framed(first + record(struct.pack("!H", 0xC000 | at), 1, bytes(4)), 2)
    assert read(wire).answer[1].name.to_text() in ("example.com.", "a.b.", "b.")
    assert read_reply(wire, A).counts == (2, 0, 0)


def test_data_of_other_classes_are_not_checked() -> None:
    chaos = POINTER + struct.pack("!HHIH", 1, 3, 60, 3) + b"abc"
    assert read_reply(framed(chaos, 1), A).counts == (1, 0, 0)


OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (framed(OPT + OPT, 0, 0, 2), "two OPT"),
        (framed(OPT, 1), "wrong place"),
        (framed(OPT, 0, 1), "wrong place"),
        (framed(OPT + record(POINTER, 1, bytes(4)), 1, 0, 1), "wrong place"),
        (framed(POINTER + OPT[1:], 0, 0, 1), "wrong place"),
        (framed(record(b"\0", 41, b"\0\x0f\0\1"), 0, 0, 1), "after the end"),
        (framed(record(b"\0", 41, b"\0\x0f\0"), 0, 0, 1), "cut short"),
    ],
)
def test_dns_20_bad_opt_record_is_rejected(wire: bytes, reason: str) -> None:
    assert reason in rejected(wire)


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
        (reply("SOA", [soa(minimum=5, ttl=900)]), 900, False),
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
        (reply("A", [soa()]), 0, True),
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


# -- properties -------------------------------------------------------------------------------------------


def check_arbitrary(wire: bytes) -> None:
    """Check that any bytes give a consistent reply or `BadReplyError`."""
    try:
        found = read_reply(wire, A)
    except BadReplyError:
        return
    assert START + len(found.records) <= len(wire)
    assert len(found.ends) == len(found.ttls) == len(found.ttls_at) == sum(found.counts)
    assert list(found.ends) == sorted(found.ends)
    assert all(at + 4 <= len(found.records) for at in found.ttls_at)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Replies with records of all types in all sections."""
    names = st.sampled_from([NAME, "example.com.", "web.example.com.", "a.b.c.example.net.", "."])
    records = st.lists(st.builds(rrset, st.sampled_from(sorted(DATA)), names), max_size=4)
    options = draw(st.sampled_from([(), (extended_error(3, "stale"),), (option(3, b"x"),)]))
    edns = draw(st.booleans())
    return message("A", draw(records), draw(records), draw(records), edns=edns, options=options).to_wire(
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
    assert "bytes after" in rejected(wire + b"\0")


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
