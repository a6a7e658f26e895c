"""The resolver with real sockets: outcomes, ids, ports, limits and stopping."""

from __future__ import annotations

import asyncio
import itertools
import socket

from structlog.testing import capture_logs

from tests.forward.resolution_helpers import (
    answer,
    data_of,
    failure,
    now,
    question,
    resolve,
    resolving,
    run,
    running_resolver,
    until,
)
from tests.support.upstream import (
    UDP,
    ReceivedQuery,
    Send,
    UpstreamServer,
    answers,
    correct_answer,
    is_silent,
    is_slow,
    reply_to,
)
from tests.support.waiting import in_time
from zkdns.dns.message import Type
from zkdns.forward.message import Question
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure, FailureKind
from zkdns.forward.resolver import Resolver
from zkdns.forward.upstreams import MAX_FAILURES, UDP_TIMES
from zkdns.transport.event_loop import add_server, remove_server


def answers_with_its_name(received: ReceivedQuery) -> list[Send]:
    return [Send(reply_to(received, f"{received.name} 60 TXT {received.name}"))]


# -- replies ----------------------------------------------------------------------------------------------


def test_question_gets_its_reply() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                assert resolver.in_flight == 0
                assert (resolver.questions, resolver.sent, resolver.answered) == (1, 1, 1)
            assert [(received.transport, received.has_edns) for received in upstream.queries] == [(UDP, True)]

    run(scenario)


def test_concurrent_questions_get_their_own_replies() -> None:
    async def scenario() -> None:
        with UpstreamServer(answers_with_its_name) as upstream:
            async with running_resolver(upstream.address) as resolver:
                names = [f"n{number}.example" for number in range(200)]  # the buffer of a socket has room
                questions = [question(name, Type.TXT) for name in names]
                outcomes = await asyncio.gather(*(resolving(resolver, what) for what in questions))
                for name, what, outcome in zip(names, questions, outcomes, strict=True):
                    assert isinstance(outcome, Reply)
                    assert data_of(outcome, what) == [f'"{name}."']
                await until(lambda: resolver.open_sockets == 0)

    run(scenario)


def test_dns_31_ports_and_ids_are_unpredictable() -> None:
    count = 1000

    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                for number in range(count):
                    await resolve(resolver, f"n{number}.example")
            for numbers, least in (
                ([received.port for received in upstream.queries], 8_000),
                ([received.ident for received in upstream.queries], 32_768),
            ):
                assert len(numbers) >= count  # on a busy machine, some questions are sent again
                assert len(set(numbers)) > 0.9 * count  # duplicates only by chance
                assert max(numbers) - min(numbers) > least
                near = sum(abs(one - other) < 64 for one, other in itertools.pairwise(numbers))
                assert near < 0.05 * count  # not sequential
                assert 0.4 < sum(number % 2 for number in numbers) / count < 0.6

    run(scenario)


def test_dns_31_repeated_query_has_another_port_and_id() -> None:
    def act(received: ReceivedQuery) -> list[Send]:
        return [Send(correct_answer(received))] if len(upstream.queries) > 1 else []

    upstream = UpstreamServer(act)

    async def scenario() -> None:
        with upstream:
            async with running_resolver(upstream.address, udp_times=UDP_TIMES) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
            assert len(upstream.queries) > 1
            assert len({received.port for received in upstream.queries}) == len(upstream.queries)
            assert len({received.ident for received in upstream.queries}) == len(upstream.queries)

    run(scenario)


# -- ranking ----------------------------------------------------------------------------------------------


def test_nearest_upstream_is_used_and_others_are_only_measured() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_slow(0.1), last_byte=1) as far, UpstreamServer(last_byte=2) as near:
            async with running_resolver(far.address, near.address) as resolver:
                assert await answer(resolver, "first.example") == ["192.0.2.1"]
                await until(lambda: all(upstream.rtt for upstream in resolver.upstreams.all))
                for number in range(20):
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.2"]
                assert len(far.queries) == 1

    run(scenario)


def test_exploring_a_slow_upstream_delays_no_question() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as near, UpstreamServer(is_silent, last_byte=2) as silent:
            async with running_resolver(near.address, silent.address) as resolver:
                started_at = now()
                for number in range(10):
                    assert await answer(resolver, f"n{number}.example") == ["192.0.2.1"]
                in_time(started_at, 0.3)
                assert len(silent.queries) == 1

    run(scenario)


