"""Responses made from the parts of the response to a similar name equal those that the responder makes."""

from __future__ import annotations

import random
from collections.abc import Callable

import dns.edns
import pytest

from tests.dns.helpers import (
    NAMESPACE,
    Server,
    ask,
    count_answers,
    ede,
    encode_query,
    has_soa,
    member,
    random_case,
    rcode,
)
from zkdns.dns.authority import Authority
from zkdns.dns.cookies import Cookies
from zkdns.dns.edns_options import EdnsOptions
from zkdns.namespace import ALL_SOURCES, parse_namespace
from zkdns.serverset.changes import DirectoryUnread, SetDropped, SetPut, SetUnread
from zkdns.transport.contract import for_client

WEB = "web.staging.discovery"
SUB = parse_namespace("/sub/{environment}/{service}", (b"sub", b"discovery"))
AURORA = parse_namespace("/aurora/{role}/{job}", (b"aurora",))
NAMESPACES = (NAMESPACE, SUB, AURORA)
OPTIONS = EdnsOptions(b"ns1", 10.0, Cookies(bytes(16), lambda: 1.6e9, is_shared=False), for_client)

# Labels of equal length, so that many names have the same form, and of which some exist.
_LABELS = (
    "m1",
    "m2",
    "x1",
    "s3",
    "web",
    "api",
    "sub",
    "abc",
    "_tcp",
    "_udp",
    "_web",
    "_api",
    "_x12",
    "_dns-sd",
)
_SCOPES = ("staging", "prodabc", "www")
_ZONES = ("discovery", "sub.discovery", "aurora")
_PATHS = ("/discovery", "/discovery/staging", "/sub/prodabc", "/aurora/www", "/sub")


def some_name(dice: random.Random) -> str:
    labels = [dice.choice(_LABELS) for _ in range(dice.randrange(5))]
    scope = [dice.choice(_SCOPES)] if dice.random() < 0.9 else []
    return ".".join((*labels, *scope, dice.choice(_ZONES)))


def some_query(dice: random.Random, name: str) -> bytes:
    """A query in one of few forms."""
    cookie = b"\0\x0a\0\x08" + dice.randbytes(8)
    return encode_query(
        random_case(name, dice) if dice.random() < 0.3 else name,
        dice.choice(("A", "SRV", "ANY", "DS", "TYPE65", "TYPE97")),
        edns=dice.choice((None, 0, 0)),
        do=dice.random() < 0.3,
        options=cookie if dice.random() < 0.3 else b"",
        flags=dice.choice((0, 0x0100)),
    )


def some_change(server: Server, dice: random.Random, health: dict[str, tuple[bool, bool]]) -> None:
    """Change a service, a directory or the state of a source."""
    namespace = dice.choice(NAMESPACES)
    service = dice.choice(("web", "api", "m1.web", "x1", "_tcp", "_web._tcp", "abc.web"))
    elements = (dice.choice(_SCOPES), service)
    origin = "/".join((namespace.root, *elements))
    kind = dice.random()
    if kind < 0.5:
        entries = [member(number, "10.0.0.1:80", shard=3) for number in range(1, dice.randrange(1, 4))]
        server.apply(SetPut(origin, namespace.name_of(elements), tuple(entries)))
    elif kind < 0.7:
        server.apply(SetDropped(origin))
    elif kind < 0.75:
        server.apply(SetUnread(origin, namespace.name_of(elements)))
    elif kind < 0.85:
        server.apply(DirectoryUnread(dice.choice(_PATHS), is_unread=dice.random() < 0.3))
    else:
        source = dice.choice((ALL_SOURCES, *(each.template for each in NAMESPACES)))
        health[source] = dice.random() < 0.8, dice.random() < 0.3
        server.authority.set_health(ready=health[source][0], stale=health[source][1], source=source)
    server.table.serial += 1


@pytest.mark.parametrize("seed", range(8))  # each combination of the settings
def test_responses_equal_those_of_the_responder(seed: int) -> None:
    dice = random.Random(seed)
    server = Server(
        namespaces=NAMESPACES,
        order="fixed",
        dns_sd=bool(seed & 1),
        reverse=bool(seed & 2),
        empty="nxdomain" if seed & 4 else "nodata",
    )
    server.responder.edns_options = OPTIONS
    health = {ALL_SOURCES: (True, False)}
    for _ in range(40):
        some_change(server, dice, health)
        fresh = Authority(server.table, server.config, _fail, random.Random(1))
        fresh.responder.edns_options = OPTIONS
        for source, (ready, stale) in health.items():
            fresh.set_health(ready=ready, stale=stale, source=source)
        for _ in range(40):
            message = some_query(dice, some_name(dice))
            for stream in (False, True):
                answer = fresh.responder.answer(message[2:], stream=stream, encode=_bare)
                expected = next(answer.responses)
                if answer.cookie is not None:
                    expected = server.for_address(OPTIONS.finish(expected, answer.cookie))
                assert server.respond(message, stream=stream) == message[:2] + expected


