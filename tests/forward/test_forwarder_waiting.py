"""Queries that wait for upstreams: equal questions, failures, stale responses, limits and shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import dns.flags
import dns.rcode
import pytest
from structlog.testing import capture_logs

from tests.forward.forwarder_helpers import (
    WWW,
    Scene,
    Waits,
    data_of,
    extended_errors,
    forwarding,
    numbered,
    queries_to,
    rcode_of,
)
from tests.forward.resolution_helpers import now, run, until
from tests.support.upstream import (
    TCP,
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    answers,
    hangs_up,
    is_silent,
    reply_to,
    returns_rcode,
)
from tests.support.waiting import in_time
from zkdns.config import CacheSettings
from zkdns.transport.contract import Render

STALE, NO_REACHABLE_AUTHORITY, NETWORK_ERROR = 3, 22, 23


# -- equal questions --------------------------------------------------------------------------------------


def test_dns_34_equal_questions_in_flight_are_sent_once() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream) as scene:
                names = [WWW, "WWW.example", "wWw.eXample"]
                waiting = [
                    scene.querying(name, tcp=tcp, size=size)
                    for name in names
                    for tcp in (False, True)
                    for size in (None, 1232, 4096)
                ]
                await until(lambda: scene.forwarder.waiting == len(waiting))
                assert scene.questions_sent == 1
                assert scene.forwarder.counters.joined == len(waiting) - 1
                await waits.release(upstream)
                responses = await asyncio.gather(*waiting)
                assert all(data_of(response) == ["192.0.2.1"] for response in responses)
                spelled = [response.question[0].name.to_text() for response in responses]
                assert spelled == [f"{name}." for name in names for _ in range(6)]
                assert [response.edns for response in responses] == [-1, 0, 0] * 6
                assert scene.questions_sent == 1

    run(scenario)


def test_waiting_queries_do_not_delay_others() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            upstream.set_behaviour(answers, "quick.example")
            async with forwarding(upstream) as scene:
                waiting = scene.querying()
                await until(lambda: scene.forwarder.waiting == 1)
                assert await scene.data("quick.example") == ["192.0.2.1"]
                assert await scene.rcode("none.staging.discovery") == "NXDOMAIN"
                assert not waiting.done()
                await waits.release(upstream)
                await waiting

    run(scenario)


def test_many_waiting_queries_are_answered_in_short_steps() -> None:
    """Each delivery may take some time; other work is done between them."""
    count = 200
    delivered: list[bytes] = []

    def deliver_slowly(render: Render, _size: int = 0) -> None:
        time.sleep(0.0002)
        delivered.append(render())

    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream) as scene:
                for _ in range(count):
                    scene.begin(deliver_slowly)
                assert scene.forwarder.waiting == count
                await waits.release(upstream)
                progress = set()
                while len(delivered) < count:
                    progress.add(len(delivered))
                    await asyncio.sleep(0)
                assert len(set(delivered)) == 1
                assert len(progress) > count / 10

    run(scenario)


def test_internal_error_in_one_response_does_not_affect_others() -> None:
    def fail(_: Render, _size: int = 0) -> None:
        raise RuntimeError("internal error")

    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream) as scene:
                scene.begin(fail)
                waiting = [scene.querying() for _ in range(2)]
                await until(lambda: scene.forwarder.waiting == 3)
                with capture_logs() as logs:
                    await waits.release(upstream)
                    for response in await asyncio.gather(*waiting):
                        assert data_of(response) == ["192.0.2.1"]
                assert [(entry["event"], str(entry["exc_info"])) for entry in logs] == [
                    ("forwarded_response_failed", "internal error")
                ]
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


# -- failures ---------------------------------------------------------------------------------------------


def test_dns_34_failure_is_cached_and_the_question_not_sent_again() -> None:
    async def scenario() -> None:
        with UpstreamServer(returns_rcode(dns.rcode.SERVFAIL)) as upstream:
            async with forwarding(upstream) as scene:
                for _ in range(4):
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "SERVFAIL"
                    assert response.flags & dns.flags.RA
                    assert extended_errors(response) == [NO_REACHABLE_AUTHORITY]
                    assert "responds SERVFAIL" in str(response.options[0])
                assert scene.questions_sent == 1
                assert scene.forwarder.counters.failed == 4
                for sent, wait in enumerate((1, 2, 4, 8), 1):  # seconds for which it is cached
                    scene.pass_time(wait - 1)
                    assert await scene.rcode() == "SERVFAIL"
                    assert scene.questions_sent == sent
                    scene.pass_time(1)
                    assert await scene.rcode() == "SERVFAIL"
                    assert scene.questions_sent == sent + 1
                upstream.set_behaviour(answers)
                scene.pass_time(60)
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


def test_dns_32_unreachable_upstream_is_servfail_with_network_error() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            upstream.go_down()
            async with forwarding(upstream) as scene:
                for _ in range(2):
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "SERVFAIL"
                    assert extended_errors(response) == [NETWORK_ERROR]
                    assert str(upstream.address) in str(response.options[0])
            upstream.come_up()

    run(scenario)


def test_dns_32_silent_upstream_is_servfail_before_a_stub_gives_up() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with forwarding(upstream) as scene:
                started_at = now()
                response = await scene.query(size=1232)
                assert now() - started_at > 3
                in_time(started_at, 4.5)
                assert (rcode_of(response), extended_errors(response)) == (
                    "SERVFAIL",
                    [NO_REACHABLE_AUTHORITY],
                )

    run(scenario)


def test_errors_of_many_upstreams_fit_into_the_smallest_message() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])

    async def scenario() -> None:
        with (
            UpstreamServer(returns_rcode(dns.rcode.REFUSED), last_byte=1) as one,
            UpstreamServer(returns_rcode(dns.rcode.SERVFAIL), last_byte=2) as two,
            UpstreamServer(returns_rcode(dns.rcode.SERVFAIL), last_byte=3) as three,
            UpstreamServer(returns_rcode(dns.rcode.REFUSED), last_byte=4) as four,
            UpstreamServer(returns_rcode(dns.rcode.SERVFAIL), last_byte=5) as five,
            UpstreamServer(returns_rcode(dns.rcode.SERVFAIL), last_byte=6) as six,
            UpstreamServer(returns_rcode(dns.rcode.REFUSED), last_byte=7) as seven,
            UpstreamServer(returns_rcode(dns.rcode.SERVFAIL), last_byte=8) as eight,
        ):
            async with forwarding(one, two, three, four, five, six, seven, eight) as scene:
                for _ in range(2):
                    response = await scene.query(name, size=512)
                    assert rcode_of(response) == "SERVFAIL"
                    assert extended_errors(response) == [NO_REACHABLE_AUTHORITY]
                    assert len(response.to_wire()) <= 512

    run(scenario)


@pytest.mark.parametrize("rcode", [dns.rcode.NOTIMP, dns.rcode.FORMERR])
def test_notimp_and_formerr_of_upstreams_are_failures(rcode: int) -> None:
    """The client's query is well-formed, and musl does not try its next server after these codes."""

    async def scenario() -> None:
        with UpstreamServer(returns_rcode(rcode)) as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query(qtype="TYPE65280", size=1232)
                assert rcode_of(response) == "SERVFAIL"
                assert f"responds {dns.rcode.to_text(dns.rcode.Rcode(rcode))}" in str(response.options[0])

    run(scenario)


