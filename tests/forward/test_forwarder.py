"""The forwarder with its caches: TTLs, cached responses, prefetching, sizes and types."""

from __future__ import annotations

import random

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tests.forward.forwarder_helpers import (
    WWW,
    Waits,
    data_of,
    forwarding,
    has,
    numbered,
    queries_to,
    rcode_of,
)
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import ReceivedQuery, Send, UpstreamServer, is_long, reply_to, truncates
from zkdns.config import CacheSettings

COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"8 bytes!")


def soa_reply(received: ReceivedQuery) -> list[Send]:
    """Reply with NXDOMAIN that may be cached for 7 s."""
    reply = dns.message.make_response(received.query, recursion_available=True)
    reply.set_rcode(dns.rcode.NXDOMAIN)
    soa = "ns.example. host.example. 1 2 3 4 7"
    reply.authority.append(dns.rrset.from_text("example.", 300, "IN", "SOA", soa))
    return [Send(reply.to_wire())]


# -- the cache --------------------------------------------------------------------------------------------


def test_name_outside_the_zones_gets_the_response_of_the_upstream() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query()
                assert data_of(response) == ["192.0.2.1"]
                assert response.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
                assert data_of(await scene.query(tcp=True)) == ["192.0.2.1"]
                assert queries_to(upstream) == 1

    run(scenario)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("is_remembered", [False, True])
def test_dns_35_ttl_counts_down_and_then_the_upstream_is_queried_again(
    *, tcp: bool, is_remembered: bool
) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=20)) as upstream:
            async with forwarding(upstream) as scene:
                assert await scene.ttl(tcp=tcp) == 20
                if is_remembered:
                    await scene.cached(tcp=tcp)
                for passed in range(1, 18):  # a later query starts a prefetch
                    scene.pass_time(1)
                    assert await scene.ttl(tcp=tcp) == 20 - passed
                    assert await scene.ttl(tcp=tcp) == 20 - passed
                assert queries_to(upstream) == 1
                scene.pass_time(3)
                assert await scene.data(tcp=tcp) == ["198.51.100.2"]
                assert await scene.ttl(tcp=tcp) == 20
                assert queries_to(upstream) == 2

    run(scenario)


def test_ttl_is_constant_within_a_second() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                await scene.cached()
                scene.pass_time(0.9)
                assert await scene.ttl() == 60
                scene.pass_time(0.2)
                assert await scene.ttl() == 59

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_dns_35_no_response_is_older_than_its_ttl_at_any_time(seed: int) -> None:
    dice = random.Random(seed)
    ttl = 7

    async def scenario() -> None:
        with UpstreamServer(numbered(ttl)) as upstream:
            async with forwarding(upstream) as scene:
                first_seen: dict[str, int] = {}  # time of the first response with each address
                for _ in range(150):
                    if dice.random() < 0.3:
                        scene.pass_time(dice.choice((0.3, 1, 1, 2, ttl, 50)))
                    if first_seen and ttl - (int(scene.clock()) - max(first_seen.values())) == 1:
                        scene.pass_time(1)  # a query in the last second starts a prefetch
                    spelled = "".join(dice.choice((letter, letter.upper())) for letter in WWW)
                    response = await scene.query(
                        dice.choice((WWW, WWW, spelled)),
                        tcp=dice.random() < 0.5,
                        size=dice.choice((None, 1232)),
                        options=dice.choice(([], [], [COOKIE])),
                    )
                    (data,) = data_of(response)
                    current = int(scene.clock())
                    age = current - first_seen.setdefault(data, current)
                    assert 0 < response.answer[0].ttl == ttl - age
                assert len(first_seen) == queries_to(upstream) > 3

    run(scenario)


def test_dns_35_negative_response_is_cached_for_the_ttl_of_its_soa() -> None:
    async def scenario() -> None:
        with UpstreamServer(soa_reply) as upstream:
            async with forwarding(upstream) as scene:
                for passed in range(6):  # a query in the last second starts a prefetch
                    response = await scene.query()
                    assert rcode_of(response) == "NXDOMAIN"
                    assert response.authority[0].ttl == 7 - passed
                    scene.pass_time(1)
                scene.pass_time(1)
                assert queries_to(upstream) == 1
                assert await scene.rcode() == "NXDOMAIN"
                assert queries_to(upstream) == 2

    run(scenario)


def test_uncacheable_response_is_requested_each_time() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=0)) as upstream:
            async with forwarding(upstream) as scene:
                for number in range(1, 4):
                    response = await scene.query()
                    assert data_of(response) == [f"198.51.100.{number}"]
                    assert response.answer[0].ttl == 0
                assert len(scene.forwarder.cache) == 0

    run(scenario)


