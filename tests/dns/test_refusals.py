"""Responses for clients that access control rejects: short, and otherwise as the rules require."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.dns.helpers import query
from zkdns.dns.answer_source import AnswerSources
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.query_codec import QueryCodec
from zkdns.dns.refusals import ErrorResponder, refused_response, truncated_response
from zkdns.transport.codecs import TcpCodec, UdpCodec

NAME = "WeB.staging.discovery"
LONG = "a" * 60 + "." + "b" * 60 + ".example"


def answer(codec: QueryCodec, what: str, wire: bytes) -> bytes:
    responder = ErrorResponder(
        codec, refused_response if what == "refusal" else truncated_response, EdnsOptions(), AnswerSources()
    )
    response = next(responder[codec.key(wire[2:])])
    if codec is UdpCodec:
        return UdpCodec.message(wire, response)
    return wire[:2] + response if response else b""


# The last query does not fit into a slot.
@pytest.mark.parametrize(("codec", "name"), [(UdpCodec, NAME), (TcpCodec, NAME), (TcpCodec, LONG)])
@pytest.mark.parametrize("edns", [None, 0])
@pytest.mark.parametrize("what", ["refusal", "truncation"])
def test_rejected_clients_get_a_short_response(
    codec: QueryCodec, edns: int | None, name: str, what: str
) -> None:
    message = query(name, "SRV", edns=edns)
    wire = message.to_wire()
    response = dns.message.from_wire(answer(codec, what, wire))
    assert message.is_response(response)
    assert response.question[0].name.to_text() == name + "."  # in the spelling of the query
    assert response.answer == response.authority == response.additional == []
    assert response.rcode() == (dns.rcode.REFUSED if what == "refusal" else dns.rcode.NOERROR)
    assert bool(response.flags & dns.flags.TC) == (what == "truncation")
    assert (response.edns == 0) == (edns == 0)
    assert [int(option.code) for option in response.options] == (
        [18] if edns == 0 and what == "refusal" else []
    )
    assert len(response.to_wire()) <= len(wire) + 6


@pytest.mark.parametrize("codec", [UdpCodec, TcpCodec])
def test_each_response_is_counted(codec: QueryCodec) -> None:
    sources = AnswerSources()
    responder = ErrorResponder(codec, refused_response, EdnsOptions(), sources)
    for wire in (query(NAME, "A").to_wire(), b"id\1\0\0\2" + bytes(6), b"id\x80\0" + bytes(8)):
        next(responder[codec.key(wire[2:])])
    assert sources.counts == {"refused": 2}


@pytest.mark.parametrize("codec", [UdpCodec, TcpCodec])
@pytest.mark.parametrize(
    ("wire", "response"),
    [
        (b"id\x80\0" + bytes(8), b""),
        (b"id", b""),
        (b"id\1\0\0\2" + bytes(6), b"id\x81\1" + bytes(8)),
        (b"id\x28\0\0\1" + bytes(6), b"id\xa8\4" + bytes(8)),
    ],
    ids=["a response", "no header", "two questions", "an update"],
)
def test_malformed_queries_get_the_usual_error(codec: QueryCodec, wire: bytes, response: bytes) -> None:
    for what in ("refusal", "truncation"):
        assert answer(codec, what, wire) == response
