"""The message codec: any bytes in, and responses that must fit."""

from __future__ import annotations

from collections.abc import Sequence

import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.dns.helpers import Server, additional_of, data, encode_query, many, member, query, read, truncated
from zkdns.dns.edns import Ede, Edns, udp_limit
from zkdns.dns.message import BadQueryError, Rcode, Response, Type, pack_record, parse_query, servfail
from zkdns.names import MAX_NAME, wire_length

WEB = "web.staging.discovery"

SERVER = Server(
    {
        "web.staging": [
            *many(40),
            member(50, "myhost:80", shard=3, additional={"admin": "10.0.0.99:9990", "a.b": "10.0.0.1:1"}),
            member(51, "db.example.com:80"),
            member(52, "[2001:db8::1]:80"),
        ],
        "api.v2.staging": ["10.1.0.1:80"],
        "idle.staging": [],
    }
)

LABELS = [
    b"web",
    b"staging",
    b"discovery",
    b"_web",
    b"_tcp",
    b"_admin",
    b"m1",
    b"s3",
    b"member_0000000001",
    b"Api",
]


def check_any(message: bytes, *, stream: bool) -> bytes | None:
    """Check the rules that hold for the response to any bytes."""
    response = SERVER.respond(message, stream=stream)
    if len(message) < 12 or message[2] & 0x80:
        assert response is None
        return None
    assert response is not None
    assert response[:2] == message[:2]
    assert response[2] & 0x80
    assert response[2] & 0x78 == message[2] & 0x78
    parsed = read(response)
    size = max(512, min(1232, parsed_size(message)))
    assert len(response) <= (65535 if stream else size)
    if parsed.question and parsed.rcode() != dns.rcode.FORMERR:
        question = parse_query(message).question
        assert response[12 : 12 + len(question)] == question
    return response


def parsed_size(message: bytes) -> int:
    """The UDP payload size of a query; 0 if it has none or cannot be parsed."""
    try:
        edns = parse_query(message).edns
    except BadQueryError:
        return 0
    return edns.size if edns else 0


@st.composite
def valid_queries(draw: st.DrawFn) -> bytes:
    """Queries for names inside and outside the zone, with and without EDNS."""
    labels = draw(st.lists(st.sampled_from(LABELS) | st.binary(min_size=1, max_size=63), max_size=5))
    labels = labels if wire_length(tuple(labels)) <= MAX_NAME else labels[:1]
    whole = [*labels, b"staging", b"discovery"] if draw(st.booleans()) else labels
    name = tuple(whole if wire_length(tuple(whole)) <= MAX_NAME else labels)
    qtype = draw(st.sampled_from(["A", "AAAA", "SRV", "TXT", "ANY", "SOA", "NS", "IXFR", "MX", "TYPE0"]))
    edns = draw(st.sampled_from([None, 0, 0, 0, 1]))
    size = draw(st.integers(0, 65535))
    return encode_query(name, qtype, edns=edns, size=size, ident=draw(st.integers(0, 65535)))


@st.composite
def mutated_queries(draw: st.DrawFn) -> bytes:
    """Valid queries with bytes replaced, removed or inserted, or with another header."""
    message = bytearray(draw(valid_queries()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message)))
        until = at + draw(st.integers(0, 3))
        message[at:until] = draw(st.binary(max_size=3))
    return bytes(message)


@given(st.binary(max_size=600), st.booleans())
@example(bytes(12), False)
@example(b"\xff" * 12, False)
@example(bytes(4) + b"\0\1" + bytes(6) + b"\0\0\xff\0\1", False)
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_never_raise_and_get_a_parsable_response(message: bytes, stream: bool) -> None:
    check_any(message, stream=stream)


@given(mutated_queries(), st.booleans())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_queries_never_raise_and_get_a_parsable_response(message: bytes, stream: bool) -> None:
    check_any(message, stream=stream)


@given(valid_queries(), st.booleans())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_valid_queries_get_their_question_back_and_an_opt_for_an_opt(message: bytes, stream: bool) -> None:
    response = check_any(message, stream=stream)
    assert response is not None
    sent, parsed = dns.message.from_wire(message), read(response)
    assert parsed.rcode() in (0, 2, 3, 5, 16)
    assert (parsed.edns >= 0) == (sent.edns >= 0)
    assert parsed.question[0].name.labels == sent.question[0].name.labels


