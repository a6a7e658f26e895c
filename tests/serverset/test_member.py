"""Decoding, rejecting and encoding members."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zkdns.address import unusable_address
from zkdns.errors import BadMemberError, BadValueError
from zkdns.serverset.member import (
    MAX_DATA,
    Endpoint,
    Member,
    Status,
    canonical_host,
    decode_member,
    decode_tolerantly,
    encode_member,
    is_ip,
)

NAME = "member_0000000318"
PLAIN = {
    "serviceEndpoint": {"host": "myhost", "port": 8080},
    "additionalEndpoints": {},
    "status": "ALIVE",
}

FINAGLE = (
    b'{"serviceEndpoint":{"host":"foo","port":1000},"additionalEndpoints":'
    b'{"http":{"host":"foo","port":8080}},"status":"ALIVE","shard":42}'
)
THRIFT = bytes.fromhex("0c00010b0001000000036f646408000200000002000d00020b0c000000000800030000000200")


def written(**fields: Any) -> bytes:
    """The plain member with some fields replaced. None removes a field."""
    record = {**PLAIN, **fields}
    return json.dumps({key: value for key, value in record.items() if value is not None}).encode()


def service(**fields: Any) -> bytes:
    """The plain member with some fields of its service endpoint replaced. None removes a field."""
    own: dict[str, Any] = {"host": "myhost", "port": 8080, **fields}
    return written(serviceEndpoint={key: value for key, value in own.items() if value is not None})


def reason(data: bytes) -> str:
    """Why the member is rejected."""
    with pytest.raises(BadMemberError) as caught:
        decode_member(NAME, data)
    assert str(caught.value)
    return caught.value.reason


# -- decoding ---------------------------------------------------------------------------------------------

READ = {
    "go.serversets": (written(), Member(NAME, Endpoint("myhost", 8080))),
    "Finagle": (
        FINAGLE,
        Member(NAME, Endpoint("foo", 1000), additional={"http": Endpoint("foo", 8080)}, shard=42),
    ),
    "Aurora with metadata": (
        written(shard=3, metadata={"rack": "b7"}),
        Member(NAME, Endpoint("myhost", 8080), shard=3, metadata={"rack": "b7"}),
    ),
    "twitter.common with addresses": (
        service(inet="10.0.0.1", inet6="2001:DB8::1"),
        Member(NAME, Endpoint("myhost", 8080, inet="10.0.0.1", inet6="2001:db8::1")),
    ),
    "no additionalEndpoints": (written(additionalEndpoints=None), Member(NAME, Endpoint("myhost", 8080))),
    "null additionalEndpoints": (
        b'{"serviceEndpoint":{"host":"myhost","port":8080},"additionalEndpoints":null,"status":"ALIVE"}',
        Member(NAME, Endpoint("myhost", 8080)),
    ),
    "unknown fields": (
        written(more=[1, {"x": None}], serviceEndpoint={"host": "myhost", "port": 8080, "tls": True}),
        Member(NAME, Endpoint("myhost", 8080)),
    ),
    "status in lower case": (written(status="alive"), Member(NAME, Endpoint("myhost", 8080))),
    "port as text": (service(port="80"), Member(NAME, Endpoint("myhost", 80))),
    "port as float": (service(port=80.0), Member(NAME, Endpoint("myhost", 80))),
    "lowest port": (service(port=1), Member(NAME, Endpoint("myhost", 1))),
    "highest port": (service(port=65535), Member(NAME, Endpoint("myhost", 65535))),
    "byte-order mark": (b"\xef\xbb\xbf" + written(), Member(NAME, Endpoint("myhost", 8080))),
    "white space": (b" \n\t" + written() + b"\r\n", Member(NAME, Endpoint("myhost", 8080))),
    "IPv4": (service(host="10.0.0.1"), Member(NAME, Endpoint("10.0.0.1", 8080))),
    "IPv6, bare": (
        service(host="2001:DB8:0::1"),
        Member(NAME, Endpoint("2001:db8::1", 8080), written="[2001:DB8:0::1]:8080"),
    ),
    "IPv6 in brackets": (
        service(host="[2001:db8::1]"),
        Member(NAME, Endpoint("2001:db8::1", 8080), written="[[2001:db8::1]]:8080"),
    ),
    "IPv4 as IPv6": (
        service(host="::ffff:10.0.0.1"),
        Member(NAME, Endpoint("10.0.0.1", 8080), written="[::ffff:10.0.0.1]:8080"),
    ),
    "host with a trailing dot": (
        service(host="db.example.com."),
        Member(NAME, Endpoint("db.example.com", 8080), written="db.example.com.:8080"),
    ),
    "service port 0": (
        service(port=0),
        Member(NAME, None),
    ),
    "service port 0 and an additional endpoint": (
        written(
            serviceEndpoint={"host": "a", "port": 0}, additionalEndpoints={"http": {"host": "a", "port": 1}}
        ),
        Member(NAME, None, additional={"http": Endpoint("a", 1)}),
    ),
    "additional endpoint with port 0": (
        written(additionalEndpoints={"http": {"host": "a", "port": 0}}),
        Member(NAME, Endpoint("myhost", 8080)),
    ),
    "thrift": (THRIFT, Member(NAME, Endpoint("odd", 2))),
    "thrift behind a byte-order mark": (b"\xef\xbb\xbf" + THRIFT, Member(NAME, Endpoint("odd", 2))),
    "shard as text": (written(shard="7"), Member(NAME, Endpoint("myhost", 8080), shard=7)),
    "shard 0": (written(shard=0), Member(NAME, Endpoint("myhost", 8080), shard=0)),
    "null shard": (
        written(status="ALIVE")[:-1] + b',"shard":null}',
        Member(NAME, Endpoint("myhost", 8080)),
    ),
    "addresses that are none": (
        service(inet="nonsense", inet6="10.0.0.1"),
        Member(NAME, Endpoint("myhost", 8080)),
    ),
    "metadata that is none": (written(metadata=[1]), Member(NAME, Endpoint("myhost", 8080))),
}


@pytest.mark.parametrize(("data", "expected"), READ.values(), ids=READ.keys())
def test_a_member_in_this_dialect_is_decoded(data: bytes, expected: Member) -> None:
    assert decode_member(NAME, data) == expected


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_decoded_in_any_case(status: Status) -> None:
    for text in (status.value, status.value.lower(), status.value.capitalize()):
        assert decode_member(NAME, written(status=text)).status is status


@pytest.mark.parametrize(
    ("number", "status"), list(enumerate(["DEAD", "STARTING", "ALIVE", "STOPPING", "STOPPED", "WARNING"]))
)
def test_a_numeric_status_is_that_of_thrift(number: int, status: str) -> None:
    assert decode_member(NAME, written(status=number)).status == status


@pytest.mark.parametrize(
    "name", ["member_abc", "member_", "member_0000000001", "member_-2147483648", "member_" + "9" * 5000]
)
def test_the_suffix_of_a_members_name_has_no_meaning(name: str) -> None:
    member = decode_member(name, written())
    assert (member.name, member.service) == (name, Endpoint("myhost", 8080))


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("member_0000000318", 318),
        ("member_2147483647", 2147483647),
        ("member_-2147483648", -2147483648),
        ("member_abc", None),
        ("member_", None),
        ("m3", None),
        ("0000000318", None),
        ("node-0000000318", 318),
        ("i-120000000318", 318),
        ("node-٣٣٣٣٣٣٣٣٣٣", None),
        ("node-000000318", None),
        ("member_1 ", None),
        ("member_٣", None),
        ("member_" + "9" * 5000, None),
    ],
)
def test_the_sequence_is_that_of_zookeeper(name: str, sequence: int | None) -> None:
    assert Member(name, None).sequence == sequence


# -- rejecting --------------------------------------------------------------------------------------------

REFUSED = {
    "nothing": (b"", "empty"),
    "blanks": (b" \n ", "empty"),
    "a byte-order mark alone": (b"\xef\xbb\xbf", "empty"),
    "garbage": (b"garbage", "json"),
    "\\x01": (b"\x01", "json"),
    "zeros": (bytes(8), "json"),
    "truncated": (written()[:-5], "json"),
    "two values": (written() + written(), "json"),
    "an array": (b"[]", "json"),
    "null": (b"null", "json"),
    "a number": (b"1", "json"),
    "text": (b'"ALIVE"', "json"),
    "not UTF-8": (b'{"status":"\xff"}', "json"),
    "UTF-16": (written().decode().encode("utf-16"), "json"),
    "half a surrogate": (b'{"status":"\\ud800"}', "json"),
    "nested without end": (b'{"a":' * 5000, "json"),
    "a number without end": (b'{"shard":' + b"9" * 5000 + b"}", "json"),
    "an empty object": (b"{}", "host"),
    "null endpoint": (b'{"serviceEndpoint":null,"status":"ALIVE"}', "host"),
    "no host": (service(host=None), "host"),
    "empty host": (service(host=""), "host"),
    "host that is a number": (service(host=10), "host"),
    "host of blanks": (service(host=" "), "host"),
    "host with a path": (service(host="http://web/"), "host"),
    "host with a port": (service(host="web:80"), "host"),
    "half an address": (service(host="10.0.0"), "host"),
    "too much of an address": (service(host="10.0.0.256"), "host"),
    "a scope": (service(host="fe80::1%eth0"), "host"),
    "an unspecified address": (service(host="0.0.0.0"), "host"),
    "an unspecified IPv6 address": (service(host="::"), "host"),
    "an address of this network": (service(host="0.1.2.3"), "host"),
    "the broadcast address": (service(host="255.255.255.255"), "host"),
    "a multicast address": (service(host="239.1.1.1"), "host"),
    "an IPv6 multicast address": (service(host="[ff02::1]"), "host"),
    "an unspecified address in IPv6": (service(host="::ffff:0.0.0.0"), "host"),
    "a link-local address": (service(host="fe80::1"), "host"),
    "a hexadecimal number": (service(host="0x7f000001"), "host"),
    "hexadecimal numbers": (service(host="0x7f.0.0.0x1"), "host"),
    "a wildcard": (service(host="*"), "host"),
    "characters of a shell": (service(host="a;b@c$"), "host"),
    "a backslash": (service(host="a\\b"), "host"),
    "letters beyond ASCII": (service(host="höst"), "host"),
    "a long label": (service(host="a" * 64 + ".example"), "host"),
    "a long name": (service(host=".".join(["a" * 60] * 5)), "host"),
    "an empty label": (service(host="a..b"), "host"),
    "control characters": (service(host="a\nb"), "host"),
    "no port": (service(port=None), "port"),
    "port beyond 65535": (service(port=65536), "port"),
    "negative port": (service(port=-1), "port"),
    "port with a fraction": (service(port=80.5), "port"),
    "port that is true": (service(port=True), "port"),
    "port in words": (service(port="http"), "port"),
    "empty port": (service(port=""), "port"),
    "port in other digits": (service(port="٨٠"), "port"),
    "port of many digits": (service(port="9" * 5000), "port"),
    "port in a list": (service(port=[80]), "port"),
    "no status": (written(status=None), "status"),
    "unknown status": (written(status="FINE"), "status"),
    "status number beyond the enumeration": (written(status=99), "status"),
    "negative status": (written(status=-1), "status"),
    "status that is true": (written(status=True), "status"),
    "thrift, cut short": (THRIFT[:-1], "thrift"),
    "thrift with something behind it": (THRIFT + b"\0", "thrift"),
    "thrift without a host": (THRIFT.replace(b"\x0b\0\1", b"\x0b\0\7"), "host"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_member_is_rejected_with_its_reason(data: bytes, why: str) -> None:
    assert reason(data) == why


def read_with_both_decoders(data: bytes) -> Member | str:
    """The decoded member, or the reason of its error. The strict decoder must not change it."""
    found: list[Member | str] = []
    for read in (decode_member, decode_tolerantly):
        try:
            found.append(read(NAME, data))
        except BadMemberError as error:
            found.append(f"{error.reason}: {error}")
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("data", [data for data, _ in [*READ.values(), *REFUSED.values()]])
def test_the_strict_decoder_agrees_with_the_tolerant_one(data: bytes) -> None:
    read_with_both_decoders(data)


@pytest.mark.parametrize(
    "data",
    [
        written(more=1)[:-2] + b"9" * 5000 + b"}",
        written()[:-1] + b',"more":"\xff"}',
        written()[:-1] + b',"more":"\\ud800"}',
        written()[:-1] + b',"status":"DEAD"}',
        written()[:-1] + b',"status":"?","status":"ALIVE"}',
        written()[:-1] + b',"shard":1e3}',
        written()[:-1] + b',"shard":-0}',
        written(shard=2**63),
        service(port=8e1),
        service(host="10.0.0.01"),
        service(host="10.0.0.1."),
        service(host="a" * 63 + ".example"),
        service(host=".".join(["a" * 49] * 5) + ".abc"),
        service(host=".".join(["a" * 49] * 5) + ".abcd"),
        service(host="web-1"),
        service(host="1.web1"),
        service(host="a\n"),
        service(host="10.0.0.1\n"),
        service(host="10.0.0.1\0"),
        service(host="\u0661.0.0.1"),
        written(metadata={"a": None, "b": "c"}),
        written(metadata={}),
    ],
)
def test_data_that_only_the_tolerant_decoder_accepts_goes_to_it(data: bytes) -> None:
    read_with_both_decoders(data)


@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf{")
@example(b'{"serviceEndpoint":{"host":"\\u0000","port":1},"status":"ALIVE"}')
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes_raise_only_bad_member_error(data: bytes) -> None:
    read_with_both_decoders(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_ENDPOINT = st.fixed_dictionaries({}, optional=dict.fromkeys(("host", "port", "inet", "inet6"), _JSON))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "serviceEndpoint": _ENDPOINT | _JSON,
            "additionalEndpoints": st.dictionaries(st.text(max_size=5), _ENDPOINT | _JSON, max_size=2)
            | _JSON,
            "status": st.sampled_from(["ALIVE", "alive", 2]) | _JSON,
            "shard": _JSON,
            "metadata": _JSON,
        },
    )
)
@settings(max_examples=500, deadline=None)
def test_fields_of_any_type_raise_only_bad_member_error(record: dict[str, Any]) -> None:
    data = json.dumps(record).encode()
    member = read_with_both_decoders(data)
    if isinstance(member, str):
        return
    assert decode_member(NAME, encode_member(member)).status is member.status


# -- encoding ---------------------------------------------------------------------------------------------


OWN = Endpoint("myhost", 8080)
HTTP = {"http": {"host": "a", "port": 1}}
IGNORED = {
    "shard beyond 32 bits": (written(shard=2**40), Member(NAME, OWN), ["shard"]),
    "shard with a fraction": (written(shard=3.5), Member(NAME, OWN), ["shard"]),
    "shard in words": (written(shard="abc"), Member(NAME, OWN), ["shard"]),
    "shard that is true": (written(shard=True), Member(NAME, OWN), ["shard"]),
    "shard with another fault": (
        written(shard="abc", metadata={"a": 1, "b": "c"}),
        Member(NAME, OWN, metadata={"b": "c"}),
        ["shard", "metadata"],
    ),
    "metadata that is a list": (written(metadata=[1]), Member(NAME, OWN), ["metadata"]),
    "additionalEndpoints in a list": (
        written(additionalEndpoints=[1]),
        Member(NAME, OWN),
        ["additionalEndpoints"],
    ),
    **{
        f"an additional endpoint {what}": (
            written(additionalEndpoints={"bad": endpoint, **HTTP}),
            Member(NAME, OWN, additional={"http": Endpoint("a", 1)}),
            ["additionalEndpoints"],
        )
        for what, endpoint in {
            "without port": {"host": "a"},
            "without host": {"port": 1},
            "that is text": "a:1",
            "that is null": None,
            "with a scope": {"host": "fe80::1%eth0", "port": 1},
            "at an unspecified address": {"host": "0.0.0.0", "port": 1},
        }.items()
    },
    "addresses of the wrong kind": (
        service(inet="nonsense", inet6="10.0.0.1"),
        Member(NAME, OWN),
        ["inet", "inet"],
    ),
    "an unusable address": (
        service(inet="0.0.0.0", inet6="fe80::1%eth0"),
        Member(NAME, OWN),
        ["inet", "inet"],
    ),
    "only additional endpoints": (
        written(serviceEndpoint=None, additionalEndpoints=HTTP),
        Member(NAME, None, additional={"http": Endpoint("a", 1)}),
        [],
    ),
}


@pytest.mark.parametrize(("data", "expected", "fields"), IGNORED.values(), ids=IGNORED.keys())
def test_an_invalid_optional_field_does_not_affect_the_rest(
    data: bytes, expected: Member, fields: list[str]
) -> None:
    found: list[tuple[str, str]] = []
    assert decode_member(NAME, data, lambda field, why: found.append((field, why))) == expected
    assert [field for field, _ in found] == fields
    assert all(why for _, why in found)


def _additional(count: int) -> dict[str, object]:
    return {
        f"e{number}": {"host": f"10.1.{number >> 8}.{number & 255}", "port": 80} for number in range(count)
    }


@pytest.mark.parametrize("count", [100, 101, 4000])
@pytest.mark.parametrize("read", [decode_member, decode_tolerantly])
def test_the_first_hundred_additional_endpoints_are_used(count: int, read: Callable[..., Member]) -> None:
    found: list[tuple[str, str]] = []
    data = written(additionalEndpoints=_additional(count))
    member = read(NAME, data, lambda field, why: found.append((field, why)))
    assert list(member.additional) == list(_additional(100))
    assert member.service == OWN
    text = f"additionalEndpoints has {count} entries; only the first 100 are used"
    assert found == ([("too_many_endpoints", text)] if count > 100 else [])


@pytest.mark.parametrize("read", [decode_member, decode_tolerantly])
def test_data_above_64_kib_has_no_metadata_and_no_long_names(read: Callable[..., Member]) -> None:
    fields: list[str] = []

    def decode(key: str) -> Member:
        fields.clear()
        long = {"y" * 255: {"host": "a", "port": 1}, "x" * 256: {"host": "b", "port": 1}}
        data = written(additionalEndpoints=long, metadata={key: "m"}, shard=3)
        return read(NAME, data, lambda field, _why: fields.append(field))

    size = len(written(additionalEndpoints={}, metadata={"": "m"}, shard=3)) + 255 + 256 + 2 * 30
    usual = decode("k" * (MAX_DATA - size - 100))
    assert (len(usual.additional), len(usual.metadata), fields) == (2, 1, [])
    member = decode("k" * MAX_DATA)
    assert (list(member.additional), member.metadata, member.shard) == (["y" * 255], {}, 3)
    assert (member.service, sorted(fields)) == (OWN, ["too_large", "too_large"])


def test_thrift_above_64_kib_is_rejected() -> None:
    """Its decoder is in Python, so that large data takes long."""
    assert reason(b"\x0c" + bytes(MAX_DATA)) == "too_large"
    assert reason(b"\x0c" + bytes(MAX_DATA - 1)) == "thrift"


def test_a_member_without_any_usable_endpoint_is_rejected() -> None:
    assert reason(written(serviceEndpoint=None, additionalEndpoints={"http": {"host": "a"}})) == "host"


def test_a_member_is_encoded_byte_for_byte_as_go_serversets_does() -> None:
    expected = b'{"serviceEndpoint":{"host":"myhost","port":8080},"additionalEndpoints":{},"status":"ALIVE"}'
    assert encode_member(Member(NAME, Endpoint("myhost", 8080))) == expected


def test_shard_and_additional_endpoints_are_encoded_as_finagle_does() -> None:
    member = Member(NAME, Endpoint("foo", 1000), additional={"http": Endpoint("foo", 8080)}, shard=42)
    assert encode_member(member) == FINAGLE


# As Go's encoding/json: map[string]endpoint has sorted keys, and these characters are escaped.
AS_GO = [
    ({"b": 2, "a": 1, "B": 3, "é": 4}, ["B", "a", "b", "é"]),
    ({"a<b>&c": 1}, ["a\\u003cb\\u003e\\u0026c"]),
    ({"\u2028\u2029\u202a": 1}, ["\\u2028\\u2029\u202a"]),
    ({'"\\/\t\x7f\x01': 1}, ['\\"\\\\/\\t\x7f\\u0001']),
]


@pytest.mark.parametrize(("ports", "keys"), AS_GO)
def test_names_are_sorted_and_escaped_as_go_does(ports: dict[str, int], keys: list[str]) -> None:
    endpoints = {name: Endpoint("h", port) for name, port in ports.items()}
    text = {name: str(port) for name, port in ports.items()}
    member = Member(NAME, Endpoint("h", 9), additional=endpoints, metadata=text)
    data = encode_member(member)
    assert decode_member(NAME, data) == member
    fields = [
        ",".join(f'"{key}":{value}' for key, value in zip(keys, values, strict=True))
        for values in (
            [f'{{"host":"h","port":{ports[name]}}}' for name in sorted(ports)],
            [f'"{ports[name]}"' for name in sorted(ports)],
        )
    ]
    assert data.decode() == (
        '{"serviceEndpoint":{"host":"h","port":9},"additionalEndpoints":{' + fields[0] + "},"
        '"status":"ALIVE","metadata":{' + fields[1] + "}}"
    )


def test_shard_0_is_written_and_metadata_comes_last() -> None:
    member = Member(NAME, Endpoint("::1", 1), shard=0, metadata={"a": "b"}, status=Status.STARTING)
    assert encode_member(member).endswith(b'"status":"STARTING","shard":0,"metadata":{"a":"b"}}')
    assert b'{"host":"::1","port":1}' in encode_member(member)  # IPv6 without brackets


_ADDRESSES = st.ip_addresses().filter(lambda address: unusable_address(address) is None)
_HOSTS = _ADDRESSES.map(str).map(canonical_host) | st.from_regex(
    r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,10}){0,3}", fullmatch=True
)
_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_ENDPOINTS = st.builds(Endpoint, _HOSTS, st.integers(1, 65535))


@given(
    st.builds(
        Member,
        st.just(NAME),
        st.none() | _ENDPOINTS,
        additional=st.dictionaries(_TEXT, _ENDPOINTS, max_size=3),
        status=st.sampled_from(Status),
        shard=st.none() | st.integers(-(2**31), 2**31 - 1),
        metadata=st.dictionaries(_TEXT, _TEXT, max_size=3),
    )
)
@settings(max_examples=300, deadline=None)
def test_an_encoded_member_decodes_to_itself(member: Member) -> None:
    data = encode_member(member)
    assert decode_member(NAME, data) == member
    assert data.startswith(b'{"')  # old Java readers check for it
    assert json.loads(data)["status"] == member.status.value


# -- hosts ------------------------------------------------------------------------------------------------


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_a_canonical_host_stays_as_it_is(text: str) -> None:
    try:
        host = canonical_host(text)
    except BadValueError:
        return
    assert canonical_host(host) == host
    assert is_ip(host) or host.isascii()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        assert not is_ip(host)
    else:
        assert is_ip(host)


@pytest.mark.parametrize("host", ["web1", "1.web", "a.b1", "1a", "a.1a", "-", "_srv.example"])
def test_a_host_name_with_digits_is_a_name(host: str) -> None:
    assert canonical_host(host) == host
    assert not is_ip(host)


def test_members_share_one_immutable_empty_dictionary() -> None:
    first, second = decode_member(NAME, written()), Member("m0", None)
    assert len({id(shared) for shared in (first.additional, first.metadata, second.additional)}) == 1
    assert first.additional == {}
    with pytest.raises(TypeError):
        first.additional["http"] = Endpoint("a", 1)  # type: ignore[index]
    with pytest.raises(TypeError):
        first.metadata.update(a="b")  # type: ignore[attr-defined]
    assert first.additional == {}


def test_an_endpoints_addresses_need_no_lookup() -> None:
    assert Endpoint("10.0.0.1", 80, inet="10.9.9.9").addresses == ("10.0.0.1",)
    assert Endpoint("myhost", 80).addresses == ()
    assert Endpoint("myhost", 80, inet="10.0.0.1", inet6="::1").addresses == ("10.0.0.1", "::1")
