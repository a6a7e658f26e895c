"""Every message parses, by two readers: of services of 1 to 5,000 members, long names, at any size."""

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
from tests.robustness.reading import read_twice
from zkdns.forward.message import read_reply
from zkdns.names import MAX_NAME

MEMBERS = (1, 2, 5, 28, 29, 30, 75, 76)
SIZES = (None, 0, 512, 513, 640, 1231, 1232, 1233, 65535)
"""What a client tells of the UDP messages that it takes; None: no EDNS."""

SHORT = "a.staging"
LONG = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 30, "staging"])
"""Of 239 bytes with its zone: its members' names are 242 to 246 long."""
ALL_BUT_ONE = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 43, "staging"])
"""Of 252 bytes: no member's name has room."""
NAMES = (SHORT, LONG, ALL_BUT_ONE)
TYPES = ("A", "AAAA", "SRV", "TXT", "ANY")


@functools.cache
def server(count: int, name: str) -> Server:
    """A service of that name with so many members, on IPv4 and IPv6 hosts and, if odd, one with a name."""
    members = [
        member(number, f"[2001:db8::{number:x}]:80" if number % 5 == 4 else endpoint)
        for number, endpoint in enumerate(many(count))
    ]
    if count % 2:
        members.append(member(count, "db1.example.com:5432"))
    return Server({name: members})


def answer_to(where: Server, name: str, qtype: str, size: int | None, *, stream: bool) -> tuple[bytes, Any]:
    """The response as bytes, and as both readers have it."""
    asked = query(f"{name}.discovery", qtype, edns=None if size is None else 0, size=size or 0)
    wire = where.respond(asked.to_wire(), stream=stream)
    assert wire is not None
    return wire, read_twice(wire)


def records(section: Any) -> set[str]:
    return {record.to_text() for record in section}


def check_cut(wire: bytes, cut: Any, whole: Any, limit: int) -> None:
    """Nothing over the limit, nothing that is not in the whole, TC exactly where an answer is missing."""
    assert len(wire) <= limit
    assert cut.rcode() == whole.rcode() == dns.rcode.NOERROR
    assert records(cut.answer) <= records(whole.answer)
    assert records(cut.additional) <= records(whole.additional)
    missing = len(whole.answer) - len(cut.answer)
    assert bool(cut.flags & dns.flags.TC) == (missing > 0)
    assert cut.edns < 0 or cut.payload == 1232
    if missing:
        # Room is left for none of those that are missing.
        absent = [record for record in whole.answer if record.to_text() not in records(cut.answer)]
        assert limit - len(wire) < max(len(_packed(record)) for record in absent)
        assert cut.additional == []


def _packed(record: Any) -> bytes:
    """As we send it: its owner a pointer, the rest uncompressed."""
    return bytes(2 + 10) + bytes(record[0].to_wire())


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(name) + 11} bytes")
@pytest.mark.parametrize("count", MEMBERS)
def test_at_every_size_of_edns_an_answer_is_whole_or_says_that_it_is_not(count: int, name: str) -> None:
    where = server(count, name)
    for qtype in ("A", "SRV", "TXT"):
        _, whole = answer_to(where, name, qtype, 1232, stream=True)
        assert not whole.flags & dns.flags.TC
        assert records(whole.answer) == _expected(count, qtype, name, whole)
        for size in SIZES:
            wire, cut = answer_to(where, name, qtype, size, stream=False)
            check_cut(wire, cut, whole, 512 if size is None else max(512, min(size, 1232)))


def _expected(count: int, qtype: str, name: str, whole: Any) -> set[str]:
    """The records that a service of so many members has."""
    addresses = {number: host.rpartition(":")[0] for number, host in enumerate(many(count))}
    ipv4 = {host for number, host in addresses.items() if number % 5 != 4}
    found = {record[0].to_text() for record in whole.answer}
    if qtype == "A":
        assert found == ipv4
    elif qtype == "SRV":
        # Where there is no room for a member's name, it cannot be a target.
        assert len(found) == (count + count % 2 if name != ALL_BUT_ONE else len(found))
    return records(whole.answer)


