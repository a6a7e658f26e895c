"""While upstreams are asked: equal questions once, not too many, and what is stale where nothing is fresh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import dns.flags
import dns.rcode
import pytest

from tests.forward.forwarder_helpers import (
    WWW,
    Waits,
    asked_of,
    data_of,
    extended_errors,
    forwarding,
    numbered,
    rcode_of,
    release,
)
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import UpstreamServer, answers, is_silent, is_slow, returns_rcode
from zkdns.config import CacheSettings
from zkdns.forward import forwarder as forwarder_module
from zkdns.forward.forwarder import Forwarder

pytestmark = pytest.mark.punctual

STALE, NO_REACHABLE_AUTHORITY, NETWORK_ERROR = 3, 22, 23


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose patience sooner."""
    monkeypatch.setattr(forwarder_module, "STALE_SECONDS", 0.2)


# -- equal questions ----------------------------------------------------------------------------------------


def test_dns_34_equal_questions_in_flight_are_asked_once_whoever_asks_them() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver) as scene:
                names = [WWW, "WWW.example", "wWw.eXample"]
                waiting = [
                    scene.asking(name, tcp=tcp, size=size)
                    for name in names
                    for tcp in (False, True)
                    for size in (None, 1232, 4096)
                ]
                await until(lambda: scene.forwarder.waiting == len(waiting))
                assert scene.exchanges_asked == 1
                assert scene.forwarder.counts.joined == len(waiting) - 1
                release(resolver)
                responses = await asyncio.gather(*waiting)
                assert all(data_of(response) == ["192.0.2.1"] for response in responses)
                spelled = [response.question[0].name.to_text() for response in responses]
                assert spelled == [f"{name}." for name in names for _ in range(6)]
                assert [response.edns for response in responses] == [-1, 0, 0] * 6
                assert scene.exchanges_asked == 1

    run(scenario)


def test_others_are_not_kept_waiting_by_those_who_wait() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            resolver.set_behaviour(answers, "quick.example")
            async with forwarding(resolver) as scene:
                waiting = scene.asking()
                await until(lambda: scene.forwarder.waiting == 1)
                assert await scene.data("quick.example") == ["192.0.2.1"]
                assert await scene.rcode("none.staging.discovery") == "NXDOMAIN"
                assert not waiting.done()
                release(resolver)
                await waiting

    run(scenario)


def test_thousands_who_wait_for_the_same_are_answered_in_turns_that_have_an_end() -> None:
    """Each answer that is handed out may take its time; between some of them it is the others' turn."""
    count = 200

    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver) as scene:
                waiting = [scene.asking() for _ in range(count)]
                await until(lambda: scene.forwarder.waiting == count)
                others_turns: list[int] = []
                handed: list[int] = []

                def slowly(take: Callable[[bytes], None]) -> Callable[[bytes], None]:
                    def deliver(response: bytes) -> None:
                        time.sleep(0.0002)
                        handed.append(1)
                        take(response)

                    return deliver

                (sought,) = scene.forwarder._sought.values()
                sought.askers = [(asked, slowly(deliver)) for asked, deliver in sought.askers]

                async def look() -> None:
                    while len(handed) < count:
                        others_turns.append(len(handed))
                        await asyncio.sleep(0)

                looking = asyncio.create_task(look())
                release(resolver)
                responses = await asyncio.gather(*waiting)
                await looking
                assert all(data_of(response) == ["192.0.2.1"] for response in responses)
                assert len(set(others_turns)) > count / 10

    run(scenario)


def test_a_mistake_with_one_response_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = []

    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver) as scene:
                waiting = [scene.asking() for _ in range(3)]
                await until(lambda: scene.forwarder.waiting == 3)
                (sought,) = scene.forwarder._sought.values()

                def fails(_: bytes) -> None:
                    handed.append(1)
                    raise RuntimeError("a mistake")

                first, *rest = sought.askers
                sought.askers = [(first[0], fails), *rest]
                told: list[Exception] = []
                monkeypatch.setattr(scene.forwarder._mistakes, "tell", told.append)
                release(resolver)
                done, pending = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
                await until(lambda: sum(task.done() for task in waiting) == 2)
                (lost,) = [task for task in waiting if not task.done()]
                lost.cancel()
                assert [str(error) for error in told] == ["a mistake"]
                assert await scene.data() == ["192.0.2.1"]
                assert done
                assert pending

    run(scenario)
    assert handed == [1]


# -- failures -----------------------------------------------------------------------------------------------


