"""The queue from kazoo's threads to the event loop."""

import asyncio

from zkdns.serverset.sync.event_queue import MAX_CALLS, ThreadsafeQueue


def test_many_calls_run_in_order_and_in_batches() -> None:
    """Other tasks run between two batches, and each batch is published."""

    async def scenario() -> tuple[list[int], list[int], int]:
        called: list[int] = []
        drained: list[int] = []
        queue = ThreadsafeQueue(lambda: drained.append(len(called)))
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
