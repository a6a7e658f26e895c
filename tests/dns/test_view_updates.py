"""Views that are updated after changes are equal to views that are created from the present table."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from typing import Any

import dns.flags
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.helpers import (
    Server,
    ask,
    count_alive,
    data,
    encode_query,
    many,
    member,
    origin_of,
    put,
    rcode,
)
from tests.support.line_count import at_most_calls
from zkdns.dns.member_records import LabeledMember, Use
from zkdns.dns.message import CLASS_IN, TYPE_CLASS, Query, Type
from zkdns.dns.ordered import Ordered
from zkdns.dns.rotation import RotationCounter
from zkdns.dns.served_members import served_members
from zkdns.dns.zone import Zone
from zkdns.names import Labels, check_name, parse_name, to_wire
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change, HostResolved, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import Endpoint, Member, Status

WEB = "web.staging.discovery"
KEY = parse_name(WEB)
_ORIGINS = {
    origin_of("web.staging"): ServiceName("web", "staging"),
    "/discovery/staging/Web": ServiceName("Web", "staging"),
    "static:web.staging": ServiceName("web", "staging"),
}
_TYPES = (Type.A, Type.AAAA, Type.SRV, Type.TXT, Type.PTR)
_NAMES = [f"member_{number:010d}" for number in range(6)] + [
    "member_3",
    "member_x",
    "Member_3",
    "m1",
    "M2",
    "m1-b",
]
_HOSTS = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "short", "SHORT", "db.example.com", "other"]
_ENDPOINTS = ["admin", "Admin", "a.b", "a..b", "x" * 70, "b"]
_ALWAYS = [
    *("_admin._tcp", "_b._udp", "_a.b._tcp", "b._tcp", "_tcp", "_nope._tcp"),
    *("m1", "m1-admin", "m1-b", "m2", "m3", "s1", "s2", "nope", "member_0000000001", "member_3"),
]

_endpoints = st.builds(Endpoint, st.sampled_from(_HOSTS), st.integers(80, 82))
_members = st.builds(
    Member,
    st.sampled_from(_NAMES),
    st.none() | _endpoints,
    st.dictionaries(st.sampled_from(_ENDPOINTS), _endpoints, max_size=3),
    st.sampled_from([Status.ALIVE] * 4 + [Status.STARTING]),
    st.none() | st.integers(1, 2),
    weight=st.sampled_from([1.0, 1.0, 1.0, 2.0, 0.0, -1.0]),
)
_origins = st.sampled_from(list(_ORIGINS))
_name_lists = st.lists(st.sampled_from(_NAMES), max_size=4, unique=True).map(tuple)
changes_of_services: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        lambda origin, members: SetPut(origin, _ORIGINS[origin], tuple(members)),
        _origins,
        st.lists(_members, max_size=6, unique_by=lambda one: one.name),
    ),
    st.builds(SetChanged, _origins, st.lists(_members, max_size=3).map(tuple), _name_lists),
    st.builds(SetChanged, _origins, st.lists(_members, max_size=3).map(tuple), _name_lists),
    st.builds(MembersHeld, _origins, _name_lists),
    st.builds(SetDropped, _origins),
    st.builds(
        HostResolved,
        st.sampled_from(_HOSTS[3:]),
        st.lists(st.sampled_from(["10.1.0.1", "10.1.0.2", "2001:db8::2"]), max_size=2).map(tuple),
    ),
    st.builds(
        lambda label: put(f"{label}.web.staging", ["10.9.9.9:80"]),
        st.sampled_from(["m1", "m1-admin", "m3-b", "y"]),
    ),
    st.builds(
        lambda label: SetDropped(origin_of(f"{label}.web.staging")),
        st.sampled_from(["m1", "m1-admin", "m3-b", "y"]),
    ),
)


def _query(name: Labels, qtype: int) -> Query:
    return Query(0, False, name, qtype, CLASS_IN, to_wire(name) + TYPE_CLASS.pack(qtype, CLASS_IN), None)


def contents(zone: Zone, names: Iterable[Labels]) -> dict[Labels, Any]:
    """All records at these names, in the order of their rotation."""
    found: dict[Labels, Any] = {}
    for name in names:
        match = zone.find(name)
        if match.node is None:
            found[name] = match.service, None
            continue
        rrsets = [zone.records(match, _query(name, qtype)) for qtype in _TYPES]
        found[name] = (
            match.service,
            match.node.is_unresolved,
            [(rrset.leading, rrset.held, list(rrset.leaders)) for rrset in rrsets],
        )
    return found


@given(
    steps=st.lists(
        st.tuples(changes_of_services, st.sampled_from(["query", "query one", "nothing", "expire"])),
        max_size=25,
    ),
    dns_sd=st.booleans(),
    empty=st.sampled_from(["nodata", "nxdomain"]),
)
@settings(max_examples=150, deadline=None)
def test_an_updated_view_is_equal_to_a_new_one(
    steps: list[tuple[Change, str]], dns_sd: bool, empty: str
) -> None:
    server = Server(dns_sd=dns_sd, empty=empty)
    zone = server.zone
    fixed = [parse_name(f"{prefix}.{WEB}") for prefix in _ALWAYS]
    fixed += [KEY, parse_name("_web._tcp.staging.discovery"), parse_name("m1._web._tcp.staging.discovery")]
    fixed += [parse_name("_services._dns-sd._udp.staging.discovery")]
    for now, (change, then) in enumerate(steps):
        server.apply(change, float(now))
        if then == "expire":
            server.expire(now + 50.0)
        if then == "nothing":
            continue
        new = Zone(server.table, server.config, random.Random(1))
        names = fixed[now % len(fixed) :][:1] if then == "query one" else fixed
        if then != "query one" and KEY in server.table.services:
            names = [*names, *new.names_of_service(KEY)]
            assert list(zone.names_of_service(KEY)) == list(new.names_of_service(KEY))
            assert list(served_members(zone.view(KEY))) == list(served_members(new.view(KEY)))
        assert contents(zone, names) == contents(new, names)


# -- work -------------------------------------------------------------------------------------------------


def large(count: int = 3000, **settings: Any) -> Server:
    """A service with this many members, each with two additional endpoints."""
    members = [
        member(at, text, additional={"admin": text, "stats": text}, shard=at)
        for at, text in enumerate(many(count))
    ]
    return Server({"web.staging": members}, **settings)


QUERIES = [
    (WEB, "A"),
    (WEB, "AAAA"),
    (WEB, "SRV"),
    (WEB, "TXT"),
    (f"_admin._tcp.{WEB}", "SRV"),
    ("_web._tcp.staging.discovery", "SRV"),
    ("_web._tcp.staging.discovery", "PTR"),
    (f"_nope._tcp.{WEB}", "SRV"),
    (f"nope.{WEB}", "A"),
    (f"m777.{WEB}", "A"),
    (f"s777.{WEB}", "A"),
    ("7.0.0.10.in-addr.arpa", "PTR"),
]
_FIRST_RESPONSE = 4000
"""Calls of Python functions for a response with records that have not been rendered yet (1 ms)."""


@pytest.mark.parametrize("order", ["round-robin", "random", "fixed"])
@pytest.mark.parametrize(("name", "qtype"), QUERIES)
def test_the_work_for_a_query_does_not_depend_on_the_number_of_members(
    name: str, qtype: str, order: str
) -> None:
    server = large(dns_sd=True, reverse=True, order=order)
    ask(server, name, qtype)
    for size in range(512, 530):  # other queries, which are not in the response cache
        message = encode_query(name, qtype, edns=0, size=size)
        with at_most_calls(_FIRST_RESPONSE):
            assert server.respond(message) is not None


@pytest.mark.parametrize(("name", "qtype"), QUERIES)
def test_the_work_after_a_change_does_not_depend_on_the_number_of_members(name: str, qtype: str) -> None:
    server = large(dns_sd=True, reverse=True)
    ask(server, name, qtype)
    message = encode_query(name, qtype)
    for number in range(5):
        with at_most_calls(_FIRST_RESPONSE):
            server.change("web.staging", [member(5000 + number, "10.9.9.9:80")], [f"member_{number:010d}"])
            assert server.respond(message) is not None


def test_the_work_for_a_list_of_types_does_not_depend_on_the_number_of_services() -> None:
    server = Server({f"s{number}.staging": [] for number in range(2000)}, dns_sd=True)
    name = "_services._dns-sd._udp.staging.discovery"
    ask(server, name, "PTR")
    for number in range(3):
        message = encode_query(name, "PTR", edns=0, size=512 + number)
        with at_most_calls(_FIRST_RESPONSE):
            server.apply(put(f"x{number}.staging", []))
            assert server.respond(message) is not None


@pytest.mark.parametrize("name", [f"nope.{WEB}", f"m1-nope.{WEB}", f"_nope._tcp.{WEB}", f"m1-e99.{WEB}"])
def test_the_work_for_a_members_hosts_is_linear(name: str) -> None:
    """`decode_member` limits the additional endpoints to 100; the static file does not."""
    additional = {f"e{number}": f"10.1.{number >> 8}.{number & 255}:80" for number in range(1000)}
    server = Server({"web.staging": [member(1, "10.0.0.1:80", additional=additional)]})
    message = encode_query(name)
    with at_most_calls(16_000):
        assert server.respond(message) is not None


# -- rotation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("qtype", ["A", "SRV"])
def test_each_of_many_members_leads_equally_often(qtype: str, stream: bool) -> None:
    """The records are rendered and joined in several parts."""
    count = 130
    server = large(count)
    turns = 1 if stream else 2  # over TCP, each response has all records
    answers = [data(ask(server, WEB, qtype, stream=stream)) for _ in range(turns * count)]
    assert set(Counter(answer[0] for answer in answers).values()) == {turns}
    assert len({answer[0] for answer in answers}) == count
    whole = answers[0] if stream else [answer[0] for answer in answers[:count]]
    for answer in answers:
        at = whole.index(answer[0])
        assert answer == (whole + whole)[at : at + len(answer)]


def test_heavier_ones_of_many_members_lead_more_often_and_held_ones_come_last() -> None:
    count = 200
    weights = [2.0 if at % 2 else 1.0 for at in range(count)]
    members = [member(at, text, weight=weights[at]) for at, text in enumerate(many(count))]
    server = Server({"web.staging": members})
    server.apply(MembersHeld(origin_of("web.staging"), tuple(member.name for member in members[:100])))
    answers = [data(ask(server, WEB, stream=True)) for _ in range(150)]
    addresses = [text.partition(":")[0] for text in many(count)]
    assert Counter(answer[0] for answer in answers) == dict(zip(addresses[100:], weights[100:], strict=True))
    assert {frozenset(answer[:100]) for answer in answers} == {frozenset(addresses[100:])}
    assert {frozenset(answer[100:]) for answer in answers} == {frozenset(addresses[:100])}


def test_a_random_order_is_drawn_from_all_of_many_members() -> None:
    server = large(300, order="random")
    responses = [ask(server, WEB) for _ in range(200)]
    assert all(response.flags & dns.flags.TC for response in responses)
    drawn = Counter(address for response in responses for address in data(response))
    assert len(drawn) == 300
    assert max(drawn.values()) < 50  # 19 expected, deviation 4


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", ["addresses", "names"])
def test_rolling_deployments_leave_no_memory_behind(hosts: str) -> None:
    """Each deployment replaces all members, and clients follow SRV records to the members' names."""
    server = Server({"web.staging": []}, dns_sd=True)
    size = 5
    counts = dict[int, int]()
    for deployment in range(120):
        now = 100.0 * deployment
        for number in range(size * deployment, size * deployment + size):
            own = f"h{number}:80" if hosts == "names" else f"10.0.{number >> 8}.{number & 255}:80"
            far = {"admin": f"10.9.0.{number % size}:81", f"v{deployment % 40}": own}
            gone = [f"member_{number - size:010d}"] if deployment else []
            new = member(number, own, additional=far, shard=number % size)
            server.change("web.staging", [new], gone, now)
            if hosts == "names":
                server.resolve(f"h{number}", "10.1.0.1", "10.1.0.2")
            follow(server, number, deployment)
        server.expire(now + 99.0)
        follow(server, size * deployment, deployment)
        if deployment == 50:
            tracemalloc.start()
        if deployment in (60, 119):
            counts[deployment] = count_objects()
            gc.collect()
            counts[deployment + 1] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert counts[119] - counts[60] <= 10
    # 295 members have departed since; each had left 290 bytes or more.
    assert counts[120] - counts[61] < 50_000