def _bare(body: bytes, _question: int) -> bytes:
    return body


def _fail(_query: bytes, error: Exception) -> None:
    raise error


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Callable[[], int]]:
    """A server, and the number of answers that its responder has made."""
    server = Server({"web.staging": ["10.0.0.1:80"]}, namespaces=NAMESPACES)
    server.responder.edns_options = OPTIONS
    return server, count_answers(server, monkeypatch)


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    "family",
    [
        *("x{}.staging", "x{}", "a.b.x{}.staging", "x{}.web.staging", "_x{}._tcp.web.staging", "x{}.sub"),
        *("m{}.nope.staging", f"{'long.' * 3}x{{}}.staging", f"{'a' * 60}{{}}.{'b' * 60}.staging"),
    ],
)
@pytest.mark.parametrize("options", [(), (dns.edns.CookieOption(b"12345678", b""),)], ids=["plain", "cookie"])
def test_the_responder_answers_one_of_many_absent_names(
    counted: tuple[Server, Callable[[], int]],
    family: str,
    stream: bool,
    options: tuple[dns.edns.Option, ...],
) -> None:
    server, count = counted
    for number in range(100, 200):
        name = family.format(number)
        response = ask(server, f"{name}.discovery", edns=0, stream=stream, options=options)
        assert rcode(response) == "NXDOMAIN"
        assert has_soa(response, "sub.discovery." if name.endswith("sub") else "discovery.")
    assert count() == 1
    assert not (server.streams if stream else server.datagrams)


def test_a_name_in_a_nested_zone_has_the_soa_of_that_zone() -> None:
    server = Server(namespaces=NAMESPACES)
    assert has_soa(ask(server, "x.abc.discovery"))
    assert has_soa(ask(server, "x.sub.discovery"), "sub.discovery.")


def test_a_directory_that_cannot_be_listed_makes_only_names_below_it_unknown() -> None:
    server = Server(namespaces=NAMESPACES)
    server.apply(DirectoryUnread("/discovery/prod"))
    for name, code in (("x1.test", "NXDOMAIN"), ("x2.test", "NXDOMAIN"), ("x3.prod", "SERVFAIL")):
        assert rcode(ask(server, f"{name}.discovery")) == code


def test_stale_responses_have_the_extended_error() -> None:
    server = Server({"web.staging": ["10.0.0.1:80"]})
    for stale in (False, True, False):
        server.authority.set_health(ready=True, stale=stale)
        for number in range(3):
            response = ask(server, f"x{number}.{WEB}", edns=0)
            assert (rcode(response), ede(response)) == ("NXDOMAIN", [3] if stale else [])


def test_absent_names_below_a_service_are_cached_until_it_changes() -> None:
    server = Server({"web.staging": ["10.0.0.1:80"], "api.staging": ["10.0.0.2:80"]})
    names = (f"_nope._tcp.{WEB}", f"x.y.{WEB}", f"m9.{WEB}", "m9.api.staging.discovery")
    for name in names * 2:
        assert rcode(ask(server, name, "SRV")) == "NXDOMAIN"
    misses = server.datagrams.misses
    assert len(server.datagrams) == len(names)
    for name in names:
        assert rcode(ask(server, name, "SRV")) == "NXDOMAIN"
    assert server.datagrams.misses == misses
    server.change("web.staging", [member(9, "10.0.0.9:80")])
    assert len(server.datagrams) == 1
    assert rcode(ask(server, f"m9.{WEB}", "SRV")) == "NOERROR"


def test_a_service_may_take_an_absent_name_below_a_service_that_is_named_like_a_protocol() -> None:
    server = Server({"_tcp.staging": ["10.0.0.1:80"]})
    for _ in range(3):
        assert rcode(ask(server, "_web._tcp.staging.discovery", "SRV")) == "NXDOMAIN"
    server.apply(SetPut("/discovery/staging/web", NAMESPACE.name_of(("staging", "web")), ()))
    assert rcode(ask(server, "_web._tcp.staging.discovery", "SRV")) == "NOERROR"
