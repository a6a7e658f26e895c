"""DNS-SD: service types, their members, and the caching of both."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dns.rdatatype
import pytest

from tests.dns.helpers import (
    NAMESPACE,
    Server,
    additional_of,
    ask,
    count_alive,
    data,
    has_soa,
    many,
    member,
    origin_of,
    put,
    rcode,
    truncated,
)
from zkdns.config import ServiceOverride
from zkdns.dns.rotation import RotationCounter
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import MembersHeld, SetPut, SetUnread
from zkdns.serverset.member import Member

STAGING = "staging.discovery."
TYPES, TYPE = f"_services._dns-sd._udp.{STAGING}", f"_web._tcp.{STAGING}"
AURORA = parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",))
FLAT = parse_namespace("/flat/{service}", (b"flat",))

SETS: dict[str, list[str | Member]] = {
    "web.staging": [
        member(318, "10.0.0.1:8080", shard=3, additional={"admin": "10.0.0.1:9990"}),
        member(319, "[2001:db8::1]:8081"),
        member(320, "10.0.0.3:8082", status="STOPPING"),
        member(321, None, additional={"admin": "10.0.0.4:9990"}),
    ],
    "api.v2.staging": ["10.1.0.1:80"],
    "idle.staging": [],
    "web.prod": ["10.2.0.1:80"],
}

_M318 = (
    f'"member=member_{318:010d}" "status=ALIVE" "shard=3" "endpoint.admin=10.0.0.1:9990" '
    f'"znode=/discovery/staging/web/member_{318:010d}"'
)
CASES = [
    (TYPES, "PTR", "NOERROR", [f"_idle._tcp.{STAGING}", TYPE]),
    ("_SERVICES._dns-SD._udp.Staging.discovery.", "PTR", "NOERROR", [f"_idle._tcp.{STAGING}", TYPE]),
    ("_services._dns-sd._udp.prod.discovery", "PTR", "NOERROR", ["_web._tcp.prod.discovery."]),
    (TYPES, "SRV", "NOERROR", []),
    (f"b._dns-sd._udp.{STAGING}", "PTR", "NOERROR", [STAGING]),
    (f"lb._dns-sd._udp.{STAGING}", "PTR", "NOERROR", [STAGING]),
    (f"lb._dns-sd._udp.{STAGING}", "A", "NOERROR", []),
    (f"db._dns-sd._udp.{STAGING}", "PTR", "NXDOMAIN", []),
    (f"_dns-sd._udp.{STAGING}", "PTR", "NOERROR", []),
    (f"_dns-sd._tcp.{STAGING}", "PTR", "NXDOMAIN", []),
    ("_services._dns-sd._udp.discovery", "PTR", "NXDOMAIN", []),
    ("_services._dns-sd._udp.v2.staging.discovery", "PTR", "NXDOMAIN", []),
    # a type
    (TYPE, "PTR", "NOERROR", [f"m318.{TYPE}", f"m319.{TYPE}"]),
    (TYPE, "SRV", "NOERROR", [f"0 100 8080 m318.web.{STAGING}", f"0 100 8081 m319.web.{STAGING}"]),
    (TYPE, "A", "NOERROR", []),
    (f"_idle._tcp.{STAGING}", "PTR", "NOERROR", []),
    (f"_web._udp.{STAGING}", "PTR", "NOERROR", []),
    (f"_api.v2._tcp.{STAGING}", "PTR", "NOERROR", []),
    (f"_admin._tcp.{STAGING}", "PTR", "NXDOMAIN", []),
    (f"_admin._tcp.web.{STAGING}", "PTR", "NOERROR", []),
    (f"_printer._sub.{TYPE}", "PTR", "NXDOMAIN", []),
    (f"_sub.{TYPE}", "PTR", "NXDOMAIN", []),
    # a member
    (f"m318.{TYPE}", "SRV", "NOERROR", [f"0 100 8080 m318.web.{STAGING}"]),
    (f"m318.{TYPE}", "TXT", "NOERROR", [_M318]),
    (f"M318._WEB._tcp.{STAGING}", "SRV", "NOERROR", [f"0 100 8080 m318.web.{STAGING}"]),
    (f"m318.{TYPE}", "A", "NOERROR", []),
    (f"m318.{TYPE}", "PTR", "NOERROR", []),
    (f"m320.{TYPE}", "SRV", "NXDOMAIN", []),
    (f"m321.{TYPE}", "SRV", "NXDOMAIN", []),
    (f"member_0000000318.{TYPE}", "SRV", "NXDOMAIN", []),
    (f"s3.{TYPE}", "SRV", "NXDOMAIN", []),
    (f"x.m318.{TYPE}", "SRV", "NXDOMAIN", []),
    (f"m318._web._udp.{STAGING}", "SRV", "NXDOMAIN", []),
    (f"m0._v2._tcp.{STAGING}", "SRV", "NXDOMAIN", []),
    (f"m0._api._tcp.v2.{STAGING}", "SRV", "NXDOMAIN", []),
]


def browsed(sets: Any = None, **settings: Any) -> Server:
    return Server(sets, dns_sd=True, **settings)


def browse(server: Server, name: str = TYPE) -> list[str]:
    """The targets of the PTR records, sorted."""
    return sorted(data(ask(server, name, "PTR", stream=True)))


@pytest.mark.parametrize(("name", "qtype", "code", "expected"), CASES)
def test_names_and_their_records(name: str, qtype: str, code: str, expected: list[str]) -> None:
    response = ask(browsed(SETS), name, qtype)
    found = sorted(data(response))
    if name != name.lower():  # a name in the data is compressed with the question and has its spelling
        found, expected = [each.lower() for each in found], [each.lower() for each in expected]
    assert (rcode(response), found) == (code, expected)
    assert has_soa(response) == (not expected)


@pytest.mark.parametrize("case", CASES)
def test_without_the_setting_there_are_no_names(case: tuple[str, str, str, list[str]]) -> None:
    name, qtype, _, _ = case
    lost = name.lower().startswith(("_services", "b.", "lb.", "_dns-sd", "m318"))
    response = ask(Server(SETS), name, qtype)
    if lost:
        assert rcode(response) == "NXDOMAIN"
    if qtype == "PTR":
        assert data(response) == []


def test_a_members_records_are_additional_records() -> None:
    response = ask(browsed({"web.staging": SETS["web.staging"][:1]}), TYPE, "PTR", edns=0)
    assert additional_of(response) == [
        f"m318.{TYPE} 0 100 8080 m318.web.{STAGING}",
        f"m318.{TYPE} {_M318}",
        f"m318.web.{STAGING} 10.0.0.1",
    ]
    assert {record.rdtype for record in response.additional} == {
        dns.rdatatype.SRV,
        dns.rdatatype.TXT,
        dns.rdatatype.A,
    }


def test_additional_records_are_left_out_first() -> None:
    server = browsed({"web.staging": many(20)})
    response = ask(server, TYPE, "PTR", edns=0)
    assert (len(response.answer), truncated(response)) == (20, False)
    assert 0 < len(response.additional) < 60
    owners = Counter(str(record.name) for record in response.additional)
    assert all(owners[f"{str(record.name).split('.')[0]}.{TYPE}"] == 2 for record in response.additional)
    assert truncated(ask(browsed({"web.staging": many(60)}), TYPE, "PTR"))


def test_members_with_host_names_have_those_as_targets() -> None:
    server = browsed({"db.staging": [member(1, "db.example.com:5432"), member(2, "short:5432")]})
    response = ask(server, f"_db._tcp.{STAGING}", "PTR", edns=0)
    assert f"m1._db._tcp.{STAGING} 0 100 5432 db.example.com." in additional_of(response)
    assert f"m2._db._tcp.{STAGING} 0 100 5432 m2.db.{STAGING}" in additional_of(response)
    server.resolve("short", "192.0.2.7")
    assert f"m2.db.{STAGING} 192.0.2.7" in additional_of(ask(server, f"_db._tcp.{STAGING}", "PTR", edns=0))


def test_members_rotate_and_are_held_as_in_other_rrsets() -> None:
    server = browsed({"web.staging": many(4)}, max_answers=2)
    answers = [data(ask(server, TYPE, "PTR")) for _ in range(8)]
    assert Counter(answer[0] for answer in answers) == {f"m{number}.{TYPE}": 2 for number in range(4)}
    assert {len(answer) for answer in answers} == {2}
    whole = browsed({"web.staging": [member(1, "10.0.0.1:1", weight=0), *map(_plain, (2, 3))]})
    whole.apply(MembersHeld(origin_of("web.staging"), ("member_0000000002",)))
    assert data(ask(whole, TYPE, "PTR")) == [f"m3.{TYPE}", f"m2.{TYPE}"]


def _plain(number: int) -> Member:
    return member(number, f"10.0.0.{number}:80")


def test_types_rotate_and_max_answers_does_not_limit_them() -> None:
    server = browsed({f"s{number}.staging": [] for number in range(5)}, max_answers=1)
    answers = [data(ask(server, TYPES, "PTR")) for _ in range(10)]
    assert {len(answer) for answer in answers} == {5}
    assert set(Counter(answer[0] for answer in answers).values()) == {2}


def test_the_ttl_is_the_services_own() -> None:
    server = browsed(SETS, ttl=7, service={"web.staging.discovery": ServiceOverride(ttl=77)})
    response = ask(server, TYPE, "PTR", edns=0)
    assert {record.ttl for record in (*response.answer, *response.additional)} == {77}
    assert {record.ttl for record in ask(server, TYPES, "PTR").answer} == {7}


def test_any_is_answered_with_one_rrset() -> None:
    server = browsed(SETS)
    assert data(ask(server, f"b._dns-sd._udp.{STAGING}", "ANY")) == [STAGING]
    assert {record.rdtype for record in ask(server, TYPE, "ANY").answer} == {dns.rdatatype.SRV}


def test_other_namespaces_are_browsed_below_their_own_domains() -> None:
    server = browsed(
        {
            "hello.prod.www.aurora": ["10.0.0.1:1"],
            "one.flat": ["10.0.0.2:2"],
            "web.staging": ["10.0.0.3:3"],
        },
        namespaces=(NAMESPACE, AURORA, FLAT),
    )
    assert browse(server, "_services._dns-sd._udp.prod.www.aurora") == ["_hello._tcp.prod.www.aurora."]
    assert browse(server, "_hello._tcp.prod.www.aurora") == ["m0._hello._tcp.prod.www.aurora."]
    assert browse(server, "_services._dns-sd._udp.flat") == ["_one._tcp.flat."]
    response = ask(server, "m0._one._tcp.flat", "SRV")
    assert (data(response), additional_of(response)) == (["0 100 2 m0.one.flat."], ["m0.one.flat. 10.0.0.2"])
    assert has_soa(ask(server, "_dns-sd._udp.flat", "PTR"), "flat.")


# -- changes ------------------------------------------------------------------------------------------------


def test_types_come_and_go_with_their_services() -> None:
    server = browsed({"web.staging": []})
    for _ in range(2):  # answers of no service are cached from the second query on
        assert browse(server, TYPES) == [TYPE]
    server.apply(put("db.staging", []))
    assert browse(server, TYPES) == [f"_db._tcp.{STAGING}", TYPE]
    server.drop("web.staging")
    assert browse(server, TYPES) == [f"_db._tcp.{STAGING}"]
    server.drop("db.staging")
    assert [rcode(ask(server, name, "PTR")) for name in (TYPES, f"b._dns-sd._udp.{STAGING}")] == [
        "NXDOMAIN"
    ] * 2
    server.apply(put("web.staging", []))
    assert browse(server, TYPES) == [TYPE]


def test_members_come_and_go() -> None:
    server = browsed({"web.staging": [_plain(1)]})
    assert browse(server) == [f"m1.{TYPE}"]
    assert [rcode(ask(server, f"m2.{TYPE}", "SRV")) for _ in range(3)] == ["NXDOMAIN"] * 3
    server.change("web.staging", [_plain(2)])
    assert browse(server) == [f"m1.{TYPE}", f"m2.{TYPE}"]
    assert data(ask(server, f"m2.{TYPE}", "SRV")) == [f"0 100 80 m2.web.{STAGING}"]
    server.change("web.staging", removed=["member_0000000001"], now=1.0)
    assert browse(server) == [f"m2.{TYPE}"]
    # The members that were just listed.
    assert data(ask(server, f"m1.{TYPE}", "SRV")) == [f"0 100 80 m1.web.{STAGING}"]
    server.expire(62.0)
    assert rcode(ask(server, f"m1.{TYPE}", "SRV")) == "NXDOMAIN"


@pytest.mark.parametrize("empty", ["nodata", "nxdomain"])
def test_the_last_member_is_found_just_after_it_departed(empty: str) -> None:
    server = browsed({"web.staging": [_plain(1)]}, empty=empty)
    server.change("web.staging", removed=["member_0000000001"])
    for name in (f"m1.{TYPE}", f"m1.web.{STAGING}"):
        assert data(ask(server, name, "SRV")) == [f"0 100 80 m1.web.{STAGING}"]


def test_all_names_of_a_service_exist() -> None:
    server = browsed(SETS)
    names = {name for service in server.zone.services for name in server.zone.names_of_service(service)}
    assert {name for name in names if server.zone.find(name).node is None} == set()
    instances = {name[0]: b".".join(name[1:]) for name in names if name[2] == b"_tcp" and name[0][:1] == b"m"}
    web = TYPE.removesuffix(".").encode()
    assert instances == {b"m318": web, b"m319": web, b"m0": b"_web._tcp.prod.discovery"}


def test_a_change_drops_cached_members_of_its_service_and_no_types() -> None:
    server = browsed({"web.staging": [_plain(1)], "api.staging": [_plain(1)]})
    names = [(TYPES, 2), (TYPE, 1), (f"m1.{TYPE}", 1), (f"_api._tcp.{STAGING}", 1)]
    for name, times in names:
        for _ in range(times):
            ask(server, name, "PTR", stream=True)
    before, misses = set(server.streams), server.streams.misses
    assert len(before) == 4
    server.change("web.staging", [_plain(2)])
    assert len(before - set(server.streams)) == 2
    for name in (TYPES, f"_api._tcp.{STAGING}"):
        ask(server, name, "PTR", stream=True)
    assert server.streams.misses == misses


@pytest.mark.parametrize("empty", ["nodata", "nxdomain"])
def test_a_service_without_members_is_a_type_if_it_is_a_name(empty: str) -> None:
    server = browsed({"web.staging": [], "api.staging": [_plain(1)]}, empty=empty)
    api = f"_api._tcp.{STAGING}"
    assert browse(server, TYPES) == ([api, TYPE] if empty == "nodata" else [api])
    server.change("web.staging", [_plain(1)])
    assert browse(server, TYPES) == [api, TYPE]
    assert browse(server) == [f"m1.{TYPE}"]


@pytest.mark.parametrize("empty", ["nodata", "nxdomain"])
def test_an_unreadable_service_is_a_type_with_servfail_for_members(empty: str) -> None:
    server = browsed(empty=empty)
    server.apply(SetUnread(origin_of("web.staging"), ServiceName("web", "staging")))
    assert browse(server, TYPES) == [TYPE]
    assert [rcode(ask(server, name, "PTR")) for name in (TYPE, f"m1.{TYPE}")] == ["SERVFAIL"] * 2


def test_names_of_services_have_precedence() -> None:
    server = browsed({"web.staging": [_plain(1), _plain(2)]})
    names = [TYPE, f"m1.{TYPE}"]
    assert [rcode(ask(server, name, "SRV")) for name in names] == ["NOERROR"] * 2
    server.apply(put("m1._web._tcp.staging", ["10.9.9.9:99"]))
    assert data(ask(server, names[1], "A")) == ["10.9.9.9"]
    server.apply(put("_web._tcp.staging", ["10.8.8.8:88"]))
    assert data(ask(server, TYPE, "A")) == ["10.8.8.8"]
    assert browse(server) == []
    assert data(ask(server, f"m2.{TYPE}", "SRV")) == [f"0 100 80 m2.web.{STAGING}"]
    assert data(ask(server, f"m2.{TYPE}", "A")) == []
    server.change("_web._tcp.staging", [member(2, "10.8.8.9:88")])
    assert data(ask(server, f"m2.{TYPE}", "A")) == ["10.8.8.9"]
    for service in ("m1._web._tcp.staging", "_web._tcp.staging"):
        server.drop(service)
    assert browse(server) == [f"m1.{TYPE}", f"m2.{TYPE}"]


def test_a_service_name_split_at_another_label_is_no_type() -> None:
    """Two namespaces of one zone may have the same service name, but split it at different labels."""
    flat = parse_namespace("/flat/{service}")
    server = browsed(namespaces=(NAMESPACE, flat))
    server.apply(SetPut("/flat/web.staging", ServiceName("web.staging"), (_plain(1),)))
    assert rcode(ask(server, TYPES, "PTR")) == "NXDOMAIN"
    server.apply(SetPut("/discovery/staging/web", ServiceName("web", "staging"), (_plain(2),)))
    assert browse(server, TYPES) == [TYPE]
    server.drop("web.staging")
    assert rcode(ask(server, TYPES, "PTR")) == "NXDOMAIN"
    assert rcode(ask(server, f"m1.{TYPE}", "SRV")) == "NXDOMAIN"


def test_a_name_that_is_too_long_is_no_type() -> None:
    longest, too_long = "x" * 62, "x" * 63
    server = browsed({f"{longest}.staging": [_plain(1)], f"{too_long}.staging": [_plain(1)]})
    assert browse(server, TYPES) == [f"_{longest}._tcp.{STAGING}"]
    scope = ".".join(("e" * 60, "f" * 60, "g" * 60))
    # From the third one on, the members' names would be too long; then the type's own.
    for count in (20, 48, 53, 56):
        name = ServiceName("s" * count, scope)
        server.apply(SetPut(f"/x/{count}", name, (_plain(1), member("member_y" + "z" * 22, "10.0.0.9:1"))))
    types = browse(server, f"_services._dns-sd._udp.{scope}.discovery")
    assert [len(name.split(".")[0]) - 1 for name in types] == [20, 48, 53]
    assert [len(browse(server, name)) for name in types] == [2, 1, 0]


def test_removed_domains_leave_no_memory_behind() -> None:
    before = count_alive(RotationCounter)
    server = browsed({"web.staging": [_plain(1)]})
    for number in range(20):
        server.apply(put(f"web.e{number}", [_plain(1)]))
        assert browse(server, f"_services._dns-sd._udp.e{number}.discovery")
        server.drop(f"web.e{number}")
    assert count_alive(RotationCounter) - before <= 2
