"""Names that could belong to several services: cached responses equal new ones after every change."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dns.helpers import NAMESPACE, Server, ask, data, encode_query, member, put, rcode
from zkdns.config import Config
from zkdns.dns.authority import Authority
from zkdns.dns.overlaps import names_above_services, rivals
from zkdns.dns.zone import Zone
from zkdns.names import Labels, to_text
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import SetDropped, SetPut, SetUnread
from zkdns.serverset.member import Member
from zkdns.table import ANY_SERVICE, Service, Table

FLAT = parse_namespace("/flat/{service}", (b"discovery",))
_LABELS = ("web", "v2", "m1", "_web", "_m1", "_v2", "_tcp", "_udp")


def some_name(dice: random.Random) -> Labels:
    """A name that several services may have."""
    labels = [dice.choice(_LABELS).encode() for _ in range(dice.choice((3, 4, 4, 5)))]
    for at in dice.sample(range(1, len(labels)), dice.choice((1, 1, 2))):
        labels[at] = dice.choice((b"_tcp", b"_tcp", b"_udp"))
    return tuple(labels)


def keys_with(name: Labels) -> list[Labels]:
    """The keys without zone of all services that may have this name."""
    keys = [name[start:] for start in range(len(name))]
    for at in range(1, len(name)):
        rest = (*name[:at], *name[at + 1 :])
        keys += [(rest[0].lstrip(b"_"), *rest[1:]), (rest[1].lstrip(b"_"), *rest[2:])]
    return [key for key in keys if key and key[0]]


def some_service(key: Labels, dice: random.Random) -> ServiceName:
    """A service with this key. The division into service and scope is random."""
    own = dice.randrange(1, len(key) + 1)
    return ServiceName(b".".join(key[:own]).decode(), b".".join(key[own:]).decode())


def some_members(dice: random.Random) -> tuple[Member, ...]:
    names = dice.sample(["member_0000000001", "_m1", "v2", "_web"], dice.choice((0, 1, 4)))
    additional = {key: "10.0.0.9:81" for key in ("web", "v2.web", "m1.v2") if dice.random() < 0.3}
    return tuple(member(each, f"10.0.0.{at}:80", additional=additional) for at, each in enumerate(names))


def some_change(server: Server, services: list[ServiceName], dice: random.Random) -> None:
    """Let a service come, go, change its members or become unreadable."""
    name = dice.choice(services)
    origin = f"/{name.service}/{name.scope}"
    kind = dice.random()
    if kind < 0.3:
        server.apply(SetDropped(origin))
    elif kind < 0.4:
        server.apply(SetDropped(origin))
        server.apply(SetUnread(origin, name))
    else:
        server.apply(SetPut(origin, name, some_members(dice)))


def fresh(server: Server) -> Authority:
    made = Authority(server.table, server.config, _fail, random.Random(1))
    made.set_health(ready=True, stale=False)
    return made


def _fail(_query: bytes, error: Exception) -> None:
    raise error


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_cached_responses_equal_new_ones(seed: int, dns_sd: bool, hides_empty: bool) -> None:
    dice = random.Random(seed)
    server = Server(
        namespaces=(NAMESPACE, FLAT),
        order="fixed",
        dns_sd=dns_sd,
        empty="nxdomain" if hides_empty else "nodata",
    )
    name = some_name(dice)
    services = [some_service(dice.choice(keys_with(name)), dice) for _ in range(dice.choice((2, 3, 6)))]
    queries = [
        encode_query((*asked, b"discovery"), qtype)
        for asked in {name, name[1:], (b"_web", *name), (b"v2", *name)}
        for qtype in ("SRV", "TXT")
    ]
    for _ in range(16):
        some_change(server, services, dice)
        responder = fresh(server).responder
        for message in queries:
            expected = next(responder.answer(message[2:], stream=True, encode=_bare).responses)
            for _ in range(2):  # the second response may come from the cache
                assert server.respond(message, stream=True) == message[:2] + expected


def _bare(body: bytes, _question: int) -> bytes:
    return body


# -- what a service that comes or goes affects ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "affected"),
    [
        ("_x.staging", {""}),
        ("_x.web.staging", {"", "web.staging"}),
        ("db.staging", {""}),
        ("_web._tcp.staging", {"", "web.staging"}),
        ("web._tcp.staging", {"", "v2.web.staging"}),
        ("_tcp.staging", {"", "web.staging", "api.staging", "v2.web.staging"}),
        ("m1.web.staging", {"", "web.staging"}),
        ("m1._web._tcp.staging", {"", "web.staging"}),
        ("m1._web.staging", {"", "web.staging"}),
    ],
)
def test_only_services_that_share_a_name_are_affected(name: str, affected: set[str]) -> None:
    names = ("web.staging", "api.staging", "v2.web.staging", "api.prod")
    server = Server({each: ["10.0.0.1:80"] for each in names})
    key = NAMESPACE.split_name(name).key
    for change in (put(name, ["10.0.0.2:80"]), SetDropped(put(name, ()).origin)):
        changed = server.zone.refresh(server.table.apply(change))
        assert {to_text(each[:-1]) for each in changed - {key}} == affected
        assert ANY_SERVICE in changed


def test_a_service_above_the_environment_of_others_affects_them() -> None:
    server = Server({"v2.web.staging": ["10.0.0.1:80"]}, namespaces=(NAMESPACE, FLAT))
    name = "_v2.web._tcp.staging.discovery"
    assert len(data(ask(server, name, "SRV"))) == 1
    server.apply(SetUnread("/flat/staging", ServiceName("staging")))
    assert rcode(ask(server, name, "SRV")) == "SERVFAIL"


def test_members_may_decide_which_of_two_services_has_a_name() -> None:
    server = Server({"web.staging": [member("_m1", "10.0.0.1:80")]}, dns_sd=True, empty="nxdomain")
    server.apply(put("m1._web.staging", ()))
    name = "_m1._web._tcp.staging.discovery"
    for members, port in (((), 80), (["10.0.0.2:81"], 81), ((), 80)):
        server.apply(put("m1._web.staging", members))
        assert [record[0].port for record in ask(server, name, "SRV").answer] == [port]


def test_an_unread_service_does_not_affect_names_that_it_cannot_have() -> None:
    server = Server({"api.staging": ["10.0.0.1:80"]})
    server.apply(SetUnread("/discovery/staging/tcp", NAMESPACE.split_name("tcp.staging")))
    assert rcode(ask(server, "_tcp.tcp.staging.discovery", "SRV")) == "SERVFAIL"
    assert rcode(ask(server, "_tcp.staging.discovery", "SRV")) == "NOERROR"


def test_a_service_without_an_underscore_has_no_rivals() -> None:
    assert list(rivals((b"web", b"staging", b"discovery"), 1)) == []
    assert list(names_above_services((b"web", b"staging", b"discovery"))) == []


# -- names of many labels ------------------------------------------------------------------------------------


class CountingTable(Table):
    """A table that lists the keys at which services are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[Labels] = []

    @property
    def services(self) -> Mapping[Labels, Service]:
        return CountingMapping(super().services, self.lookups)


class CountingMapping(dict[Labels, Service]):
    def __init__(self, services: Mapping[Labels, Service], lookups: list[Labels]) -> None:
        super().__init__(services)
        self.lookups = lookups

    def get(self, key: Labels, default: Any = None) -> Any:
        self.lookups.append(key)
        return super().get(key, default)


@pytest.mark.parametrize("label", [b"a", b"_tcp"])
def test_names_of_many_labels_are_looked_up_by_the_lengths_of_keys(label: bytes) -> None:
    """A client chooses the number of labels; a lookup for each of their suffixes took 45 µs (measured)."""
    table = CountingTable()
    for name in ("web.staging", "a.b.web.staging"):
        table.apply(put(name, ["10.0.0.1:80"]))
    zone = Zone(table, Config(listen=(), namespaces=(NAMESPACE,)))
    table.lookups.clear()
    assert zone.find((b"_a", *[label] * (200 // (len(label) + 1)), b"staging", b"discovery")).node is None
    assert len(table.lookups) == 2