@given(
    st.integers(1, 120),
    st.lists(st.integers(1, 63), min_size=1, max_size=5),
    st.sampled_from(TYPES),
    st.integers(0, 1400),
    st.booleans(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_so_it_is_of_services_and_names_of_any_size(
    count: int, labels: list[int], qtype: str, size: int, is_stale: bool
) -> None:
    name = ".".join("n" * length for length in labels)[: MAX_NAME - len("..staging.discovery.") - 1].strip(
        "."
    )
    name = f"{name}.staging"
    where = Server({name: many(count)})
    where.authority.set_health(ready=True, stale=is_stale)
    _, whole = answer_to(where, name, qtype, 1232, stream=True)
    wire, cut = answer_to(where, name, qtype, size, stream=False)
    check_cut(wire, cut, whole, max(512, min(size, 1232)))


_QUESTION = len(SHORT) + len(".discovery") + 2 + 4
_A_FITS = (LONGEST - 12 - _QUESTION) // 16
"""So many A records fill a message over TCP without EDNS."""


@pytest.mark.parametrize("count", [1000, _A_FITS, _A_FITS + 1, 5000])
@pytest.mark.parametrize("size", [None, 1232])
def test_over_tcp_64_kib_are_full_to_the_last_record_and_never_overfull(count: int, size: int | None) -> None:
    where = Server({SHORT: many(count)})
    for qtype, each in (("A", 16), ("SRV", 0)):
        wire, response = answer_to(where, SHORT, qtype, size, stream=True)
        assert bool(response.flags & dns.flags.TC) == (len(response.answer) < count)
        assert len(wire) <= LONGEST
        if len(response.answer) < count:
            assert len(wire) > LONGEST - 64
            assert response.additional == []
        if each:
            room = LONGEST - 12 - _QUESTION - (0 if size is None else 11)
            assert len(response.answer) == min(count, room // each)
        if count == 5000:
            cut_wire, cut = answer_to(where, SHORT, qtype, size, stream=False)
            assert len(cut_wire) <= (512 if size is None else 1232)
            assert cut.flags & dns.flags.TC


# -- what is forwarded --------------------------------------------------------------------------------------


def upstreams_replies() -> Iterator[Any]:
    """Replies of all sizes, their names compressed by who made them."""
    for count in (0, 1, 2, 12, 27, 28, 29, 60, 300, 3000):
        addresses = [f"10.1.{number >> 8}.{number & 255}" for number in range(count)]
        answer = [rrset("A", NAME, *addresses)] if addresses else []
        yield message("A", answer, [] if answer else [soa()])
    for count in (1, 5, 60, 200):
        targets = [f"10 5 443 {'t' * 50}{number}.{'u' * 60}.example.com." for number in range(count)]
        glue = [rrset("A", target.split()[3]) for target in targets]
        yield message("SRV", [rrset("SRV", NAME, *targets)], [rrset("NS", "example.com.")], glue)
    yield message("TXT", [rrset("CNAME"), rrset("TXT", "web.example.com.", *(f'"{"x" * 255}"',))])


@pytest.mark.parametrize("made", list(upstreams_replies()), ids=lambda made: f"{made.question[0]}")
def test_of_what_is_forwarded_the_same_holds(made: Any) -> None:
    qtype = dns.rdatatype.to_text(made.question[0].rdtype)
    found = read_reply(to_wire(made), question(qtype))
    spelled = forwarded_query(qtype, NAME.swapcase())
    whole = read_twice(found.render(spelled, LONGEST, 0), strictly=False)
    assert len(whole.answer) == found.counts[0]
    for size in (None, *SIZES, 1300):
        asked = spelled if size is not None else forwarded_query(qtype, NAME, edns=False)
        limit = 512 if size is None else max(512, min(size, 1300))
        wire = found.render(asked, limit, 0, ede=3, ede_text="answered from a cache" * (size == 640))
        response = read_twice(wire, strictly=False)
        assert len(wire) <= limit
        missing = len(response.answer) + len(response.authority) < sum(found.counts[:2])
        assert bool(response.flags & dns.flags.TC) == missing
        assert (response.edns >= 0) == (size is not None)
