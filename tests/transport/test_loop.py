"""The loop that serves while it waits: servers get their turns, and so does everybody else."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator

from structlog.testing import capture_logs

from zkdns.transport.loop import ServingLoop, add_server, remove_server


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends do not block."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


async def heard_by_a_server(*words: bytes) -> list[bytes]:
    """What a server reads of words that it is given one by one, and of another when it is none any more."""
    heard: list[bytes] = []
    with pipe() as (reader, writer):
        done = asyncio.Event()

        def work() -> bool:
            heard.append(os.read(reader, 10))
            done.set()
            return True

        add_server(reader, work)
        for word in words:
            done.clear()
            os.write(writer, word)
            await asyncio.wait_for(done.wait(), 5)
        remove_server(reader)
        os.write(writer, b"too late")
        await asyncio.sleep(0.02)
        remove_server(reader)  # once more is no mistake
    return heard


def test_a_server_works_when_there_is_something_for_it_and_no_longer_than_it_is_one() -> None:
    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert runner.run(heard_by_a_server(b"one", b"two")) == [b"one", b"two"]


def test_what_a_server_gives_the_loop_to_do_is_done_at_once() -> None:
    async def main() -> float:
        with pipe() as (reader, writer):
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def work() -> bool:
                os.read(reader, 10)
                loop.call_later(0.01, done.set)
                return True

            add_server(reader, work)
            os.write(writer, b"x")
            begun = time.monotonic()
            await asyncio.wait_for(done.wait(), 5)
            remove_server(reader)
            return time.monotonic() - begun

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert 0.01 <= runner.run(main()) < 4


def test_a_server_that_is_never_done_keeps_neither_timers_nor_others_waiting() -> None:
    """Its file is always ready, and it says that there is nothing else to do."""
    counts = {"served": 0, "others": 0}

    async def main() -> None:
        with pipe() as (busy, writer), pipe() as (other, other_writer):
            os.write(writer, b"never read")
            os.write(other_writer, b"x")
            loop = asyncio.get_running_loop()

            def work() -> bool:
                counts["served"] += 1
                return False

            def read() -> None:
                counts["others"] += 1
                os.read(other, 1)

            add_server(busy, work)
            loop.add_reader(other, read)
            await asyncio.sleep(0.05)  # the timer
            os.write(other_writer, b"y")
            await asyncio.to_thread(time.sleep, 0.01)  # what another thread tells the loop
            loop.remove_reader(other)
            remove_server(busy)

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        runner.run(main())
    assert counts["others"] == 2
    assert counts["served"] > 10


def test_a_server_that_fails_is_told_of_once_and_ends_nothing() -> None:
    async def main() -> int:
        with pipe() as (reader, writer), pipe() as (good, good_writer):
            done, failed, failures = asyncio.Event(), asyncio.Event(), 0

            def fail() -> bool:
                nonlocal failures
                failures += 1
                if failures == 3:
                    os.read(reader, 10)
                    failed.set()
                raise ValueError("a mistake")

            def work() -> bool:
                os.read(good, 10)
                done.set()
                return True

            add_server(reader, fail)
            add_server(good, work)
            os.write(writer, b"x")
            os.write(good_writer, b"x")
            await asyncio.wait_for(done.wait(), 5)
            await asyncio.wait_for(failed.wait(), 5)
            remove_server(reader)
            remove_server(good)
            return failures

    with capture_logs() as logs, asyncio.Runner(loop_factory=ServingLoop) as runner:
        assert runner.run(main()) == 3
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("a server failed", "error")]


def test_in_another_loop_servers_are_served_too() -> None:
    assert asyncio.run(heard_by_a_server(b"one", b"two")) == [b"one", b"two"]
