"""PTR records of members' addresses, served exactly as long as a member has the address."""

from __future__ import annotations

import ipaddress
import itertools
from collections import Counter
from typing import Any

import dns.flags
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dns.helpers import (
    NAMESPACE,
    Server,
    ask,
    authoritative,
    count_alive,
    data,
    endpoint,
    has_soa,
    member,
    origin_of,
    put,
    rcode,
)
from zkdns.dns.forward_form import ForwardForm
from zkdns.dns.message import Query, Rcode, Response
from zkdns.dns.responder import CacheableAnswer, EncodeResponse
from zkdns.dns.reverse import address_of
from zkdns.dns.rotation import RotationCounter
from zkdns.names import Labels, parse_name, reverse_name
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import MembersHeld, SetPut

AURORA = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
ONE, TWO = "1.0.0.10.in-addr.arpa.", "2.0.0.10.in-addr.arpa."
SIX = dns.reversename.from_address("2001:db8::1").to_text()


class Upstream:
    """A fallback that answers NXDOMAIN, cached until it is dropped."""

    recursion_available = True
    domains = ()

    def __init__(self) -> None:
        self.queried: list[str] = []

    def defer(self, form: ForwardForm, name: bytes, lower: bytes) -> None:
        """No response is deferred."""

    def answer(self, query: Query, limit: int, encode: EncodeResponse) -> CacheableAnswer:
        """NXDOMAIN."""
        self.queried.append(b".".join(query.name).decode("latin-1"))
        response = Response(query, Rcode.NXDOMAIN, recursion_available=True).pack(limit)[2:]
        response = encode(response, len(query.question))
        group: Labels = (b"", *query.name)
        return CacheableAnswer(itertools.repeat(response), group, 10 + len(query.question))


def reversing(sets: Any = None, **settings: Any) -> Server:
    server = Server(sets, reverse=True, **settings)
    server.responder.fallback = Upstream()
    return server


def ptr_targets(server: Server, name: str = ONE, qtype: str = "PTR") -> list[str]:
    """The targets of the PTR records, sorted; nothing is forwarded."""
    answered = _ask(server, name, qtype)
    assert authoritative(answered)
    return sorted(data(answered))


def is_forwarded(server: Server, name: str, qtype: str = "PTR") -> bool:
    """Whether the query is forwarded, since the name is out of zone."""
    response = _ask(server, name, qtype)
    return rcode(response) == "NXDOMAIN" and not authoritative(response) and not response.authority


def _ask(server: Server, name: str, qtype: str) -> Any:
    message = dns.message.make_query(name, qtype, id=4711)
    wire = server.respond(message.to_wire())
    assert wire is not None
    response = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert response.flags & dns.flags.RA
    return response


def _m(number: int, host: str = "10.0.0.1:80", **fields: Any) -> Any:
    return member(number, host, **fields)


def test_an_address_has_ptr_records_to_its_members() -> None:
    server = reversing({"web.staging": [_m(318), _m(319, "[2001:db8::1]:80"), _m(320, "10.0.0.3:80")]})
    assert ptr_targets(server) == ["m318.web.staging.discovery."]
    assert ptr_targets(server, SIX) == ["m319.web.staging.discovery."]
    assert ptr_targets(server, SIX.upper()) == ["m319.web.staging.discovery."]
    assert is_forwarded(server, "4.0.0.10.in-addr.arpa")


def test_all_services_and_zones_are_searched() -> None:
    server = reversing(
        {"web.staging": [_m(1), _m(2)], "api.v2.prod": [_m(1)], "hello.prod.www.aurora": [_m(7)]},
        namespaces=(NAMESPACE, AURORA),
    )
    names = ["m1.api.v2.prod.discovery.", "m1.web.staging.discovery.", "m2.web.staging.discovery."]
    names.append("m7.hello.prod.www.aurora.")
    assert ptr_targets(server) == sorted(names)
    heads = Counter(data(_ask(server, ONE, "PTR"))[0] for _ in range(8))
    assert heads == dict.fromkeys(names, 2)


def test_each_target_has_the_address() -> None:
    server = reversing({"web.staging": [_m(1), _m(2, additional={"far": "10.0.0.2:1"})]})
    assert ptr_targets(server) == ["m1.web.staging.discovery.", "m2.web.staging.discovery."]
    for name in ptr_targets(server):
        assert data(_ask(server, name, "A")) == ["10.0.0.1"]
    assert is_forwarded(server, TWO)  # an endpoint on another host is not its member's address


def test_a_member_without_service_endpoint_has_its_first_ones_address() -> None:
    server = reversing({"web.staging": [member(1, None, additional={"admin": "10.0.0.2:1"})]})
    assert ptr_targets(server, TWO) == ["m1.web.staging.discovery."]


def test_host_names_have_registered_addresses_and_no_resolved_ones() -> None:
    own = endpoint("db.example.com:1", inet="10.0.0.1", inet6="2001:db8::1")
    server = reversing({"web.staging": [member(1, own), member(2, "other.example.com:1")]})
    server.resolve("other.example.com", "10.0.0.2")
    assert ptr_targets(server) == ptr_targets(server, SIX) == ["m1.web.staging.discovery."]
    assert is_forwarded(server, TWO)


