"""Responses made from a reply: flags, TTLs, extended errors and size limits."""

from __future__ import annotations

import itertools

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.forward.helpers import (
    DATA,
    NAME,
    TTL,
    extended_error,
    message,
    option,
    query,
    question,
    read,
    reply,
    rrset,
    sections,
    soa,
    to_wire,
)
from zkdns.dns.message import Query, parse_query
from zkdns.forward.message import read_reply
from zkdns.forward.reply import Reply

LIMIT = 65535


def rendered(
    found: Reply, client_query: Query, limit: int = LIMIT, seconds: int = 0, **options: object
) -> dns.message.Message:
    """Return the response to a query, read strictly."""
    wire = found.render(client_query, limit, seconds, **options)  # type: ignore[arg-type]
    assert len(wire) <= limit
    return read(wire)


OF_SEVERAL_RRSETS = {dns.rdatatype.CNAME, dns.rdatatype.DNAME, dns.rdatatype.RRSIG}


# -- all types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qtype", sorted(DATA))
def test_dns_33_records_of_every_type_pass_intact(qtype: str) -> None:
    """In all sections, with names that point into the question and into each other."""
    made = message(
        qtype,
        [rrset("CNAME"), *([rrset(qtype, "web.example.com.")] if qtype != "CNAME" else [])],
        [rrset(qtype, "example.com."), rrset("NS", "example.com.")],
        [rrset(qtype, "ns1.example.com."), rrset(qtype, NAME)],
        options=[option(10, b"cookie!!")],
    )
    wire = to_wire(made)
    found = read_reply(wire, question(qtype))
    response = rendered(found, query(qtype, "WWW.exAmple.COM."))
    assert sections(response) == sections(read(wire.replace(b"\3www\7example\3com", b"\3WWW\7exAmple\3COM")))
    assert response.question[0].name.to_text() == "WWW.exAmple.COM."
    assert response.options == ()


def test_dns_33_pointer_like_data_of_unknown_types_pass_intact() -> None:
    data = "\\# 9 c00c3fffc0c00001ff"
    found = reply("TYPE65400", [rrset("TYPE65400", NAME, data)])
    assert [record[0].to_text() for record in rendered(found, query("TYPE65400")).answer] == [data]


@st.composite
def replies(draw: st.DrawFn) -> dns.message.Message:
    """Replies with records of all types in all sections."""
    ttls = st.integers(0, 0x7FFFFFFF)

    def records(*names: str) -> list[dns.rrset.RRset]:
        types, owners = st.sampled_from(sorted(DATA)), st.sampled_from(names)
        return draw(st.lists(st.builds(lambda t, n, s: rrset(t, n, ttl=s), types, owners, ttls), max_size=5))

    above = NAME, "example.com.", "."
    return message(
        "TYPE731",
        records(NAME),
        records(*above),
        records(*above, "web.example.com.", "a.b.c.example.net."),
        edns=draw(st.booleans()),
    )


@given(replies(), st.integers(0, 100_000), st.integers(0, 1000), st.integers(1000, 0x7FFFFFFF))
@settings(max_examples=300, deadline=None)
def test_dns_35_only_ttls_change_by_limits_and_age(
    made: dns.message.Message, seconds: int, least: int, most: int
) -> None:
    wire = to_wire(made)
    found = read_reply(wire, question("TYPE731"))
    response = rendered(found, query("TYPE731"), LIMIT, seconds, min_ttl=least, max_ttl=most)
    expected = read(wire)
    denials = [record for record in expected.authority if record.rdtype == dns.rdatatype.SOA]
    if found.is_negative and denials:
        denials[0].ttl = min(denials[0].ttl, 900)  # the MINIMUM field
    for record in expected.answer if not found.is_negative else ():
        if record.rdtype not in OF_SEVERAL_RRSETS:
            same = [other.ttl for other in expected.answer if other.rdtype == record.rdtype]
            record.ttl = min(same)
    for record in (*expected.answer, *expected.authority, *expected.additional):
        record.ttl = max(0, min(max(record.ttl, least), most) - seconds)
    assert sections(response) == sections(expected)