def test_replace_upstreams() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as old, UpstreamServer(last_byte=2) as new:
            async with running_resolver(old.address, udp_times=UDP_TIMES) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                old.set_behaviour(is_silent)
                outcome = resolving(resolver, "mail.example")
                resolver.replace_upstreams([new.address])
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                moved = await outcome  # after a time-out it queries the current upstreams
                assert isinstance(moved, Reply)
                assert data_of(moved, question("mail.example")) == ["192.0.2.2"]
                resolver.replace_upstreams([])
                assert (await failure(resolver, "www.example")).kind is FailureKind.NETWORK

    run(scenario)


# -- limits, stopping -------------------------------------------------------------------------------------


def test_questions_over_the_limit_fail_at_once_and_are_counted() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address, max_in_flight=10) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(10)]
                assert (await failure(resolver, "one.more")).kind is FailureKind.OVERLOADED
                assert (resolver.overloaded, resolver.failed, resolver.in_flight) == (1, 1, 10)
                assert not any(outcome.done() for outcome in waiting)
                upstream.set_behaviour(answers)
                await asyncio.gather(*waiting)
                assert await answer(resolver, "one.more") == ["192.0.2.1"]

    run(scenario)


def test_stop_reports_a_failure_for_open_questions() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(3)]
                resolver.stop()
                for outcome in waiting:
                    result = await outcome
                    assert isinstance(result, Failure)
                    assert result.kind is FailureKind.STOPPED
                assert resolver.in_flight == 0
                assert isinstance(await resolving(resolver, "too.late"), Failure)

    run(scenario)


def test_on_outcome_may_stop_the_resolver() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream, capture_logs() as logs:
            upstream.go_down()
            async with running_resolver(upstream.address) as resolver:
                for _ in range(MAX_FAILURES - 1):
                    await failure(resolver, "www.example")
                stopped = asyncio.Event()

                def stop(_question: Question, _outcome: Reply | Failure) -> None:
                    resolver.stop()
                    stopped.set()

                resolver.resolve(question("stops.example"), stop)
                await stopped.wait()
            assert [entry for entry in logs if entry["log_level"] == "error"] == []

    run(scenario)


def test_exception_in_on_outcome_does_not_affect_others() -> None:
    def fails(_question: Question, _outcome: Reply | Failure) -> None:
        raise RuntimeError("internal error")

    async def scenario() -> None:
        with UpstreamServer() as upstream, capture_logs() as logs:
            async with running_resolver(upstream.address) as resolver:
                resolver.resolve(question("fails.example"), fails)
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                await until(lambda: resolver.answered == 2)
            assert [(entry["event"], entry["log_level"]) for entry in logs] == [
                ("upstream_result_failed", "error")
            ]

    run(scenario)


def test_on_outcome_may_resolve_the_next_question() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                left = list(range(50))
                ended = asyncio.get_running_loop().create_future()

                def done(_question: Question, _outcome: Reply | Failure) -> None:
                    if left:
                        resolver.resolve(question(f"n{left.pop()}.example"), done)
                    else:
                        ended.set_result(None)

                resolver.resolve(question("www.example"), done)
                await ended
                assert resolver.answered == 51

    run(scenario)


def test_resolve_within_a_socket_handler_wakes_the_loop() -> None:
    """A serving loop waits for its sockets only, as long as nothing is scheduled."""

    async def scenario() -> None:
        with UpstreamServer(is_silent) as silent:
            async with running_resolver(silent.address, limit_seconds=0.5) as resolver:
                outcome = await resolve_in_handler(resolver, "www.example")
                assert outcome.kind is FailureKind.TIMED_OUT

    run(scenario)


async def resolve_in_handler(resolver: Resolver, name: str) -> Failure:
    """Resolve a question in a socket handler, which schedules nothing in the loop; return the failure."""
    ours, theirs = socket.socketpair()
    result: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()

    def work() -> bool:
        ours.recv(1)
        resolver.resolve(question(name), lambda _, outcome: result.set_result(outcome))
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
