"""Responses parse with two libraries: services of 1 to 5,000 members, long names, and all message sizes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import dns.flags
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.helpers import LONGEST, Server, many, member, query
from tests.forward.helpers import NAME, message, question, rrset, soa, to_wire
from tests.forward.helpers import query as forwarded_query
from tests.robustness.two_parsers import parse_with_both
from zkdns.forward.message import read_reply
from zkdns.names import MAX_NAME

MEMBERS = (1, 2, 5, 28, 29, 30, 75, 76)
SIZES = (None, 0, 512, 513, 640, 1231, 1232, 1233, 65535)
"""UDP sizes that a client advertises; None is a query without EDNS."""

SHORT = "a.staging"
LONG = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 30, "staging"])
"""239 bytes with the zone; the names of its members have 242 to 246."""
ALL_BUT_ONE = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 43, "staging"])
"""252 bytes with the zone; the names of its members would exceed 255."""
NAMES = (SHORT, LONG, ALL_BUT_ONE)
TYPES = ("A", "AAAA", "SRV", "TXT", "ANY")


@functools.cache
def make_server(count: int, name: str) -> Server:
    """Responder for a service of `count` members with IPv4 and IPv6 hosts.

    If the count is odd, one more member has a host name.
    """
    members = [
        member(number, f"[2001:db8::{number:x}]:80" if number % 5 == 4 else endpoint)
        for number, endpoint in enumerate(many(count))
    ]
    if count % 2:
        members.append(member(count, "db1.example.com:5432"))
    return Server({name: members})


def answer_to(
    responder: Server, name: str, qtype: str, size: int | None, *, stream: bool
) -> tuple[bytes, Any]:
    """The response as bytes and parsed."""
    asked = query(f"{name}.discovery", qtype, edns=None if size is None else 0, size=size or 0)
    wire = responder.respond(asked.to_wire(), stream=stream)
    assert wire is not None
    return wire, parse_with_both(wire)


def records(section: Any) -> set[str]:
    return {record.to_text() for record in section}


def check_truncation(wire: bytes, response: Any, complete: Any, limit: int) -> None:
    """Assert that a response is within the limit, part of the complete one, and has TC if it is truncated."""
    assert len(wire) <= limit
    assert response.rcode() == complete.rcode() == dns.rcode.NOERROR
    assert records(response.answer) <= records(complete.answer)
    assert records(response.additional) <= records(complete.additional)
    missing = len(complete.answer) - len(response.answer)
    assert bool(response.flags & dns.flags.TC) == (missing > 0)
    assert response.edns < 0 or response.payload == 1232
    if missing:
        # There is no room for any of the missing records.
        absent = [record for record in complete.answer if record.to_text() not in records(response.answer)]
        assert limit - len(wire) < max(len(_packed(record)) for record in absent)
        assert response.additional == []


def _packed(record: Any) -> bytes:
    """A record as zkdns encodes it: the owner as a compression pointer, the data uncompressed."""
    return bytes(2 + 10) + bytes(record[0].to_wire())


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(name) + 11} bytes")
@pytest.mark.parametrize("count", MEMBERS)
def test_a_response_of_any_edns_size_is_complete_or_truncated_with_tc(count: int, name: str) -> None:
    responder = make_server(count, name)
    for qtype in ("A", "SRV", "TXT"):
        _, complete = answer_to(responder, name, qtype, 1232, stream=True)
        assert not complete.flags & dns.flags.TC
        assert records(complete.answer) == _expected(count, qtype, name, complete)
        for size in SIZES:
            wire, response = answer_to(responder, name, qtype, size, stream=False)
            check_truncation(wire, response, complete, 512 if size is None else max(512, min(size, 1232)))


def _expected(count: int, qtype: str, name: str, complete: Any) -> set[str]:
    """The records of the complete response, after checking that they match the members."""
    addresses = {number: host.rpartition(":")[0] for number, host in enumerate(many(count))}
    ipv4 = {host for number, host in addresses.items() if number % 5 != 4}
    found = {record[0].to_text() for record in complete.answer}
    if qtype == "A":
        assert found == ipv4
    elif qtype == "SRV":
        # A member whose name would be too long cannot be an SRV target.
        assert len(found) == (count + count % 2 if name != ALL_BUT_ONE else len(found))
    return records(complete.answer)


@given(
    st.integers(1, 120),
    st.lists(st.integers(1, 63), min_size=1, max_size=5),
    st.sampled_from(TYPES),
    st.integers(0, 1400),
    st.booleans(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_random_services_names_and_sizes_are_complete_or_truncated_with_tc(
    count: int, labels: list[int], qtype: str, size: int, is_stale: bool
) -> None:
    name = ".".join("n" * length for length in labels)[: MAX_NAME - len("..staging.discovery.") - 1].strip(
        "."
    )
    name = f"{name}.staging"
    responder = Server({name: many(count)})
    responder.authority.set_health(ready=True, stale=is_stale)
    _, complete = answer_to(responder, name, qtype, 1232, stream=True)
    wire, response = answer_to(responder, name, qtype, size, stream=False)
    check_truncation(wire, response, complete, max(512, min(size, 1232)))


_QUESTION = len(SHORT) + len(".discovery") + 2 + 4
_A_FITS = (LONGEST - 12 - _QUESTION) // 16
"""Number of A records that fill a TCP message without EDNS."""


@pytest.mark.parametrize("count", [1000, _A_FITS, _A_FITS + 1, 5000])
@pytest.mark.parametrize("size", [None, 1232])
def test_a_tcp_response_uses_all_of_64_kib_and_never_more(count: int, size: int | None) -> None:
    responder = Server({SHORT: many(count)})
    for qtype, each in (("A", 16), ("SRV", 0)):
        wire, response = answer_to(responder, SHORT, qtype, size, stream=True)
        assert bool(response.flags & dns.flags.TC) == (len(response.answer) < count)
        assert len(wire) <= LONGEST
        if len(response.answer) < count:
            assert len(wire) > LONGEST - 64
            assert response.additional == []
        if each:
            room = LONGEST - 12 - _QUESTION - (0 if size is None else 11)
            assert len(response.answer) == min(count, room // each)
        if count == 5000:
            udp_wire, udp_response = answer_to(responder, SHORT, qtype, size, stream=False)
            assert len(udp_wire) <= (512 if size is None else 1232)
            assert udp_response.flags & dns.flags.TC


# -- forwarded responses ------------------------------------------------------------------------------------


def upstream_replies() -> Iterator[Any]:
    """Upstream replies of all sizes, with compressed names."""
    for count in (0, 1, 2, 12, 27, 28, 29, 60, 300, 3000):
        addresses = [f"10.1.{number >> 8}.{number & 255}" for number in range(count)]
        answer = [rrset("A", NAME, *addresses)] if addresses else []
        yield message("A", answer, [] if answer else [soa()])
    for count in (1, 5, 60, 200):
        targets = [f"10 5 443 {'t' * 50}{number}.{'u' * 60}.example.com." for number in range(count)]
        additional = [rrset("A", target.split()[3]) for target in targets]
        yield message("SRV", [rrset("SRV", NAME, *targets)], [rrset("NS", "example.com.")], additional)
    yield message("TXT", [rrset("CNAME"), rrset("TXT", "web.example.com.", *(f'"{"x" * 255}"',))])


@pytest.mark.parametrize("made", list(upstream_replies()), ids=lambda made: f"{made.question[0]}")
def test_a_forwarded_response_is_complete_or_truncated_with_tc(made: Any) -> None:
    qtype = dns.rdatatype.to_text(made.question[0].rdtype)
    found = read_reply(to_wire(made), question(qtype))
    mixed_case = forwarded_query(qtype, NAME.swapcase())
    complete = parse_with_both(found.render(mixed_case, LONGEST, 0), strictly=False)
    assert len(complete.answer) == found.counts[0]
    for size in (None, *SIZES, 1300):
        asked = mixed_case if size is not None else forwarded_query(qtype, NAME, edns=False)
        limit = 512 if size is None else max(512, min(size, 1300))
        wire = found.render(asked, limit, 0, ede=3, ede_text="answered from a cache" * (size == 640))
        response = parse_with_both(wire, strictly=False)
        assert len(wire) <= limit
        missing = len(response.answer) + len(response.authority) < sum(found.counts[:2])
        assert bool(response.flags & dns.flags.TC) == missing
        assert (response.edns >= 0) == (size is not None)