def test_dns_34_a_failure_is_remembered_and_the_question_asked_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(returns_rcode(dns.rcode.SERVFAIL)) as resolver:
            async with forwarding(resolver) as scene:
                for _ in range(4):
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "SERVFAIL"
                    assert response.flags & dns.flags.RA
                    assert extended_errors(response) == [NO_REACHABLE_AUTHORITY]
                    assert "says SERVFAIL" in str(response.options[0])
                assert scene.exchanges_asked == 1
                assert scene.forwarder.counts.failed == 4
                for asked, wait in enumerate((1, 2, 4, 8), 1):  # seconds that it is remembered
                    scene.pass_time(wait - 1)
                    assert await scene.rcode() == "SERVFAIL"
                    assert scene.exchanges_asked == asked
                    scene.pass_time(1)
                    assert await scene.rcode() == "SERVFAIL"
                    assert scene.exchanges_asked == asked + 1
                resolver.set_behaviour(answers)
                scene.pass_time(60)
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


def test_dns_32_when_the_upstream_is_not_there_it_is_servfail_with_the_network_error() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            resolver.go_down()
            async with forwarding(resolver) as scene:
                for _ in range(2):
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "SERVFAIL"
                    assert extended_errors(response) == [NETWORK_ERROR]
                    assert str(resolver.address) in str(response.options[0])
            resolver.come_up()

    run(scenario)


def test_dns_32_when_the_upstream_is_silent_it_is_servfail_before_a_stub_gives_up() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with forwarding(resolver) as scene:
                begun = now()
                response = await scene.query(size=1232)
                assert 3 < now() - begun < 4.5
                assert (rcode_of(response), extended_errors(response)) == (
                    "SERVFAIL",
                    [NO_REACHABLE_AUTHORITY],
                )

    run(scenario)


def test_what_many_upstreams_say_fits_into_the_least_message() -> None:
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
def test_what_upstreams_do_not_know_to_do_is_told_as_they_tell_it(rcode: int) -> None:
    async def scenario() -> None:
        with UpstreamServer(returns_rcode(rcode)) as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query(qtype="TYPE65280")
                assert response.rcode() == rcode

    run(scenario)


# -- what is stale ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True])
def test_dns_35_when_upstreams_fail_what_is_stale_is_answered_for_30_seconds(*, is_remembered: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.query(size=1232)
                if is_remembered:
                    await scene.remembered(size=1232)
                resolver.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                scene.pass_time(5)
                asked = asked_of(resolver)
                for _ in range(3):
                    response = await scene.query(size=1232)
                    assert rcode_of(response) == "NOERROR"
                    assert data_of(response) == ["198.51.100.1"]
                    assert response.answer[0].ttl == 30
                    assert extended_errors(response) == [STALE]
                    assert "says SERVFAIL" in str(response.options[0])
                assert asked_of(resolver) == asked + 1
                assert scene.forwarder.counts.stale == 3
                resolver.set_behaviour(numbered(ttl=5))
                scene.pass_time(1)
                response = await scene.query(size=1232)
                assert (response.answer[0].ttl, extended_errors(response)) == (5, [])

    run(scenario)


def test_dns_35_what_is_stale_for_too_long_is_not_answered() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver, cache=CacheSettings(stale=100)) as scene:
                await scene.remembered()
                resolver.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                scene.pass_time(104)
                assert await scene.rcode() == "NOERROR"
                scene.pass_time(1)
                assert await scene.rcode() == "SERVFAIL"
                resolver.set_behaviour(answers)
                scene.pass_time(60)
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


def test_answering_with_what_is_stale_can_be_switched_off() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver, cache=CacheSettings(stale=0)) as scene:
                await scene.query()
                resolver.set_behaviour(returns_rcode(dns.rcode.SERVFAIL))
                scene.pass_time(5)
                assert await scene.rcode() == "SERVFAIL"

    run(scenario)


def test_dns_35_while_upstreams_are_slow_what_is_stale_is_answered_after_1_8_seconds() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.query(size=1232)
                resolver.set_behaviour(is_slow(2.5))
                scene.pass_time(5)
                begun = now()
                response = await scene.query(size=1232)
                assert 1.7 < now() - begun < 2.4
                assert (data_of(response), response.answer[0].ttl) == (["198.51.100.1"], 30)
                assert extended_errors(response) == [STALE]
                await until(lambda: not scene.forwarder._sought)  # and then there is what is fresh
                assert await scene.data(size=1232) == ["192.0.2.1"]
                assert scene.exchanges_asked == 2

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_who_asks_when_others_have_waited_in_vain_is_answered_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.remembered()
                resolver.set_behaviour(Waits())
                scene.pass_time(5)
                assert await scene.data() == ["198.51.100.1"]
                asked = scene.forwarder.counts.asked
                for tcp in (False, True):
                    assert await scene.ttl(tcp=tcp) == 30
                assert scene.forwarder.counts.asked == asked
                assert scene.forwarder._sought
                release(resolver)
                await until(lambda: not scene.forwarder._sought)
                assert await scene.data() == ["192.0.2.1"]

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_who_waits_for_what_was_prefetched_in_vain_loses_patience_too() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                resolver.set_behaviour(Waits())
                scene.pass_time(4)
                assert await scene.ttl() == 1
                assert scene.forwarder.counts.prefetched == 1
                scene.pass_time(1)
                assert await scene.ttl() == 30
                assert scene.exchanges_asked == 2
                release(resolver)
                await until(lambda: not scene.forwarder._sought)

    run(scenario)


