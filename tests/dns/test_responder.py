"""The rules of a DNS server, each with its number in the list of rules."""

from __future__ import annotations

from collections import Counter

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdatatype
import pytest

from tests.dns.helpers import (
    NAMESPACE,
    Server,
    additional_of,
    ask,
    authoritative,
    data,
    ede,
    has_soa,
    many,
    member,
    ports,
    put,
    query,
    rcode,
    read,
    truncated,
)
from zkdns.dns.message import MAX_TRAILING
from zkdns.names import parse_name, to_wire
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import SetUnread

WEB = "web.staging.discovery"
TYPES = ("A", "AAAA", "CNAME", "MX", "NS", "SOA", "SRV", "TXT", "PTR", "HTTPS", "SVCB", "CAA", "TYPE65280")
OPT = b"\0" + b"\0\x29" + b"\x04\xd0" + b"\0\0\0\0" + b"\0\0"


@pytest.fixture
def server() -> Server:
    """Two services, one of them without members."""
    return Server(
        {
            "web.staging": [member(0, "10.0.0.1:8080", shard=3, additional={"admin": "10.0.0.1:9990"})],
            "idle.staging": [],
        }
    )


def header(flags: int, *counts: int, ident: int = 4711) -> bytes:
    return b"".join(word.to_bytes(2) for word in (ident, flags, *counts))


def question(name: str = WEB, qtype: int = 1, qclass: int = 1) -> bytes:
    return to_wire(parse_name(name)) + qtype.to_bytes(2) + qclass.to_bytes(2)


def refused_as_malformed(server: Server, message: bytes) -> None:
    """FORMERR with only a header: id and RD of the query, all other flags clear."""
    expected = message[:2] + (0x8001 | message[2] << 8 & 0x0100).to_bytes(2) + bytes(8)
    assert server.respond(message, stream=False) == expected


# -- messages ---------------------------------------------------------------------------------------------


def test_dns_01_less_than_a_header_gets_no_response(server: Server) -> None:
    whole = query(WEB).to_wire()
    for size in range(12):
        assert server.respond(whole[:size], stream=False) is None
        assert server.respond(whole[:size], stream=True) is None


def test_dns_01_a_response_gets_no_response(server: Server) -> None:
    whole = query(WEB, edns=0).to_wire()
    for flags in (0x80, 0xF8, 0xFF):
        assert server.respond(whole[:2] + bytes((flags,)) + whole[3:], stream=False) is None
    answer = server.respond(whole, stream=False)
    assert answer is not None
    assert server.respond(answer, stream=False) is None


@pytest.mark.parametrize("flags", [0x0000, 0x0100, 0x07F0])
def test_dns_02_a_malformed_body_gets_formerr_with_id_and_rd(server: Server, flags: int) -> None:
    whole = header(flags, 1, 0, 0, 0) + question()
    for size in range(12, len(whole)):
        refused_as_malformed(server, whole[:size])


@pytest.mark.parametrize("edns", [None, 0])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [WEB, "nope.discovery"])
def test_dns_02_bytes_after_the_query_are_ignored_and_not_cached(
    server: Server, name: str, edns: int | None, *, stream: bool
) -> None:
    message = query(name, edns=edns).to_wire()
    cache = server.streams if stream else server.datagrams
    for size in (1, 11, MAX_TRAILING):
        for _ in range(3):
            for fill in (b"\0", b"\xff", b"a"):
                response = server.respond(message + size * fill, stream=stream)
                assert response == server.respond(message, stream=stream)
    assert len(cache) <= 1
    refused_as_malformed(server, message + bytes(MAX_TRAILING + 1))


def test_dns_02_answer_or_authority_records_in_a_query_are_formerr(server: Server) -> None:
    record = b"\xc0\x0c" + b"\0\1\0\1" + bytes(4) + b"\0\4" + b"\x0a\0\0\1"
    refused_as_malformed(server, header(0x0100, 1, 1, 0, 0) + question() + record)
    refused_as_malformed(server, header(0x0100, 1, 0, 1, 0) + question() + record)