def follow(server: Server, number: int, deployment: int) -> None:
    """Query the names that a client finds in SRV records, and other names of the member."""
    response = server.respond(encode_query(WEB, "SRV", edns=0))
    assert response is not None
    assert to_wire((b"m%d" % number, *KEY)) in response
    for name, qtype in (
        (f"m{number}.{WEB}", "A"),
        (f"member_{number:010d}.{WEB}", "A"),
        (f"m{number}-admin.{WEB}", "A"),
        (f"s{number % 5}.{WEB}", "A"),
        (f"m{number}._web._tcp.staging.discovery", "SRV"),
        (f"_v{deployment % 40}._tcp.{WEB}", "SRV"),
    ):
        wire = server.respond(encode_query(name, qtype))
        assert wire is not None
        assert wire[7] > 0  # the number of answers


def test_changes_and_evictions_leave_no_reference_cycles() -> None:
    """A worker runs no full garbage collections."""
    names = [f"s{number}.staging" for number in range(1200)]
    server = Server({name: many(10) for name in names}, dns_sd=True, reverse=True)
    prefixes = ("", "m1.", "nope.", "_admin._tcp.")
    gc.collect()
    gc.disable()
    try:
        for number, name in enumerate([*names, *names[:100]]):
            admin = {"admin": "10.0.0.1:81"}
            server.change(name, [member(20 + number, "10.9.9.9:80", additional=admin)], ["m0"], float(number))
            for prefix in prefixes:
                for stream in (False, True):
                    for qtype in (b"\0\1", b"\0\x21", b"\0\x10"):
                        labels = parse_name(f"{prefix}{name}.discovery")
                        header = b"\0\1\1\0\0\1" + bytes(6)
                        assert server.respond(header + to_wire(labels) + qtype + b"\0\1", stream=stream)
        server.expire(1e6)
        assert gc.collect() == 0
    finally:
        gc.enable()