def test_patience_is_for_one_question_and_not_for_the_next_one_of_the_name() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                resolver.set_behaviour(Waits())
                scene.pass_time(5)
                waiting = scene.asking()
                await until(lambda: scene.forwarder.waiting == 1)
                (sought,) = scene.forwarder._sought.values()
                assert sought.patience is not None
                release(resolver)
                assert data_of(await waiting) == ["192.0.2.1"]
                assert sought.patience.cancelled()

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_who_waits_goes_on_waiting_when_what_is_stale_is_flushed() -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                await scene.query()
                resolver.set_behaviour(Waits())
                scene.pass_time(5)
                waiting = scene.asking()
                await until(lambda: scene.forwarder.waiting == 1)
                scene.forwarder.flush(None)
                await asyncio.sleep(0.3)
                assert not waiting.done()
                release(resolver)
                assert data_of(await waiting) == ["192.0.2.1"]

    run(scenario)


# -- too many -----------------------------------------------------------------------------------------------


def test_beyond_the_most_that_may_wait_it_is_servfail_at_once_and_counted() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            resolver.set_behaviour(numbered(), "known.example")
            async with forwarding(resolver, max_waiting=10) as scene:
                await scene.query("known.example")
                waiting = [scene.asking(f"n{number}.example") for number in range(10)]
                await until(lambda: scene.forwarder.waiting == 10)
                begun = now()
                for tcp in (False, True):
                    response = await scene.query("one.more", size=1232, tcp=tcp)
                    assert (rcode_of(response), extended_errors(response)) == (
                        "SERVFAIL",
                        [NO_REACHABLE_AUTHORITY],
                    )
                assert now() - begun < 1
                assert scene.forwarder.counts.overloaded == 2
                assert scene.exchanges_asked == 11
                assert await scene.data("known.example") == ["198.51.100.1"]
                assert await scene.rcode("none.staging.discovery") == "NXDOMAIN"
                for number in range(10):
                    release(resolver, f"n{number}.example")
                await asyncio.gather(*waiting)
                resolver.set_behaviour(answers)
                assert await scene.data("one.more") == ["192.0.2.1"]  # that failure is not remembered

    run(scenario)


def test_a_flood_in_one_batch_is_bounded_and_every_asker_has_an_answer() -> None:
    count = 100

    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver, max_waiting=10) as scene:
                scene.udp.stop()
                waiting = [scene.asking(f"n{number}.example") for number in range(count)]
                await asyncio.sleep(0.05)  # what is sent meanwhile is there at once
                scene.udp.start()
                await until(lambda: sum(task.done() for task in waiting) >= count - 10)
                pending = {number: task for number, task in enumerate(waiting) if not task.done()}
                failed = [task for task in waiting if task.done()]
                assert all(rcode_of(task.result()) == "SERVFAIL" for task in failed)
                assert len(pending) == 10
                assert scene.forwarder.counts.overloaded == len(failed)
                for number in pending:
                    release(resolver, f"n{number}.example")
                responses = await asyncio.gather(*pending.values())
                assert all(data_of(response) == ["192.0.2.1"] for response in responses)
                resolver.set_behaviour(answers)
                for number in set(range(count)) - set(pending):  # their failures are not remembered
                    assert await scene.data(f"n{number}.example") == ["192.0.2.1"]

    run(scenario)


# -- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_stale", [False, True])
def test_who_waits_at_the_end_is_told_so(*, has_stale: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=5)) as resolver:
            async with forwarding(resolver) as scene:
                if has_stale:
                    await scene.query(size=1232)
                    scene.pass_time(5)
                resolver.set_behaviour(is_silent)
                waiting = [scene.asking(size=1232, tcp=tcp) for tcp in (False, True) for _ in range(3)]
                await until(lambda: scene.forwarder.waiting == len(waiting))
                scene.forwarder.stop()
                for response in await asyncio.gather(*waiting):
                    if has_stale:
                        assert data_of(response) == ["198.51.100.1"]
                    else:
                        assert rcode_of(response) == "SERVFAIL"
                assert scene.forwarder.waiting == 0

    run(scenario)


def test_it_can_end_without_having_been_asked() -> None:
    async def scenario() -> None:
        async with forwarding() as scene:
            assert isinstance(scene.forwarder, Forwarder)

    run(scenario)