@given(valid_queries())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_truncated_query_is_formerr_or_gets_no_response(message: bytes) -> None:
    for size in range(len(message)):
        response = SERVER.respond(message[:size], stream=False)
        assert (response is None) == (size < 12)
        if response is not None:
            assert response[3] & 0xF == Rcode.FORMERR


@given(valid_queries())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_response_is_a_function_of_the_query_but_for_its_id(message: bytes) -> None:
    """With members in a fixed order, nothing else can differ."""
    server = Server({"web.staging": many(5)}, order="fixed")
    first = server.respond(message, stream=False)
    other = server.respond(b"\xab\xcd" + message[2:], stream=False)
    assert first is not None
    assert other is not None
    assert (other[:2], other[2:]) == (b"\xab\xcd", first[2:])


# -- parsing ------------------------------------------------------------------------------------------------


def test_a_query_is_read_into_its_parts() -> None:
    parsed = parse_query(query("WEB.Staging.discovery", "SRV", edns=0, size=4096, do=True).to_wire())
    assert parsed.name == (b"web", b"staging", b"discovery")
    assert (parsed.id, parsed.rd, parsed.qtype, parsed.qclass) == (4711, True, Type.SRV, 1)
    assert parsed.edns == Edns(size=4096, version=0, do=True)
    assert parsed.question == b"\3WEB\7Staging\x09discovery\0\0\x21\0\1"


@pytest.mark.parametrize(("edns", "do"), [(None, False), (0, False), (0, True), (1, False)])
def test_the_fast_encoder_of_the_tests_encodes_as_dnspython(edns: int | None, do: bool) -> None:
    for name, qtype in ((WEB, "A"), ("WEB.Staging.discovery", "TYPE300"), (".", "ANY")):
        for size, flags in ((512, 0), (65535, dns.flags.RD | dns.flags.CD)):
            message = query(name, qtype, edns=edns, size=size, do=do, flags=flags, ident=7)
            made = encode_query(name, qtype, edns=edns, size=size, do=do, flags=flags, ident=7)
            assert made == message.to_wire()


@pytest.mark.parametrize("flags", [0, dns.flags.AD, dns.flags.CD, dns.flags.AD | dns.flags.CD])
def test_dns_08_ad_and_cd_are_parsed_and_clear_in_own_responses(flags: int) -> None:
    parsed = parse_query(query(WEB, flags=flags).to_wire())
    assert (parsed.rd, parsed.ad, parsed.cd) == (
        False,
        bool(flags & dns.flags.AD),
        bool(flags & dns.flags.CD),
    )
    assert read(Response(parsed).pack(512)).flags == dns.flags.QR
    assert read(Response(parsed, recursion_available=True).pack(512)).flags == dns.flags.QR | dns.flags.RA


def test_the_root_is_a_name_too() -> None:
    assert parse_query(query(".").to_wire()).name == ()


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=40).filter(
        lambda labels: wire_length(tuple(labels)) <= 255
    )
)
@settings(max_examples=200, deadline=None)
def test_any_legal_name_of_dnspython_is_parsed(labels: list[bytes]) -> None:
    name = dns.name.Name((*labels, b""))
    assert parse_query(query(name).to_wire()).name == tuple(label.lower() for label in labels)


@pytest.mark.parametrize(
    ("edns", "limit"),
    [
        (None, 512),
        (Edns(0, 0, do=False), 512),
        (Edns(511, 0, do=False), 512),
        (Edns(513, 0, do=False), 513),
        (Edns(1232, 0, do=False), 1232),
        (Edns(65535, 0, do=False), 1232),
    ],
)
def test_dns_21_the_limit_over_udp(edns: Edns | None, limit: int) -> None:
    assert udp_limit(edns) == limit


def test_servfail_is_a_header_that_keeps_rd() -> None:
    for rd in (0, dns.flags.RD):
        wire = servfail(query(WEB, edns=0, flags=rd).to_wire()[2:])
        assert wire == (0x8002 | rd).to_bytes(2) + bytes(8)


# -- sizes --------------------------------------------------------------------------------------------------


