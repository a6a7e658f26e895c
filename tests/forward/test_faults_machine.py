"""No file descriptor left; all upstreams down and up again."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from unittest import mock

import pytest
from structlog.testing import capture_logs

from tests.forward.resolution_helpers import (
    answer,
    failure,
    now,
    question,
    resolving,
    run,
    running_resolver,
    until,
)
from tests.support.files import file_descriptors_exhausted
from tests.support.upstream import UpstreamServer, answers, is_silent, truncates
from tests.support.waiting import TooLateError, in_time
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import RETRY_SECONDS, Failure, FailureKind
from zkdns.forward.udp_client import affordable_sockets
from zkdns.forward.upstreams import UDP_TIMES

# -- no file descriptor left ------------------------------------------------------------------------------


def test_questions_without_a_file_descriptor_wait_for_one() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                with file_descriptors_exhausted():
                    waiting = [resolving(resolver, f"n{number}.example") for number in range(20)]
                    # The socket of the first question is the only one that they can use, one after the other.
                    assert resolver.open_sockets == 1
                    await asyncio.sleep(3 * RETRY_SECONDS)  # in which several attempts fail
                outcomes = await asyncio.gather(*waiting)
                assert all(isinstance(outcome, Reply) for outcome in outcomes)
                assert not resolver.upstreams.all[0].is_dead
                assert resolver.upstreams.all[0].timed_out == 0

    run(scenario)


def test_questions_without_a_file_descriptor_fail_in_time_with_a_reason() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with running_resolver(upstream.address, limit_seconds=0.5) as resolver:
                with file_descriptors_exhausted():
                    started_at = now()
                    outcome = await failure(resolver, "www.example")
                    in_time(started_at, 0.9)
                assert outcome.kind is FailureKind.OVERLOADED
                assert "no file descriptor was left" in outcome.text
                assert resolver.overloaded == 1
                assert await answer(resolver, "www.example") == ["192.0.2.1"]

    run(scenario)


def test_connection_without_a_file_descriptor_waits_too() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address) as resolver:
                outcome = resolving(resolver, "www.example")
                await until(lambda: upstream.queries)
                received = upstream.queries[0]
                with file_descriptors_exhausted():
                    (truncated,) = truncates(received)
                    assert truncated.message is not None
                    upstream.send_datagram(truncated.message, received.port)
                    await asyncio.sleep(3 * RETRY_SECONDS)
                    assert not outcome.done()
                    upstream.set_behaviour(answers)
                result = await outcome
                assert isinstance(result, Reply)
                assert not result.truncated

    run(scenario)


def test_number_of_sockets_is_limited() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address, max_sockets=10, udp_times=UDP_TIMES) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(30)]
                await until(lambda: len(upstream.queries) == 10)
                await until(lambda: len(upstream.queries) == 20)  # late attempts pass their sockets on
                assert resolver.open_sockets == 10
                assert len({received.port for received in upstream.queries}) == 20
                upstream.set_behaviour(answers)
                outcomes = await asyncio.gather(*waiting)
                assert all(isinstance(outcome, Reply) for outcome in outcomes)
                assert resolver.open_sockets == 0

    run(scenario)


def test_a_new_question_takes_the_socket_of_a_late_attempt_of_another_one() -> None:
    """Otherwise questions that are never answered would hold all sockets until they fail."""

    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            upstream.set_behaviour(answers, "fine.example")
            async with running_resolver(upstream.address, max_sockets=3, udp_times=UDP_TIMES) as resolver:
                waiting = [resolving(resolver, f"n{number}.example") for number in range(3)]
                await until(lambda: len(upstream.queries) == 3)
                assert isinstance(await resolving(resolver, "fine.example"), Reply)
                assert resolver.in_flight == 3
                assert resolver.open_sockets <= 3
                resolver.stop()
                await asyncio.gather(*waiting)

    run(scenario)


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_cancelled_question_releases_its_socket_and_is_not_reported(*, is_sent: bool) -> None:
    async def scenario() -> None:
        outcomes: list[object] = []
        with UpstreamServer(is_silent) as upstream:
            async with running_resolver(upstream.address) as resolver:
                resolution = resolver.resolve(
                    question("www.example"), lambda _, outcome: outcomes.append(outcome)
                )
                assert resolution is not None
                if is_sent:
                    await until(lambda: len(upstream.queries) == 1)
                for _ in range(2):  # the second time, it is over
                    resolver.cancel(resolution)
                assert (resolver.in_flight, resolver.open_sockets, resolver.cancelled) == (0, 0, 1)
            assert outcomes == []

    run(scenario)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "granted", "limit"),
    [
        (1024, 1 << 20, 4000, 4000, 5024),
        (1024, 4096, 4000, 3072, 4096),
        (1024, 1024, 4000, 512, 1024),
        (20_000, 20_000, 4000, 4000, 20_000),
        (1024, resource.RLIM_INFINITY, 4000, 4000, 5024),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4000, 4000, None),
    ],
)
def test_affordable_sockets_leave_room_for_other_files(
    soft: int, hard: int, wanted: int, granted: int, limit: int | None
) -> None:
    with (
        mock.patch.object(resource, "getrlimit", return_value=(soft, hard)),
        mock.patch.object(resource, "setrlimit") as set_to,
    ):
        assert affordable_sockets(wanted) == granted
    assert [call.args[1][0] for call in set_to.call_args_list] == ([] if limit is None else [limit])


# -- all upstreams down -----------------------------------------------------------------------------------


def test_unreachable_upstreams_fail_at_once_and_recover_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as one, UpstreamServer(last_byte=2) as other, capture_logs() as logs:
            async with running_resolver(one.address, other.address, probe_seconds=0.3) as resolver:
                assert await answer(resolver, "www.example") == ["192.0.2.1"]
                one.go_down()
                other.go_down()
                started_at = now()
                for number in range(5):
                    outcome = await failure(resolver, f"n{number}.example")
                    assert outcome.kind is FailureKind.NETWORK
                in_time(started_at, 0.5)
                assert all(upstream.is_dead for upstream in resolver.upstreams.all)
                other.come_up()
                assert await answer(resolver, "www.example") == ["192.0.2.2"]
                one.come_up()  # detected by a probe
                await until(lambda: not any(upstream.is_dead for upstream in resolver.upstreams.all))
        logged = [(entry["event"], entry["upstream"]) for entry in logs]
        for upstream in (one, other):
            assert [event for event, address in logged if address == str(upstream.address)] == [
                "upstream_failed",
                "upstream_recovered",
            ]

    run(scenario)


def test_questions_to_silent_upstreams_fail_in_time_and_later_ones_succeed() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as one, UpstreamServer(last_byte=2) as other:
            async with running_resolver(
                one.address, other.address, limit_seconds=1.6, udp_times=UDP_TIMES
            ) as resolver:
                one.set_behaviour(is_silent)
                other.set_behaviour(is_silent)
                started_at = now()
                waiting = [resolving(resolver, f"n{number}.example") for number in range(200)]
                outcomes = await asyncio.gather(*waiting)
                in_time(started_at, 2.0)
                assert all(isinstance(outcome, Failure) for outcome in outcomes)
                assert resolver.timed_out == 200
                if not other.queries:
                    raise TooLateError("there was no time for the second upstream")
                assert all(upstream.is_dead for upstream in resolver.upstreams.all)
                await until(lambda: resolver.open_sockets <= 2)  # only probes are left
                assert not resolver.in_flight
                one.set_behaviour(answers)
                other.set_behaviour(answers)
                started_at = now()
                outcome = await resolving(resolver, "www.example")
                assert isinstance(outcome, Reply)
                in_time(started_at, 0.25)

    run(scenario)


def test_many_unanswered_questions_do_not_block_the_event_loop() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as one, UpstreamServer(is_silent) as other:
            async with running_resolver(one.address, other.address) as resolver:
                waiting: list[asyncio.Future[Reply | Failure]] = []
                used: list[
                    float
                ] = []  # processor time of this thread, which does not depend on other processes
                end = now() + 1.5
                while now() < end:
                    waiting += [resolving(resolver, f"n{len(waiting)}.example") for _ in range(10)]
                    started_at = time.thread_time()
                    await asyncio.sleep(0.01)
                    used.append(time.thread_time() - started_at)
                used.sort()
                assert used[len(used) * 9 // 10] < 0.01
                resolver.stop()
                await asyncio.gather(*waiting)

    run(scenario)


@pytest.fixture(autouse=True)
def _limits_stay() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
