"""The event loop with servers: servers, timers and other files all get their turns."""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from tests.support.waiting import PATIENCE
from zkdns.transport.event_loop import (
    HOUSEKEEPING_SECONDS,
    ServingLoop,
    add_server,
    deferrer,
    remove_server,
    set_housekeeping,
)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe with non-blocking ends."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


async def words_read_by_a_server(*words: bytes) -> list[bytes]:
    """The words that a server reads one by one, and a last one after its removal."""
    received: list[bytes] = []
    with pipe() as (reader, writer):
        done = asyncio.Event()

        def work() -> bool:
            received.append(os.read(reader, 10))
            done.set()
            return False

        add_server(reader, work)
        for word in words:
            done.clear()
            os.write(writer, word)
            await asyncio.wait_for(done.wait(), PATIENCE)
        remove_server(reader)
        os.write(writer, b"too late")
        await asyncio.sleep(0.02)
        remove_server(reader)  # a second time is no error
    return received


def test_a_server_works_when_its_file_is_ready_until_it_is_removed() -> None:
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert runner.run(words_read_by_a_server(b"one", b"two")) == [b"one", b"two"]


def test_callbacks_that_a_server_schedules_run_at_once() -> None:
    async def main() -> float:
        with pipe() as (reader, writer):
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def work() -> bool:
                os.read(reader, 10)
                loop.call_later(0.01, done.set)
                return False

            add_server(reader, work)
            os.write(writer, b"x")
            started = time.monotonic()
            await asyncio.wait_for(done.wait(), PATIENCE)
            remove_server(reader)
            return time.monotonic() - started

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert 0.01 <= runner.run(main()) < 4


@pytest.mark.parametrize("has_more", [False, True])
def test_a_server_that_is_always_busy_delays_no_timers_and_files(has_more: bool) -> None:
    """Its file is always ready, whether or not it reports more work."""
    counts = {"served": 0, "others": 0}

    async def main() -> None:
        with pipe() as (busy, writer), pipe() as (other, other_writer):
            os.write(writer, b"never read")
            os.write(other_writer, b"x")
            loop = asyncio.get_running_loop()

            def work() -> bool:
                counts["served"] += 1
                return has_more

            def read() -> None:
                counts["others"] += 1
                os.read(other, 1)

            add_server(busy, work)
            loop.add_reader(other, read)
            async with asyncio.timeout(PATIENCE):
                while counts["served"] <= 10 or not counts["others"]:  # noqa: ASYNC110 - the sleep is the timer
                    await asyncio.sleep(0.001)
                os.write(other_writer, b"y")
                await asyncio.to_thread(time.sleep, 0.01)  # a callback from another thread
                while counts["others"] < 2:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.001)
            loop.remove_reader(other)
            remove_server(busy)

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(main())
    assert counts["others"] == 2
    assert counts["served"] > 10


def test_a_busy_server_continues_and_is_then_called_for_new_data() -> None:
    """It need not have seen that its file is empty; afterwards the loop does not wake up for nothing."""
    counts = {"served": 0}

    async def main() -> tuple[int, int]:
        with pipe() as (reader, writer):
            loop, received = asyncio.get_running_loop(), asyncio.Event()
            left = [True, True, False, True, False]

            def work() -> bool:
                counts["served"] += 1
                if counts["served"] in (1, 4):
                    os.read(reader, 10)
                if counts["served"] in (3, 5):
                    loop.call_soon_threadsafe(received.set)
                return left.pop(0)

            add_server(reader, work)
            counted = []
            for _ in range(2):
                os.write(writer, b"x")
                await asyncio.wait_for(received.wait(), PATIENCE)
                received.clear()
                await asyncio.sleep(0.02)
                counted.append(counts["served"])
            remove_server(reader)
            return counted[0], counted[1]

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert runner.run(main()) == (3, 5)


def test_a_busy_server_may_be_removed_and_added_again() -> None:
    served: list[bytes] = []

    async def main() -> None:
        with pipe() as (reader, writer):
            done = asyncio.Event()

            def first() -> bool:
                served.append(os.read(reader, 1))
                remove_server(reader)
                asyncio.get_running_loop().call_soon_threadsafe(done.set)
                return True

            def second() -> bool:
                served.append(os.read(reader, 1))
                done.set()
                return False

            add_server(reader, first)
            os.write(writer, b"ab")
            await asyncio.wait_for(done.wait(), PATIENCE)
            done.clear()
            add_server(reader, second)
            await asyncio.wait_for(done.wait(), PATIENCE)
            remove_server(reader)

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(main())
    assert served == [b"a", b"b"]


