"""Queries for names of members, which are answered by the form of an earlier query."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import dns.edns
import dns.name
import pytest

from tests.dns.helpers import (
    NAMESPACE,
    Server,
    ask,
    count_alive,
    count_answers,
    data,
    encode_query,
    endpoint,
    many,
    member,
    put,
    query,
    random_case,
    rcode,
)
from tests.dns.zone_internals import limit_views
from zkdns.dns.authority import Authority
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.member_records import LabeledMember
from zkdns.names import to_wire
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import MembersHeld, SetDropped, SetUnread
from zkdns.serverset.member import Member
from zkdns.transport.contract import for_client

SUB = parse_namespace("/sub/{environment}/{service}", (b"sub", b"discovery"))
_SERVICES = ("web.staging", "api.staging", "m1.web.staging", "_tcp.web.staging", "web.staging.sub", "x.prod")
_LABELS = (
    *("m1", "m1", "m2", "m2", "m3", "M2", "member_0000000001", "s1", "m1-admin", "_tcp", "nope", "web"),
    *("_admin._tcp", "_b._a._tcp", "_a._tcp", "_x._udp", "m1._web._tcp", "m01", "s-1", "x.m1"),
)
OPTIONS = EdnsOptions(b"here", 10.0, Cookies(bytes(16), lambda: 1e9, is_shared=False), for_client)
_COOKIE = dns.edns.CookieOption(b"clientsc", b"")
_OPTIONS: Sequence[Sequence[dns.edns.Option]] = (
    *((), (), (_COOKIE,), (dns.edns.CookieOption(bytes(8), b""),), (dns.edns.ECSOption("192.0.2.0"),)),
    *((dns.edns.NSIDOption(b""),), (dns.edns.NSIDOption(b""), _COOKIE)),
)
_ENCODED_OPTIONS = [
    b"".join(
        int(option.otype).to_bytes(2) + len(wire).to_bytes(2) + wire
        for option in options
        if (wire := option.to_wire()) is not None
    )
    for options in _OPTIONS
]
_HOSTS = ("10.0.0.1:80", "[2001:db8::1]:80", "host-a:80", "db.example.com:80", None)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Callable[[], int]]:
    """A server with a service of 200 members, and the number of answers that took the long way."""
    members = [
        member(number, endpoint(f"10.0.0.{number}:80", inet6=f"2001:db8::{number}")) for number in range(200)
    ]
    server = Server({"web.staging": members})
    return server, count_answers(server, monkeypatch)


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
@pytest.mark.parametrize("edns", [None, 0])
def test_one_of_many_names_takes_the_long_way(
    counted: tuple[Server, Callable[[], int]], qtype: str, stream: bool, edns: int | None
) -> None:
    server, count = counted
    for number in range(100, 200):
        response = ask(server, f"m{number}.web.staging.discovery", qtype, stream=stream, edns=edns)
        assert len(response.answer) == 1
    assert count() == 1
    cache = server.streams if stream else server.datagrams
    assert (len(cache), cache.misses) == (100, 100)
    server.change("web.staging", removed=["member_0000000150"])
    assert not cache


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("option", ["cookie", "subnet", "both"])
def test_names_with_options_take_the_short_way(
    counted: tuple[Server, Callable[[], int]], option: str, stream: bool
) -> None:
    server, count = counted
    server.responder.edns_options = OPTIONS
    for number in range(100, 200):
        cookie, subnet = (
            dns.edns.CookieOption(number.to_bytes(8), b""),
            dns.edns.ECSOption(f"10.1.{number}.0"),
        )
        options = {"cookie": [cookie], "subnet": [subnet], "both": [subnet, cookie]}[option]
        response = ask(server, f"m{number}.web.staging.discovery", stream=stream, edns=0, options=options)
        assert data(response) == [f"10.0.0.{number}"]
        assert [each.client for each in response.options] == [cookie.client] * (option != "subnet")
    assert count() == 1


def test_names_of_many_members_do_not_need_views_of_their_services(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_views(monkeypatch, 500)
    before = count_alive(LabeledMember)
    server = Server({f"s{number}.staging": many(400) for number in range(3)})
    for number in range(3):
        for at in range(100, 300):
            (address,) = data(ask(server, f"m{at}.s{number}.staging.discovery"))
            assert address == f"10.0.{(at + 1) >> 8}.{(at + 1) & 255}"
    assert count_alive(LabeledMember) - before == 400


def test_the_label_of_a_member_may_be_the_name_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_views(monkeypatch, 4)
    server = Server({"web.staging": [member(2, "10.0.0.2:80")], "api.staging": many(3)})
    for name in ("m1.api.staging.discovery", "m2.web.staging.discovery"):
        ask(server, name)
    assert data(ask(server, "m2.web.staging.discovery")) == ["10.0.0.2"]
    ask(server, "api.staging.discovery", "SRV")  # without room for a view of web
    server.change("web.staging", [member("m2", "10.0.0.9:80")])
    assert data(ask(server, "m2.web.staging.discovery")) == ["10.0.0.9"]
    server.change("web.staging", removed=["m2"])
    server.expire(1e9)
    ask(server, "api.staging.discovery", "TXT")
    assert data(ask(server, "m2.web.staging.discovery")) == ["10.0.0.2"]


def some_members(dice: random.Random) -> list[Member]:
    return [
        member(
            number if dice.random() < 0.8 else f"m{number}",
            dice.choice(_HOSTS),
            additional=dice.choice(
                ({}, {}, {"admin": "10.0.0.9:81"}, {"b.a": "10.0.0.9:82", "c": "10.0.0.8:9"})
            ),
            shard=dice.choice((None, 1)),
            weight=dice.choice((1.0, 0.0, 2.0)),
        )
        for number in dice.sample(range(1, 4), dice.randrange(4))
    ]


def some_change(server: Server, dice: random.Random) -> None:
    service = dice.choice(_SERVICES)
    change = put(service, some_members(dice), f"/{service}", server.config.namespaces)
    kind = dice.random()
    if kind < 0.5:
        server.apply(change)
    elif kind < 0.6:
        server.apply(MembersHeld(change.origin, ("member_0000000001", "m2")))
    elif kind < 0.7:
        server.apply(SetUnread(change.origin, change.name))
    elif kind < 0.8:
        server.apply(SetDropped(change.origin))
    elif kind < 0.9:
        addresses = ("192.0.2.1", "192.0.2.2", "2001:db8::2")
        server.resolve("host-a", *dice.sample(addresses, dice.randrange(4)))
    else:
        server.authority.set_health(ready=True, stale=dice.random() < 0.2)


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_responses_equal_those_of_the_long_way(
    seed: int, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_room:
        limit_views(monkeypatch, 7)
    dice = random.Random(seed)
    order = "round-robin" if seed & 1 else "fixed"
    server = Server(namespaces=(NAMESPACE, SUB), order=order, dns_sd=bool(seed & 2), max_answers=1)
    server.responder.edns_options = OPTIONS
    monkeypatch.undo()  # the zones to compare with have room
    for _ in range(60):
        some_change(server, dice)
        fresh = Authority(server.table, server.config, _fail, random.Random(1))
        fresh.responder.edns_options = OPTIONS
        fresh.set_health(ready=True, stale=not server.authority.freshness.is_current)
        for _ in range(20):
            name = f"{dice.choice(_LABELS)}.{dice.choice(_SERVICES)}.discovery"
            edns = dice.choice((None, 0, 0))
            message = encode_query(
                random_case(name, dice) if dice.random() < 0.2 else name,
                dice.choice(("A", "AAAA", "SRV", "SRV", "TXT", "ANY")),
                edns=edns,
                do=dice.random() < 0.2,
                options=dice.choice(_ENCODED_OPTIONS) if edns is not None else b"",
            )
            for stream in (False, True):
                answer = fresh.responder.answer(message[2:], stream=stream, encode=_bare)
                made: Iterator[bytes] = answer.responses
                if answer.cookie is not None:
                    made = map(OPTIONS.finish, made, itertools.repeat(answer.cookie))
                found = server.respond(message, stream=stream) or b""
                assert found[2:] in map(Server.for_address, itertools.islice(made, 40))


def _bare(body: bytes, _question: int) -> bytes:
    return body


def _fail(_query: bytes, error: Exception) -> None:
    raise error


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("label", [b"m1\0", b"\0", b"m1\3web", b"M1", b"m1.web"])
def test_only_valid_names_in_lower_case_take_the_short_way(
    counted: tuple[Server, Callable[[], int]], label: bytes, stream: bool
) -> None:
    server, count = counted
    ask(server, f"m{'2' * len(label)}.web.staging.discovery", stream=stream)
    ask(server, "m1.web.staging.discovery", stream=stream)
    before = count()
    name = dns.name.Name((label, b"web", b"staging", b"discovery", b""))
    response = ask(server, name, stream=stream)
    assert rcode(response) == ("NOERROR" if label == b"M1" else "NXDOMAIN")
    assert count() > before


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
def test_malformed_names_are_not_taken_for_names_of_members(stream: bool) -> None:
    server = Server({"web.staging": ["10.0.0.1:80"] * 2})
    whole = query("m1.web.staging.discovery").to_wire()
    server.respond(whole, stream=stream)
    name = to_wire((b"m1", b"web", b"staging", b"discovery"))
    for malformed in (b"\x05" + name[1:], b"\x40" + name[1:], b"\xc0\x0c" + name[2:], b"\0" + name[1:]):
        message = whole[:12] + malformed + whole[12 + len(name) :]
        fresh = Server({"web.staging": ["10.0.0.1:80"] * 2})
        assert server.respond(message, stream=stream) == fresh.respond(message, stream=stream)


def test_a_response_that_does_not_fit_is_truncated() -> None:
    path = f"/discovery/{'long' * 25}/{'x' * 60}"
    entries = [member(f"{'y' * 200}{number}", "10.0.0.1:80") for number in range(3)]
    server = Server({"api.staging": ["10.0.0.1:80"]})
    server.apply(put("web.staging", entries, path))
    found = ask(server, "web.staging.discovery", "SRV", stream=True).answer
    for label in [record[0].target.labels[0].decode() for record in found] * 2:
        over_tcp = ask(server, f"{label}.web.staging.discovery", "TXT", stream=True)
        over_udp = ask(server, f"{label}.web.staging.discovery", "TXT")
        assert len(over_tcp.answer) == 1
        assert (len(over_udp.answer) == 0) == (len(over_tcp.to_wire()) > 512)
    assert data(ask(server, "m0.api.staging.discovery")) == ["10.0.0.1"]
