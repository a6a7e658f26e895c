"""Queries that are forwarded in the form of an earlier query get the same response as without it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from unittest.mock import patch

import dns.flags
import pytest

from tests.forward.forwarder_helpers import forwarding
from tests.forward.helpers import query, reply, rrset
from tests.forward.resolution_helpers import run
from tests.support.upstream import ReceivedQuery, Send, UpstreamServer, reply_to
from zkdns.dns.forward_form import ForwardForm, OrdinaryNames
from zkdns.dns.response_cache import ResponseCache
from zkdns.names import parse_name
from zkdns.transport.codecs import TcpCodec, UdpCodec
from zkdns.transport.contract import DeferredResponse

ORDINARY = (
    "www.example.com",
    "WWW.Example.COM",
    "a",
    "discovery.com",
    "x.y.z.example.net",
    "arpa.example.com",
)
WITH_RULES = (
    *("discovery", "web.staging.discovery", "WEB.Staging.Discovery", "localhost", "a.LOCALHOST", "x.test"),
    *(
        "1.0.0.10.in-addr.arpa",
        "x.home.arpa",
        "x.corp.example.com",
        "corp.example.com",
        "x.refused.example.com",
    ),
    *("x.example", "mail.local"),
)
MALFORMED = (b"\x40" + b"a" * 64, b"\xc0\x0c", b"\x05abc", b"\x03a\x00b\x01c", 130 * b"\x01a", b"\x3f" * 255)
TYPE_CLASS = (
    b"\0\x01\0\x01",
    b"\0\x1c\0\x01",
    b"\0\x10\0\x01",
    b"\0\x2b\0\x01",
    b"\0\x01\0\x03",
    b"\0\xfc\0\x01",
)
HEADS = (b"\x01\0", b"\x01\x20", b"\x01\x10", b"\0\0", b"\x41\0")
OPTS = (
    b"",
    b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
    b"\0\0\x29\x10\0\0\0\x80\0\0\0",
    b"\0\0\x29\x04\xd0\0\x01\0\0\0\0",
    b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0c\0\0",
)


def wire(name: str) -> bytes:
    """A name in wire format without the root label, in its spelling."""
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))


def bodies(names: list[bytes]) -> Iterator[bytes]:
    """Queries without their ids, for each name in several forms."""
    for type_class in TYPE_CLASS:
        for head in HEADS:
            for opt in OPTS:
                header = head + b"\0\x01\0\0\0\0" + (b"\0\x01" if opt else b"\0\0")
                for name in names:
                    yield header + name + b"\0" + type_class + opt


def names_of(seed: int) -> list[bytes]:
    dice = random.Random(seed)
    names = [*map(wire, ORDINARY), *map(wire, WITH_RULES), *MALFORMED]
    for _ in range(20):
        labels = (bytes(dice.randrange(1, 256) for _ in range(dice.randrange(1, 20))) for _ in range(3))
        names.append(b"".join(bytes((len(label),)) + label for label in labels))
    dice.shuffle(names)
    return names


@pytest.mark.parametrize("stream", [False, True], ids=["UDP", "TCP"])
def test_a_form_changes_no_response(*, stream: bool) -> None:
    codec = TcpCodec if stream else UdpCodec

    def response(cache: ResponseCache, body: bytes) -> bytes | None:
        found = next(cache[codec.key(body)])
        return None if isinstance(found, DeferredResponse) else bytes(found)

    async def scenario() -> None:
        with UpstreamServer() as upstream:
            domains = {"corp.example.com": [upstream], "refused.example.com": []}
            async with forwarding(upstream, domains=domains) as scene:
                with_forms = scene.streams if stream else scene.datagrams
                deferred = 0
                for body in bodies(names_of(seed=1)):
                    fresh = scene.authority.make_cache(codec, stream=stream, max_bytes=1 << 20)
                    expected = response(fresh, body)
                    for _ in range(2):
                        assert response(with_forms, body) == expected, body
                    deferred += expected is None
                assert deferred > 1000
                assert not scene.errors

    run(scenario)


RD, AD, CD = dns.flags.RD, dns.flags.AD, dns.flags.CD
# Flags, size in the OPT record and DO of queries.
FORMS = (
    *((RD, None, False), (RD | AD, None, False)),
    *((RD, 1232, False), (RD | AD | CD, 1232, True), (RD, 512, False)),
)
# Number of addresses, TTL and flags of replies; a response of 40 addresses is longer than 512 bytes.
REPLIES = (
    *((1, 60, 0), (1, 7, 0), (1, 60, AD), (1, 200_000, 0)),
    *((1, 0, 0), (3, 60, 0), (40, 60, 0), (0, 60, 0)),
)


def in_name(received: ReceivedQuery) -> Iterable[Send]:
    """Send the reply that the name in the question describes."""
    count, ttl, flags = (int(part) for part in received.name.partition(".")[0].split("-")[1:])
    records = (f"{received.name} {ttl} A 192.0.2.{at}" for at in range(count))
    return [Send(reply_to(received, *records, flags=flags))]


async def responses(*, tcp: bool, trust_ad: bool) -> list[str]:
    """Responses to several queries in each form, for each kind of reply."""
    with UpstreamServer(in_name) as upstream:
        async with forwarding(upstream, trust_ad=trust_ad) as scene:
            found = []
            numbers = itertools.count(100)
            for (flags, size, do), (count, ttl, upstream_flags) in itertools.product(FORMS, REPLIES):
                for letter in "nnN":
                    name = f"{letter}{next(numbers)}-{count:02}-{ttl:06}-{upstream_flags:02}.example.com"
                    response = await scene.query(name, tcp=tcp, flags=flags, size=size, do=do)
                    response.id = 0
                    found.append(response.to_text())
            return found


@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
@pytest.mark.parametrize("trust_ad", [False, True])
def test_a_learned_response_is_the_same(*, tcp: bool, trust_ad: bool) -> None:
    async def scenario() -> None:
        found = await responses(tcp=tcp, trust_ad=trust_ad)
        with patch.object(ForwardForm, "respond", return_value=None):
            assert found == await responses(tcp=tcp, trust_ad=trust_ad)

    run(scenario)


def test_a_reply_with_a_private_address_is_no_example() -> None:
    """It has fewer records than other replies with the same header."""

    def act(received: ReceivedQuery) -> Iterable[Send]:
        second = "10.0.0.1" if received.name.startswith("private") else "192.0.2.2"
        records = (f"{received.name} 60 A {address}" for address in ("192.0.2.1", second))
        return [Send(reply_to(received, *records))]

    async def scenario() -> None:
        with UpstreamServer(act) as upstream:
            async with forwarding(upstream, forward={"rebind_protection": True}) as scene:
                for number in range(3):
                    assert await scene.data(f"private{number}.example.com") == ["192.0.2.1"]
                    assert len(await scene.data(f"public-{number}.example.com")) == 2

    run(scenario)


def test_a_form_learns_the_bytes_around_the_records() -> None:
    asked = query(edns=True)
    form = ForwardForm(asked, 1232, UdpCodec.response)
    found = [reply("A", [rrset("A", "www.example.com.", f"192.0.2.{at}", ttl=at)]) for at in (1, 2)]
    bodies = [each.render(asked, 1232, 0)[2:] for each in found]
    first, second = (UdpCodec.response(body, len(asked.question), 1) for body in bodies)
    assert found[0].kind == found[1].kind != b""
    assert form.respond(found[0].kind, found[0].records) is None
    form.learn(found[0].kind, bodies[0], found[0].records, asked.question)  # it has the question
    assert form.respond(found[0].kind, found[0].records) is None
    form.learn(found[0].kind, first[:-20], found[0].records, asked.question)  # it was truncated
    assert form.respond(found[0].kind, found[0].records) is None
    form.learn(found[0].kind, first, found[0].records, asked.question)
    assert form.respond(found[1].kind, found[1].records) == second


def test_ordinary_names() -> None:
    names = OrdinaryNames([parse_name("discovery"), parse_name("corp.example")])
    for name in ("a", "example", "xdiscovery", "discovery.a", "corp.example.a", "xcorp.example"):
        assert wire(name) in names
    for name in ("discovery", "a.discovery", "corp.example", "a.b.corp.example"):
        assert wire(name) not in names
    for malformed in (*MALFORMED, b""):
        assert malformed not in names or malformed == b"\x03a\x00b\x01c"  # a zero byte may be in a label
