"""Questions on their way to upstreams, over real sockets: who is asked, who is told, and what is counted."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest
from structlog.testing import capture_logs
from zkdns.dns.message import Type
from zkdns.transport.event_loop import add_server, remove_server

from tests.forward.resolution_helpers import (
    answer,
    ask,
    asking,
    data_of,
    exchanging,
    failure,
    question,
    run,
    until,
)
from tests.support.upstream import (
    UDP,
    ReceivedQuery,
    Send,
    UpstreamServer,
    answers,
    is_silent,
    is_slow,
    reply_to,
)
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure, Kind
from zkdns.forward.resolver import Resolver
from zkdns.forward.upstreams import MOST_FAILURES

pytestmark = pytest.mark.punctual


def answers_with_its_name(asked: ReceivedQuery) -> list[Send]:
    return [Send(reply_to(asked, f"{asked.name} 60 TXT {asked.name}"))]


# -- an answer ----------------------------------------------------------------------------------------------


def test_a_question_has_its_answer() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                assert exchanges.in_flight == 0
                assert (exchanges.asked, exchanges.sent, exchanges.answered) == (1, 1, 1)
            assert [(asked.transport, asked.has_edns) for asked in resolver.queries] == [(UDP, True)]

    run(scenario)


def test_of_many_at_once_each_has_the_answer_to_its_own_question() -> None:
    async def scenario() -> None:
        with UpstreamServer(answers_with_its_name) as resolver:
            async with exchanging(resolver.address) as exchanges:
                names = [f"n{number}.example" for number in range(400)]
                questions = [question(name, Type.TXT) for name in names]
                outcomes = await asyncio.gather(*(asking(exchanges, what) for what in questions))
                for name, what, outcome in zip(names, questions, outcomes, strict=True):
                    assert isinstance(outcome, Reply)
                    assert data_of(outcome, what) == [f'"{name}."']
                assert not exchanges._datagrams or len(exchanges._datagrams) == 0

    run(scenario)


def test_dns_31_each_query_has_a_port_and_an_id_that_nobody_can_guess() -> None:
    count = 1000

    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                for number in range(count):
                    await ask(exchanges, f"n{number}.example")
            for numbers, least in (
                ([asked.port for asked in resolver.queries], 8_000),
                ([asked.ident for asked in resolver.queries], 32_768),
            ):
                assert len(numbers) == count
                assert len(set(numbers)) > 0.9 * count  # no more of them twice than chance makes
                assert max(numbers) - min(numbers) > least
                near = sum(abs(one - other) < 64 for one, other in itertools.pairwise(numbers))
                assert near < 0.05 * count  # none follows from the one before
                assert 0.4 < sum(number % 2 for number in numbers) / count < 0.6

    run(scenario)


def test_dns_31_a_query_that_is_sent_again_has_another_port_and_another_id() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address) as exchanges:
                outcome = asking(exchanges, "www.example")
                await until(lambda: len(resolver.queries) == 2)
                resolver.set_behaviour(answers)
                await outcome
            assert len({asked.port for asked in resolver.queries}) == len(resolver.queries)
            assert len({asked.ident for asked in resolver.queries}) == len(resolver.queries)

    run(scenario)


# -- the nearest --------------------------------------------------------------------------------------------


def test_the_nearest_is_asked_and_the_others_only_to_learn_of_them() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_slow(0.1), last_byte=1) as far, UpstreamServer(last_byte=2) as near:
            async with exchanging(far.address, near.address) as exchanges:
                assert await answer(exchanges, "first.example") == ["192.0.2.1"]
                await until(lambda: all(upstream.rtt for upstream in exchanges.upstreams.all))
                for number in range(20):
                    assert await answer(exchanges, f"n{number}.example") == ["192.0.2.2"]
                assert len(far.queries) == 1

    run(scenario)


def test_a_slow_one_that_is_explored_lets_nobody_wait() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as near, UpstreamServer(is_silent, last_byte=2) as silent:
            async with exchanging(near.address, silent.address) as exchanges:
                begun = asyncio.get_running_loop().time()
                for number in range(10):
                    assert await answer(exchanges, f"n{number}.example") == ["192.0.2.1"]
                assert asyncio.get_running_loop().time() - begun < 0.3
                assert len(silent.queries) == 1

    run(scenario)


def test_others_can_be_asked_from_now_on() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as old, UpstreamServer(last_byte=2) as new:
            async with exchanging(old.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                old.set_behaviour(is_silent)
                outcome = asking(exchanges, "mail.example")
                exchanges.change([new.address])
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                moved = await outcome  # in time it turns to who is there now
                assert isinstance(moved, Reply)
                assert data_of(moved, question("mail.example")) == ["192.0.2.2"]
                exchanges.change([])
                assert (await failure(exchanges, "www.example")).kind is Kind.NETWORK

    run(scenario)


# -- too many, none any more --------------------------------------------------------------------------------


def test_beyond_the_most_in_flight_it_fails_at_once_and_is_counted() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address, most_in_flight=10) as exchanges:
                waiting = [asking(exchanges, f"n{number}.example") for number in range(10)]
                assert (await failure(exchanges, "one.more")).kind is Kind.OVERLOADED
                assert (exchanges.overloaded, exchanges.failed, exchanges.in_flight) == (1, 1, 10)
                assert not any(outcome.done() for outcome in waiting)
                resolver.set_behaviour(answers)
                await asyncio.gather(*waiting)
                assert await answer(exchanges, "one.more") == ["192.0.2.1"]

    run(scenario)


def test_whoever_waits_when_it_stops_is_told() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address) as exchanges:
                waiting = [asking(exchanges, f"n{number}.example") for number in range(3)]
                exchanges.stop()
                for outcome in waiting:
                    result = await outcome
                    assert isinstance(result, Failure)
                    assert result.kind is Kind.STOPPED
                assert exchanges.in_flight == 0
                assert isinstance(await asking(exchanges, "too.late"), Failure)

    run(scenario)


def test_it_may_be_stopped_by_who_is_told_of_an_outcome() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver, capture_logs() as logs:
            resolver.go_down()
            async with exchanging(resolver.address) as exchanges:
                for _ in range(MOST_FAILURES - 1):
                    await failure(exchanges, "www.example")
                stopped = asyncio.Event()

                def stop(_: Reply | Failure) -> None:
                    exchanges.stop()
                    stopped.set()

                exchanges.ask(question("stops.example"), stop)
                await stopped.wait()
            assert logs == []

    run(scenario)


def test_who_fails_to_take_an_outcome_costs_the_others_nothing() -> None:
    def fails(_: Reply | Failure) -> None:
        raise RuntimeError("a mistake")

    async def scenario() -> None:
        with UpstreamServer() as resolver, capture_logs() as logs:
            async with exchanging(resolver.address) as exchanges:
                exchanges.ask(question("fails.example"), fails)
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                await until(lambda: exchanges.answered == 2)
            assert [(entry["event"], entry["log_level"]) for entry in logs] == [
                ("upstream_result_failed", "error")
            ]

    run(scenario)


def test_an_outcome_may_lead_to_the_next_question_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                left = list(range(50))
                ended = asyncio.get_running_loop().create_future()

                def done(_: Reply | Failure) -> None:
                    if left:
                        exchanges.ask(question(f"n{left.pop()}.example"), done)
                    else:
                        ended.set_result(None)

                exchanges.ask(question("www.example"), done)
                await ended
                assert exchanges.answered == 51

    run(scenario)


def test_asking_from_a_servers_work_needs_nothing_else_to_happen_in_the_loop() -> None:
    """A serving loop waits for its servers alone as long as they give it nothing to do."""

    async def scenario() -> None:
        with UpstreamServer(is_silent) as silent:
            async with exchanging(silent.address) as exchanges:
                outcome = await asked_from_work(exchanges, "www.example")
                assert outcome.kind is Kind.TIMED_OUT

    run(scenario)


async def asked_from_work(exchanges: Resolver, name: str) -> Failure:
    """The failure of a question that is asked in a server's work, which gives the loop nothing to do."""
    ours, theirs = socket.socketpair()
    result: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()

    def work() -> bool:
        ours.recv(1)
        exchanges.ask(question(name), result.set_result)
        return False

    add_server(ours.fileno(), work)
    theirs.send(b"!")
    try:
        outcome = await result
    finally:
        remove_server(ours.fileno())
        ours.close()
        theirs.close()
    assert isinstance(outcome, Failure)
    return outcome