def test_without_the_setting_there_are_no_reverse_zones() -> None:
    server = Server({"web.staging": [_m(1)]})
    server.responder.fallback = Upstream()
    assert server.table.addresses is None
    assert is_forwarded(server, ONE)


def test_without_forwarding_other_addresses_are_refused() -> None:
    server = Server({"web.staging": [_m(1)]}, reverse=True)
    assert data(ask(server, ONE, "PTR")) == ["m1.web.staging.discovery."]
    assert rcode(ask(server, TWO, "PTR")) == "REFUSED"


# -- the name as a zone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "TXT", "CNAME", "HTTPS", "TYPE4711"])
def test_negative_responses_have_the_names_own_soa(qtype: str) -> None:
    server = Server({"web.staging": [_m(1)]}, reverse=True)
    response = ask(server, ONE, qtype)
    assert (rcode(response), data(response), authoritative(response)) == ("NOERROR", [], True)
    assert has_soa(response, ONE)


def test_soa_and_ns_are_answered_and_ds_is_the_parents() -> None:
    server = reversing({"web.staging": [_m(1)]}, negative_ttl=3)
    server.table.serial = 4711
    assert ptr_targets(server, ONE, "SOA") == [f"localhost. hostmaster.{ONE} 4711 60 10 86400 3"]
    assert ptr_targets(server, ONE, "NS") == ["localhost."]
    assert is_forwarded(server, ONE, "DS")
    assert is_forwarded(server, "0.0.10.in-addr.arpa", "SOA")
    assert rcode(_ask(server, ONE, "AXFR")) == "REFUSED"


@pytest.mark.parametrize(
    "name",
    [
        "01.0.0.10.in-addr.arpa",
        "1.0.0.010.in-addr.arpa",
        "1.0.0.256.in-addr.arpa",
        "1.0.0.-1.in-addr.arpa",
        "1.0.0.+10.in-addr.arpa",
        "1.0.0.1_0.in-addr.arpa",
        "\\217\\161.0.0.10.in-addr.arpa",
        "0.0.10.in-addr.arpa",
        "10.in-addr.arpa",
        "in-addr.arpa",
        "arpa",
        ".",
        "0.1.0.0.10.in-addr.arpa",
        "x.1.0.0.10.in-addr.arpa",
        "1\\.0.0.10.in-addr.arpa",
        "1.0.0.10.ip6.arpa",
        "1.0.0.10.in-addr.arpa.example",
        SIX.removeprefix("1."),
        "0." + SIX,
        SIX.replace("8.b.d.0", "8.b.d.g"),
        SIX.replace("8.b.d.0", "8.b.d.00"),
        SIX.replace("ip6", "ip6x"),
    ],
)
def test_other_names_are_out_of_zone(name: str) -> None:
    server = reversing({"web.staging": [_m(1), _m(2, "[2001:db8::1]:1"), _m(3, "10.0.0.255:1")]})
    assert is_forwarded(server, name)