def test_failure_during_an_outage_ends_with_the_outage() -> None:
    """A name that was queried all the time works as soon as others."""

    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                upstream.go_down()
                for _ in range(6):
                    assert await scene.rcode() == "SERVFAIL"
                    scene.pass_time(1)
                    assert await scene.rcode() == "SERVFAIL"
                    scene.pass_time(20)
                assert await scene.rcode() == "SERVFAIL"
                upstream.come_up()
                assert await scene.data("fresh.example") == ["192.0.2.1"]
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


# -- partial answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_tcp", [hangs_up, is_silent], ids=["closed", "silent"])
def test_partial_answer_is_passed_on_with_tc_if_tcp_fails(over_tcp: Behaviour) -> None:
    def act(received: ReceivedQuery) -> Iterable[Send]:
        if received.transport == TCP:
            return over_tcp(received)
        return [Send(reply_to(received, f"{received.name} 60 A 192.0.2.1", flags=dns.flags.TC))]

    async def scenario() -> None:
        with UpstreamServer(act) as upstream:
            async with forwarding(upstream) as scene:
                for tcp in (False, True, False):
                    response = await scene.query(tcp=tcp)
                    assert rcode_of(response) == "NOERROR"
                    assert data_of(response) == ["192.0.2.1"]
                    assert response.flags & dns.flags.TC
                assert queries_to(upstream) == 1

    run(scenario)