def count_objects() -> int:
    """The number of objects of the views and rotations, without records, of which renderers keep old ones."""
    return sum(map(count_alive, (RotationCounter, LabeledMember, Use, Ordered)))


# -- illegal names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a..b", "a.", ".", "..a", "x" * 63, "x" * 70, "a." + "x" * 64, "ä" * 40])
def test_an_endpoint_with_an_illegal_name_has_none(name: str) -> None:
    additional = {name: "10.0.0.1:81", "admin": "10.0.0.1:82"}
    server = Server({"web.staging": [member(1, "10.0.0.1:80", additional=additional)]}, dns_sd=True)
    names = list(server.zone.names_of_service(KEY))
    for found in names:
        check_name(found)
    assert [found[0] for found in names if found[1:2] == (b"_tcp",)][:1] == [b"_admin"]
    assert sum(b"_tcp" in found[:-3] for found in names) == 1
    assert rcode(ask(server, f"_b._tcp.{WEB}")) == rcode(ask(server, f"b._tcp.{WEB}")) == "NXDOMAIN"
    assert data(ask(server, f"m1.{WEB}")) == ["10.0.0.1"]


@given(st.lists(st.text(max_size=80), max_size=4), st.lists(st.text(min_size=1, max_size=80), max_size=3))
@settings(max_examples=100, deadline=None)
def test_all_names_made_from_member_data_are_legal(endpoints: list[str], suffixes: list[str]) -> None:
    additional = {name: f"10.0.1.{at}:81" for at, name in enumerate(endpoints)}
    members = [
        member(f"member_{suffix}", f"10.0.0.{at}:80", additional=additional)
        for at, suffix in enumerate(dict.fromkeys(suffixes))
    ]
    server = Server({"web.staging": members}, dns_sd=True)
    names = list(server.zone.names_of_service(KEY))
    assert len(set(names)) == len(names)
    for name in names:
        check_name(name)
        assert server.zone.find(name).node is not None
