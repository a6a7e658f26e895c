"""PTR records of members' addresses, served exactly as long as a member has the address."""

from __future__ import annotations

import ipaddress
import itertools
from collections import Counter
from collections.abc import Callable
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
    data,
    endpoint,
    has_soa,
    member,
    origin_of,
    put,
    rcode,
)
from zkdns.dns.message import Query, Rcode, Response
from zkdns.dns.responder import CacheableAnswer
from zkdns.dns.reverse import address_of, name_of
from zkdns.names import Labels, parse_name
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import MembersHeld, SetPut

AURORA = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
ONE, TWO = "1.0.0.10.in-addr.arpa.", "2.0.0.10.in-addr.arpa."
SIX = dns.reversename.from_address("2001:db8::1").to_text()


class Upstream:
    """A fallback that answers NXDOMAIN, cached until it is dropped."""

    recursion_available = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, query: Query, limit: int, encode: Callable[[bytes], bytes]) -> CacheableAnswer:
        """NXDOMAIN."""
        self.asked.append(b".".join(query.name).decode("latin-1"))
        response = encode(Response(query, Rcode.NXDOMAIN, recursion_available=True).pack(limit)[2:])
        group: Labels = (b"", *query.name)
        return CacheableAnswer(itertools.repeat(response), group, 10 + len(query.question))


def reversing(sets: Any = None, **settings: Any) -> Server:
    server = Server(sets, reverse=True, **settings)
    server.responder.fallback = Upstream()
    return server


def lead(server: Server, name: str = ONE, qtype: str = "PTR") -> list[str]:
    """The targets of the PTR records, sorted; nothing is forwarded."""
    answered = _ask(server, name, qtype)
    assert authoritative(answered)
    return sorted(data(answered))


def passes_on(server: Server, name: str, qtype: str = "PTR") -> bool:
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


def test_an_address_leads_to_who_has_it() -> None:
    server = reversing({"web.staging": [_m(318), _m(319, "[2001:db8::1]:80"), _m(320, "10.0.0.3:80")]})
    assert lead(server) == ["m318.web.staging.discovery."]
    assert lead(server, SIX) == ["m319.web.staging.discovery."]
    assert lead(server, SIX.upper()) == ["m319.web.staging.discovery."]
    assert passes_on(server, "4.0.0.10.in-addr.arpa")


def test_all_services_and_zones_are_looked_at() -> None:
    server = reversing(
        {"web.staging": [_m(1), _m(2)], "api.v2.prod": [_m(1)], "hello.prod.www.aurora": [_m(7)]},
        namespaces=(NAMESPACE, AURORA),
    )
    names = ["m1.api.v2.prod.discovery.", "m1.web.staging.discovery.", "m2.web.staging.discovery."]
    names.append("m7.hello.prod.www.aurora.")
    assert lead(server) == sorted(names)
    heads = Counter(data(_ask(server, ONE, "PTR"))[0] for _ in range(8))
    assert heads == dict.fromkeys(names, 2)


def test_each_name_is_one_that_has_the_address() -> None:
    server = reversing({"web.staging": [_m(1), _m(2, additional={"far": "10.0.0.2:1"})]})
    assert lead(server) == ["m1.web.staging.discovery.", "m2.web.staging.discovery."]
    for name in lead(server):
        assert data(_ask(server, name, "A")) == ["10.0.0.1"]
    assert passes_on(server, TWO)  # an endpoint on another host is not its member's address


def test_a_member_that_has_additional_endpoints_alone_has_the_address_of_the_first() -> None:
    server = reversing({"web.staging": [member(1, None, additional={"admin": "10.0.0.2:1"})]})
    assert lead(server, TWO) == ["m1.web.staging.discovery."]


def test_host_names_have_the_addresses_that_stand_beside_them_and_no_resolved_ones() -> None:
    own = endpoint("db.example.com:1", inet="10.0.0.1", inet6="2001:db8::1")
    server = reversing({"web.staging": [member(1, own), member(2, "other.example.com:1")]})
    server.resolve("other.example.com", "10.0.0.2")
    assert lead(server) == lead(server, SIX) == ["m1.web.staging.discovery."]
    assert passes_on(server, TWO)


