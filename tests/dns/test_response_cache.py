"""The response cache: hits without DNS work, and entries dropped when their answer changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import dns.edns
import dns.flags
import pytest

from tests.dns.helpers import (
    FailingResponder,
    Server,
    additional_of,
    ask,
    data,
    ede,
    encode_query,
    has_soa,
    member,
    origin_of,
    put,
    query,
    random_case,
    rcode,
    read,
)
from tests.dns.response_cache_internals import assert_accounting_is_consistent
from zkdns.dns.message import parse_query
from zkdns.dns.response_cache import ResponseCache
from zkdns.serverset.changes import MembersHeld, SetUnread
from zkdns.transport.codecs import TcpCodec, UdpCodec

WEB, API = "web.staging.discovery", "api.staging.discovery"


def server(**settings: Any) -> Server:
    """Two services with every kind of endpoint, and one without members."""
    return Server(
        {
            "web.staging": [
                member(1, "10.0.0.1:80", shard=3, additional={"admin": "10.0.0.9:81"}),
                member(2, "web.example.com:80"),
            ],
            "api.staging": [member(1, "10.1.0.1:80"), member(2, "api.example.com:80")],
            "idle.staging": [],
        },
        **settings,
    )


def cached(of: Server) -> set[str]:
    """Names and types of all queries that are cached for UDP."""
    parsed = (parse_query(bytes(2) + UdpCodec.query(key)) for key in of.datagrams)
    return {f"{b'.'.join(query.name).decode()} {query.qtype}" for query in parsed}


def ask_all(of: Server, names: Iterable[str], qtypes: Iterable[str] = ("A", "AAAA", "SRV", "TXT")) -> None:
    """Send each query twice, since answers of no service are cached from the second query on."""
    for name in names:
        for qtype in qtypes:
            ask(of, name, qtype)
            ask(of, name, qtype)


OWN = (WEB, f"m1.{WEB}", f"s3.{WEB}", f"_admin._tcp.{WEB}", "_web._tcp.staging.discovery")
OTHERS = (API, f"m1.{API}", "_api._tcp.staging.discovery", "idle.staging.discovery")
ABSENT = ("nope.staging.discovery", "staging.discovery", "_nope._tcp.staging.discovery", "discovery")


def server_with_answers(**settings: Any) -> tuple[Server, set[str], set[str], set[str]]:
    """A server with all answers cached, and their names: of web, of other services, and of none."""
    made = server(**settings)
    ask_all(made, (*OWN, *OTHERS, *ABSENT))
    whole = cached(made)
    own, others, absent = (
        {f"{n} {t}" for n in names for t in (1, 28, 33, 16)} for names in (OWN, OTHERS, ABSENT)
    )
    # SERVFAIL for unresolved addresses is not cached.
    assert whole <= own | others | absent
    return made, whole & own, whole & others, whole & absent


# -- hits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("how", [{}, {"edns": 0}, {"edns": 0, "do": True}, {"flags": 0}], ids=str)
def test_a_repeated_query_needs_no_dns_work(stream: bool, how: dict[str, Any]) -> None:
    made = server()
    cache = made.streams if stream else made.datagrams
    for name in (*OWN, *OTHERS, *ABSENT):
        first = ask(made, name, "SRV", stream=stream, **how)
        ask(made, name, "SRV", stream=stream, **how)
        before = cache.misses
        for _ in range(3):
            again = ask(made, name, "SRV", stream=stream, **how)
            assert (sorted(data(again)), rcode(again)) == (sorted(data(first)), rcode(first))
        assert cache.misses == before
    assert (len(made.datagrams) == 0) == stream


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        (f"nope.{WEB}", {}, "and so do names that a service does not have"),
        ("example.com", {}, "and all others"),
        (WEB, {"qclass": "CH"}, "errors are not cached"),
        (WEB, {"edns": 1}, "BADVERS"),
        (WEB, {"flags": dns.flags.RD | 0x1000}, "NOTIMP"),
        ("unread.staging.discovery", {}, "SERVFAIL"),
    ],
)
def test_queries_that_will_not_repeat_are_not_cached(name: str, how: dict[str, Any], why: str) -> None:
    del why
    made = server()
    made.apply(SetUnread(origin_of("unread.staging"), put("unread.staging", ()).name))
    for stream in (False, True):
        wire = query(name, **how).to_wire()
        assert made.respond(wire, stream=stream)
        assert made.respond(bytes(2) + wire[2:3] + b"\xff" + wire[4:], stream=stream)
        assert made.respond(wire[:-1], stream=stream)
    assert (len(made.datagrams), len(made.streams)) == (0, 0)
    assert (made.datagrams.size, made.streams.size) == (0, 0)


def test_nothing_is_cached_before_the_table_has_been_read() -> None:
    made = server()
    made.authority.set_health(ready=False, stale=False)
    ask_all(made, (*OWN, *ABSENT))
    assert not made.datagrams
    made.authority.set_health(ready=True, stale=False)
    assert data(ask(made, f"m1.{WEB}")) == ["10.0.0.1"]


def test_a_query_longer_than_a_slot_is_answered_and_not_cached() -> None:
    name = "a" * 60 + "." + "b" * 60 + ".discovery"
    made = server()
    for stream in (False, True) * 2:
        assert rcode(ask(made, name, stream=stream)) == "NXDOMAIN"
    assert (len(made.datagrams), len(made.streams)) == (0, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
def test_an_absent_name_is_cached_at_its_second_query(stream: bool) -> None:
    made = server()
    cache = made.streams if stream else made.datagrams
    for queries_before, name in enumerate(("nope", "nada", "nope", "nada", "nope")):
        assert rcode(ask(made, f"{name}.staging.discovery", stream=stream)) == "NXDOMAIN"
        assert len(cache) == (0, 0, 1, 2, 2)[queries_before]
    assert cache.misses == 4


def test_an_internal_error_is_servfail_and_reported_with_its_query() -> None:
    reported: list[tuple[bytes, Exception]] = []

    body = query(WEB).to_wire()[2:]
    for codec, key in ((UdpCodec, UdpCodec.key(body)), (TcpCodec, body)):
        cache = ResponseCache(
            FailingResponder(),
            codec,
            lambda query, error: reported.append((query, error)),
            stream=codec is TcpCodec,
        )
        for _ in range(2):
            response = next(cache[key])
            whole = UdpCodec.message(b"id" + body, response) if codec is UdpCodec else b"id" + response
            answer = read(whole)
            assert (rcode(answer), answer.flags & dns.flags.RD) == ("SERVFAIL", dns.flags.RD)
        assert (len(cache), cache.size) == (0, 0)
    assert [text for text, _ in reported] == [body] * 4
    assert {type(error) for _, error in reported} == {ZeroDivisionError}


# -- dropped entries ----------------------------------------------------------------------------------------


_CHANGES: dict[str, Callable[[Server], None]] = {
    "a member joins": lambda of: of.change("web.staging", [member(3, "10.0.0.3:80")]),
    "a member leaves": lambda of: of.change("web.staging", removed=["member_0000000001"]),
    "a member is held": lambda of: of.apply(MembersHeld(origin_of("web.staging"), ("member_0000000001",))),
    "all members are others": lambda of: of.apply(put("web.staging", ["10.0.0.7:80"])),
    "no member is left": lambda of: of.apply(put("web.staging", [])),
    "a host has been resolved": lambda of: of.resolve("web.example.com", "192.0.2.1"),
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_a_change_drops_the_answers_of_its_service_only(change: Callable[[Server], None]) -> None:
    made, own, others, absent = server_with_answers()
    assert len(own) > 10
    change(made)
    assert cached(made) == others | absent


def test_a_change_without_effect_drops_nothing() -> None:
    made, own, others, absent = server_with_answers()
    made.change("web.staging", removed=["member_0000000009"])
    made.drop("nope.staging")
    made.resolve("elsewhere.example.com", "192.0.2.1")
    made.expire(1e9)
    made.authority.set_health(ready=True, stale=False)
    assert cached(made) == own | others | absent


@pytest.mark.parametrize("name", ["new.staging", "new.prod", "a.b.prod"])
def test_adding_or_removing_a_service_drops_negative_answers_only(name: str) -> None:
    made, own, others, absent = server_with_answers()
    assert {"nope.staging.discovery 1", "staging.discovery 1", "discovery 1"} <= absent
    made.apply(put(name, ["10.2.0.1:80"]))
    assert cached(made) == own | others
    ask_all(made, ABSENT)
    made.drop(name)
    assert cached(made) == own | others


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
def test_an_added_service_is_a_name_until_it_is_removed(stream: bool) -> None:
    made = server()
    name = "db.staging.discovery"
    for _ in range(3):
        assert data(ask(made, name, stream=stream)) == []
        made.apply(put("db.staging", ["10.0.0.9:80"]))
        assert data(ask(made, name, stream=stream)) == ["10.0.0.9"]
        made.drop("db.staging")
    assert data(ask(made, name, stream=stream)) == []


def test_a_service_below_another_drops_the_others_answers_too() -> None:
    made, own, others, absent = server_with_answers()
    assert data(ask(made, f"m1.{WEB}")) == ["10.0.0.1"]
    made.apply(put("m1.web.staging", ["10.2.0.1:80"]))
    assert cached(made) == others
    assert data(ask(made, f"m1.{WEB}")) == ["10.2.0.1"]
    ask_all(made, (*OWN, *ABSENT))
    made.change("m1.web.staging", [member(5, "10.2.0.5:80")])  # it exists already
    assert cached(made) == (own | others | absent) - {f"m1.{WEB} {qtype}" for qtype in (1, 28, 33, 16)}
    made.drop("m1.web.staging")
    assert cached(made) == others
    assert data(ask(made, f"m1.{WEB}")) == ["10.0.0.1"]


def test_a_service_that_looks_like_an_rfc_2782_name_drops_the_answers_of_that_service() -> None:
    made, own, others, absent = server_with_answers()
    assert len(data(ask(made, "_web._tcp.staging.discovery", "SRV"))) == 2
    made.apply(put("_web._tcp.staging", ["10.2.0.1:99"]))
    assert cached(made) == others
    assert data(ask(made, "_web._tcp.staging.discovery", "SRV")) == [
        "0 100 99 m0._web._tcp.staging.discovery."
    ]
    ask_all(made, (*OWN, *ABSENT))
    made.drop("_web._tcp.staging")
    assert cached(made) == others
    assert len(data(ask(made, "_web._tcp.staging.discovery", "SRV"))) == 2
    ask_all(made, (*OWN, *ABSENT))
    made.apply(put("_x.staging", ["10.2.0.1:99"]))
    assert cached(made) == own | others
    assert absent


def test_if_members_make_a_name_each_change_drops_negative_answers() -> None:
    made, own, others, _ = server_with_answers(empty="nxdomain")
    assert rcode(ask(made, "_idle._tcp.staging.discovery", "SRV")) == "NXDOMAIN"
    made.change("idle.staging", [member(1, "10.2.0.1:80")])
    assert len(data(ask(made, "_idle._tcp.staging.discovery", "SRV"))) == 1
    made.change("idle.staging", removed=["member_0000000001"])
    assert rcode(ask(made, "_idle._tcp.staging.discovery", "SRV")) == "NXDOMAIN"
    of_idle = {f"idle.staging.discovery {qtype}" for qtype in (1, 28, 33, 16)}
    assert own | others - of_idle <= cached(made)


def test_a_change_of_health_drops_all_answers() -> None:
    made, *_ = server_with_answers()
    assert ede(ask(made, WEB, edns=0)) == []
    made.authority.set_health(ready=True, stale=True)
    assert cached(made) == set()
    for stream in (False, True):
        assert ede(ask(made, WEB, "SRV", edns=0, stream=stream)) == [dns.edns.EDECode.STALE_ANSWER]
    made.authority.set_health(ready=True, stale=True)
    assert cached(made) == {f"{WEB} 33"}
    made.authority.set_health(ready=True, stale=False)
    for stream in (False, True):
        assert ede(ask(made, WEB, "SRV", edns=0, stream=stream)) == []


def test_a_departed_members_name_is_dropped_when_its_time_is_over() -> None:
    made, _, others, absent = server_with_answers()
    made.change("web.staging", removed=["member_0000000001"], now=10.0)
    for now in (10.0, 69.0):
        made.expire(now)
        assert data(ask(made, f"m1.{WEB}")) == ["10.0.0.1"]
    made.expire(70.0)
    assert cached(made) == others | absent
    assert rcode(ask(made, f"m1.{WEB}")) == "NXDOMAIN"


def test_unresolved_addresses_are_not_cached() -> None:
    made = server()
    assert rcode(ask(made, f"m2.{WEB}")) == "SERVFAIL"
    made.resolve("web.example.com", "192.0.2.1")
    assert data(ask(made, f"m2.{WEB}")) == ["192.0.2.1"]
    made.resolve("web.example.com", "192.0.2.2")
    assert data(ask(made, f"m2.{WEB}")) == ["192.0.2.2"]
    assert rcode(ask(made, f"m2.{API}")) == "SERVFAIL"


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
def test_cached_responses_have_the_present_serial(stream: bool) -> None:
    made = server()
    for serial in (1, 2, 0xFFFFFFFF, 0):
        made.table.serial = serial
        for name, qtype in (
            ("nope.staging.discovery", "A"),
            ("staging.discovery", "A"),
            (API, "MX"),
            ("idle.staging.discovery", "A"),
        ):
            for how in ({}, {"edns": 0}, {"edns": 0, "do": True}):
                response = ask(made, name, qtype, stream=stream, **how)
                assert has_soa(response)
                assert response.authority[0][0].serial == serial
        assert ask(made, "discovery", "SOA", stream=stream).answer[0][0].serial == serial
    # Each once; queries of no service twice.
    assert (made.streams if stream else made.datagrams).misses == 4 * 3 + 1 + 2 * 3 + 1


# -- the spelling of the query ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT", "MX", "ANY"])
@pytest.mark.parametrize("name", [WEB, f"m1.{WEB}", "nope.staging.discovery", "_web._tcp.staging.discovery"])
def test_only_the_spelling_of_a_response_depends_on_the_query(name: str, qtype: str, stream: bool) -> None:
    made, other = server(order="fixed"), server(order="fixed")
    dice = random.Random(7)
    for edns in (None, 0) * 10:
        message = encode_query(random_case(name, dice), qtype, edns=edns)
        response = made.respond(message, stream=stream)
        plain = other.respond(encode_query(name, qtype, edns=edns), stream=stream)
        assert response is not None
        assert plain is not None
        name_end = 12 + len(name) + 2
        assert response[12:name_end] == message[12:name_end]
        assert response[:12] + response[12:name_end].lower() + response[name_end:] == plain
    cache = made.streams if stream else made.datagrams
    assert len(cache) == 2
    assert_accounting_is_consistent(cache)
    assert cache.misses == (4 if name.startswith("nope") else 2)


def test_upper_case_needs_no_more_dns_work_than_lower_case() -> None:
    made = server()
    ask(made, WEB)
    ask(made, WEB.upper())
    assert made.datagrams.misses == 2  # the second one only finds the end of the name
    for at in range(len(WEB)):
        assert data(ask(made, WEB[:at] + WEB[at:].upper()))
    assert (made.datagrams.misses, len(made.datagrams)) == (2, 1)
    made.change("web.staging", [member(3, "10.0.0.3:80")])
    assert len(made.datagrams) == 0
    assert_accounting_is_consistent(made.datagrams)
    assert "10.0.0.3" in data(ask(made, WEB.upper()))


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("name", [WEB, WEB.upper(), "WeB.staging.Discovery"])
def test_queries_share_answers_only_if_they_differ_in_case_only(name: str, stream: bool) -> None:
    """65 and 97 are A and a: types, sizes, flags and lengths must not be folded to lower case."""
    whole = query(name, "SRV", edns=0, size=0x4141).to_wire()
    end = 12 + len(name) + 2
    variants = {
        "type 65": whole[:end] + b"\0\x41" + whole[end + 2 :],
        "type 97": whole[:end] + b"\0\x61" + whole[end + 2 :],
        "size 0x6161": whole[:-8] + b"\x61\x61" + whole[-6:],
        "size 0x0261": whole[:-8] + b"\x02\x61" + whole[-6:],
        "size 0x0241": whole[:-8] + b"\x02\x41" + whole[-6:],
        "without RD": whole[:2] + b"\0" + whole[3:],
        "AD and Z": whole[:3] + b"\x61" + whole[4:],
        "Z": whole[:3] + b"\x41" + whole[4:],
        "DO": whole[:-4] + b"\x80\0" + whole[-2:],
        "without EDNS": whole[:11] + b"\0" + whole[12:-11],
        "one more byte": whole + b"\0",
        "one less": whole[:-1],
        "as it is": whole,
    }
    members = [member(at, f"10.0.{at}.1:80") for at in range(40)]
    order = [*variants] * 3
    random.Random(name).shuffle(order)
    made = Server({"web.staging": members}, order="fixed")
    for variant in order:
        message = variants[variant]
        uncached = Server({"web.staging": members}, order="fixed")
        assert made.respond(message, stream=stream) == uncached.respond(message, stream=stream), variant


def test_additional_records_do_not_depend_on_the_spelling() -> None:
    made = server(order="fixed")
    first, second = ask(made, WEB, "SRV"), ask(made, WEB.upper(), "SRV")
    assert sorted(map(str.lower, additional_of(first))) == sorted(map(str.lower, additional_of(second)))
    assert additional_of(second)