@given(st.ip_addresses())
def test_every_address_has_one_name(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    name = parse_name(address.reverse_pointer)
    assert reverse_name(str(address)) == name
    assert address_of(name) == str(address)


@given(st.lists(st.sampled_from([b"0", b"a", b"10", b"ip6", b"in-addr", b"arpa", b"\xb9"]), max_size=35))
def test_parsing_and_formatting_of_names_are_inverse(labels: list[bytes]) -> None:
    address = address_of(tuple(labels))
    assert address is None or reverse_name(address) == tuple(labels)


# -- changes ------------------------------------------------------------------------------------------------


def test_a_new_address_is_answered_although_it_was_forwarded_before() -> None:
    server = reversing({"web.staging": []})
    for qtype in ("PTR", "PTR", "A"):
        assert is_forwarded(server, ONE, qtype)
    server.change("web.staging", [_m(1)])
    assert ptr_targets(server) == ["m1.web.staging.discovery."]
    assert ptr_targets(server, ONE, "A") == []


def test_a_name_ends_with_its_last_member_not_with_the_members_name() -> None:
    server = reversing({"web.staging": [_m(1)], "api.staging": [_m(2)]})
    assert ptr_targets(server) == ["m1.web.staging.discovery.", "m2.api.staging.discovery."]
    server.change("web.staging", removed=["member_0000000001"])
    assert ptr_targets(server) == ["m2.api.staging.discovery."]
    server.change("api.staging", removed=["member_0000000002"], now=1.0)
    assert data(_ask(server, "m1.web.staging.discovery", "A")) == ["10.0.0.1"]
    assert is_forwarded(server, ONE)
    server.change("web.staging", [_m(3)], now=2.0)
    assert ptr_targets(server) == ["m3.web.staging.discovery."]
    server.expire(100.0)
    assert ptr_targets(server) == ["m3.web.staging.discovery."]
    server.drop("web.staging")
    assert is_forwarded(server, ONE)
    server.drop("api.staging")
    assert server.table.addresses is not None
    assert "10.0.0.1" not in server.table.addresses


def test_an_answer_is_dropped_when_another_member_has_the_address() -> None:
    server = reversing({"web.staging": [_m(1)], "api.staging": []})
    assert ptr_targets(server) == ["m1.web.staging.discovery."]
    server.change("api.staging", [_m(1)])
    assert ptr_targets(server) == ["m1.api.staging.discovery.", "m1.web.staging.discovery."]
    server.apply(put("db.staging", [_m(5)]))
    assert len(ptr_targets(server)) == 3


def test_a_member_that_is_not_served_has_no_ptr_record() -> None:
    server = reversing({"web.staging": [_m(1, status="STARTING")]})
    assert [is_forwarded(server, ONE) for _ in range(3)] == [True] * 3
    server.change("web.staging", [_m(1)])
    assert ptr_targets(server) == ["m1.web.staging.discovery."]
    server.change("web.staging", [_m(1, weight=-1.0)])
    assert is_forwarded(server, ONE)


def test_held_members_come_last() -> None:
    server = reversing({"web.staging": [_m(1), _m(2)]})
    assert len(ptr_targets(server)) == 2
    server.apply(MembersHeld(origin_of("web.staging"), ("member_0000000001",)))
    assert {data(_ask(server, ONE, "PTR"))[0] for _ in range(4)} == {"m2.web.staging.discovery."}


def test_a_change_drops_what_depends_on_its_service_only() -> None:
    server = reversing({"web.staging": [_m(1)], "api.staging": [_m(1, "10.0.0.2:80")]})
    for name in (ONE, TWO):
        ptr_targets(server, name)
    misses = server.datagrams.misses
    server.change("web.staging", [_m(2, "10.0.0.3:80")])
    ptr_targets(server, TWO)
    assert server.datagrams.misses == misses
    ptr_targets(server)
    assert server.datagrams.misses == misses + 1


def test_other_names_out_of_zone_stay_cached() -> None:
    server = reversing({"web.staging": [_m(1)]})
    upstream = server.responder.fallback
    assert isinstance(upstream, Upstream)
    for name in ("www.example", "0.0.10.in-addr.arpa", TWO):
        for _ in range(3):
            assert is_forwarded(server, name)
    assert Counter(upstream.queried) == {"www.example": 1, "0.0.10.in-addr.arpa": 1, TWO.rstrip("."): 3}


def test_before_the_table_is_read_all_addresses_are_forwarded() -> None:
    server = reversing({"web.staging": [_m(1)]})
    server.authority.set_health(ready=False, stale=False)
    assert is_forwarded(server, ONE)
    server.authority.set_health(ready=True, stale=False)
    assert ptr_targets(server) == ["m1.web.staging.discovery."]


def test_without_zookeeper_answers_are_marked_stale() -> None:
    server = Server({"web.staging": [_m(1)]}, reverse=True)
    server.authority.set_health(ready=True, stale=True)
    response = ask(server, ONE, "PTR", edns=0)
    assert data(response) == ["m1.web.staging.discovery."]
    assert [int(option.code) for option in response.options] == [3]


def test_a_label_that_a_new_service_changed_is_updated() -> None:
    server = reversing({"web.staging": [_m(1)]})
    assert ptr_targets(server) == ["m1.web.staging.discovery."]
    server.apply(put("m1.web.staging", ["10.7.7.7:1"]))
    (name,) = ptr_targets(server)
    assert name != "m1.web.staging.discovery."
    assert data(_ask(server, name, "A")) == ["10.0.0.1"]


def test_names_that_are_too_long_are_left_out() -> None:
    server = reversing({"web.staging": [_m(1)]})
    scope, service = "e" * 60, f"{'a' * 60}.{'b' * 60}.{'c' * 56}"
    server.apply(SetPut("/x", ServiceName(service, scope), (_m(1), _m(1234567890))))
    assert ptr_targets(server) == [f"m1.{service}.{scope}.discovery.", "m1.web.staging.discovery."]


def test_removed_addresses_leave_no_memory_behind() -> None:
    before = count_alive(RotationCounter)
    server = reversing({"web.staging": [_m(1)]})
    addresses, reverse = server.table.addresses, server.authority.reverse
    assert addresses is not None
    assert reverse is not None
    for number in range(2, 30):
        server.change("web.staging", [_m(number, f"10.0.0.{number}:80")], now=number)
        assert ptr_targets(server, f"{number}.0.0.10.in-addr.arpa")
        server.change("web.staging", removed=[f"member_{number:010d}"], now=number)
    server.expire(1000.0)
    assert [number for number in range(1, 30) if f"10.0.0.{number}" in addresses] == [1]
    assert reverse.refresh([parse_name("web.staging.discovery")]) == set()  # it holds none of their matches
    assert count_alive(RotationCounter) - before <= 1
