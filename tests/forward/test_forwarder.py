"""What upstreams have said, answered again: for as long as it holds, and in the second that its TTL reads."""

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
    asked_of,
    data_of,
    forwarding,
    has,
    numbered,
    rcode_of,
    release,
)
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import ReceivedQuery, Send, UpstreamServer, is_long, reply_to, truncates
from zkdns.config import CacheSettings

COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"8 bytes!")


def soa_reply(asked: ReceivedQuery) -> list[Send]:
    """NXDOMAIN, to be kept for 7 s."""
    reply = dns.message.make_response(asked.query, recursion_available=True)
    reply.set_rcode(dns.rcode.NXDOMAIN)
    soa = "ns.example. host.example. 1 2 3 4 7"
    reply.authority.append(dns.rrset.from_text("example.", 300, "IN", "SOA", soa))
    return [Send(reply.to_wire())]


# -- the cache ----------------------------------------------------------------------------------------------


def test_a_name_outside_the_zones_is_answered_as_the_upstream_does() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query()
                assert data_of(response) == ["192.0.2.1"]
                assert response.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
                assert data_of(await scene.query(tcp=True)) == ["192.0.2.1"]
                assert asked_of(resolver) == 1

    run(scenario)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("is_remembered", [False, True])
def test_dns_35_ttls_count_down_by_the_second_and_then_it_is_asked_anew(
    *, tcp: bool, is_remembered: bool
) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=20)) as resolver:
            async with forwarding(resolver) as scene:
                assert await scene.ttl(tcp=tcp) == 20
                if is_remembered:
                    await scene.remembered(tcp=tcp)
                for passed in range(1, 18):  # who asks later has it prefetched
                    scene.pass_time(1)
                    assert await scene.ttl(tcp=tcp) == 20 - passed
                    assert await scene.ttl(tcp=tcp) == 20 - passed
                assert asked_of(resolver) == 1
                scene.pass_time(3)
                assert await scene.data(tcp=tcp) == ["198.51.100.2"]
                assert await scene.ttl(tcp=tcp) == 20
                assert asked_of(resolver) == 2

    run(scenario)


def test_within_a_second_a_ttl_is_the_same() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                await scene.remembered()
                scene.pass_time(0.9)
                assert await scene.ttl() == 60
                scene.pass_time(0.2)
                assert await scene.ttl() == 59

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_dns_35_whoever_asks_when_no_answer_is_older_than_it_may_be(seed: int) -> None:
    dice = random.Random(seed)
    ttl = 7

    async def scenario() -> None:
        with UpstreamServer(numbered(ttl)) as resolver:
            async with forwarding(resolver) as scene:
                came: dict[str, int] = {}  # when each answer was first given
                for _ in range(150):
                    if dice.random() < 0.3:
                        scene.pass_time(dice.choice((0.3, 1, 1, 2, ttl, 50)))
                    if came and ttl - (int(scene.clock()) - max(came.values())) == 1:
                        scene.pass_time(1)  # who asks in the last second has it prefetched
                    spelled = "".join(dice.choice((letter, letter.upper())) for letter in WWW)
                    response = await scene.query(
                        dice.choice((WWW, WWW, spelled)),
                        tcp=dice.random() < 0.5,
                        size=dice.choice((None, 1232)),
                        options=dice.choice(([], [], [COOKIE])),
                    )
                    (data,) = data_of(response)
                    second = int(scene.clock())
                    age = second - came.setdefault(data, second)
                    assert 0 < response.answer[0].ttl == ttl - age
                assert len(came) == asked_of(resolver) > 3

    run(scenario)


def test_dns_35_a_denial_is_kept_as_long_as_its_soa_says() -> None:
    async def scenario() -> None:
        with UpstreamServer(soa_reply) as resolver:
            async with forwarding(resolver) as scene:
                for passed in range(6):  # who asks in the last second has it prefetched
                    response = await scene.query()
                    assert rcode_of(response) == "NXDOMAIN"
                    assert response.authority[0].ttl == 7 - passed
                    scene.pass_time(1)
                scene.pass_time(1)
                assert asked_of(resolver) == 1
                assert await scene.rcode() == "NXDOMAIN"
                assert asked_of(resolver) == 2

    run(scenario)


def test_what_must_not_be_kept_is_asked_each_time() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=0)) as resolver:
            async with forwarding(resolver) as scene:
                for number in range(1, 4):
                    response = await scene.query()
                    assert data_of(response) == [f"198.51.100.{number}"]
                    assert response.answer[0].ttl == 0
                assert len(scene.forwarder.cache) == 0

    run(scenario)