def test_empty_truncated_reply_is_a_failure_if_tcp_fails() -> None:
    """A client would take it for the absence of records."""

    async def scenario() -> None:
        with UpstreamServer(hangs_up) as upstream:
            async with forwarding(upstream) as scene:
                assert await scene.rcode() == "SERVFAIL"
                assert await scene.rcode(tcp=True) == "SERVFAIL"

    run(scenario)


# -- stale responses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True])
def test_dns_35_stale_response_with_ttl_30_when_upstreams_fail(*, is_remembered: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream) as scene:
                await scene.query(size=1232)
                if is_remembered:
                    await scene.cached(size=1232)
                upstream.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                scene.pass_time(5)
                before = queries_to(upstream)
                for _ in range(3):
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "NOERROR"
                    assert data_of(response) == ["198.51.100.1"]
                    assert response.answer[0].ttl == 30
                    assert extended_errors(response) == [STALE]
                    assert "responds SERVFAIL" in str(response.options[0])
                assert queries_to(upstream) == before + 1
                assert scene.forwarder.counters.stale == 3
                upstream.set_behaviour(numbered(ttl=5))
                scene.pass_time(1)
                response = await scene.query(size=1232)
                assert (response.answer[0].ttl, extended_errors(response)) == (5, [])

    run(scenario)


def test_dns_35_entry_past_its_stale_time_is_not_used() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, cache=CacheSettings(stale=100)) as scene:
                await scene.cached()
                upstream.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                scene.pass_time(104)
                assert await scene.rcode() == "NOERROR"
                scene.pass_time(1)
                assert await scene.rcode() == "SERVFAIL"
                upstream.set_behaviour(answers)
                scene.pass_time(60)
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


def test_stale_responses_can_be_disabled() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, cache=CacheSettings(stale=0)) as scene:
                await scene.query()
                upstream.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                scene.pass_time(5)
                assert await scene.rcode() == "SERVFAIL"

    run(scenario)


def test_dns_35_stale_response_after_1_8_seconds_when_upstreams_are_slow() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream) as scene:
                await scene.query(size=1232)
                upstream.set_behaviour(waits)
                scene.pass_time(5)
                started_at = now()
                response = await scene.query(size=1232)
                assert now() - started_at > 1.7
                in_time(started_at, 2.4)
                assert (data_of(response), response.answer[0].ttl) == (["198.51.100.1"], 30)
                assert extended_errors(response) == [STALE]
                await waits.release(upstream)
                await until(lambda: not scene.forwarder.resolving)
                assert await scene.data(size=1232) == ["192.0.2.1"]  # the fresh response
                assert scene.questions_sent == 2

    run(scenario)


def test_stale_response_is_immediate_after_others_have_waited() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, client_response_seconds=0.2) as scene:
                await scene.cached()
                upstream.set_behaviour(waits)
                scene.pass_time(5)
                assert await scene.data() == ["198.51.100.1"]
                before = scene.forwarder.counters.queries
                for tcp in (False, True):
                    assert await scene.ttl(tcp=tcp) == 30
                assert scene.forwarder.counters.queries == before
                assert scene.forwarder.resolving
                await waits.release(upstream)
                await until(lambda: not scene.forwarder.resolving)
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


def test_stale_timer_starts_for_queries_that_join_a_prefetch() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, client_response_seconds=0.2) as scene:
                await scene.query()
                upstream.set_behaviour(waits)
                scene.pass_time(4)
                assert await scene.ttl() == 1
                assert scene.forwarder.counters.prefetched == 1
                scene.pass_time(1)
                assert await scene.ttl() == 30
                assert scene.questions_sent == 2
                await waits.release(upstream)
                await until(lambda: not scene.forwarder.resolving)

    run(scenario)