def test_a_failing_server_is_logged_once_and_stops_nothing() -> None:
    async def main() -> int:
        with pipe() as (reader, writer), pipe() as (good, good_writer):
            done, failed, failures = asyncio.Event(), asyncio.Event(), 0

            def fail() -> bool:
                nonlocal failures
                failures += 1
                if failures == 3:
                    os.read(reader, 10)
                    failed.set()
                raise ValueError("an internal error")

            def work() -> bool:
                os.read(good, 10)
                done.set()
                return False

            add_server(reader, fail)
            add_server(good, work)
            os.write(writer, b"x")
            os.write(good_writer, b"x")
            await asyncio.wait_for(done.wait(), PATIENCE)
            await asyncio.wait_for(failed.wait(), PATIENCE)
            remove_server(reader)
            remove_server(good)
            return failures

    with capture_logs() as logs, asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert runner.run(main()) == 3
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("socket_handler_failed", "error")]


def test_servers_work_in_other_event_loops_too() -> None:
    assert asyncio.run(words_read_by_a_server(b"one", b"two")) == [b"one", b"two"]


# -- deferred work ------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still except during work, which takes a set time however busy the machine is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        """Work for this long."""
        self.now += seconds


def test_housekeeping_is_done_at_intervals_also_while_servers_are_busy() -> None:
    clock, calls = Clock(), list[float]()
    turn = HOUSEKEEPING_SECONDS / 4

    async def main() -> None:
        with pipe() as (reader, writer):
            os.write(writer, b"x")
            turns = 0
            done = asyncio.Event()

            def work() -> bool:
                nonlocal turns
                turns += 1
                clock.spend(turn)
                if turns == 20:
                    os.read(reader, 1)
                    done.set()
                return not done.is_set()

            set_housekeeping(lambda: calls.append(clock.now))
            add_server(reader, work)
            await asyncio.wait_for(done.wait(), PATIENCE)
            remove_server(reader)

    with asyncio.Runner(loop_factory=lambda: ServingLoop(clock)) as runner:
        runner.run(main())
    assert len(calls) >= 4
    gaps = [after - before for before, after in itertools.pairwise(calls)]
    assert HOUSEKEEPING_SECONDS - turn / 2 < min(gaps)
    assert max(gaps) < HOUSEKEEPING_SECONDS + turn / 2


def test_deferred_work_runs_in_order_with_servers_in_between() -> None:
    clock = Clock()
    done: list[str] = []

    async def main() -> None:
        with pipe() as (reader, writer):
            ended, defer = asyncio.Event(), deferrer()

            def work() -> bool:
                done.append(os.read(reader, 1).decode())
                return False

            def piece(name: str) -> None:
                done.append(name)
                os.write(writer, b"q")  # data arrives during the work
                clock.spend(0.001)  # it takes longer than the server will

            add_server(reader, work)
            for name in "abc":
                defer(partial(piece, name))
            defer(ended.set)
            await asyncio.wait_for(ended.wait(), PATIENCE)
            remove_server(reader)

    with asyncio.Runner(loop_factory=partial(ServingLoop, clock)) as runner:
        runner.run(main())
    assert "".join(done) == "aqbqcq"


def test_deferred_work_gets_half_of_the_time_of_busy_servers() -> None:
    clock = Clock()
    spent = {"served": 0.0, "pieces": 0.0}

    def count(what: str, seconds: float) -> None:
        clock.spend(seconds)
        spent[what] += seconds

    async def main() -> None:
        with pipe() as (reader, writer):
            ended, defer = asyncio.Event(), deferrer()

            def work() -> bool:
                count("served", 0.01)
                return True

            add_server(reader, work)
            os.write(writer, b"x")
            for _ in range(100):
                defer(partial(count, "pieces", 0.0005))
            defer(ended.set)
            await asyncio.wait_for(ended.wait(), PATIENCE)
            remove_server(reader)

    with asyncio.Runner(loop_factory=partial(ServingLoop, clock)) as runner:
        runner.run(main())
    assert spent["pieces"] == pytest.approx(0.05)
    assert 0.02 < spent["served"] < 0.15  # one piece per call would be ten times as much


def test_failing_deferred_work_stops_nothing_and_its_callbacks_run() -> None:
    async def main() -> None:
        ended, defer = asyncio.Event(), deferrer()
        loop = asyncio.get_running_loop()

        def fail() -> None:
            raise ValueError("an internal error")

        def give() -> None:
            loop.call_later(0.001, ended.set)

        defer(fail)
        defer(give)
        await asyncio.wait_for(ended.wait(), PATIENCE)

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(main())


def test_without_servers_deferred_work_runs_in_the_loop() -> None:
    async def main() -> None:
        ended = asyncio.Event()
        deferrer()(ended.set)
        await asyncio.wait_for(ended.wait(), PATIENCE)

    asyncio.run(main())