# -- the header and the OPT record ------------------------------------------------------------------------


@pytest.mark.parametrize("ident", [0, 0xFFFF])
@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.CD, dns.flags.RD | dns.flags.CD])
def test_response_has_id_rd_and_cd_of_the_query(flags: int, ident: int) -> None:
    response = rendered(reply("A", [rrset("A")]), query(flags=flags, ident=ident))
    assert response.id == ident
    assert response.flags == dns.flags.QR | dns.flags.RA | flags


def test_only_tc_of_the_upstreams_flags_is_passed_on() -> None:
    flags = dns.flags.AA | dns.flags.AD | dns.flags.CD | dns.flags.TC | 0x0040
    response = rendered(reply("A", [rrset("A")], flags=flags), query(flags=0))
    assert response.flags == dns.flags.QR | dns.flags.RA | dns.flags.TC


@pytest.mark.parametrize("trust_ad", [False, True])
@pytest.mark.parametrize("authentic", [False, True])
@pytest.mark.parametrize(
    ("client_query", "wants"),
    [
        (query(), False),
        (query(edns=False), False),
        (query(do=True), True),
        (query(flags=dns.flags.AD), True),
        (query(flags=dns.flags.AD, edns=False), True),
    ],
)
def test_dns_33_ad_is_passed_on_if_trusted_and_requested(
    client_query: Query, *, wants: bool, authentic: bool, trust_ad: bool
) -> None:
    found = reply("A", [rrset("A")], flags=dns.flags.AD if authentic else 0)
    response = rendered(found, client_query, trust_ad=trust_ad)
    assert bool(response.flags & dns.flags.AD) == (wants and authentic and trust_ad)


@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("edns", [False, True])
def test_dns_17_opt_record_only_in_responses_to_edns_queries(*, edns: bool, do: bool, upstream: bool) -> None:
    found = reply("A", [rrset("A")], edns=upstream)
    response = rendered(found, query(edns=edns, do=do))
    assert response.edns == (0 if edns else -1)
    if edns:
        assert (response.payload, response.ednsflags) == (1232, dns.flags.DO if do else 0)


@pytest.mark.parametrize(
    ("rcode", "without_edns"),
    [("NOERROR", "NOERROR"), ("NXDOMAIN", "NXDOMAIN"), ("REFUSED", "REFUSED"), ("BADCOOKIE", "SERVFAIL")],
)
def test_rcode_above_15_is_servfail_without_edns(rcode: str, without_edns: str) -> None:
    found = reply("A", rcode=rcode)
    assert rendered(found, query()).rcode() == dns.rcode.from_text(rcode)
    assert rendered(found, query(edns=False)).rcode() == dns.rcode.from_text(without_edns)


def test_extended_errors_of_the_upstream_follow_our_own() -> None:
    found = reply("A", rcode="SERVFAIL", options=[extended_error(22, "their text")])
    response = rendered(found, query(), ede=3, ede_text="our text")
    assert response.options == (extended_error(3, "our text"), extended_error(22, "their text"))
    assert rendered(found, query()).options == (extended_error(22, "their text"),)
    assert rendered(found, query(edns=False), ede=3).options == ()


def test_extended_errors_are_removed_from_messages_over_the_limit() -> None:
    found = reply("A", rcode="SERVFAIL", options=[extended_error(22, 600 * "x")])
    response = rendered(found, query(), 512)
    assert (response.edns, response.options) == (0, ())
    assert len(rendered(found, query(), 1232).options) == 1


# -- TTLs -------------------------------------------------------------------------------------------------


def ttls(response: dns.message.Message) -> list[int]:
    return [record.ttl for record in (*response.answer, *response.authority, *response.additional)]


