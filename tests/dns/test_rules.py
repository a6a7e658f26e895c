"""Rules of a DNS server for whole ranges of queries; `test_responder.py` has examples."""

from __future__ import annotations

import pytest

from tests.dns.helpers import Server, additional_of, ask, authoritative, data, has_soa, ports, query, rcode
from tests.support.line_count import at_most_lines
from zkdns.names import parse_name, to_wire

WEB = "web.staging.discovery"
QUESTION = to_wire(parse_name(WEB)) + b"\0\1\0\1"
START = 12 + len(QUESTION)
MOST = 65535
RECORD = b"\0\1\0\1" + bytes(4) + b"\0\0"
"""A record after its owner, without data."""


@pytest.fixture
def server() -> Server:
    """Two services, one of them with dots in its name."""
    return Server({"web.staging": ["10.0.0.1:8080"], "api.v2.canary.staging": ["10.0.0.2:80"]})


def chain() -> bytes:
    """As many records as fit; as far as pointers reach, each owner is a label before the previous owner."""
    made, last = b"", 12
    while START + len(made) < 0x3FF0:
        owner = b"\1a" + (0xC000 | last).to_bytes(2)
        last = START + len(made)
        made += owner + RECORD
    return filled((0xC000 | last).to_bytes(2) + RECORD, made)


def filled(unit: bytes, made: bytes = b"") -> bytes:
    """As many of these records as fit after the others."""
    return made + unit * ((MOST - START - len(made)) // len(unit))


@pytest.mark.parametrize(
    "records",
    [filled(b"\xc0\x0c" + RECORD), filled(b"\1a" * 127 + b"\0" + RECORD), filled(b"\0" + RECORD), chain()],
    ids=["pointers", "long names", "roots", "a chain"],
)
def test_dns_05_parsing_time_is_linear_for_any_names(server: Server, records: bytes) -> None:
    message = b"\x12\x34\x01\0" + b"\0\1" + bytes(4) + b"\xff\xff" + QUESTION + records
    with at_most_lines(10 * len(message)):  # thousands of times more if each name were followed to its end
        assert server.respond(message, stream=True) == b"\x12\x34\x81\1" + bytes(8)


@pytest.mark.parametrize(("count", "header"), [(64, b"\x85\0\0\1\0\1"), (65, b"\x81\1"), (16_300, b"\x81\1")])
def test_dns_05_too_many_options_are_formerr(server: Server, count: int, header: bytes) -> None:
    options = b"\xfd\xe9\0\0" * count
    opt = b"\0" + b"\0\x29" + b"\x04\xd0" + bytes(4) + len(options).to_bytes(2) + options
    message = b"\x12\x34\x01\0" + b"\0\1" + bytes(4) + b"\0\1" + QUESTION + opt
    with at_most_lines(2000):
        response = server.respond(message, stream=True)
    assert response is not None
    assert response[2:].startswith(header)


def test_dns_10_negative_responses_have_a_ttl_of_seconds_by_default(server: Server) -> None:
    """A new service is found soon, also by a client that queried it too early (coredns#2434)."""
    for name, qtype in (("nope.staging.discovery", "A"), (WEB, "AAAA")):
        (record,) = ask(server, name, qtype).authority
        assert 1 <= min(record.ttl, record[0].minimum) <= 5


@pytest.mark.parametrize("name", ["canary.staging.discovery", "v2.canary.staging.discovery"])
@pytest.mark.parametrize("qtype", ["A", "SRV", "ANY"])
def test_dns_11_names_above_a_service_whose_name_has_dots_are_nodata(
    server: Server, name: str, qtype: str
) -> None:
    response = ask(server, name, qtype)
    assert (rcode(response), data(response), authoritative(response)) == ("NOERROR", [], True)
    assert has_soa(response)
    assert rcode(ask(server, f"nope.{name}", qtype)) == "NXDOMAIN"


def test_dns_13_a_target_is_a_name_whatever_the_members_host_is() -> None:
    """A host name is the target itself; its addresses are answered by its own zone's servers."""
    server = Server({"web.staging": ["10.0.0.1:80", "[2001:db8::1]:80", "single:80", "db.example:80"]})
    server.resolve("single", "10.0.0.8", "2001:db8::8")
    server.resolve("db.example", "10.0.0.9")
    response = ask(server, WEB, "SRV", edns=0)
    own = {f"m0.{WEB}.", f"m1.{WEB}.", f"m2.{WEB}."}
    assert {target for _, target in ports(response)} == {*own, "db.example."}
    assert {text.split()[0] for text in additional_of(response)} == own
    assert not any(ask(server, target, "CNAME").answer for target in own)


def test_dns_16_unknown_types_of_existing_names_are_nodata(server: Server) -> None:
    """All numbers except the types that have records here and the query types."""
    known = {1, 2, 6, 16, 28, 33, 43, 251, 252, 255}
    whole = query(WEB).to_wire()
    for qtype in {*range(300), *range(300, 65536, 97), 32768, 65279, 65280, 65535} - known:
        response = server.respond(whole[:-4] + qtype.to_bytes(2) + whole[-2:], stream=False)
        assert response is not None
        assert (response[2:4], response[4:12]) == (b"\x85\0", b"\0\1\0\0\0\1\0\0"), qtype
