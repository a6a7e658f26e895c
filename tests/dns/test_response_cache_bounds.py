"""The response cache: rotations that continue whatever is dropped, and limits on entries and memory."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator

import dns.flags
import dns.message
import pytest

from tests.dns.helpers import Server, ask, data, encode_query, many, member, put, random_case, read
from tests.dns.response_cache_internals import assert_accounting_is_consistent
from zkdns.dns.response_cache import (
    MAX_DROPPED_AT_ONCE,
    MAX_EVICTED_AT_ONCE,
    MAX_PER_SERVICE,
    MAX_RELEASED_AT_ONCE,
    ResponseCache,
)
from zkdns.transport.codecs import UdpCodec

WEB, DB = "web.staging.discovery", "db.staging.discovery"
_PREFIX = 2  # an id


def key_of(name: str, qtype: str = "A", **how: object) -> bytes:
    """The cache key of a query."""
    return UdpCodec.key(encode_query(name, qtype, **how)[_PREFIX:])  # type: ignore[arg-type]


def ask_over(cache: ResponseCache, message: bytes) -> bytes:
    """Query this cache; the response in the form of its codec."""
    return next(cache[UdpCodec.key(message[_PREFIX:])])


def leader_of(response: bytes | None) -> bytes:
    """The data of the first record, without parsing thousands of others."""
    assert response is not None
    record = response.index(b"\0", 12) + 5  # after the question; its name has no zeros
    started = record + 12
    return response[started : started + int.from_bytes(response[started - 2 : started])]


# -- rotation -----------------------------------------------------------------------------------------------


def query_forms(name: str, qtype: str, rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """All forms of one query, endlessly, and whether each arrives over TCP."""
    while True:
        message = encode_query(
            random_case(name, rng) if rng.random() < 0.5 else name,
            qtype,
            edns=rng.choice((None, 0)),
            size=rng.choice((512, 700, 1232, 4096, 0x4141)),
            do=rng.random() < 0.5,
            flags=rng.choice((0, dns.flags.RD)),
        )
        yield message, rng.random() < 0.5


@pytest.mark.parametrize("qtype", ["A", "SRV"])
@pytest.mark.parametrize("members", [2, 3, 5, 7, 300])
def test_all_members_lead_equally_often_in_all_query_forms(qtype: str, members: int) -> None:
    server = Server({"web.staging": many(members)})
    forms = query_forms(WEB, qtype, random.Random(members))
    rounds = 6 if members < 100 else 2
    leaders: list[bytes] = []
    for message, stream in (next(forms) for _ in range(rounds * members)):
        if not len(leaders) % 5:  # entries may be dropped at any time, but rotations continue
            server.datagrams.clear()
        leaders.append(leader_of(server.respond(message, stream=stream)))
    for start in range(len(leaders) - members + 1):
        assert len(set(leaders[start : start + members])) == members


def test_each_question_has_its_own_rotation() -> None:
    server = Server({"web.staging": many(4)})
    first = data(ask(server, WEB))[0]
    for _ in range(3):
        ask(server, WEB, "SRV")
    leaders = [first, *(data(ask(server, WEB))[0] for _ in range(3))]
    assert Counter(leaders) == dict.fromkeys(leaders, 1)


def test_weights_are_exact_over_all_query_forms() -> None:
    weights = (3.0, 1.0, 1.0, 2.0)
    server = Server(
        {"web.staging": [member(at, f"10.0.0.{at}:80", weight=weight) for at, weight in enumerate(weights)]}
    )
    forms = itertools.islice(query_forms(WEB, "A", random.Random(5)), 7 * 10)
    leaders = Counter(leader_of(server.respond(message, stream=stream)) for message, stream in forms)
    assert leaders == {bytes((10, 0, 0, at)): int(10 * weight) for at, weight in enumerate(weights)}


# -- limits -------------------------------------------------------------------------------------------------


def test_entries_are_limited_and_evicted_queries_are_answered_again() -> None:
    services = {f"s{number}.staging": [f"10.0.{number >> 8}.{number & 255}:80"] for number in range(400)}
    server = Server(services)
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 26, max_entries=100)
    for _ in range(2):
        for number in range(400):
            message = encode_query(f"s{number}.staging.discovery")
            response = UdpCodec.message(message, ask_over(cache, message))
            assert data(read(response)) == [f"10.0.{number >> 8}.{number & 255}"]
            assert len(cache) <= 100
    assert cache.evicted > 600


def test_large_services_take_no_more_memory_than_their_records() -> None:
    """One response at a time, since all 5,000 responses of 64 KiB would take 320 MB."""
    server = Server({"web.staging": many(5000)})
    message = encode_query(WEB, edns=0)
    leaders = {leader_of(server.respond(message, stream=True)) for _ in range(300)}
    assert len(leaders) == 300
    assert server.streams.size < 1 << 20


@pytest.mark.parametrize("spelled", [WEB, WEB.upper()])
def test_the_number_of_entries_of_one_service_is_limited(spelled: str) -> None:
    """Dropping 30,000 entries took 50 ms (measured), during which no query was answered."""
    server = Server({"web.staging": many(5), "db.staging": many(2)})
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 26)
    ask_over(cache, encode_query(DB, edns=0))
    for size in range(MAX_PER_SERVICE + 2 * MAX_EVICTED_AT_ONCE):
        before = cache.evicted
        ask_over(cache, encode_query(spelled, edns=0, size=size))
        assert cache.evicted - before <= MAX_EVICTED_AT_ONCE
        assert len(cache) <= 1 + MAX_PER_SERVICE
    assert cache.evicted > 0
    assert key_of(DB, edns=0) in cache
    assert key_of(WEB, edns=0, size=size) in cache
    assert_accounting_is_consistent(cache)


def test_room_is_made_in_small_steps() -> None:
    server = Server({"web.staging": many(5), "db.staging": many(2)})
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 26, max_entries=800)
    for name in (WEB, DB):
        for size in range(600):
            before = cache.evicted
            ask_over(cache, encode_query(name, edns=0, size=size))
            assert cache.evicted - before <= 800 // 16 + 1
    assert key_of(WEB, edns=0, size=0) not in cache
    assert key_of(WEB, edns=0, size=599) in cache
    assert_accounting_is_consistent(cache)


def test_dropping_all_entries_releases_their_memory_in_small_steps() -> None:
    """Releasing 32,000 entries at once took 72 ms (measured), during which no query was answered."""
    count = 3 * MAX_RELEASED_AT_ONCE
    server = Server({f"s{number}.staging": many(3) for number in range(count)})
    cache = server.datagrams
    first = {number: data(ask(server, f"s{number}.staging.discovery"))[0] for number in range(count)}
    full = cache.size
    server.authority.set_health(ready=True, stale=True)
    assert (len(cache), cache.size) == (0, full)
    for number in range(0, count, 97):  # the rotation continues, whether its old entry is released or not
        again = [data(ask(server, f"s{number}.staging.discovery"))[0] for _ in range(3)]
        assert sorted(again) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        assert again[2] == first[number]
    assert_accounting_is_consistent(cache)
    while cache.size > full // count * len(cache) * 2:
        before = cache.size
        server.authority.refresh(())
        assert before - full // 2 < cache.size < before
    assert_accounting_is_consistent(cache)


def test_a_service_that_affects_all_others_drops_their_entries_at_once() -> None:
    count = MAX_DROPPED_AT_ONCE // 4
    server = Server({f"s{number}.staging": ["10.0.0.1:80"] for number in range(count)})
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 26)
    for number in range(count):
        for qtype in ("A", "AAAA", "SRV", "TXT", "MX"):
            ask_over(cache, encode_query(f"s{number}.staging.discovery", qtype))
    assert len(cache) == 5 * count
    server.apply(put("_tcp.staging", ["10.0.0.2:80"]))
    assert len(cache) == 0
    assert cache.size > 0
    assert_accounting_is_consistent(cache)


def test_other_spellings_of_dropped_entries_get_new_responses() -> None:
    """The references of all spellings to an entry are removed later than the entry."""
    server = Server({f"s{number}.staging": ["10.0.0.1:80"] for number in range(100)})
    cache = server.datagrams
    for address in ("10.0.0.2", "10.0.0.3"):
        for number in range(100):
            ask(server, f"S{number}.staging.discovery")
        keys = server.table.apply(put("s0.staging", [f"{address}:80"]))
        server.authority.refresh({*keys, *server.table.services})
        assert len(cache) == 0
        assert data(ask(server, "s0.STAGING.discovery")) == [address]
        assert_accounting_is_consistent(cache)
        server.authority.refresh(())
        assert_accounting_is_consistent(cache)
        misses = cache.misses
        assert data(ask(server, "S0.staging.DISCOVERY")) == [address]
        assert cache.misses == misses


def test_dropped_entries_make_room_for_new_ones() -> None:
    server = Server({f"s{number}.staging": many(3) for number in range(200)})
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=200_000)
    for turn in range(3):
        for number in range(200):
            ask_over(cache, encode_query(f"s{number}.staging.discovery"))
            assert cache.size <= 200_000
        assert cache.evicted > 0
        assert len(cache) > 50
        server.authority.set_health(ready=True, stale=not turn % 2)
        assert len(cache) == 0
        assert_accounting_is_consistent(cache)