def test_dns_35_the_ceiling_is_the_setting() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            resolver.set_behaviour(has("900 A 192.0.2.1"))
            async with forwarding(resolver, cache=CacheSettings(max_ttl=100)) as scene:
                assert await scene.ttl() == 100
                scene.pass_time(9)
                assert await scene.ttl() == 91
                assert asked_of(resolver) == 1

    run(scenario)


def test_questions_that_differ_in_what_changes_answers_are_others() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                await scene.query(size=1232, do=True)
                await scene.query(flags=dns.flags.RD | dns.flags.CD)
                await scene.query(qtype="AAAA")
                assert asked_of(resolver) == 4
                sent = [asked.query for asked in resolver.queries_over("udp", WWW)]
                assert [bool(query.ednsflags & dns.flags.DO) for query in sent] == [False, True, False, False]
                assert [bool(query.flags & dns.flags.CD) for query in sent] == [False, False, True, False]

    run(scenario)


# -- what is remembered of it -------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_an_answer_that_is_asked_for_again_is_remembered_whole(*, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                await scene.remembered(tcp=tcp, size=1232)
                memo = scene.streams if tcp else scene.datagrams
                misses = memo.misses
                for _ in range(5):
                    assert await scene.data(tcp=tcp, size=1232) == ["192.0.2.1"]
                assert memo.misses == misses
                scene.pass_time(1)
                assert await scene.ttl(tcp=tcp, size=1232) == 59
                assert memo.misses == misses

    run(scenario)


@pytest.mark.parametrize("tcp", [False, True])
def test_any_spelling_is_answered_as_it_was_asked_also_when_it_must_be_asked_anew(*, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.remembered("www.example", tcp=tcp)
                for name in ("wWw.ExAmPlE.", "WWW.EXAMPLE.", "wWw.ExAmPlE."):
                    response = await scene.query(name, tcp=tcp)
                    assert response.question[0].name.to_text() == name
                    assert data_of(response) == ["198.51.100.1"]
                scene.pass_time(5)
                for _ in range(2):
                    response = await scene.query("wWw.ExAmPlE.", tcp=tcp)
                    assert response.question[0].name.to_text() == "wWw.ExAmPlE."
                    assert data_of(response) == ["198.51.100.2"]
                assert asked_of(resolver) == 2

    run(scenario)


def test_an_answer_is_forgotten_with_what_is_cached() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered()) as resolver:
            async with forwarding(resolver) as scene:
                await scene.remembered()
                await scene.remembered("mail.example")
                scene.forwarder.flush(b"\3www\7example\0")
                assert len(scene.datagrams) == 1
                assert await scene.data() == ["198.51.100.3"]
                assert await scene.data("mail.example") == ["198.51.100.2"]
                scene.forwarder.flush(None)
                assert len(scene.datagrams) == len(scene.forwarder.cache) == 0
                assert await scene.data("mail.example") == ["198.51.100.4"]

    run(scenario)


def test_flushing_a_name_takes_what_lies_below_with_it() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                for name in ("example", "www.example", "www.another"):
                    await scene.query(name)
                scene.forwarder.flush(b"\7example\0")
                for name in ("example", "www.example", "www.another"):
                    await scene.query(name)
                counts = [asked_of(resolver, name) for name in ("example", "www.example", "www.another")]
                assert counts == [2, 2, 1]

    run(scenario)


def test_an_answer_that_gives_way_in_the_cache_is_remembered_no_longer() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver, cache=CacheSettings(entries=2)) as scene:
                await scene.remembered()
                await scene.query("a.example")
                await scene.query("b.example")
                assert len(scene.datagrams) == 0
                await scene.query()
                assert asked_of(resolver) == 2

    run(scenario)


def test_what_is_asked_for_in_each_second_does_not_give_way_to_what_is_not() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver, cache=CacheSettings(entries=3)) as scene:
                await scene.remembered()
                for number in range(10):
                    scene.pass_time(1)
                    await scene.query(f"n{number}.example")
                    assert await scene.ttl() == 59 - number
                assert asked_of(resolver) == 1

    run(scenario)


def test_queries_with_options_are_answered_from_the_cache_and_not_remembered() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                for _ in range(5):
                    response = await scene.query(size=1232, options=[COOKIE])
                    assert data_of(response) == ["192.0.2.1"]
                    assert response.edns == 0
                    assert not response.options
                assert len(scene.datagrams) == 0
                assert asked_of(resolver) == 1
                (asked,) = resolver.queries_over("udp", WWW)
                assert not asked.query.options  # what askers tell each other is none of the upstream's

    run(scenario)


