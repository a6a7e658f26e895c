"""Queries that are forwarded in the form of an earlier query get the same response as without it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.forward.forwarder_helpers import forwarding
from tests.forward.resolution_helpers import run
from tests.support.upstream import UpstreamServer
from zkdns.dns.forward_form import OrdinaryNames
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


def test_ordinary_names() -> None:
    names = OrdinaryNames([parse_name("discovery"), parse_name("corp.example")])
    for name in ("a", "example", "xdiscovery", "discovery.a", "corp.example.a", "xcorp.example"):
        assert wire(name) in names
    for name in ("discovery", "a.discovery", "corp.example", "a.b.corp.example"):
        assert wire(name) not in names
    for malformed in (*MALFORMED, b""):
        assert malformed not in names or malformed == b"\x03a\x00b\x01c"  # a zero byte may be in a label
