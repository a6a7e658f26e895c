"""A subscriber that waits until all others have its changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tests.daemon.ipc.feed_helpers import Worker
from tests.support.waiting import PATIENCE
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import FRAMES, REPLIES, Barrier, End

_T = TypeVar("_T", End, Barrier)
LONG = 3 * PATIENCE


class SlowWorker:
    """A subscriber that replies to barriers when a test wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def read(self, kind: type[_T]) -> _T:
        """Read up to a message of this kind."""
        while (message := await FRAMES.read(self._reader)) is not None:
            if isinstance(message, kind):
                return message
        raise AssertionError

    async def reply(self) -> None:
        """Reply to the next barrier."""
        self.writer.write(REPLIES.encode(await self.read(Barrier)))


def run(path: Path, test: Callable[[Worker, SlowWorker], Awaitable[None]]) -> None:
    """Run a test with a subscriber, and another one that does not reply."""

    async def main() -> None:
        publisher = Publisher()
        await publisher.serve(str(path / "feed"))
        slow = SlowWorker(*await asyncio.open_unix_connection(str(path / "feed")))
        await slow.read(End)
        worker = Worker(str(path / "feed"))
        async with asyncio.timeout(PATIENCE):
            while publisher.subscriber_count < 2:  # noqa: ASYNC110 - of another component
                await asyncio.sleep(0.001)
            await test(worker, slow)
        await worker.stop()
        slow.writer.close()
        publisher.close()

    asyncio.run(main())


def test_it_waits_for_the_others(short_path: Path) -> None:
    async def test(worker: Worker, slow: SlowWorker) -> None:
        waiting = asyncio.create_task(worker.subscriber.wait_until_applied_by_all(LONG))
        barrier = await slow.read(Barrier)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        slow.writer.write(REPLIES.encode(barrier))
        await waiting

    run(short_path, test)


def test_requests_share_no_reply(short_path: Path) -> None:
    async def test(worker: Worker, slow: SlowWorker) -> None:
        first, second = (
            asyncio.create_task(worker.subscriber.wait_until_applied_by_all(LONG)) for _ in range(2)
        )
        await slow.reply()
        await first
        await asyncio.sleep(0.05)
        assert not second.done()
        await slow.reply()
        await second

    run(short_path, test)


def test_one_that_ends_is_not_waited_for(short_path: Path) -> None:
    async def test(worker: Worker, slow: SlowWorker) -> None:
        waiting = asyncio.create_task(worker.subscriber.wait_until_applied_by_all(LONG))
        await slow.read(Barrier)
        slow.writer.close()
        await waiting

    run(short_path, test)


def test_one_that_hangs_is_waited_for_a_limited_time(short_path: Path) -> None:
    async def test(worker: Worker, slow: SlowWorker) -> None:
        del slow
        started = time.monotonic()
        await worker.subscriber.wait_until_applied_by_all(0.1)
        assert time.monotonic() - started >= 0.1

    run(short_path, test)


def test_without_a_publisher_it_does_not_wait(short_path: Path) -> None:
    async def main() -> None:
        worker = Worker(str(short_path / "absent"))
        await worker.subscriber.wait_until_applied_by_all(LONG)
        await worker.stop()

    asyncio.run(main())
