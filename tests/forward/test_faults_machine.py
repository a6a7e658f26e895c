"""When this machine has no file left, and when all upstreams are gone and come back."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from unittest import mock

import pytest
from structlog.testing import capture_logs

from tests.forward.resolution_helpers import answer, asking, exchanging, failure, run, until
from tests.support.files import file_descriptors_exhausted
from tests.support.upstream import UpstreamServer, answers, is_silent, truncates
from zkdns.forward.reply import Reply
from zkdns.forward.resolution import Failure, Kind
from zkdns.forward.resolver import Resolver
from zkdns.forward.udp_client import affordable_sockets

pytestmark = pytest.mark.punctual


def now() -> float:
    return asyncio.get_running_loop().time()


def sockets_of(exchanges: Resolver) -> int:
    assert exchanges._datagrams is not None
    return len(exchanges._datagrams)


# -- no file is left ----------------------------------------------------------------------------------------


def test_without_a_file_left_questions_wait_and_are_answered_when_there_is_one() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                with file_descriptors_exhausted():
                    waiting = [asking(exchanges, f"n{number}.example") for number in range(20)]
                    await asyncio.sleep(0.3)  # several tries fail; a file that is closed serves the next
                    assert sum(outcome.done() for outcome in waiting) < 10
                outcomes = await asyncio.gather(*waiting)
                assert all(isinstance(outcome, Reply) for outcome in outcomes)
                assert not exchanges.upstreams.all[0].is_dead
                assert exchanges.upstreams.all[0].timed_out == 0

    run(scenario)


def test_without_a_file_left_for_long_questions_fail_in_time_and_that_is_told() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with exchanging(resolver.address) as exchanges:
                with file_descriptors_exhausted():
                    begun = now()
                    outcome = await failure(exchanges, "www.example")
                    assert now() - begun < 4.2
                assert outcome.kind is Kind.OVERLOADED
                assert "no file was left" in outcome.text
                assert exchanges.overloaded == 1
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]

    run(scenario)


def test_without_a_file_left_a_connection_waits_too() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address) as exchanges:
                outcome = asking(exchanges, "www.example")
                await until(lambda: resolver.queries)
                asked = resolver.queries[0]
                with file_descriptors_exhausted():
                    (truncated,) = truncates(asked)
                    assert truncated.message is not None
                    resolver.send_datagram(truncated.message, asked.port)
                    await asyncio.sleep(0.3)
                    assert not outcome.done()
                    resolver.set_behaviour(answers)
                result = await outcome
                assert isinstance(result, Reply)
                assert not result.truncated

    run(scenario)


def test_there_are_never_more_sockets_than_there_may_be() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with exchanging(resolver.address, most_sockets=10) as exchanges:
                waiting = [asking(exchanges, f"n{number}.example") for number in range(30)]
                await until(lambda: len(resolver.queries) == 10)
                await until(lambda: len(resolver.queries) == 20)  # those that had a socket use it again
                assert sockets_of(exchanges) == 10
                assert len({asked.port for asked in resolver.queries}) == 20
                resolver.set_behaviour(answers)
                outcomes = await asyncio.gather(*waiting)
                assert all(isinstance(outcome, Reply) for outcome in outcomes)
                assert sockets_of(exchanges) == 0

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
def test_sockets_are_had_beside_all_other_files(
    soft: int, hard: int, wanted: int, granted: int, limit: int | None
) -> None:
    with (
        mock.patch.object(resource, "getrlimit", return_value=(soft, hard)),
        mock.patch.object(resource, "setrlimit") as set_to,
    ):
        assert affordable_sockets(wanted) == granted
    assert [call.args[1][0] for call in set_to.call_args_list] == ([] if limit is None else [limit])


# -- all upstreams are gone, and back -----------------------------------------------------------------------


def test_when_all_upstreams_are_gone_it_fails_at_once_and_when_one_is_back_it_answers_at_once() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as one, UpstreamServer(last_byte=2) as other, capture_logs() as logs:
            async with exchanging(one.address, other.address) as exchanges:
                assert await answer(exchanges, "www.example") == ["192.0.2.1"]
                one.go_down()
                other.go_down()
                begun = now()
                for number in range(5):
                    outcome = await failure(exchanges, f"n{number}.example")
                    assert outcome.kind is Kind.NETWORK
                assert now() - begun < 0.5
                assert all(upstream.is_dead for upstream in exchanges.upstreams.all)
                other.come_up()
                assert await answer(exchanges, "www.example") == ["192.0.2.2"]
                one.come_up()  # which a probe finds out
                await until(lambda: not any(upstream.is_dead for upstream in exchanges.upstreams.all))
        told = [(entry["event"], entry["upstream"]) for entry in logs]
        for resolver in (one, other):
            assert [event for event, address in told if address == str(resolver.address)] == [
                "upstream_failed",
                "upstream_recovered",
            ]

    run(scenario)


def test_when_all_upstreams_fall_silent_questions_fail_in_time_and_later_ones_are_answered() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as one, UpstreamServer(last_byte=2) as other:
            async with exchanging(one.address, other.address) as exchanges:
                one.set_behaviour(is_silent)
                other.set_behaviour(is_silent)
                begun = now()
                waiting = [asking(exchanges, f"n{number}.example") for number in range(200)]
                outcomes = await asyncio.gather(*waiting)
                assert now() - begun < 4.2
                assert all(isinstance(outcome, Failure) for outcome in outcomes)
                assert exchanges.timed_out == 200
                assert all(upstream.is_dead for upstream in exchanges.upstreams.all)
                await until(lambda: sockets_of(exchanges) <= 2)  # but for probes nothing is left
                assert not exchanges.in_flight
                one.set_behaviour(answers)
                other.set_behaviour(answers)
                begun = now()
                outcome = await asking(exchanges, "www.example")
                assert isinstance(outcome, Reply)
                assert now() - begun < 0.25

    run(scenario)


def test_many_questions_without_answers_hold_up_nothing_else_in_the_loop() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as one, UpstreamServer(is_silent) as other:
            async with exchanging(one.address, other.address) as exchanges:
                waiting: list[asyncio.Future[Reply | Failure]] = []
                late: list[float] = []
                end = now() + 1.5
                while now() < end:
                    waiting += [asking(exchanges, f"n{len(waiting)}.example") for _ in range(10)]
                    expected = now() + 0.01
                    await asyncio.sleep(0.01)
                    late.append(now() - expected)
                late.sort()
                assert late[len(late) * 9 // 10] < 0.01
                exchanges.stop()
                await asyncio.gather(*waiting)

    run(scenario)


@pytest.fixture(autouse=True)
def _limits_stay() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
