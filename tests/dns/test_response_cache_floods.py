"""Floods of different queries: the memory of the response cache is accounted for and limited."""

from __future__ import annotations

import gc
import itertools
import random
import tracemalloc
from collections.abc import Callable

import pytest

from tests.dns.helpers import Server, ask, data, encode_query, many, random_case
from tests.dns.response_cache_internals import assert_accounting_is_consistent
from zkdns.dns.response_cache import MAX_ENTRIES, MAX_WITHOUT_SERVICE, ResponseCache
from zkdns.transport.codecs import TcpCodec, UdpCodec

WEB = "web.staging.discovery"
LARGE = 5000
MEMBERS = 200


def bounded(server: Server, max_bytes: int, max_entries: int = MAX_ENTRIES) -> list[ResponseCache]:
    """Limit the memory of the server's caches, for UDP and TCP each."""
    server.datagrams, server.streams = (
        server.authority.make_cache(codec, stream=stream, max_bytes=max_bytes, max_entries=max_entries)
        for codec, stream in ((UdpCodec, False), (TcpCodec, True))
    )
    return [server.datagrams, server.streams]


# -- endless queries ----------------------------------------------------------------------------------------


def random_names(dice: random.Random) -> bytes:
    where = dice.choice(("staging.discovery", "discovery", WEB, f"_tcp.{WEB}"))
    return encode_query(f"x{dice.getrandbits(60)}.{where}", "A")


def random_spellings(dice: random.Random) -> bytes:
    return encode_query(random_case(f"m{dice.randrange(50)}.{WEB}", dice), dice.choice(("A", "SRV")))


def random_members(dice: random.Random) -> bytes:
    return encode_query(f"m{dice.randrange(MEMBERS)}.{WEB}", dice.choice(("A", "SRV", "TXT")))


def random_sizes(dice: random.Random) -> bytes:
    return encode_query(WEB, "SRV", edns=0, size=dice.getrandbits(16), do=dice.random() < 0.5)


def random_flags(dice: random.Random) -> bytes:
    wire = encode_query(random_case(WEB, dice), "A", edns=0, size=512 + dice.getrandbits(4))
    return wire[:2] + bytes((dice.getrandbits(3), dice.getrandbits(8))) + wire[4:]


def random_types(dice: random.Random) -> bytes:
    return encode_query(WEB, f"TYPE{dice.getrandbits(16)}", edns=0)


def random_bytes(dice: random.Random) -> bytes:
    return b"id\1\0\0\1" + dice.randbytes(dice.randrange(120))


_FLOODS = [
    random_names,
    random_members,
    random_spellings,
    random_sizes,
    random_flags,
    random_types,
    random_bytes,
]


@pytest.mark.parametrize("flood", _FLOODS, ids=lambda flood: flood.__name__)
@pytest.mark.parametrize(("max_bytes", "max_entries"), [(100_000, 1 << 16), (1 << 24, 40)])
def test_no_flood_exceeds_the_memory_limit(
    flood: Callable[[random.Random], bytes], max_bytes: int, max_entries: int
) -> None:
    server = Server({"web.staging": many(MEMBERS), "api.staging": ["10.0.0.1:80"]})
    caches = bounded(server, max_bytes, max_entries)
    dice = random.Random(1)
    for _ in range(400):
        wire = flood(dice)
        for stream in (False, True):
            server.respond(wire, stream=stream)
        for cache in caches:
            assert cache.size <= max_bytes
            assert len(cache) <= max_entries
    for cache in caches:
        assert_accounting_is_consistent(cache)
        cache.clear()
        assert_accounting_is_consistent(cache)
        assert len(cache) == 0
        while cache.size:
            before = cache.size
            cache.release()
            assert cache.size < before
        assert_accounting_is_consistent(cache)


@pytest.mark.parametrize("flood", [random_names, random_spellings, random_sizes, random_types])
def test_the_reported_memory_is_the_memory_in_use(flood: Callable[[random.Random], bytes]) -> None:
    server = Server({"web.staging": many(10)})
    server.respond(encode_query(WEB, "SRV"))
    max_bytes = 1 << 19
    dice = random.Random(1)
    messages = [flood(dice) for _ in range(500)]
    caches = bounded(server, max_bytes)
    for wire in messages[:50]:  # memory of the zone
        for stream in (False, True):
            server.respond(wire, stream=stream)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for wire in messages:
            for stream in (False, True) * 2:  # otherwise absent names are not cached
                server.respond(wire, stream=stream)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    reported = sum(cache.size for cache in caches)
    assert reported > 50_000
    assert taken <= 1.15 * reported + 50_000


def test_an_absent_name_is_forgotten_after_too_many_others() -> None:
    """It is then cached at its third query, and the memory for names that were queried once is limited."""
    server = Server({"web.staging": many(3)})
    for number in (*range(MAX_WITHOUT_SERVICE + 1), 0):
        assert server.respond(encode_query(f"x{number}.staging.discovery"))
        assert not server.datagrams
    assert server.respond(encode_query("x0.staging.discovery"))
    assert len(server.datagrams) == 1


def test_large_services_stay_within_the_limits_too() -> None:
    server = Server({"large.staging": many(LARGE), "web.staging": many(3)})
    caches = bounded(server, 1 << 20)
    for name, qtype in (*itertools.product(("large.staging.discovery", WEB), ("A", "SRV", "TXT")),) * 3:
        for stream in (False, True):
            response = ask(server, name, qtype, stream=stream, edns=0)
            assert data(response)
    hosts = [address.removesuffix(":8080") for address in many(LARGE)]
    for number in range(0, LARGE, 6):
        name = f"m{number}.large.staging.discovery"
        assert data(ask(server, name)) == [hosts[number]]
        assert len(data(ask(server, name, "SRV", stream=True))) == 1
    for cache in caches:
        assert 0 < cache.size <= 1 << 20
        assert cache.evicted > 0
        assert_accounting_is_consistent(cache)


def test_an_answer_larger_than_the_limit_is_not_cached_and_evicts_none() -> None:
    server = Server({"large.staging": many(LARGE), "web.staging": many(3)})
    (_, streams) = bounded(server, 200_000)
    for _ in range(2):
        assert len(data(ask(server, "large.staging.discovery", "A", stream=True))) > 1000
        assert_accounting_is_consistent(streams)
        assert streams.size <= 200_000


def test_absent_names_evict_no_answer_of_a_service() -> None:
    server = Server({"web.staging": many(3)})
    for qtype in ("A", "SRV"):
        ask(server, WEB, qtype)
    for number in range(3 * MAX_WITHOUT_SERVICE):
        assert server.respond(encode_query(f"x{number}.staging.discovery"))
        assert server.respond(encode_query(f"x{number}.staging.discovery"))
    assert 0 < len(server.datagrams) <= MAX_WITHOUT_SERVICE + 2
    before = server.datagrams.misses
    assert len(data(ask(server, WEB))) == len(data(ask(server, WEB, "SRV"))) == 3
    assert server.datagrams.misses == before
