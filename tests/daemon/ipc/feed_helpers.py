"""Both ends of the feed in one event loop, and waiting for what happens there."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable

from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher, SourceHealth, Subscriber
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.daemon.watcher.watcher_stats import StaleTimer
from zkdns.names import Labels
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Let the event loop go on until the condition holds; an AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: the condition last was {value!r}"
        await asyncio.sleep(0.0005)


class Worker:
    """A subscriber with a table of its own, which notes what it is told."""

    def __init__(self, path: str) -> None:
        self.table = Table(departed_seconds=0)  # who left keeps nothing, as at the publisher
        self.changed: list[set[Labels]] = []
        self.healths: list[SourceHealth] = []
        self.flushed: list[bytes | None] = []
        self.sizes: list[int] = []
        """How many services the table had at each change of health."""
        self.subscriber = Subscriber(path, self.table, self.changed.append, self._heard, self.flushed.append)
        self._task = asyncio.create_task(self.subscriber.run())

    def _heard(self, health: SourceHealth) -> None:
        self.healths.append(health)
        self.sizes.append(len(self.table.services))

    @property
    def health(self) -> SourceHealth:
        return self.subscriber.health

    async def stop(self) -> None:
        """End it, as the end of its process would."""
        assert not self._task.done()
        self._task.cancel()
        await asyncio.wait([self._task])


@contextlib.asynccontextmanager
async def answering(path: str) -> AsyncIterator[Worker]:
    """A worker that follows the publisher at a path."""
    worker = Worker(path)
    try:
        yield worker
    finally:
        await worker.stop()


@contextlib.asynccontextmanager
async def publishing(path: str) -> AsyncIterator[Publisher]:
    """A publisher that serves at a path."""
    publisher = Publisher()
    await publisher.serve(path)
    try:
        yield publisher
    finally:
        publisher.close()
        await until(lambda: not publisher._subscribers)
        os.unlink(path)  # noqa: PTH108 - a name in memory, as it were


def contents(table: Table) -> tuple[int, list[Change]]:
    """All that a table answers with, and its serial."""
    return table.serial, sorted(table.contents(), key=repr)


def member(number: int, host: str = "10.0.0.1") -> Member:
    return Member(f"member_{number:010d}", Endpoint(host, 80))


def put(service: str, *members: Member) -> SetPut:
    return SetPut(f"/discovery/staging/{service}", ServiceName(service, "staging"), members)


def context_of(config: Config, publisher: Publisher) -> WatcherContext:
    """The context of a watcher that has this publisher and no ZooKeeper."""
    history = History(publisher, config.zone)
    return WatcherContext(
        config, publisher, history, HostResolver(publisher.table, publisher.publish), StaleTimer()
    )
