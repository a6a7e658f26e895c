"""Messages that nobody means, given to what has no sockets: nothing but what is told of may come of them."""

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
from zkdns.dns.message import BadQueryError, Query, parse_query
from zkdns.dns.response_cache import QueryCodec, ResponseCache
from zkdns.transport.codecs import TcpCodec, UdpCodec

from tests.dns.helpers import Server, many, read
from tests.dns.response_cache_helpers import assert_accounting_is_consistent
from tests.forward.helpers import DATA, NAME, message, question, rrset, soa, to_wire
from tests.forward.helpers import query as forwarded_query
from tests.robustness.mutations import Mutator, is_answered, ordinary
from zkdns.forward.message import BadReplyError, read_reply

WEB = "web.staging.discovery"
SEEDS = ordinary(
    (WEB, f"m1.{WEB}", f"_tcp.{WEB}", f"none.{WEB}", "none.staging.discovery", "www.example.com")
)
_ID = 2


def mutated(seed: int, count: int) -> Iterator[bytes]:
    return itertools.islice(Mutator(SEEDS, random.Random(seed)), count)


# -- queries ------------------------------------------------------------------------------------------------


def read_query(wire: bytes) -> Query | None:
    """What the reader has of it; None where it says what to answer instead."""
    try:
        return parse_query(wire)
    except BadQueryError as bad:
        error = bad.response
    assert (error is not None) == is_answered(wire)
    assert error is None or read(error).id == int.from_bytes(wire[:_ID])
    return None


def test_what_is_read_of_a_query_another_reader_reads_too() -> None:
    readable = 0
    for wire in mutated(1, 8000):
        found = read_query(wire)
        try:
            other = dns.message.from_wire(wire)
        except dns.exception.DNSException:  # of other records it looks at the data too
            continue
        if found is None:
            # What it takes and we do not: several questions, records where none belong, other opcodes.
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


# -- answers, and what is remembered of them ----------------------------------------------------------------


def sorted_records(wire: bytes) -> list[list[str]]:
    response = read(wire)
    sections = (response.answer, response.authority, response.additional)
    return [sorted(record.to_text() for record in section) for section in sections]


@pytest.mark.parametrize("form", [UdpCodec, TcpCodec], ids=["UDP", "TCP"])
@pytest.mark.parametrize("most_bytes", [40_000, 1 << 22])
def test_what_is_remembered_is_what_would_be_answered_anew(form: QueryCodec, most_bytes: int) -> None:
    server = Server({"web.staging": many(12), "api.staging": many(2)})
    anew = Server({"web.staging": many(12), "api.staging": many(2)}).responder
    is_stream = form is TcpCodec
    memo = server.authority.answers(form, stream=is_stream, most_bytes=most_bytes)
    dice = random.Random(most_bytes)
    asked = list(mutated(2, 1000))
    for number, wire in enumerate((*asked, *dice.sample(asked, 1000))):
        body = next(memo[form.key(wire[_ID:])])
        told = UdpCodec.message(wire, body) if form is UdpCodec else wire[:_ID] + body if body else b""
        expected = next(anew.answer(wire[_ID:], stream=is_stream, wrap=lambda body, _: body).responses)
        assert bool(told) == bool(expected) == is_answered(wire)
        if told:
            end = 12 + (len(parse_query(wire).question) if told[5] and read_query(wire) else 0)
            assert told[_ID:end] == expected[: end - _ID]
            assert sorted_records(told) == sorted_records(wire[:_ID] + expected)
        assert memo.size <= most_bytes
        if number % 500 == 0:
            assert_accounting_is_consistent(memo)
    assert_accounting_is_consistent(memo)
    assert len(memo) > 10


MEMOS: dict[str, tuple[QueryCodec, ResponseCache]] = {}
for _form in (UdpCodec, TcpCodec):
    _server = Server({"web.staging": many(12)})
    MEMOS[_form.__name__] = _form, _server.datagrams if _form is UdpCodec else _server.streams


@given(st.binary(max_size=300), st.sampled_from(sorted(MEMOS)))
@example(b"", "UdpCodec")
@example(b"", "TcpCodec")
@example(b"\0", "UdpCodec")
@settings(max_examples=500, deadline=None, derandomize=True)
def test_a_memo_answers_any_bytes_as_often_as_they_come(wire: bytes, name: str) -> None:
    """What a mistake of ours would raise here, where it is not told of as one."""
    form, memo = MEMOS[name]
    key = form.key(wire)
    assert len({bool(next(memo[key])) for _ in range(3)}) == 1


# -- replies ------------------------------------------------------------------------------------------------


def replies() -> list[bytes]:
    made = [
        message(qtype, [rrset("CNAME"), rrset(qtype, "web.example.com.")], [rrset("NS", "example.com.")])
        for qtype in DATA
    ]
    made += [message("A", [], [soa()], rcode="NXDOMAIN"), message("A", [rrset("A")], edns=False)]
    return [to_wire(each) for each in made]


@pytest.mark.parametrize("seed", range(3))
def test_a_reply_is_refused_or_read_and_what_is_made_of_it_parses_if_it_did(seed: int) -> None:
    asked = {name: question(name) for name in DATA}
    taken = 0
    for wire in itertools.islice(Mutator(replies(), random.Random(seed), longest=4096), 2000):
        qtype = random.Random(wire).choice(sorted(DATA))
        if wire[12:-4].startswith(b"\3www\7example\3com\0"):
            qtype = next(
                (each for each in DATA if dns.rdatatype.from_text(each).to_bytes(2) == wire[29:31]), "A"
            )
        try:
            found = read_reply(wire, asked[qtype])
        except BadReplyError:
            continue
        taken += 1
        for limit in (512, 600, 1232, 65535):
            made = found.render(forwarded_query(qtype, NAME.upper()), limit, 7, ede=3, ede_text="stale")
            assert len(made) <= limit
            assert made[:2] == (99).to_bytes(2)
            assert made[2] & 0x80
            _check_parses_as(made, wire)
    assert taken > 200


def _check_parses_as(made: bytes, wire: bytes) -> None:
    """That a reader who can read the upstream's message can read ours."""
    try:
        theirs = dns.message.from_wire(wire, one_rr_per_rrset=True)
    except Exception:  # noqa: BLE001 - data that nobody can read pass as they are
        return
    ours = dns.message.from_wire(made, one_rr_per_rrset=True)
    sections = [(ours.answer, theirs.answer), (ours.authority, theirs.authority)]
    for own, whole in sections:
        assert [record.rdtype for record in own] == [record.rdtype for record in whole[: len(own)]]
        assert [record[0] for record in own] == [record[0] for record in whole[: len(own)]]


@given(st.binary(max_size=120), st.integers(0, 0xFF), st.integers(0, 3))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_bytes_behind_the_question_are_a_reply_or_none(rest: bytes, low: int, count: int) -> None:
    asked = question("A")
    head = b"\0\1\x80" + bytes((low, 0, 1)) + b"".join(min(count, 1).to_bytes(2) for _ in range(3))
    wire = head + asked.name + b"\0\1\0\1" + rest
    try:
        found = read_reply(wire, asked)
    except BadReplyError:
        return
    assert len(found.render(forwarded_query(), 512, 0)) <= 512
