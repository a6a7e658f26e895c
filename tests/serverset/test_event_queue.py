"""The queue from kazoo's threads to the event loop."""

import asyncio
import math
import time

from zkdns.serverset.sync.event_queue import DRAIN_SECONDS, MAX_CALLS, ThreadsafeQueue


def test_many_calls_run_in_order_and_in_batches() -> None:
    """Other tasks run between two batches, and each batch is published."""

    async def scenario() -> tuple[list[int], list[int], int]:
        called: list[int] = []
        drained: list[int] = []
        queue = ThreadsafeQueue(lambda: drained.append(len(called)), drain_seconds=math.inf)
        for number in range(5 * MAX_CALLS):
            queue.post(called.append, number)
        turns = 0
        while len(called) < 5 * MAX_CALLS:
            await asyncio.sleep(0)
            turns += 1
        return called, drained, turns

    called, drained, turns = asyncio.run(scenario())
    assert called == list(range(5 * MAX_CALLS))
    assert drained == [MAX_CALLS * batch for batch in range(1, 6)]
    assert turns >= 5


def test_a_call_that_posts_another_one_wakes_the_loop_again() -> None:
    async def scenario() -> list[str]:
        called: list[str] = []
        queue = ThreadsafeQueue(lambda: None)

        def first() -> None:
            called.append("first")
            queue.post(called.append, "second")

        queue.post(first)
        for _ in range(10):
            await asyncio.sleep(0)
        return called

    assert asyncio.run(scenario()) == ["first", "second"]


def test_calls_wait_while_the_queue_is_blocked_and_do_not_wake_the_loop() -> None:
    async def scenario() -> None:
        called: list[int] = []
        drained: list[int] = []
        must_wait, checks = True, 0

        def is_blocked() -> bool:
            nonlocal checks
            checks += 1
            return must_wait

        queue = ThreadsafeQueue(lambda: drained.append(len(called)), is_blocked, drain_seconds=math.inf)
        for number in range(10):
            queue.post(called.append, number)
            await asyncio.sleep(0)
        assert not called
        assert checks == 1
        must_wait = False
        queue.resume()
        await asyncio.sleep(0)
        assert called == list(range(10))
        assert drained == [10]
        assert not queue.has_calls

    asyncio.run(scenario())


def test_a_queue_that_is_blocked_after_a_batch_continues_when_it_is_resumed() -> None:
    """The publication of the batch is not finished."""

    async def scenario() -> None:
        called: list[int] = []
        is_blocked = False

        def block() -> None:
            nonlocal is_blocked
            is_blocked = True

        queue = ThreadsafeQueue(block, lambda: is_blocked, drain_seconds=math.inf)
        for number in range(MAX_CALLS + 1):
            queue.post(called.append, number)
        for _ in range(10):
            await asyncio.sleep(0)
        queue.post(called.append, -1)
        assert len(called) == MAX_CALLS
        is_blocked = False
        queue.resume()
        for _ in range(10):
            await asyncio.sleep(0)
        assert called == [*range(MAX_CALLS + 1), -1]

    asyncio.run(scenario())


def test_long_calls_run_in_smaller_batches() -> None:
    async def scenario() -> list[int]:
        called: list[int] = []
        drained: list[int] = []
        queue = ThreadsafeQueue(lambda: drained.append(len(called)))

        def work(number: int) -> None:
            time.sleep(1.5 * DRAIN_SECONDS)
            called.append(number)

        for number in range(3):
            queue.post(work, number)
        for _ in range(10):
            await asyncio.sleep(0)
        return drained

    assert asyncio.run(scenario()) == [1, 2, 3]


def test_a_call_after_the_batch_follows_on_drained() -> None:
    async def scenario() -> list[str]:
        log: list[str] = []
        queue = ThreadsafeQueue(lambda: log.append("published"))
        queue.post(log.append, "event")
        queue.post_after_batch(lambda: log.append("after"))
        queue.post(log.append, "later event")
        for _ in range(5):
            await asyncio.sleep(0)
        return log

    assert asyncio.run(scenario()) == ["event", "later event", "published", "after"]