def test_without_the_setting_nobody_looks() -> None:
    server = Server({"web.staging": [_m(1)]})
    server.responder.fallback = Upstream()
    assert server.table.addresses is None
    assert passes_on(server, ONE)


def test_where_nobody_else_is_asked_other_addresses_are_refused() -> None:
    server = Server({"web.staging": [_m(1)]}, reverse=True)
    assert data(ask(server, ONE, "PTR")) == ["m1.web.staging.discovery."]
    assert rcode(ask(server, TWO, "PTR")) == "REFUSED"


# -- the name as a zone -----------------------------------------------------------------------------------


@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "TXT", "CNAME", "HTTPS", "TYPE4711"])
def test_what_the_name_has_not_is_denied_by_the_name_itself(qtype: str) -> None:
    server = Server({"web.staging": [_m(1)]}, reverse=True)
    response = ask(server, ONE, qtype)
    assert (rcode(response), data(response), authoritative(response)) == ("NOERROR", [], True)
    assert has_soa(response, ONE)


def test_it_has_soa_and_ns_and_leaves_ds_to_whom_it_lies_in() -> None:
    server = reversing({"web.staging": [_m(1)]}, negative_ttl=3)
    server.table.serial = 4711
    assert lead(server, ONE, "SOA") == [f"localhost. hostmaster.{ONE} 4711 60 10 86400 3"]
    assert lead(server, ONE, "NS") == ["localhost."]
    assert passes_on(server, ONE, "DS")
    assert passes_on(server, "0.0.10.in-addr.arpa", "SOA")
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
def test_other_names_are_not_ours(name: str) -> None:
    server = reversing({"web.staging": [_m(1), _m(2, "[2001:db8::1]:1"), _m(3, "10.0.0.255:1")]})
    assert passes_on(server, name)