@pytest.mark.parametrize("opcode", [*range(1, 16)])
@pytest.mark.parametrize("body", [question(), b"", b"\xff"])
def test_dns_03_another_opcode_gets_notimp_and_no_other_flag(
    server: Server, opcode: int, body: bytes
) -> None:
    """RFC 8906 §3.1.4, §8.1.4: the opcode is copied, whatever the message contains."""
    message = header(opcode << 11 | 0x07B0, 1, 0, 0, 0) + body
    expected = header(0x8000 | opcode << 11 | 4, 0, 0, 0, 0)
    assert server.respond(message, stream=False) == expected


@pytest.mark.parametrize("count", [0, 2, 3, 65535])
def test_dns_04_any_number_of_questions_but_one_is_formerr(server: Server, count: int) -> None:
    """RFC 9619 §4."""
    refused_as_malformed(server, header(0x0100, count, 0, 0, 0) + question() * min(count, 3))


@pytest.mark.parametrize(
    "name",
    [
        b"\x40" + b"a" * 64 + b"\0",  # a label of 64 bytes, which is a reserved type
        b"\x80" + b"a" * 128 + b"\0",
        b"\x41\x01\0",
        (b"\x3f" + b"a" * 63) * 4 + b"\0",  # 257 bytes
        (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0",  # 256 bytes
        b"\1a" * 128 + b"\0",
        b"\xc0\x0c",  # to itself
        b"\xc0\x0e\0",  # forward
        b"\xc0\x00",  # into the header
        b"\3web\xc0\x0c",
        b"\3web\xff\xff",
        b"\3we",  # the end is missing
    ],
)
def test_dns_05_an_illegal_name_is_formerr(server: Server, name: bytes) -> None:
    refused_as_malformed(server, header(0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1")


def test_dns_05_names_of_the_maximum_length_are_parsed(server: Server) -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(name) == 255
    response = server.respond(header(0, 1, 0, 0, 0) + name + b"\0\1\0\1", stream=False)
    assert response is not None
    assert rcode(read(response)) == "REFUSED"


@pytest.mark.parametrize("owner", [b"\xc0\xff", b"\x40" + b"a" * 64 + b"\0", b"\1a" * 128 + b"\0"])
def test_dns_05_a_bad_owner_in_the_additional_section_is_formerr(server: Server, owner: bytes) -> None:
    record = owner + b"\0\1\0\1" + bytes(4) + b"\0\0"
    refused_as_malformed(server, header(0x0100, 1, 0, 0, 1) + question() + record)


def test_dns_05_an_owner_that_points_to_itself_or_forward_is_formerr(server: Server) -> None:
    at = 12 + len(question())
    for target in (at, at + 1, at + 12):
        record = (0xC000 | target).to_bytes(2) + b"\0\1\0\1" + bytes(4) + b"\0\0"
        refused_as_malformed(server, header(0x0100, 1, 0, 0, 1) + question() + record)


def test_dns_05_64_kib_of_records_take_bounded_time(server: Server) -> None:
    """Linear in the size: 5,000 records with one pointer each, and a count of 65,535."""
    record = b"\xc0\x0c" + b"\0\1\0\1" + bytes(4) + b"\0\0"
    message = header(0x0100, 1, 0, 0, 65535) + question() + record * 5000
    refused_as_malformed(server, message)


@pytest.mark.parametrize("qclass", ["CH", "HS", "ANY", "NONE", "CLASS4711"])
@pytest.mark.parametrize("name", [WEB, "version.bind", "id.server", "nope.staging.discovery"])
def test_dns_06_another_class_is_refused(server: Server, qclass: str, name: str) -> None:
    response = ask(server, name, "TXT", qclass=qclass, edns=0)
    assert (rcode(response), data(response), authoritative(response)) == ("REFUSED", [], False)


@pytest.mark.parametrize(
    "name",
    ["WEB.staging.discovery", "wEb.StAgInG.dIsCoVeRy", "web.staging.DISCOVERY", "NOPE.Discovery", "EXAMPLE"],
)
def test_dns_07_the_question_comes_back_byte_for_byte(server: Server, name: str) -> None:
    """Required by 0x20; the look-up ignores ASCII case (RFC 4343)."""
    message = query(name).to_wire()
    response = server.respond(message, stream=False)
    assert response is not None
    assert response[12 : len(message)] == message[12:]
    assert rcode(read(response)) == rcode(ask(server, name.lower()))
    assert data(read(response)) == data(ask(server, name.lower()))


@pytest.mark.parametrize(
    "labels",
    [
        (b"web.staging", b"discovery"),
        (b"we\0b", b"staging", b"discovery"),
        (b"w\xc3\xa4b", b"staging", b"discovery"),
        (b"\xff\xfe", b"staging", b"discovery"),
        (b"\\", b"discovery"),
    ],
)
def test_dns_07_labels_are_bytes_and_unusual_ones_are_nxdomain(
    server: Server, labels: tuple[bytes, ...]
) -> None:
    """RFC 2181 §11; a dot inside a label is no separator."""
    response = ask(server, dns.name.Name((*labels, b"")))
    assert rcode(response) == "NXDOMAIN"
    assert has_soa(response)


def test_dns_07_only_ascii_letters_are_folded() -> None:
    server = Server({"wäb.staging": ["10.0.0.1:80"]})
    lower = dns.name.Name(("wäb".encode(), b"staging", b"discovery", b""))
    upper = dns.name.Name(("WäB".encode(), b"staging", b"discovery", b""))
    other = dns.name.Name(("wÄb".encode(), b"staging", b"discovery", b""))
    assert [rcode(ask(server, name)) for name in (lower, upper, other)] == ["NOERROR", "NOERROR", "NXDOMAIN"]


@pytest.mark.parametrize("name", [WEB, "idle.staging.discovery", "nope.staging.discovery", "example.com"])
def test_dns_08_flags_of_the_query_are_not_echoed_but_rd_is(server: Server, name: str) -> None:
    """AA, TC, RA, Z, AD and CD of the query are ignored; without forwarding, RA is 0."""
    question_alone = query(name).to_wire()[12:]
    for rd in (0, 0x0100):
        response = server.respond(header(0x06F0 | rd, 1, 0, 0, 0) + question_alone, stream=False)
        assert response is not None
        assert int.from_bytes(response[2:4]) & 0x7FF0 == (0x0400 if "discovery" in name else 0) | rd


# -- data -------------------------------------------------------------------------------------------------


def test_dns_09_the_apex_answers_soa_and_ns_with_authority(server: Server) -> None:
    soa, ns = ask(server, "discovery", "SOA"), ask(server, "discovery", "NS")
    assert (rcode(soa), authoritative(soa), len(soa.answer)) == ("NOERROR", True, 1)
    assert (rcode(ns), authoritative(ns), data(ns)) == ("NOERROR", True, ["localhost."])
    assert soa.answer[0].name.to_text() == "discovery."


@pytest.mark.parametrize("zone", [("discovery",), ("sd", "example"), ("a", "b", "c")])
def test_dns_09_the_apex_is_the_zones_own_name(zone: tuple[str, ...]) -> None:
    namespace = parse_namespace(NAMESPACE.template, tuple(label.encode() for label in zone))
    server = Server({"web.staging": ["10.0.0.1:80"]}, namespaces=(namespace,))
    name = ".".join(zone)
    assert data(ask(server, name, "SOA"))[0].startswith(f"localhost. hostmaster.{name}. ")
    assert has_soa(ask(server, f"nope.{name}"), f"{name}.")
    assert data(ask(server, f"web.staging.{name}")) == ["10.0.0.1"]
    assert ports(ask(server, f"web.staging.{name}", "SRV")) == [(80, f"m0.web.staging.{name}.")]
    assert rcode(ask(server, "web.staging.other")) == "REFUSED"


@pytest.mark.parametrize("qtype", TYPES)
def test_dns_10_an_unknown_service_is_nxdomain_with_soa(server: Server, qtype: str) -> None:
    response = ask(server, "nope.staging.discovery", qtype)
    assert (rcode(response), authoritative(response)) == ("NXDOMAIN", True)
    assert has_soa(response)
    assert data(response) == []


@pytest.mark.parametrize("name", [WEB, f"m0.{WEB}", f"_admin._tcp.{WEB}", "_web._tcp.staging.discovery"])
def test_dns_10_an_unreadable_service_is_servfail(name: str) -> None:
    server = Server({"api.staging": []})
    server.apply(SetUnread("/discovery/staging/web", NAMESPACE.split_name("web.staging")))
    response = ask(server, name, edns=0)
    assert (rcode(response), data(response), ede(response)) == ("SERVFAIL", [], [dns.edns.EDECode.NOT_READY])
    assert rcode(ask(server, "api.staging.discovery")) == "NOERROR"
    server.apply(put("web.staging", ["10.0.0.1:80"]))
    assert data(ask(server, WEB)) == ["10.0.0.1"]


@pytest.mark.parametrize("qtype", TYPES)
@pytest.mark.parametrize(
    "name", [WEB, f"m0.{WEB}", f"s3.{WEB}", f"_admin._tcp.{WEB}", "_web._tcp.staging.discovery", "discovery"]
)
def test_dns_10_a_name_that_exists_is_noerror_for_every_type(server: Server, name: str, qtype: str) -> None:
    """RFC 2308 §2.2: musl, .NET and busybox fail if AAAA of a name with an A gets NXDOMAIN."""
    response = ask(server, name, qtype)
    assert (rcode(response), authoritative(response)) == ("NOERROR", True)
    assert bool(response.answer) != has_soa(response)


@pytest.mark.parametrize("seconds", [1, 2, 5])
def test_dns_10_negative_responses_have_the_configured_ttl(seconds: int) -> None:
    """RFC 2308 §4: the SOA's TTL equals its MINIMUM."""
    (record,) = ask(Server(negative_ttl=seconds), "nope.discovery").authority
    assert (record.ttl, record[0].minimum) == (seconds, seconds)


@pytest.mark.parametrize(
    "name",
    ["staging.discovery", "_tcp.staging.discovery", "_udp.staging.discovery", f"_tcp.{WEB}", f"_udp.{WEB}"],
)
@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "ANY", "NS"])
def test_dns_11_empty_non_terminals_are_nodata(server: Server, name: str, qtype: str) -> None:
    """RFC 8020 §2."""
    response = ask(server, name, qtype)
    assert (rcode(response), data(response), authoritative(response)) == ("NOERROR", [], True)
    assert has_soa(response)


def test_dns_12_a_service_without_members_is_nodata(server: Server) -> None:
    for qtype in ("A", "AAAA", "SRV", "TXT", "ANY"):
        response = ask(server, "idle.staging.discovery", qtype)
        assert (rcode(response), data(response)) == ("NOERROR", [])
        assert has_soa(response)


def test_dns_12_a_setting_makes_a_service_without_members_nxdomain() -> None:
    server = Server({"idle.staging": [], "web.staging": ["10.0.0.1:80"]}, empty="nxdomain")
    for name in ("idle.staging.discovery", "_idle._tcp.staging.discovery"):
        response = ask(server, name)
        assert rcode(response) == "NXDOMAIN"
        assert has_soa(response)
    assert rcode(ask(server, WEB, "AAAA")) == "NOERROR"
    assert rcode(ask(server, "staging.discovery")) == "NOERROR"


def test_dns_13_srv_targets_have_addresses_and_equal_additional_records() -> None:
    """RFC 2782: no IP literal, no CNAME, not compressed.

    consul#832: the additional records are the target's own.
    """
    server = Server(
        {
            "web.staging": [
                member(1, "10.0.0.1:8080", additional={"admin": "10.0.0.9:9990"}),
                member(2, "[2001:db8::1]:8081"),
                member(3, "myhost:8082"),
            ]
        }
    )
    server.resolve("myhost", "10.0.0.3", "2001:db8::3")
    for name in (WEB, "_web._tcp.staging.discovery", f"_admin._tcp.{WEB}", f"m3.{WEB}"):
        response = ask(server, name, "SRV", edns=0)
        assert response.answer
        for record in response.answer:
            target = record[0].target
            own = {
                text
                for qtype in ("A", "AAAA")
                for text in (f"{target} {found}" for found in data(ask(server, target, qtype)))
            }
            assert own
            assert own == {text for text in additional_of(response) if text.startswith(f"{target} ")}
            assert not ask(server, target, "CNAME").answer


def test_dns_13_targets_are_not_compressed(server: Server) -> None:
    """RFC 2782: each record has the full name of the target."""
    response = server.respond(query(WEB, "SRV").to_wire(), stream=False)
    assert response is not None
    assert response.count(to_wire(parse_name(f"m0.{WEB}"))) == 1


def test_dns_14_one_ttl_and_equal_records_once() -> None:
    server = Server({"web.staging": ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.1:80"]}, ttl=17)
    addresses, services = ask(server, WEB), ask(server, WEB, "SRV")
    assert data(addresses) == ["10.0.0.1"]
    assert sorted(port for port, _ in ports(services)) == [80, 81]
    assert {record.ttl for record in (*addresses.answer, *services.answer, *services.additional)} == {17}


def test_dns_15_the_soa_serial_is_the_tables(server: Server) -> None:
    """RFC 1982: it wraps at 32 bits; the publisher of changes counts it."""
    for serial in (0, 1, 2**31, 2**32 - 1):
        server.table.serial = serial
        assert ask(server, "discovery", "SOA").answer[0][0].serial == serial
        assert ask(server, "nope.discovery").authority[0][0].serial == serial


def test_dns_16_any_gets_one_rrset() -> None:
    """RFC 8482 §4.1."""
    server = Server(
        {"web.staging": ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"], "six.staging": ["[::1]:1"]}
    )
    response = ask(server, WEB, "ANY")
    assert sorted(data(response)) == ["10.0.0.1", "10.0.0.2"]
    assert data(ask(server, "six.staging.discovery", "ANY")) == ["::1"]
    assert [record.rdtype for record in ask(server, "discovery", "ANY").answer] == [dns.rdatatype.SOA]
    assert rcode(ask(server, "nope.staging.discovery", "ANY")) == "NXDOMAIN"


@pytest.mark.parametrize("qtype", ["AXFR", "IXFR"])
@pytest.mark.parametrize("name", ["discovery", WEB, "nope.discovery", "example.com"])
@pytest.mark.parametrize("stream", [False, True])
def test_dns_16_transfers_are_refused(server: Server, qtype: str, name: str, stream: bool) -> None:
    response = ask(server, name, qtype, stream=stream, edns=0)
    assert (rcode(response), data(response), response.authority) == ("REFUSED", [], [])


def test_dns_16_an_ixfr_with_its_soa_is_refused_and_keeps_its_opt(server: Server) -> None:
    """RFC 1995 §3: the query has an SOA in its authority section; RFC 6891 §6.1.1: OPT in the response."""
    message = query("discovery", "IXFR", edns=0)
    message.authority.append(
        dns.message.from_text(";QUESTION\n;AUTHORITY\ndiscovery. 0 IN SOA a. b. 1 2 3 4 5\n").authority[0]
    )
    response = server.respond(message.to_wire(), stream=True)
    assert response is not None
    parsed = read(response)
    assert (rcode(parsed), parsed.edns) == ("REFUSED", 0)


def test_dns_16_a_truncated_ixfr_is_formerr(server: Server) -> None:
    message = query("discovery", "IXFR").to_wire()
    refused_as_malformed(server, message[:8] + b"\0\1" + message[10:])


# -- EDNS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "qtype", "qclass", "expected"),
    [
        (WEB, "A", "IN", "NOERROR"),
        (WEB, "MX", "IN", "NOERROR"),
        ("nope.discovery", "A", "IN", "NXDOMAIN"),
        ("example.com", "A", "IN", "REFUSED"),
        (WEB, "A", "CH", "REFUSED"),
        (WEB, "AXFR", "IN", "REFUSED"),
    ],
)
def test_dns_17_a_response_has_an_opt_exactly_if_the_query_had(
    server: Server, name: str, qtype: str, qclass: str, expected: str
) -> None:
    """RFC 6891 §6.1.1, §7; on errors too."""
    with_opt, without = (ask(server, name, qtype, qclass=qclass, edns=edns) for edns in (0, None))
    assert (rcode(with_opt), with_opt.edns, with_opt.payload) == (expected, 0, 1232)
    assert (rcode(without), without.edns) == (expected, -1)


@pytest.mark.parametrize("version", [1, 2, 100, 255])
@pytest.mark.parametrize("name", [WEB, "nope.discovery", "example.com"])
def test_dns_18_a_version_above_0_is_badvers_without_answer(server: Server, version: int, name: str) -> None:
    """RFC 6891 §6.1.3."""
    response = ask(server, name, edns=version)
    assert (rcode(response), response.edns) == ("BADVERS", 0)
    assert (response.answer, response.authority, response.additional) == ([], [], [])


def test_dns_19_unknown_options_and_flags_are_ignored_and_not_echoed(server: Server) -> None:
    """RFC 6891 §6.1.2, §6.1.4."""
    options = [
        dns.edns.GenericOption(dns.edns.OptionType.make(code), b"x" * size)
        for code, size in ((10, 8), (3, 0), (65001, 99))
    ]
    response = ask(server, WEB, edns=0, options=options, ednsflags=0x7FFF)
    assert (rcode(response), data(response)) == ("NOERROR", ["10.0.0.1"])
    assert (list(response.options), response.ednsflags) == ([], 0)


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("name", [WEB, "nope.discovery", "example.com"])
def test_dns_19_do_is_copied(server: Server, do: bool, name: str) -> None:
    """RFC 3225 §3."""
    assert bool(ask(server, name, edns=0, do=do).ednsflags & dns.flags.DO) is do


@pytest.mark.parametrize(
    "records",
    [
        (OPT, OPT),
        (b"\1a" + OPT,),
        (b"\xc0\x0c" + OPT[1:],),
        (OPT[:-2] + b"\0\1" + b"\0",),
        (OPT[:-2] + b"\0\3" + b"\0\x0a\0",),
        (OPT[:-2] + b"\0\4" + b"\0\x0a\0\1",),
        (OPT[:-2] + b"\0\5" + b"\0\x0a\0\2x",),
        (OPT[:-2] + b"\0\x09" + b"\0\3\0\0" + b"\0\x0a\0\2x",),
    ],
)
def test_dns_20_a_malformed_opt_is_formerr_with_an_opt(server: Server, records: tuple[bytes, ...]) -> None:
    """RFC 6891 §6.1.1 and §7: header, question and OPT, which shows that EDNS is supported."""
    message = header(0x0100, 1, 0, 0, len(records)) + question() + b"".join(records)
    response = server.respond(message, stream=False)
    assert response is not None
    parsed = read(response)
    assert (rcode(parsed), parsed.edns, parsed.id) == ("FORMERR", 0, 4711)
    assert (parsed.answer, parsed.authority, parsed.additional) == ([], [], [])
    assert response[12 : 12 + len(question())] == question()
    assert int.from_bytes(response[2:4]) == 0x8101


def test_dns_20_a_truncated_opt_is_formerr(server: Server) -> None:
    whole = header(0x0100, 1, 0, 0, 1) + question() + OPT[:-2] + b"\0\6" + b"\0\x0a\0\2xx"
    for cut in range(1, len(OPT) + 6):
        response = server.respond(whole[:-cut], stream=False)
        assert response is not None
        assert response[:4] == whole[:2] + b"\x81\x01"


def test_dns_20_other_additional_records_are_ignored(server: Server) -> None:
    """TSIG and SIG(0) may follow it (RFC 6891 §6.1.1)."""
    record = b"\xc0\x0c" + b"\0\xfa\0\xff" + bytes(4) + b"\0\3" + b"abc"
    for records in ((record, OPT), (OPT, record), (record, OPT, record)):
        message = header(0, 1, 0, 0, len(records)) + question() + b"".join(records)
        response = server.respond(message, stream=False)
        assert response is not None
        assert data(read(response)) == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("size", "limit"), [(None, 512), (0, 512), (511, 512), (512, 512), (700, 700), (1232, 1232), (4096, 1232)]
)
def test_dns_21_the_limit_is_the_smaller_of_both_sizes(size: int | None, limit: int) -> None:
    """RFC 6891 §6.2.3: less than 512 counts as 512; more than 1,232 could be fragmented."""
    server = Server({"web.staging": many(200)})
    how = {} if size is None else {"edns": 0, "size": size}
    response = server.respond(query(WEB, **how).to_wire(), stream=False)  # type: ignore[arg-type]
    assert response is not None
    assert limit - 16 < len(response) <= limit
    assert truncated(read(response))


def test_dns_22_additional_records_are_left_out_first_and_without_tc() -> None:
    server = Server({"web.staging": many(9)})
    small, large = (ask(server, WEB, "SRV", edns=0, size=size) for size in (512, 1232))
    assert (len(large.answer), len(large.additional), truncated(large)) == (9, 9, False)
    assert (len(small.answer), truncated(small), small.edns) == (9, False, 0)
    assert len(small.additional) < 9


def test_dns_22_tc_is_set_when_an_answer_is_missing_and_the_opt_stays() -> None:
    server = Server({"web.staging": many(100)})
    response = ask(server, WEB, "SRV", edns=0)
    assert (truncated(response), response.edns, response.additional) == (True, 0, [])
    assert 0 < len(response.answer) < 100


def test_dns_22_truncated_answers_rotate() -> None:
    """A client without TCP still reaches every member in turn."""
    server = Server({"web.staging": many(60)})
    heads = Counter(data(ask(server, WEB))[0] for _ in range(120))
    assert set(heads.values()) == {2}
    assert len(heads) == 60


# -- the state of the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [WEB, "nope.staging.discovery", "staging.discovery", "discovery"])
def test_dns_26_before_the_table_is_read_the_zone_is_servfail(server: Server, name: str) -> None:
    """RFC 8914 §4.15; NXDOMAIN would be cached by clients."""
    server.authority.set_health(ready=False, stale=False)
    response = ask(server, name, edns=0)
    assert (rcode(response), ede(response), response.answer, response.authority) == ("SERVFAIL", [14], [], [])
    assert rcode(ask(server, name)) == "SERVFAIL"
    assert rcode(ask(server, "example.com")) == "REFUSED"


@pytest.mark.parametrize(
    ("name", "expected"),
    [(WEB, "NOERROR"), ("idle.staging.discovery", "NOERROR"), ("nope.discovery", "NXDOMAIN")],
)
def test_dns_26_without_zookeeper_answers_are_marked_stale(server: Server, name: str, expected: str) -> None:
    """RFC 8914 §4.4."""
    before = ask(server, name, edns=0)
    server.authority.set_health(ready=True, stale=True)
    stale = ask(server, name, edns=0)
    assert (ede(before), ede(stale)) == ([], [3])
    assert (rcode(stale), data(stale)) == (expected, data(before))
    assert rcode(ask(server, name)) == expected
    assert 3 not in ede(ask(server, "example.com", edns=0))


@pytest.mark.parametrize(
    "name",
    ["example.com", ".", "discovery.example", "xdiscovery", "web.staging", "com", "4.3.2.1.in-addr.arpa"],
)
def test_names_outside_the_zone_are_refused(server: Server, name: str) -> None:
    """RFC 8914 §4.21 for queries with EDNS."""
    response = ask(server, name, edns=0)
    assert (rcode(response), authoritative(response), ede(response)) == ("REFUSED", False, [20])
    assert (response.answer, response.authority, response.additional) == ([], [], [])


# -- responses over a stream --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 50, 500, 1000, 5000])
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
def test_dns_30_a_response_over_tcp_is_whole_or_cut_at_a_record(count: int, qtype: str) -> None:
    """RFC 7766 §8: two bytes of length; consul#3850: a longer message must not be sent malformed."""
    dnslib = pytest.importorskip("dnslib")
    server = Server({"web.staging": many(count)})
    wire = server.respond(query(WEB, qtype, edns=0).to_wire(), stream=True)
    assert wire is not None
    assert len(wire) <= 65535
    parsed, other = read(wire), dnslib.DNSRecord.parse(wire)
    assert len(parsed.answer) == len(other.rr)
    assert truncated(parsed) == (len(parsed.answer) < count) == bool(other.header.tc)
    assert parsed.edns == 0
    assert server.responder.truncated_over_tcp == truncated(parsed)
    if truncated(parsed):
        assert len(wire) > 65535 - 120
        assert parsed.additional == []
    elif qtype == "SRV" and count <= 500:
        assert len(parsed.additional) == count


def test_dns_30_truncation_over_udp_is_not_counted_as_over_tcp() -> None:
    server = Server({"web.staging": many(5000)})
    assert truncated(ask(server, WEB))
    assert server.responder.truncated_over_tcp == 0
    for _ in range(2):
        assert truncated(ask(server, WEB, stream=True))
    assert server.responder.truncated_over_tcp == 2


def test_a_change_is_visible_to_repeated_queries_at_once() -> None:
    server = Server({"web.staging": ["10.0.0.1:80"]})
    assert data(ask(server, WEB)) == ["10.0.0.1"]
    server.apply(put("web.staging", ["10.0.0.2:80"]))
    assert data(ask(server, WEB)) == ["10.0.0.2"]
    server.drop("web.staging")
    assert rcode(ask(server, WEB)) == "NXDOMAIN"
