"""Queries of zkdns' own client, and the check of their responses."""

from __future__ import annotations

import contextlib

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.dns.client_messages import BadResponseError, build_query, is_response_to, parse_response
from zkdns.dns.message import QR, Type
from zkdns.names import parse_name

NAME = parse_name("Web.staging.discovery")
QUERY = build_query(NAME, Type.SRV, ident=0x1234)


def respond(query: bytes) -> bytes:
    """The query with QR set."""
    return query[:2] + bytes((query[2] | QR >> 8,)) + query[3:]


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("rd", [False, True])
def test_a_query_is_what_other_programs_read(*, rd: bool, edns: bool) -> None:
    read = dnslib.DNSRecord.parse(build_query(NAME, Type.SRV, ident=0x1234, rd=rd, edns=edns))
    assert (read.header.id, read.header.qr, read.header.rd, read.header.opcode) == (0x1234, 0, rd, 0)
    assert (read.q.qname.label, read.q.qtype, read.q.qclass) == (NAME, Type.SRV, 1)
    assert [(record.rtype, record.edns_len) for record in read.ar] == [(Type.OPT, 1232)] * edns


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (respond(QUERY), True),
        (respond(QUERY).lower(), True),
        (respond(QUERY) + b"more", True),
        (respond(QUERY)[:4] + bytes(8), True),  # without a question, as after FORMERR
        (QUERY, False),
        (b"\0\0" + respond(QUERY)[2:], False),
        (respond(build_query(NAME, Type.A, ident=0x1234)), False),
        (respond(build_query(NAME[1:], Type.SRV, ident=0x1234)), False),
        (respond(QUERY)[:-1], False),
        (respond(QUERY)[:11], False),
        (b"", False),
    ],
)
def test_a_response_has_the_id_and_the_question_of_the_query(message: bytes, expected: bool) -> None:
    assert is_response_to(QUERY, message) is expected


def test_parsing_a_response() -> None:
    assert parse_response(QUERY, respond(QUERY)).q.qtype == Type.SRV
    with pytest.raises(BadResponseError, match="sent a response to another query"):
        parse_response(QUERY, QUERY)
    for malformed in (b"", b"garbage", respond(QUERY)[:-1]):
        with pytest.raises(BadResponseError, match="sent a malformed response"):
            parse_response(QUERY, malformed)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: respond(QUERY)[:12] + rest))
def test_any_message_is_parsed_or_refused(message: bytes) -> None:
    is_response_to(QUERY, message)
    with contextlib.suppress(BadResponseError):
        parse_response(QUERY, message)