def test_dns_35_each_ttl_counts_down_to_zero() -> None:
    found = reply("A", [rrset("CNAME", ttl=30), rrset("A", "web.example.com.", ttl=100)])
    assert [ttls(rendered(found, query(), seconds=passed)) for passed in (0, 1, 30, 31, 99, 101)] == [
        [30, 100],
        [29, 99],
        [0, 70],
        [0, 69],
        [0, 1],
        [0, 0],
    ]
    # Readers treat negative TTLs as 0 (RFC 2181 §8), but they must not be sent.
    assert found.render(query(), LIMIT, 101).count(b"\0\1" + bytes(4) + b"\0\4") == 1
    assert ttls(rendered(found, query())) == [30, 100]  # rendering does not change the reply


def test_dns_35_limited_ttl_counts_down_too() -> None:
    found = reply("A", [rrset("CNAME", ttl=5), rrset("A", "web.example.com.", ttl=86400)])
    assert ttls(rendered(found, query(), seconds=10, min_ttl=60, max_ttl=3600)) == [50, 3590]


def test_dns_35_stale_response_has_one_ttl_for_all_records() -> None:
    found = reply("A", [rrset("CNAME", ttl=5), rrset("A", "web.example.com.", ttl=86400)])
    assert ttls(rendered(found, query(), min_ttl=30, max_ttl=30, ede=3)) == [30, 30]


def test_dns_35_soa_ttl_in_a_negative_response_is_limited_by_minimum() -> None:
    assert ttls(rendered(reply("A", [], [soa(minimum=60, ttl=900)], rcode="NXDOMAIN"), query())) == [60]
    assert ttls(rendered(reply("A", [], [soa(minimum=60, ttl=900)]), query(), seconds=20)) == [40]
    assert ttls(rendered(reply("A", [rrset("A")], [soa(minimum=60, ttl=900)]), query())) == [TTL, 900]


# -- size limits ------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 150), max_size=8),
    st.lists(st.integers(0, 150), max_size=4),
    st.lists(st.integers(0, 150), max_size=8),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_dns_22_additional_records_are_removed_first_at_every_limit(
    answer: list[int], authority: list[int], additional: list[int], edns: bool
) -> None:
    def records(sizes: list[int], name: str) -> list[dns.rrset.RRset]:
        return [rrset("TYPE731", name, f"\\# {size} {'00' * size}") for size in sizes]

    parts = records(answer, NAME), records(authority, "example.com."), records(additional, "x.example.com.")
    found = reply("TYPE731", *parts)
    client_query = query("TYPE731", edns=edns)
    whole = len(found.render(client_query, LIMIT, 0))
    needed = len(answer) + len(authority)
    expected = list(itertools.chain(*sections(rendered(found, client_query))))
    assert len(expected) == needed + len(additional)
    least = whole - len(found.records)
    limits = {least + end - less for end in (*found.ends, 0) for less in (0, 1)} - {least - 1}
    for limit in sorted(limits):
        response = rendered(found, client_query, limit)
        kept = list(itertools.chain(*sections(response)))
        assert kept == expected[: len(kept)]
        assert bool(response.flags & dns.flags.TC) == (len(kept) < needed)
        assert (response.edns >= 0) == edns
        assert len(kept) == sum(least + end <= limit for end in found.ends)  # no room is left unused


def test_reply_of_64_kib_is_complete_over_tcp_and_truncated_over_udp() -> None:
    addresses = [f"10.{at >> 8}.{at & 255}.1" for at in range(4090)]
    found = reply("A", [rrset("A", NAME, *addresses)])
    client_query = parse_query(dns.message.make_query(NAME, "A").to_wire())
    assert len(rendered(found, client_query).answer) == 4090
    cut = rendered(found, client_query, 512)
    assert len(cut.answer) == (512 - 33) // 16
    assert cut.flags & dns.flags.TC
