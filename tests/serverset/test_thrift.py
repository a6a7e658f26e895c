"""Members in thrift, as old twitter commons wrote them. thriftpy2 writes the valid ones."""

# mypy: allow-untyped-calls
# thriftpy2 is only partly typed, although it claims to be.

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import pytest
import thriftpy2.parser
from hypothesis import given, settings
from hypothesis import strategies as st
from thriftpy2.protocol import TBinaryProtocolFactory
from thriftpy2.utils import serialize

from zkdns.address import unusable_address
from zkdns.errors import BadMemberError
from zkdns.serverset.member import MAX_DATA, Endpoint, Member, Status, decode_member

NAME = "member_0000000318"
IDL = """
struct Endpoint { 1: string host, 2: i32 port, 3: string inet, 4: string inet6 }
struct Instance {
    1: Endpoint serviceEndpoint,
    2: map<string, Endpoint> additionalEndpoints,
    3: i32 status,
    4: i32 shard,
    5: map<string, string> metadata,
}
struct Inner { 1: list<i64> numbers, 2: map<i16, Inner> inner, 3: double d, 4: bool b, 5: byte c }
struct Later {
    1: Endpoint serviceEndpoint,
    2: map<string, Endpoint> additionalEndpoints,
    3: i32 status,
    4: string shard,
    5: set<string> metadata,
    6: Inner inner,
    7: list<Inner> inners,
    8: map<string, list<string>> lists,
    9: i64 more,
}
struct Others { 1: Endpoint serviceEndpoint, 2: map<i32, string> additionalEndpoints, 3: i32 status }
"""
written: Any = thriftpy2.parser.load_fp(io.StringIO(IDL), "members_thrift")


def encode(struct_: Any) -> bytes:
    """A struct as thriftpy2 writes it, independent of our decoder."""
    return bytes(serialize(struct_, TBinaryProtocolFactory()))


def reason(data: bytes) -> str:
    """Why the member is rejected."""
    with pytest.raises(BadMemberError) as caught:
        decode_member(NAME, data)
    return caught.value.reason


OWN = written.Endpoint(host="myhost", port=8080)

_LABELS = st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True)
_ADDRESSES = st.ip_addresses(v=4).filter(lambda address: unusable_address(address) is None).map(str)
_HOSTS = _ADDRESSES | _LABELS
_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_ENDPOINTS = st.builds(Endpoint, _HOSTS, st.integers(1, 65535), inet=st.none() | _ADDRESSES)


@given(
    st.builds(
        Member,
        st.just(NAME),
        _ENDPOINTS,
        additional=st.dictionaries(_TEXT, _ENDPOINTS, max_size=3),
        status=st.sampled_from(Status),
        shard=st.none() | st.integers(-(2**31), 2**31 - 1),
        metadata=st.dictionaries(_TEXT, _TEXT, max_size=3),
    )
)
@settings(max_examples=200, deadline=None)
def test_members_from_thrifts_own_encoder_are_decoded(member: Member) -> None:
    def plain(endpoint: Endpoint | None) -> Any:
        assert endpoint
        return written.Endpoint(host=endpoint.host, port=endpoint.port, inet=endpoint.inet)

    data = encode(
        written.Instance(
            serviceEndpoint=plain(member.service),
            additionalEndpoints={name: plain(endpoint) for name, endpoint in member.additional.items()},
            status=list(Status).index(member.status),
            shard=member.shard,
            metadata=dict(member.metadata) or None,
        )
    )
    assert decode_member(NAME, data) == member
    for cut in range(2, len(data)):  # the first byte alone is white space
        assert reason(data[:cut]) == "thrift"


def test_unknown_fields_and_fields_of_other_types_are_skipped() -> None:
    deep = written.Inner(numbers=[1, 2], inner={1: written.Inner(numbers=[])}, d=1.5, b=True, c=7)
    later = written.Later(
        serviceEndpoint=OWN,
        additionalEndpoints={"http": OWN},
        status=2,
        shard="seven",
        metadata={"a"},
        inner=deep,
        inners=[deep, deep],
        lists={"a": ["b"]},
        more=-1,
    )
    endpoint = Endpoint("myhost", 8080)
    assert decode_member(NAME, encode(later)) == Member(NAME, endpoint, additional={"http": endpoint})
    others = written.Others(serviceEndpoint=OWN, additionalEndpoints={1: "a"}, status=2)
    assert decode_member(NAME, encode(others)) == Member(NAME, endpoint)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"status": 2, "serviceEndpoint": written.Endpoint(host="", port=1)}, "host"),
        ({"status": 2, "serviceEndpoint": written.Endpoint(host="a b", port=1)}, "host"),
        ({"status": 2, "serviceEndpoint": written.Endpoint(host="a", port=-1)}, "port"),
        ({"status": 2, "serviceEndpoint": written.Endpoint(host="a", port=65536)}, "port"),
        ({"status": 99, "serviceEndpoint": OWN}, "status"),
        ({"serviceEndpoint": OWN}, "status"),
    ],
)
def test_thrift_members_follow_the_rules_of_json_ones(fields: dict[str, Any], why: str) -> None:
    assert reason(encode(written.Instance(**fields))) == why


def test_service_port_0_leaves_the_additional_endpoints() -> None:
    fields = {"serviceEndpoint": written.Endpoint(host="a", port=0), "additionalEndpoints": {"http": OWN}}
    member = decode_member(NAME, encode(written.Instance(**fields, status=2)))
    assert member == Member(NAME, None, additional={"http": Endpoint("myhost", 8080)})


_FIELD_9 = struct.pack("!h", 9)
_INSIDE = b"\x0c\0\7"  # a field 7, itself a struct


@pytest.mark.parametrize(
    "data",
    [
        _INSIDE,
        _INSIDE + b"\x07" + _FIELD_9 + bytes(8),
        _INSIDE + b"\x0b" + _FIELD_9 + struct.pack("!i", -1),
        _INSIDE + b"\x0b" + _FIELD_9 + struct.pack("!i", 2**31 - 1),
        _INSIDE + b"\x0f" + _FIELD_9 + b"\x03" + struct.pack("!i", 2**31 - 1) + bytes(50),
        _INSIDE + b"\x0f" + _FIELD_9 + b"\0" + struct.pack("!i", 3) + bytes(50),
        _INSIDE + b"\x0d" + _FIELD_9 + b"\x0b\x0b" + struct.pack("!i", 2**31 - 1),
        _INSIDE * (MAX_DATA // len(_INSIDE)),
        _INSIDE + (b"\x0f" + _FIELD_9 + b"\x0f\0\0\0\1") + b"\x0f\0\0\0\1" * 13_000,
        b"\x0c\0\1\x0b\0\1\0\0\0\1\xff\x08\0\2\0\0\0\1\0\x08\0\3\0\0\0\2\0",
    ],
    ids=range(10),
)
def test_a_broken_struct_is_rejected_in_linear_time(data: bytes) -> None:
    assert reason(data) == "thrift"


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes_raise_only_bad_member_error(data: bytes) -> None:
    with contextlib.suppress(BadMemberError):
        decode_member(NAME, b"\x0c" + data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_struct_with_changed_bytes_raises_only_bad_member_error(data: st.DataObject) -> None:
    endpoints = {"http": OWN, "admin": OWN}
    whole = bytearray(
        encode(written.Instance(serviceEndpoint=OWN, additionalEndpoints=endpoints, status=2, shard=3))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from(range(256)))
    with contextlib.suppress(BadMemberError):
        decode_member(NAME, bytes(whole))
