"""Usual replies are read in few steps, and with the same result as all others."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from unittest.mock import patch

import dns.rrset
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.forward.helpers import NAME, message, question, rrset, soa, to_wire
from zkdns.dns.message import HEADER_SIZE
from zkdns.forward.message import Question, read_reply
from zkdns.forward.records import BadReplyError
from zkdns.forward.reply import Reply
from zkdns.forward.rewriting import MAX_ALIASES
from zkdns.forward.usual_replies import read_usual

EDGE, NODE = "edge.cdn.example.net.", "node7.edge.cdn.example.net."
POINTER = b"\xc0\x0c"
RRsets = Iterable[dns.rrset.RRset]


def addresses(qtype: str = "A", count: int = 1, name: str = NAME, ttl: int = 300) -> dns.rrset.RRset:
    data = [f"192.0.2.{at}" if qtype == "A" else f"2001:db8::{at}" for at in range(count)]
    return rrset(qtype, name, *data, ttl=ttl)


def alias(name: str, target: str, ttl: int = 600) -> dns.rrset.RRset:
    return rrset("CNAME", name, target, ttl=ttl)


def soa_of(zone: str, ttl: int = 900, minimum: int = 900) -> dns.rrset.RRset:
    fields = f"ns1.{zone} host.{zone} 7 7200 3600 1209600 {minimum}"
    return dns.rrset.from_text(zone, ttl, "IN", "SOA", fields)


ROOT_SOA = dns.rrset.from_text(
    ".", 86400, "IN", "SOA", "a.root-servers.net. nstld.verisign-grs.com. 1 1800 900 604800 86400"
)
TWO_ALIASES = (alias(NAME, EDGE), alias(EDGE, NODE, ttl=60))
USUAL: dict[str, tuple[str, RRsets, RRsets, str]] = {
    "an address": ("A", [addresses()], [], "NOERROR"),
    "eight addresses": ("A", [addresses(count=8)], [], "NOERROR"),
    "IPv6 addresses": ("AAAA", [addresses("AAAA", 2)], [], "NOERROR"),
    "a TTL of 0": ("A", [addresses(ttl=0)], [], "NOERROR"),
    "an alias": ("A", [alias(NAME, EDGE), addresses(name=EDGE)], [], "NOERROR"),
    "aliases": ("AAAA", [*TWO_ALIASES, addresses("AAAA", 3, NODE, 20)], [], "NOERROR"),
    "an alias to the domain": (
        "A",
        [alias(NAME, "example.com."), addresses(name="example.com.")],
        [],
        "NOERROR",
    ),
    "a denied name": ("A", [], [soa()], "NXDOMAIN"),
    "a denied type": ("HTTPS", [], [soa()], "NOERROR"),
    "a TTL above MINIMUM": ("A", [], [soa(minimum=60)], "NXDOMAIN"),
    "a denied top-level domain": ("A", [], [ROOT_SOA], "NXDOMAIN"),
    "an alias to a denied name": ("A", [*TWO_ALIASES], [soa_of("cdn.example.net.")], "NXDOMAIN"),
    "an alias without the type": ("AAAA", [*TWO_ALIASES], [soa_of("example.net.")], "NOERROR"),
}


def wire_of(kind: str) -> tuple[bytes, Question]:
    qtype, answer, authority, rcode = USUAL[kind]
    return to_wire(message(qtype, answer, authority, rcode=rcode)), question(qtype)


def outcome(wire: bytes, asked: Question) -> Reply | str:
    """Return the reply, or the reason why the message is rejected."""
    try:
        return msgspec.structs.replace(read_reply(wire, asked), kind=b"")  # only usual replies have a kind
    except BadReplyError as error:
        return error.reason


def check(wire: bytes, asked: Question) -> None:
    """Compare the result with that of the reader of all replies."""
    found = outcome(wire, asked)
    with patch("zkdns.forward.message.read_usual", return_value=None):
        assert outcome(wire, asked) == found


@pytest.mark.parametrize("kind", USUAL)
def test_usual_replies_are_read_as_any_others(kind: str) -> None:
    wire, asked = wire_of(kind)
    assert read_usual(wire, asked.name, asked.qtype) is not None
    check(wire, asked)


@pytest.mark.parametrize(
    ("qtype", "answer", "authority", "rcode"),
    [
        ("TXT", [rrset("TXT")], [], "NOERROR"),
        ("A", [addresses(count=2), rrset("A", NAME, "192.0.2.9", ttl=20)], [], "NOERROR"),
        ("A", [addresses(ttl=1 << 31)], [], "NOERROR"),
        ("A", [addresses(name=EDGE), alias(NAME, EDGE)], [], "NOERROR"),
        ("A", [alias(NAME, EDGE), addresses()], [], "NOERROR"),
        ("A", [alias(NAME, EDGE), alias(EDGE, NAME), addresses()], [], "NOERROR"),
        ("A", [*TWO_ALIASES, alias(NODE, EDGE), addresses(name=EDGE)], [], "NOERROR"),
        ("A", [alias(NAME, EDGE), addresses(name=EDGE)], [], "NXDOMAIN"),
        ("A", [alias(NAME, EDGE)], [], "NOERROR"),
        ("CNAME", [alias(NAME, EDGE)], [], "NOERROR"),
        ("ANY", [alias(NAME, EDGE)], [soa()], "NOERROR"),
        ("A", [], [], "NXDOMAIN"),
        ("A", [], [soa(minimum=1 << 31)], "NXDOMAIN"),
        ("A", [], [soa_of("example.org.")], "NXDOMAIN"),
        ("A", [], [rrset("NS", "example.com.")], "NOERROR"),
        ("A", [], [], "SERVFAIL"),
    ],
)
def test_other_replies_are_read_record_by_record(
    qtype: str, answer: RRsets, authority: RRsets, rcode: str
) -> None:
    wire, asked = to_wire(message(qtype, answer, authority, rcode=rcode)), question(qtype)
    assert read_usual(wire, asked.name, asked.qtype) is None
    check(wire, asked)


@pytest.mark.parametrize("kind", USUAL)
def test_a_reply_without_its_opt_record_is_read_as_any_other(kind: str) -> None:
    qtype, answer, authority, rcode = USUAL[kind]
    check(to_wire(message(qtype, answer, authority, rcode=rcode, edns=False)), question(qtype))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(USUAL)), st.data())
def test_changed_replies_are_read_as_any_others(kind: str, data: st.DataObject) -> None:
    """Bytes are replaced by any others, and pairs of bytes by pointers."""
    original, asked = wire_of(kind)
    wire = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(2, len(wire) - 2))
        if data.draw(st.booleans()):
            wire[at] = data.draw(st.integers(0, 255))
        else:
            target = data.draw(st.integers(HEADER_SIZE, len(wire)))
            wire[at : at + 2] = (0xC000 | target).to_bytes(2)
    check(bytes(wire), asked)


def chain(targets: list[tuple[list[bytes], int]], addresses: int) -> bytes:
    """Return a reply with aliases to these names, in order, and with addresses of the last one.

    Each name consists of labels, and of the root or a pointer to this offset from the header.
    """
    asked = question()
    start = HEADER_SIZE + len(asked.name) + 4
    records, owner = b"", POINTER
    for labels, target in targets:
        data = b"".join(bytes([len(label)]) + label for label in labels)
        data += (0xC000 | HEADER_SIZE + target).to_bytes(2) if target else b"\0"
        here = start + len(records) + 12
        records += owner + struct.pack("!HHIH", 5, 1, 60, len(data)) + data
        owner = (0xC000 | here).to_bytes(2) if labels or not target else data
    records += addresses * (owner + struct.pack("!HHIH", 1, 1, 20, 4) + b"\xc0\0\2\1")
    header = struct.pack("!6H", 1, 0x8180, 1, len(targets) + addresses, 0, 1)
    return header + asked.name + b"\0\1\0\1" + records + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


NAMES = st.tuples(st.lists(st.sampled_from([b"a", b"Bc", bytes(63)]), max_size=5), st.integers(0, 80))


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES), st.integers(0, 3))
def test_aliases_with_any_compression_are_read_as_any_others(
    targets: list[tuple[list[bytes], int]], count: int
) -> None:
    check(chain(targets, count), question())


@pytest.mark.parametrize(("count", "is_usual"), [(MAX_ALIASES, True), (MAX_ALIASES + 1, False)])
def test_number_of_aliases_is_limited(count: int, *, is_usual: bool) -> None:
    wire, asked = chain([([b"%d" % number], 0) for number in range(count)], 1), question()
    assert (read_usual(wire, asked.name, asked.qtype) is not None) == is_usual
    check(wire, asked)


@pytest.mark.parametrize(("size", "is_usual"), [(49, True), (50, False)])
def test_names_have_at_most_255_bytes(size: int, *, is_usual: bool) -> None:
    wire, asked = chain([([bytes(63), bytes(63), bytes(63), bytes(size)], 4)], 1), question()
    assert (read_usual(wire, asked.name, asked.qtype) is not None) == is_usual
    check(wire, asked)


@pytest.mark.parametrize("kind", USUAL)
@pytest.mark.parametrize("at", [7, 9, 11])
def test_replies_with_other_counts_are_read_as_any_others(kind: str, at: int) -> None:
    original, asked = wire_of(kind)
    for count in range(10):
        check(original[:at] + bytes([count]) + original[at + 1 :], asked)


@pytest.mark.parametrize("kind", USUAL)
def test_replies_are_rejected_if_a_byte_is_missing(kind: str) -> None:
    wire, asked = wire_of(kind)
    for size in range(len(wire)):
        assert isinstance(outcome(wire[:size], asked), str)