@given(st.ip_addresses())
def test_every_address_has_one_name(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    name = parse_name(address.reverse_pointer)
    assert name_of(str(address)) == name
    assert address_of(name) == str(address)


@given(st.lists(st.sampled_from([b"0", b"a", b"10", b"ip6", b"in-addr", b"arpa", b"\xb9"]), max_size=35))
def test_whatever_is_read_as_a_name_is_the_one_that_is_written(labels: list[bytes]) -> None:
    address = address_of(tuple(labels))
    assert address is None or name_of(address) == tuple(labels)


# -- what comes and goes ----------------------------------------------------------------------------------


def test_an_address_that_comes_is_answered_though_it_was_denied_by_others_before() -> None:
    server = reversing({"web.staging": []})
    for qtype in ("PTR", "PTR", "A"):
        assert passes_on(server, ONE, qtype)
    server.change("web.staging", [_m(1)])
    assert lead(server) == ["m1.web.staging.discovery."]
    assert lead(server, ONE, "A") == []


def test_a_name_goes_with_its_last_member_also_while_that_ones_own_name_stays() -> None:
    server = reversing({"web.staging": [_m(1)], "api.staging": [_m(2)]})
    assert lead(server) == ["m1.web.staging.discovery.", "m2.api.staging.discovery."]
    server.change("web.staging", removed=["member_0000000001"])
    assert lead(server) == ["m2.api.staging.discovery."]
    server.change("api.staging", removed=["member_0000000002"], now=1.0)
    assert data(_ask(server, "m1.web.staging.discovery", "A")) == ["10.0.0.1"]
    assert passes_on(server, ONE)
    server.change("web.staging", [_m(3)], now=2.0)
    assert lead(server) == ["m3.web.staging.discovery."]
    server.expire(100.0)
    assert lead(server) == ["m3.web.staging.discovery."]
    server.drop("web.staging")
    assert passes_on(server, ONE)
    server.drop("api.staging")
    assert server.table.addresses is not None
    assert "10.0.0.1" not in server.table.addresses


def test_an_answer_that_others_share_is_forgotten_when_one_more_has_the_address() -> None:
    server = reversing({"web.staging": [_m(1)], "api.staging": []})
    assert lead(server) == ["m1.web.staging.discovery."]
    server.change("api.staging", [_m(1)])
    assert lead(server) == ["m1.api.staging.discovery.", "m1.web.staging.discovery."]
    server.apply(put("db.staging", [_m(5)]))
    assert len(lead(server)) == 3


def test_who_is_not_answered_with_has_no_address_until_that_is_another() -> None:
    server = reversing({"web.staging": [_m(1, status="STARTING")]})
    assert [passes_on(server, ONE) for _ in range(3)] == [True] * 3
    server.change("web.staging", [_m(1)])
    assert lead(server) == ["m1.web.staging.discovery."]
    server.change("web.staging", [_m(1, weight=-1.0)])
    assert passes_on(server, ONE)


def test_the_held_stand_behind_others() -> None:
    server = reversing({"web.staging": [_m(1), _m(2)]})
    assert len(lead(server)) == 2
    server.apply(MembersHeld(origin_of("web.staging"), ("member_0000000001",)))
    assert {data(_ask(server, ONE, "PTR"))[0] for _ in range(4)} == {"m2.web.staging.discovery."}


def test_a_change_forgets_what_depends_on_its_service_and_nothing_else() -> None:
    server = reversing({"web.staging": [_m(1)], "api.staging": [_m(1, "10.0.0.2:80")]})
    for name in (ONE, TWO):
        lead(server, name)
    misses = server.datagrams.misses
    server.change("web.staging", [_m(2, "10.0.0.3:80")])
    lead(server, TWO)
    assert server.datagrams.misses == misses
    lead(server)
    assert server.datagrams.misses == misses + 1


def test_other_names_outside_the_zones_are_remembered_as_before() -> None:
    server = reversing({"web.staging": [_m(1)]})
    upstream = server.responder.fallback
    assert isinstance(upstream, Upstream)
    for name in ("www.example", "0.0.10.in-addr.arpa", TWO):
        for _ in range(3):
            assert passes_on(server, name)
    assert Counter(upstream.asked) == {"www.example": 1, "0.0.10.in-addr.arpa": 1, TWO.rstrip("."): 3}


def test_before_the_table_was_read_all_addresses_are_others() -> None:
    server = reversing({"web.staging": [_m(1)]})
    server.authority.set_health(ready=False, stale=False)
    assert passes_on(server, ONE)
    server.authority.set_health(ready=True, stale=False)
    assert lead(server) == ["m1.web.staging.discovery."]


def test_while_zookeeper_is_away_the_answer_says_so() -> None:
    server = Server({"web.staging": [_m(1)]}, reverse=True)
    server.authority.set_health(ready=True, stale=True)
    response = ask(server, ONE, "PTR", edns=0)
    assert data(response) == ["m1.web.staging.discovery."]
    assert [int(option.code) for option in response.options] == [3]


def test_a_label_that_is_another_since_a_service_has_come_is_told() -> None:
    server = reversing({"web.staging": [_m(1)]})
    assert lead(server) == ["m1.web.staging.discovery."]
    server.apply(put("m1.web.staging", ["10.7.7.7:1"]))
    (name,) = lead(server)
    assert name != "m1.web.staging.discovery."
    assert data(_ask(server, name, "A")) == ["10.0.0.1"]


def test_names_that_are_too_long_are_left_out() -> None:
    server = reversing({"web.staging": [_m(1)]})
    scope, service = "e" * 60, f"{'a' * 60}.{'b' * 60}.{'c' * 56}"
    server.apply(SetPut("/x", ServiceName(service, scope), (_m(1), _m(1234567890))))
    assert lead(server) == [f"m1.{service}.{scope}.discovery.", "m1.web.staging.discovery."]


def test_addresses_that_come_and_go_leave_nothing_behind() -> None:
    server = reversing({"web.staging": [_m(1)]})
    assert server.table.addresses is not None
    for number in range(2, 30):
        server.change("web.staging", [_m(number, f"10.0.0.{number}:80")], now=number)
        assert lead(server, f"{number}.0.0.10.in-addr.arpa")
        server.change("web.staging", removed=[f"member_{number:010d}"], now=number)
    server.expire(1000.0)
    assert len(server.table.addresses._users) == 1
    assert server.authority._reverse is not None
    assert server.authority._reverse._served == {}
    assert len(server.zone._counters) <= 1
