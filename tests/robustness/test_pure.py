"""Mutated messages given to the parsers and the response cache directly: only documented errors may occur."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import dns.exception
import dns.message
import dns.rdatatype
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.dns.helpers import Server, many, read
from tests.dns.response_cache_internals import assert_accounting_is_consistent
from tests.forward.helpers import DATA, NAME, message, question, rrset, soa, to_wire
from tests.forward.helpers import query as forwarded_query
from tests.robustness.mutations import Mutator, needs_response, ordinary_messages
from zkdns.dns.message import BadQueryError, Query, parse_query
from zkdns.dns.query_codec import QueryCodec
from zkdns.dns.response_cache import ResponseCache
from zkdns.forward.message import read_reply
from zkdns.forward.records import BadReplyError
from zkdns.transport.codecs import TcpCodec, UdpCodec

WEB = "web.staging.discovery"
SEEDS = ordinary_messages(
    (WEB, f"m1.{WEB}", f"_tcp.{WEB}", f"none.{WEB}", "none.staging.discovery", "www.example.com")
)
_ID = 2


def mutated(seed: int, count: int) -> Iterator[bytes]:
    return itertools.islice(Mutator(SEEDS, random.Random(seed)), count)


# -- queries ------------------------------------------------------------------------------------------------


def checked_query(wire: bytes) -> Query | None:
    """Parse a query; if it is invalid, check the error response and return None."""
    try:
        return parse_query(wire)
    except BadQueryError as bad:
        error = bad.response
    assert (error is not None) == needs_response(wire)
    assert error is None or read(error).id == int.from_bytes(wire[:_ID])
    return None


def test_dnspython_parses_a_query_to_the_same_values() -> None:
    readable = 0
    for wire in mutated(1, 8000):
        found = checked_query(wire)
        try:
            other = dns.message.from_wire(wire)
        except dns.exception.DNSException:  # dnspython also checks the data of records
            continue
        if found is None:
            # zkdns rejects several questions, unexpected records and other opcodes; dnspython parses them.
            plain = len(other.question) == 1 and not wire[2] & 0xF8 and not any(wire[6:10])
            assert not (plain and wire[10:12] in (b"\0\0", b"\0\1") and not other.additional)
            continue
        readable += 1
        (entry,) = other.question
        assert tuple(label.lower() for label in entry.name.labels[:-1]) == found.name
        assert (entry.rdtype, entry.rdclass) == (found.qtype, found.qclass)
        assert other.edns == (-1 if found.edns is None else found.edns.version)
        if found.edns is not None:
            assert (other.payload, bool(other.ednsflags & 0x8000)) == (found.edns.size, found.edns.do)
            assert bool(other.options) == bool(found.edns.options)
    assert readable > 2000


# -- responses and the response cache -----------------------------------------------------------------------


def sorted_records(wire: bytes) -> list[list[str]]:
    response = read(wire)
    sections = (response.answer, response.authority, response.additional)
    return [sorted(record.to_text() for record in section) for section in sections]


@pytest.mark.parametrize("codec", [UdpCodec, TcpCodec], ids=["UDP", "TCP"])
@pytest.mark.parametrize("max_bytes", [40_000, 1 << 22])
def test_a_cached_response_equals_a_computed_one(codec: QueryCodec, max_bytes: int) -> None:
    server = Server({"web.staging": many(12), "api.staging": many(2)})
    uncached = Server({"web.staging": many(12), "api.staging": many(2)}).responder
    is_stream = codec is TcpCodec
    cache = server.authority.make_cache(codec, stream=is_stream, max_bytes=max_bytes)
    rng = random.Random(max_bytes)
    messages = list(mutated(2, 1000))
    for number, wire in enumerate((*messages, *rng.sample(messages, 1000))):
        body = next(cache[codec.key(wire[_ID:])])
        response = UdpCodec.message(wire, body) if codec is UdpCodec else wire[:_ID] + body if body else b""
        expected = next(uncached.answer(wire[_ID:], stream=is_stream, encode=lambda body, _: body).responses)
        assert bool(response) == bool(expected) == needs_response(wire)
        if response:
            end = 12 + (len(parse_query(wire).question) if response[5] and checked_query(wire) else 0)
            assert response[_ID:end] == expected[: end - _ID]
            assert sorted_records(response) == sorted_records(wire[:_ID] + expected)
        assert cache.size <= max_bytes
        if number % 500 == 0:
            assert_accounting_is_consistent(cache)
    assert_accounting_is_consistent(cache)
    assert len(cache) > 10


CACHES: dict[str, tuple[QueryCodec, ResponseCache]] = {}
for _codec in (UdpCodec, TcpCodec):
    _server = Server({"web.staging": many(12)})
    CACHES[_codec.__name__] = _codec, _server.datagrams if _codec is UdpCodec else _server.streams


@given(st.binary(max_size=300), st.sampled_from(sorted(CACHES)))
@example(b"", "UdpCodec")
@example(b"", "TcpCodec")
@example(b"\0", "UdpCodec")
@settings(max_examples=500, deadline=None, derandomize=True)
def test_the_response_cache_accepts_any_bytes_repeatedly(wire: bytes, name: str) -> None:
    """Internal errors are raised here, while a server would log them."""
    codec, cache = CACHES[name]
    key = codec.key(wire)
    assert len({bool(next(cache[key])) for _ in range(3)}) == 1


# -- upstream replies ---------------------------------------------------------------------------------------


def replies() -> list[bytes]:
    made = [
        message(qtype, [rrset("CNAME"), rrset(qtype, "web.example.com.")], [rrset("NS", "example.com.")])
        for qtype in DATA
    ]
    made += [message("A", [], [soa()], rcode="NXDOMAIN"), message("A", [rrset("A")], edns=False)]
    return [to_wire(each) for each in made]


@pytest.mark.parametrize("seed", range(3))
def test_a_mutated_reply_is_rejected_or_its_response_parses_if_the_reply_does(seed: int) -> None:
    questions = {name: question(name) for name in DATA}
    accepted = 0
    for wire in itertools.islice(Mutator(replies(), random.Random(seed), max_size=4096), 2000):
        qtype = random.Random(wire).choice(sorted(DATA))
        if wire[12:-4].startswith(b"\3www\7example\3com\0"):
            qtype = next(
                (each for each in DATA if dns.rdatatype.from_text(each).to_bytes(2) == wire[29:31]), "A"
            )
        try:
            found = read_reply(wire, questions[qtype])
        except BadReplyError:
            continue
        accepted += 1
        for limit in (512, 600, 1232, 65535):
            made = found.render(forwarded_query(qtype, NAME.upper()), limit, 7, ede=3, ede_text="stale")
            assert len(made) <= limit
            assert made[:2] == (99).to_bytes(2)
            assert made[2] & 0x80
            _check_parses_as(made, wire)
    assert accepted > 200


def _check_parses_as(made: bytes, wire: bytes) -> None:
    """Assert that the response has the records of the upstream's reply, if dnspython can parse the reply."""
    try:
        theirs = dns.message.from_wire(wire, one_rr_per_rrset=True)
    except Exception:  # noqa: BLE001 - zkdns forwards invalid record data unchanged
        return
    ours = dns.message.from_wire(made, one_rr_per_rrset=True)
    sections = [(ours.answer, theirs.answer), (ours.authority, theirs.authority)]
    for own, complete in sections:
        assert [record.rdtype for record in own] == [record.rdtype for record in complete[: len(own)]]
        assert [record[0] for record in own] == [record[0] for record in complete[: len(own)]]


@given(st.binary(max_size=120), st.integers(0, 0xFF), st.integers(0, 3))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_bytes_after_the_question_are_accepted_or_rejected_as_a_reply(
    rest: bytes, low: int, count: int
) -> None:
    asked = question("A")
    head = b"\0\1\x80" + bytes((low, 0, 1)) + b"".join(min(count, 1).to_bytes(2) for _ in range(3))
    wire = head + asked.name + b"\0\1\0\1" + rest
    try:
        found = read_reply(wire, asked)
    except BadReplyError:
        return
    assert len(found.render(forwarded_query(), 512, 0)) <= 512
