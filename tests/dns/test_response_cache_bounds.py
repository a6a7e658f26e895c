"""The response cache: valid entries only, rotations that continue, and limits on memory."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator

import dns.message
import pytest

from tests.dns.helpers import FailingResponder, Server, data, many, member, put, query, read
from tests.dns.response_cache_internals import assert_accounting_is_consistent
from zkdns.dns.response_cache import MAX_ENTRIES, MAX_EVICTED_AT_ONCE, MAX_PER_SERVICE, ResponseCache
from zkdns.transport.codecs import UdpCodec

WEB, DB = "web.staging.discovery", "db.staging.discovery"
_PREFIX = 2  # an id


def key_of(name: str, qtype: str = "A", **how: object) -> bytes:
    """The cache key of a query."""
    return UdpCodec.key(query(name, qtype, **how).to_wire()[_PREFIX:])  # type: ignore[arg-type]


def asked(server: Server, name: str, qtype: str = "A", *, stream: bool = False, **how: object) -> list[str]:
    """The data of the answer."""
    message = query(name, qtype, **how)  # type: ignore[arg-type]
    response = server.respond(message.to_wire(), stream=stream)
    assert response is not None
    return data(read(response))


def ask_over(cache: ResponseCache, message: dns.message.Message) -> bytes:
    """Query this cache; the response in the form of its codec."""
    return next(cache[UdpCodec.key(message.to_wire()[_PREFIX:])])


def leader_of(response: bytes | None) -> bytes:
    """The data of the first record, without parsing thousands of others."""
    assert response is not None
    record = response.index(b"\0", 12) + 5  # after the question; its name has no zeros
    started = record + 12
    return response[started : started + int.from_bytes(response[started - 2 : started])]


def in_any_case(name: str, dice: random.Random) -> str:
    return "".join(dice.choice((letter.lower(), letter.upper())) for letter in name)


# -- dropped entries ----------------------------------------------------------------------------------------


def test_a_change_drops_the_answers_of_its_service_and_no_others() -> None:
    server = Server({"web.staging": many(3), "db.staging": many(2)})
    webs = [key_of(WEB), key_of(WEB, "SRV"), key_of(f"m1.{WEB}"), key_of(WEB, "AAAA"), key_of(WEB, edns=0)]
    others = [key_of(DB), key_of(DB, "AAAA"), key_of("nobody.staging.discovery"), key_of("discovery", "SOA")]
    for key in (*webs, *others):
        next(server.datagrams[key])
    kept = {key: server.datagrams[key] for key in others}
    server.change("web.staging", added=[member(7, "10.9.9.9:80")])
    assert not any(key in server.datagrams for key in webs)
    assert all(dict.get(server.datagrams, key) is answer for key, answer in kept.items())
    assert "10.9.9.9" in asked(server, WEB)


@pytest.mark.parametrize("stream", [False, True])
def test_an_added_service_is_a_name_until_it_is_removed(stream: bool) -> None:
    server = Server({"web.staging": many(1)})
    for _ in range(3):
        assert asked(server, DB, stream=stream) == []
        server.apply(put("db.staging", ["10.0.0.9:80"]))
        assert asked(server, DB, stream=stream) == ["10.0.0.9"]
        server.drop("db.staging")
    assert asked(server, DB, stream=stream) == []


def test_negative_responses_have_the_present_serial() -> None:
    server = Server({"web.staging": many(1)})
    for name, qtype in ((WEB, "AAAA"), ("nobody.staging.discovery", "A"), ("discovery", "SOA")):
        for serial in (7, 8, 0xFFFFFFFF):
            server.table.serial = serial
            response = read(server.respond(query(name, qtype).to_wire()) or b"")
            (rrset,) = response.answer or response.authority
            assert rrset[0].serial == serial
    assert server.datagrams.misses == 5  # the two of no service are cached from the second query on


def test_staleness_starts_and_ends_at_once() -> None:
    server = Server({"web.staging": many(2)})
    message = query(WEB, edns=0).to_wire()
    for stale in (True, False, True):
        server.authority.set_health(ready=True, stale=stale)
        for _ in range(3):
            assert bool(read(server.respond(message) or b"").options) == stale


# -- rotation -----------------------------------------------------------------------------------------------


def ways_to_ask(name: str, qtype: str, dice: random.Random) -> Iterator[tuple[bytes, bool]]:
    """All forms of one query, endlessly."""
    while True:
        spelled = in_any_case(name, dice) if dice.random() < 0.3 else name
        edns = dice.choice((None, 0))
        message = query(spelled, qtype, edns=edns, size=dice.choice((1232, 4096)), do=dice.random() < 0.5)
        yield message.to_wire(), dice.random() < 0.3


@pytest.mark.parametrize("qtype", ["A", "SRV"])
@pytest.mark.parametrize("members", [2, 3, 5, 7, 300])
def test_all_members_lead_equally_often_in_all_query_forms(qtype: str, members: int) -> None:
    server = Server({"web.staging": many(members)})
    ways = ways_to_ask(WEB, qtype, random.Random(members))
    rounds = 6 if members < 100 else 2
    leaders: list[bytes] = []
    for message, stream in (next(ways) for _ in range(rounds * members)):
        if not len(leaders) % 5:  # entries may be dropped at any time, but rotations continue
            server.datagrams.clear()
        leaders.append(leader_of(server.respond(message, stream=stream)))
    for start in range(len(leaders) - members + 1):
        assert len(set(leaders[start : start + members])) == members


def test_each_question_has_its_own_rotation() -> None:
    server = Server({"web.staging": many(4)})
    first = asked(server, WEB)[0]
    for _ in range(3):
        asked(server, WEB, "SRV")
    leaders = [first, *(asked(server, WEB)[0] for _ in range(3))]
    assert Counter(leaders) == dict.fromkeys(leaders, 1)


# -- spelling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_each_query_keeps_its_spelling_and_the_responder_is_called_once(stream: bool) -> None:
    server = Server({"web.staging": many(3)})
    cache = server.streams if stream else server.datagrams
    dice = random.Random(1)
    for _ in range(50):
        message = query(in_any_case(WEB, dice), "SRV", edns=0)
        response = read(server.respond(message.to_wire(), stream=stream) or b"")
        assert response.question == message.question
        assert str(response.question[0].name) == str(message.question[0].name)
        assert len(response.answer) == 3
    assert cache.misses == 1
    assert len(cache) == 1


def test_case_differences_outside_the_name_are_different_queries() -> None:
    """Types 65 and 97, EDNS sizes 0x4141 and 0x6161, flags and lengths: upper and lower case letters."""
    server = Server({"web.staging": many(3)})
    dice = random.Random(1)
    for _ in range(3):
        for qtype in ("TYPE65", "TYPE97"):
            for size in (0x4141, 0x6161, 0x4161):
                message = query(in_any_case(WEB, dice), qtype, edns=0, size=size)
                response = read(server.respond(message.to_wire()) or b"")
                assert response.question == message.question
                assert response.authority
    whole = query(in_any_case(WEB, dice)).to_wire()
    # As long as one letter is in lower case.
    assert server.respond(whole) != server.respond(whole + bytes(32))


# -- limits -------------------------------------------------------------------------------------------------


def test_queries_with_options_are_not_cached() -> None:
    server = Server({"web.staging": many(3)})
    for number in range(20):
        cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, number.to_bytes(8))
        assert len(asked(server, WEB, edns=0, options=[cookie])) == 3
    assert len(server.datagrams) == 0
    assert server.datagrams.size == 0


@pytest.mark.parametrize("what", ["names", "below a service", "types", "sizes", "cases", "members"])
def test_memory_is_limited_for_any_queries(what: str) -> None:
    most = 1 << 20
    server = Server({"web.staging": many(2000 if what == "members" else 5), "db.staging": many(2)})
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=most)
    dice = random.Random(1)
    for number in range(4000):
        text = f"{dice.getrandbits(64):x}"
        message = {
            "names": query(f"{text}.staging.discovery"),
            "below a service": query(f"{text}.{WEB}"),
            "types": query(WEB, f"TYPE{1000 + number}"),
            "sizes": query(WEB, "SRV", edns=0, size=number),
            "cases": query(in_any_case(f"{text}.staging.discovery", dice)),
            "members": query(f"m{number % 2000}.{WEB}", dice.choice(("A", "SRV", "TXT"))),
        }[what]
        ask_over(cache, message)
        assert cache.size <= most
    assert len(cache) <= 2500
    before = asked(server, DB)
    assert set(before) == {"10.0.0.1", "10.0.0.2"}
    ask_over(cache, query(DB))
    everything = sum(map(sys.getsizeof, cache)) + sum(map(sys.getsizeof, cache.values()))
    assert everything < most
    cache.clear()
    assert (len(cache), cache.size) == (0, 0)


def test_entries_are_limited_and_evicted_queries_are_answered_again() -> None:
    services = {f"s{number}.staging": [f"10.0.{number >> 8}.{number & 255}:80"] for number in range(400)}
    server = Server(services)
    cache = ResponseCache(
        server.responder,
        UdpCodec,
        lambda _, error: pytest.fail(repr(error)),
        stream=False,
        max_entries=100,
    )
    for _ in range(2):
        for number in range(400):
            message = query(f"s{number}.staging.discovery")
            response = UdpCodec.message(message.to_wire(), ask_over(cache, message))
            assert data(read(response)) == [f"10.0.{number >> 8}.{number & 255}"]
            assert len(cache) <= 100
    assert cache.evicted > 600
    assert MAX_ENTRIES > 100


def test_large_services_take_no_more_memory_than_their_records() -> None:
    """One response at a time, since all 5,000 responses of 64 KiB would take 320 MB."""
    server = Server({"web.staging": many(5000)})
    message = query(WEB, edns=0).to_wire()
    leaders = {leader_of(server.respond(message, stream=True)) for _ in range(300)}
    assert len(leaders) == 300
    assert server.streams.size < 1 << 20


@pytest.mark.parametrize("spelled", [WEB, WEB.upper()])
def test_the_number_of_entries_of_one_service_is_limited(spelled: str) -> None:
    """Dropping 30,000 entries took 50 ms (measured), during which no query was answered."""
    server = Server({"web.staging": many(5), "db.staging": many(2)})
    cache = server.authority.make_cache(UdpCodec, stream=False, max_bytes=1 << 26)
    ask_over(cache, query(DB, edns=0))
    for size in range(MAX_PER_SERVICE + 2 * MAX_EVICTED_AT_ONCE):
        before = cache.evicted
        ask_over(cache, query(spelled, edns=0, size=size))
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
            ask_over(cache, query(name, edns=0, size=size))
            assert cache.evicted - before <= 800 // 16 + 1
    assert key_of(WEB, edns=0, size=0) not in cache
    assert key_of(WEB, edns=0, size=599) in cache
    assert_accounting_is_consistent(cache)


# -- internal errors ----------------------------------------------------------------------------------------


def test_an_internal_error_is_servfail_once_and_reported() -> None:
    reported: list[tuple[bytes, Exception]] = []

    cache = ResponseCache(
        FailingResponder(), UdpCodec, lambda asked, error: reported.append((asked, error)), stream=False
    )
    message = query(WEB)
    response = read(UdpCodec.message(message.to_wire(), ask_over(cache, message)))
    assert response.rcode() == dns.rcode.SERVFAIL
    assert response.id == message.id
    ((asked_for, error),) = reported
    assert asked_for == message.to_wire()[_PREFIX:]
    assert isinstance(error, ZeroDivisionError)
    assert len(cache) == 0