def test_dns_35_max_ttl_setting_limits_ttls() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            upstream.set_behaviour(has("900 A 192.0.2.1"))
            async with forwarding(upstream, cache=CacheSettings(max_ttl=100)) as scene:
                assert await scene.ttl() == 100
                scene.pass_time(9)
                assert await scene.ttl() == 91
                assert queries_to(upstream) == 1

    run(scenario)


def test_queries_with_different_do_or_cd_are_separate_questions() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                await scene.query()
                await scene.query(size=1232, do=True)
                await scene.query(flags=dns.flags.RD | dns.flags.CD)
                await scene.query(qtype="AAAA")
                assert queries_to(upstream) == 4
                sent = [received.query for received in upstream.queries_over("udp", WWW)]
                assert [bool(query.ednsflags & dns.flags.DO) for query in sent] == [False, True, False, False]
                assert [bool(query.flags & dns.flags.CD) for query in sent] == [False, False, True, False]

    run(scenario)


# -- the response cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_repeated_query_is_answered_from_the_response_cache(*, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                await scene.cached(tcp=tcp, size=1232)
                cache = scene.streams if tcp else scene.datagrams
                misses = cache.misses
                for _ in range(5):
                    assert await scene.data(tcp=tcp, size=1232) == ["192.0.2.1"]
                assert cache.misses == misses
                scene.pass_time(1)
                assert await scene.ttl(tcp=tcp, size=1232) == 59
                assert cache.misses == misses

    run(scenario)


@pytest.mark.parametrize("tcp", [False, True])
def test_response_keeps_the_case_of_the_query_cached_or_not(*, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream) as scene:
                await scene.cached("www.example", tcp=tcp)
                for name in ("wWw.ExAmPlE.", "WWW.EXAMPLE.", "wWw.ExAmPlE."):
                    response = await scene.query(name, tcp=tcp)
                    assert response.question[0].name.to_text() == name
                    assert data_of(response) == ["198.51.100.1"]
                scene.pass_time(5)
                for _ in range(2):
                    response = await scene.query("wWw.ExAmPlE.", tcp=tcp)
                    assert response.question[0].name.to_text() == "wWw.ExAmPlE."
                    assert data_of(response) == ["198.51.100.2"]
                assert queries_to(upstream) == 2

    run(scenario)


def test_flush_removes_cached_responses_too() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered()) as upstream:
            async with forwarding(upstream) as scene:
                await scene.cached()
                await scene.cached("mail.example")
                scene.forwarder.flush(b"\3www\7example\0")
                assert len(scene.datagrams) == 1
                assert await scene.data() == ["198.51.100.3"]
                assert await scene.data("mail.example") == ["198.51.100.2"]
                scene.forwarder.flush(None)
                assert len(scene.datagrams) == len(scene.forwarder.cache) == 0
                assert await scene.data("mail.example") == ["198.51.100.4"]

    run(scenario)


def test_flush_of_a_name_includes_names_below() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                for name in ("example", "www.example", "www.another"):
                    await scene.query(name)
                scene.forwarder.flush(b"\7example\0")
                for name in ("example", "www.example", "www.another"):
                    await scene.query(name)
                counts = [queries_to(upstream, name) for name in ("example", "www.example", "www.another")]
                assert counts == [2, 2, 1]

    run(scenario)


def test_eviction_from_the_forward_cache_removes_cached_responses() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream, cache=CacheSettings(entries=2)) as scene:
                await scene.cached()
                await scene.query("a.example")
                await scene.query("b.example")
                assert len(scene.datagrams) == 0
                await scene.query()
                assert queries_to(upstream) == 2

    run(scenario)


def test_entry_used_every_second_is_not_evicted() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream, cache=CacheSettings(entries=3)) as scene:
                await scene.cached()
                for number in range(10):
                    scene.pass_time(1)
                    await scene.query(f"n{number}.example")
                    assert await scene.ttl() == 59 - number
                assert queries_to(upstream) == 1

    run(scenario)


def test_queries_with_options_share_one_entry_of_the_response_cache() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                for _ in range(5):
                    response = await scene.query(size=1232, options=[COOKIE])
                    assert data_of(response) == ["192.0.2.1"]
                    assert response.edns == 0
                    assert not response.options
                assert len(scene.datagrams) == 1
                assert queries_to(upstream) == 1
                (received,) = upstream.queries_over("udp", WWW)
                assert not received.query.options  # options are not forwarded

    run(scenario)