def test_stale_timer_of_a_finished_question_does_not_affect_the_next() -> None:
    delay = 0.5

    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, client_response_seconds=delay) as scene:
                await scene.query()
                upstream.set_behaviour(waits)
                scene.pass_time(5)
                waiting = scene.querying()
                await until(lambda: scene.forwarder.waiting == 1)
                await waits.release(upstream)
                assert data_of(await waiting) == ["192.0.2.1"]
                scene.pass_time(60)  # that response is stale now
                await asyncio.sleep(delay)
                assert scene.forwarder.counters.stale == scene.forwarder.waiting == 0

    run(scenario)


def test_queries_keep_waiting_if_the_stale_entry_is_flushed() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, client_response_seconds=0.2) as scene:
                await scene.query()
                upstream.set_behaviour(waits)
                scene.pass_time(5)
                waiting = scene.querying()
                await until(lambda: scene.forwarder.waiting == 1)
                scene.forwarder.flush(None)
                await asyncio.sleep(0.3)
                assert not waiting.done()
                await waits.release(upstream)
                assert data_of(await waiting) == ["192.0.2.1"]

    run(scenario)


# -- limits -----------------------------------------------------------------------------------------------


async def until_waiting(scene: Scene, count: int) -> None:
    """Wait until this number of queries waits for upstreams."""
    await until(lambda: scene.forwarder.waiting == count)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_over_the_limit_the_oldest_query_of_the_client_gets_servfail_at_once(*, tcp: bool) -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            upstream.set_behaviour(numbered(), "known.example")
            async with forwarding(upstream, max_waiting=10) as scene:
                await scene.query("known.example")
                waiting = []
                for number in range(10):
                    waiting.append(scene.querying(f"n{number}.example", size=1232, tcp=tcp))
                    await until_waiting(scene, number + 1)
                started_at = now()
                newest = scene.querying("one.more", tcp=tcp)
                response = await waiting.pop(0)
                assert (rcode_of(response), extended_errors(response)) == (
                    "SERVFAIL",
                    [NO_REACHABLE_AUTHORITY],
                )
                in_time(started_at, 1)
                assert (scene.forwarder.counters.overloaded, scene.forwarder.waiting) == (1, 10)
                assert scene.questions_sent == 12
                assert await scene.data("known.example") == ["198.51.100.1"]
                assert await scene.rcode("none.staging.discovery") == "NXDOMAIN"
                await waits.release(upstream, "one.more")
                assert data_of(await newest) == ["192.0.2.1"]
                for number in range(1, 10):
                    await waits.release(upstream, f"n{number}.example")
                await asyncio.gather(*waiting)
                assert not scene.forwarder.resolving
                upstream.set_behaviour(answers)
                assert await scene.data("n0.example") == ["192.0.2.1"]  # this failure is not cached

    run(scenario)


def test_other_clients_take_places_of_the_greediest_one_and_are_answered() -> None:
    async def scenario() -> None:
        waits = Waits()
        failed: list[bytes] = []
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream, max_waiting=10) as scene:
                for number in range(10):
                    scene.begin(
                        lambda render, _=0: failed.append(render()), f"n{number}.example", "192.0.2.66"
                    )
                await until(lambda: scene.questions_sent == 10)
                polite = [scene.querying(f"p{number}.example") for number in range(4)]
                await until(lambda: len(failed) == 4)
                assert [message[1] & 15 for message in failed] == [2] * 4
                for number in range(4):
                    await waits.release(upstream, f"p{number}.example")
                assert all(data_of(response) == ["192.0.2.1"] for response in await asyncio.gather(*polite))
                assert scene.forwarder.waiting == scene.forwarder.resolving == 6
                (zone,) = scene.forwarder.zones.all
                assert (zone.resolver.cancelled, zone.resolver.in_flight) == (4, 6)

    run(scenario)


def test_a_flood_in_one_round_keeps_a_limited_number_of_failures_and_questions() -> None:
    async def scenario() -> None:
        failed: list[bytes] = []
        with UpstreamServer(is_silent) as upstream:
            async with forwarding(upstream, max_waiting=10) as scene:
                for number in range(50):  # without a pause, in which failures are delivered and queries sent
                    scene.begin(lambda render, _=0: failed.append(render()), f"n{number}.example")
                assert len(failed) == 30
                await until(lambda: len(failed) == 40)
                await until(lambda: scene.questions_sent == 8 + 10)  # the first ones are sent at once
                assert scene.forwarder.waiting == scene.forwarder.resolving == 10
                scene.forwarder.stop()
                assert len(failed) == 50

    run(scenario)