def respond(records: Sequence[bytes], extra: Sequence[bytes], size: int, *, name: str = WEB) -> Response:
    parsed = parse_query(query(name, "SRV", edns=0, size=size).to_wire())
    return Response(parsed, authoritative=True, answers=records, additional=extra)


@pytest.mark.parametrize("members", [1, 5, 8, 12, 18, 25, 60])
def test_dns_22_every_size_fits_and_is_cut_in_the_right_order(members: int) -> None:
    """Additional records are left out first, then whole answer records from the end, which sets TC."""
    server = Server({"web.staging": many(members)}, order="fixed")
    whole = server.respond(query(WEB, "SRV", edns=0).to_wire(), stream=True)
    assert whole is not None
    all_answers, all_extra = data(read(whole)), additional_of(read(whole))
    before, counts = b"", (0, 0)
    for size in range(512, 1233):
        response = server.respond(encode_query(WEB, "SRV", edns=0, size=size), stream=False)
        assert response is not None
        assert len(response) <= size
        if response != before:
            parsed = read(response)
            answers, extra = data(parsed), additional_of(parsed)
            assert answers == all_answers[: len(answers)]
            assert extra == all_extra[: len(extra)]
            assert parsed.edns == 0
            assert truncated(parsed) == (len(answers) < members)
            assert len(answers) == members or not extra
            assert (len(answers), len(extra)) >= counts
            before, counts = response, (len(answers), len(extra))
        if counts < (members, members):
            assert len(response) > size - 60  # no room is wasted


@given(
    st.lists(st.integers(0, 200), max_size=60),
    st.lists(st.integers(0, 200), max_size=60),
    st.integers(512, 1232),
)
@settings(max_examples=300, deadline=None)
def test_dns_22_records_of_any_size_fit_at_every_size(
    answers: list[int], extra: list[int], size: int
) -> None:
    made = [
        pack_record(b"\xc0\x0c", 65280, 5, bytes((at,)) + bytes(length)) for at, length in enumerate(answers)
    ]
    more = [
        pack_record(b"\1g\xc0\x0c", 65281, 5, bytes((at,)) + bytes(length)) for at, length in enumerate(extra)
    ]
    response = respond(made, more, size)
    wire = response.pack(size)
    parsed = read(wire)
    assert len(wire) <= size
    assert truncated(parsed) == response.truncated == (len(parsed.answer) < len(made))
    assert parsed.edns == 0
    if response.truncated:
        assert not parsed.additional
        assert len(wire) + len(made[len(parsed.answer)]) > size
    elif len(parsed.additional) < len(more):
        assert len(wire) + len(more[len(parsed.additional)]) > size


def test_dns_22_a_response_that_fits_exactly_is_not_cut() -> None:
    records = [pack_record(b"\xc0\x0c", Type.A, 5, bytes((at, 0, 0, 0))) for at in range(10)]
    size = len(respond(records, records[:0], 1232).pack(1232))
    exact, short = respond(records, [], 1232), respond(records, [], 1232)
    assert len(exact.pack(size)) == size
    assert not exact.truncated
    assert len(short.pack(size - 1)) == size - len(records[0])
    assert short.truncated


def test_dns_22_an_extended_error_and_a_long_question_stay_within_the_limit() -> None:
    name = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 51, "discovery"))
    parsed = parse_query(query(name, edns=0, size=512).to_wire())
    assert len(parsed.question) == 259
    record = pack_record(b"\xc0\x0c", Type.A, 5, bytes(4))
    response = Response(parsed, answers=[record] * 100, ede=Ede.STALE_ANSWER, ede_text="unreachable")
    wire = response.pack(512)
    assert len(wire) <= 512
    assert truncated(dns.message.from_wire(wire))


@pytest.mark.parametrize(
    ("rcode", "header", "extended"), [(Rcode.NOERROR, 0, 0), (Rcode.REFUSED, 5, 0), (Rcode.BADVERS, 0, 1)]
)
def test_dns_18_a_code_above_15_goes_into_the_opt(rcode: Rcode, header: int, extended: int) -> None:
    wire = Response(parse_query(query(WEB, edns=0).to_wire()), rcode).pack(512)
    assert wire[3] & 0xF == header
    assert wire[-11:] == b"\0\0\x29\x04\xd0" + bytes((extended,)) + bytes(5)