# -- prefetch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True])
def test_query_at_the_end_of_the_ttl_starts_a_prefetch(*, is_remembered: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=60)) as upstream:
            async with forwarding(upstream) as scene:
                await scene.query()
                if is_remembered:
                    await scene.cached()
                scene.pass_time(53)
                assert await scene.ttl() == 7
                assert queries_to(upstream) == 1
                scene.pass_time(1)
                response = await scene.query()
                assert (data_of(response), response.answer[0].ttl) == (["198.51.100.1"], 6)
                await until(lambda: scene.forwarder.counters.prefetched == 1 and queries_to(upstream) == 2)
                await until(lambda: not scene.forwarder.resolving)
                response = await scene.query()
                assert (data_of(response), response.answer[0].ttl) == (["198.51.100.2"], 60)
                assert scene.forwarder.counters.queries == 1  # no query had to wait

    run(scenario)


def test_query_during_a_prefetch_waits_only_after_expiry() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                await scene.query()
                upstream.set_behaviour(waits)
                scene.pass_time(59)
                assert await scene.ttl() == 1
                await until(lambda: queries_to(upstream) >= 2)  # again, with a slow upstream
                assert await scene.ttl() == 1
                scene.pass_time(1)
                waiting = scene.querying()
                await until(lambda: scene.forwarder.waiting == 1)
                await waits.release(upstream)
                assert data_of(await waiting) == ["192.0.2.1"]
                assert scene.forwarder.counters.joined == 1
                assert scene.questions_sent == 2

    run(scenario)


def test_failed_prefetch_keeps_the_entry() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                await scene.query()
                upstream.go_down()
                scene.pass_time(58)
                assert await scene.ttl() == 2
                await until(lambda: not scene.forwarder.resolving)
                assert await scene.ttl() == 2
                assert scene.forwarder.counters.prefetched == 1

    run(scenario)


# -- sizes ------------------------------------------------------------------------------------------------


def test_response_is_truncated_only_for_clients_with_a_small_limit() -> None:
    addresses = [f"60 A 10.0.0.{number}" for number in range(1, 61)]

    async def scenario() -> None:
        with UpstreamServer(has(*addresses)) as upstream:
            async with forwarding(upstream) as scene:
                small = await scene.query()
                assert small.flags & dns.flags.TC
                assert len(small.to_wire()) <= 512
                assert 0 < len(data_of(small)) < 60
                middle = await scene.query(size=1232)
                assert not middle.flags & dns.flags.TC
                assert len(data_of(middle)) == len(data_of(await scene.query(tcp=True))) == 60
                assert scene.questions_sent == 1

    run(scenario)


def test_dns_32_truncated_reply_is_completed_over_tcp() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query()
                assert not response.flags & dns.flags.TC
                assert data_of(response) == ["192.0.2.1"]

    run(scenario)


def test_64_kib_are_complete_over_tcp_and_truncated_over_udp() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_long) as upstream:
            async with forwarding(upstream) as scene:
                assert len(await scene.data(qtype="TXT", tcp=True)) == 248
                response = await scene.query(qtype="TXT", size=4096)
                assert response.flags & dns.flags.TC
                assert len(response.to_wire()) <= 1232

    run(scenario)


# -- types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qtype", ["HTTPS", "TYPE731", "CAA", "ANY"])
def test_dns_33_known_and_unknown_types_pass_intact(qtype: str) -> None:
    data = {
        "HTTPS": '1 . alpn="h2"',
        "TYPE731": "\\# 3 abcdef",
        "CAA": '0 issue "ca.example.net"',
        "ANY": '"RFC8482" ""',
    }[qtype]
    record = f"60 {'HINFO' if qtype == 'ANY' else qtype} {data}"

    async def scenario() -> None:
        with UpstreamServer(has(record)) as upstream:
            async with forwarding(upstream) as scene:
                for _ in range(3):
                    assert await scene.data(qtype=qtype) == [data]
                assert queries_to(upstream) == 1

    run(scenario)


def test_dns_33_ad_is_passed_on_only_with_trust_ad() -> None:
    def authentic(received: ReceivedQuery) -> list[Send]:
        return [Send(reply_to(received, f"{received.name} 60 A 192.0.2.1", flags=dns.flags.AD))]

    async def scenario() -> None:
        with UpstreamServer(authentic) as upstream:
            for trust in (False, True):
                async with forwarding(upstream, trust_ad=trust) as scene:
                    for _ in range(2):
                        response = await scene.query(flags=dns.flags.RD | dns.flags.AD)
                        assert bool(response.flags & dns.flags.AD) is trust
                        assert not (await scene.query()).flags & dns.flags.AD

    run(scenario)


def test_zone_transfer_is_refused_and_not_forwarded() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query(qtype="AXFR", tcp=True)
                assert rcode_of(response) == "REFUSED"
                assert queries_to(upstream) == 0

    run(scenario)