def test_a_query_that_gives_way_gets_a_stale_response() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, max_waiting=2, client_response_seconds=60.0) as scene:
                await scene.query("first.example")
                scene.pass_time(5)
                upstream.set_behaviour(is_silent)
                first = scene.querying("first.example")
                await until(lambda: scene.forwarder.waiting == 1)
                others = [scene.querying(f"n{number}.example") for number in range(2)]
                assert data_of(await first) == ["198.51.100.1"]
                scene.forwarder.stop()
                await asyncio.gather(*others)

    run(scenario)


def test_a_joined_query_that_gives_way_leaves_the_question_to_the_others() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream, max_waiting=3) as scene:
                waiting = []
                for number in range(4):
                    waiting.append(scene.querying())
                    await until_waiting(scene, min(number + 1, 3))
                assert rcode_of(await waiting.pop(0)) == "SERVFAIL"
                await waits.release(upstream)
                assert [data_of(response) for response in await asyncio.gather(*waiting)] == [
                    ["192.0.2.1"]
                ] * 3
                assert scene.questions_sent == 1

    run(scenario)


def test_questions_without_waiting_queries_are_limited() -> None:
    """Their queries have received stale responses; the oldest question is cancelled for a new one."""

    async def scenario() -> None:
        names = [f"n{number}.example" for number in range(8)]
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream, max_waiting=5, client_response_seconds=0.05) as scene:
                for name in names:
                    await scene.query(name)
                scene.pass_time(5)
                upstream.set_behaviour(is_silent)
                for name in names:
                    assert await scene.ttl(name) == 30
                assert scene.forwarder.resolving == 5
                (zone,) = scene.forwarder.zones.all
                assert (zone.resolver.cancelled, zone.resolver.in_flight) == (3, 5)

    run(scenario)


def test_flood_in_one_batch_is_limited_and_every_query_is_answered() -> None:
    count = 100

    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream, max_waiting=10) as scene:
                scene.udp.stop()
                waiting = [scene.querying(f"n{number}.example") for number in range(count)]
                await asyncio.sleep(0.05)  # UDP queries sent meanwhile arrive in one batch
                scene.udp.start()
                await until(lambda: sum(task.done() for task in waiting) >= count - 10)
                pending = {number: task for number, task in enumerate(waiting) if not task.done()}
                failed = [task for task in waiting if task.done()]
                assert all(rcode_of(task.result()) == "SERVFAIL" for task in failed)
                assert len(pending) == 10
                assert scene.forwarder.counters.overloaded == len(failed)
                for number in pending:
                    await waits.release(upstream, f"n{number}.example")
                responses = await asyncio.gather(*pending.values())
                assert all(data_of(response) == ["192.0.2.1"] for response in responses)
                upstream.set_behaviour(answers)
                (number, *_) = set(range(count)) - set(pending)
                assert await scene.data(f"n{number}.example") == ["192.0.2.1"]  # its failure is not cached

    run(scenario)


# -- shutdown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_stale", [False, True])
def test_waiting_queries_are_answered_at_shutdown(*, has_stale: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as upstream:
            async with forwarding(upstream) as scene:
                if has_stale:
                    await scene.query(size=1232)
                    scene.pass_time(5)
                upstream.set_behaviour(is_silent)
                waiting = [scene.querying(size=1232, tcp=tcp) for tcp in (False, True) for _ in range(3)]
                await until(lambda: scene.forwarder.waiting == len(waiting))
                scene.forwarder.stop()
                for response in await asyncio.gather(*waiting):
                    if has_stale:
                        assert data_of(response) == ["198.51.100.1"]
                    else:
                        assert rcode_of(response) == "SERVFAIL"
                assert scene.forwarder.waiting == 0

    run(scenario)


def test_stop_without_any_query() -> None:
    async def scenario() -> None:
        async with forwarding() as scene:
            assert scene.forwarder.waiting == 0

    run(scenario)