# -- prefetch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True])
def test_what_is_asked_for_at_the_end_of_its_time_is_asked_anew_before(*, is_remembered: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=60)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                if is_remembered:
                    await scene.remembered()
                scene.pass_time(53)
                assert await scene.ttl() == 7
                assert asked_of(resolver) == 1
                scene.pass_time(1)
                response = await scene.query()
                assert (data_of(response), response.answer[0].ttl) == (["198.51.100.1"], 6)
                await until(lambda: scene.forwarder.counts.prefetched == 1 and asked_of(resolver) == 2)
                await until(lambda: not scene.forwarder._sought)
                response = await scene.query()
                assert (data_of(response), response.answer[0].ttl) == (["198.51.100.2"], 60)
                assert scene.forwarder.counts.asked == 1  # nobody had to wait for it

    run(scenario)


def test_who_asks_while_it_is_prefetched_waits_only_when_it_is_over() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                resolver.set_behaviour(Waits())
                scene.pass_time(59)
                assert await scene.ttl() == 1
                await until(lambda: asked_of(resolver) >= 2)  # again, where that takes its time
                assert await scene.ttl() == 1
                scene.pass_time(1)
                waiting = scene.asking()
                await until(lambda: scene.forwarder.waiting == 1)
                release(resolver)
                assert data_of(await waiting) == ["192.0.2.1"]
                assert scene.forwarder.counts.joined == 1
                assert scene.exchanges_asked == 2

    run(scenario)


def test_a_prefetch_that_fails_leaves_what_is_there() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                resolver.go_down()
                scene.pass_time(58)
                assert await scene.ttl() == 2
                await until(lambda: not scene.forwarder._sought)
                assert await scene.ttl() == 2
                assert scene.forwarder.counts.prefetched == 1

    run(scenario)


# -- sizes --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_cut_for_its_asker_alone() -> None:
    addresses = [f"60 A 10.0.0.{number}" for number in range(1, 61)]

    async def scenario() -> None:
        with UpstreamServer(has(*addresses)) as resolver:
            async with forwarding(resolver) as scene:
                small = await scene.query()
                assert small.flags & dns.flags.TC
                assert len(small.to_wire()) <= 512
                assert 0 < len(data_of(small)) < 60
                middle = await scene.query(size=1232)
                assert not middle.flags & dns.flags.TC
                assert len(data_of(middle)) == len(data_of(await scene.query(tcp=True))) == 60
                assert scene.exchanges_asked == 1

    run(scenario)


def test_dns_32_what_is_truncated_for_us_is_had_over_tcp() -> None:
    async def scenario() -> None:
        with UpstreamServer(truncates) as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query()
                assert not response.flags & dns.flags.TC
                assert data_of(response) == ["192.0.2.1"]

    run(scenario)


def test_64_kib_pass_over_tcp_and_are_cut_over_udp() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_long) as resolver:
            async with forwarding(resolver) as scene:
                assert len(await scene.data(qtype="TXT", tcp=True)) == 248
                response = await scene.query(qtype="TXT", size=4096)
                assert response.flags & dns.flags.TC
                assert len(response.to_wire()) <= 1232

    run(scenario)


# -- types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qtype", ["HTTPS", "TYPE731", "CAA", "ANY"])
def test_dns_33_types_pass_intact_whether_or_not_anybody_knows_them(qtype: str) -> None:
    data = {
        "HTTPS": '1 . alpn="h2"',
        "TYPE731": "\\# 3 abcdef",
        "CAA": '0 issue "ca.example.net"',
        "ANY": '"RFC8482" ""',
    }[qtype]
    record = f"60 {'HINFO' if qtype == 'ANY' else qtype} {data}"

    async def scenario() -> None:
        with UpstreamServer(has(record)) as resolver:
            async with forwarding(resolver) as scene:
                for _ in range(3):
                    assert await scene.data(qtype=qtype) == [data]
                assert asked_of(resolver) == 1

    run(scenario)


def test_dns_33_ad_is_passed_on_only_where_the_setting_says_so() -> None:
    def authentic(asked: ReceivedQuery) -> list[Send]:
        return [Send(reply_to(asked, f"{asked.name} 60 A 192.0.2.1", flags=dns.flags.AD))]

    async def scenario() -> None:
        with UpstreamServer(authentic) as resolver:
            for trust in (False, True):
                async with forwarding(resolver, trust_ad=trust) as scene:
                    for _ in range(2):
                        asked = await scene.query(flags=dns.flags.RD | dns.flags.AD)
                        assert bool(asked.flags & dns.flags.AD) is trust
                        assert not (await scene.query()).flags & dns.flags.AD

    run(scenario)


def test_a_transfer_is_refused_and_not_asked_for() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query(qtype="AXFR", tcp=True)
                assert rcode_of(response) == "REFUSED"
                assert asked_of(resolver) == 0

    run(scenario)
