"""Both sides of the feed in one event loop."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence

from tests.support.waiting import PATIENCE
from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher, Subscriber
from zkdns.daemon.ipc.feed_messages import Health, SourceHealth
from zkdns.daemon.watcher.context import WatcherContext
from zkdns.daemon.watcher.history import History
from zkdns.daemon.watcher.host_resolver import HostResolver
from zkdns.names import Labels
from zkdns.namespace import ALL_SOURCES, Namespace, ServiceName
from zkdns.serverset.changes import Change, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Run the event loop until the condition holds. Raises AssertionError after a time-out."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, (
            f"not within {seconds:g} s: the condition's last value is {value!r}"
        )
        await asyncio.sleep(0.0005)


class Worker:
    """A subscriber with its own table, which records the calls of its callbacks.

    Args:
        path: the feed.
        on_flush: called instead of recording a flush.
        namespaces: as those of `Subscriber`.
    """

    def __init__(
        self,
        path: str,
        on_flush: Callable[[bytes | None], None] | None = None,
        namespaces: Sequence[Namespace] = (),
    ) -> None:
        self.table = Table(departed_seconds=0)  # departed members are dropped at once, as in the publisher
        self.changed: list[set[Labels]] = []
        self.healths: list[Health] = []
        self.flushed: list[bytes | None] = []
        self.sizes: list[int] = []
        """Number of services in the table at each change of health."""
        self.subscriber = Subscriber(
            path,
            self.table,
            self.changed.append,
            self._on_health,
            on_flush or self.flushed.append,
            namespaces=namespaces,
            reconnect_seconds=0.005,
        )
        self._task = asyncio.create_task(self.subscriber.run())

    def _on_health(self, _: SourceHealth) -> None:
        self.healths.append(self.subscriber.health)
        self.sizes.append(len(self.table.services))

    @property
    def health(self) -> Health:
        return self.subscriber.health

    async def stop(self) -> None:
        """Stop it, as the end of its process would."""
        assert not self._task.done()
        self._task.cancel()
        await asyncio.wait([self._task])


@contextlib.asynccontextmanager
async def running_worker(
    path: str,
    on_flush: Callable[[bytes | None], None] | None = None,
    namespaces: Sequence[Namespace] = (),
) -> AsyncIterator[Worker]:
    """A worker that follows the publisher at a path. Arguments as for `Worker`."""
    worker = Worker(path, on_flush, namespaces)
    try:
        yield worker
    finally:
        await worker.stop()


@contextlib.asynccontextmanager
async def running_publisher(path: str, publisher: Publisher | None = None) -> AsyncIterator[Publisher]:
    """Let a publisher serve at a path. Default: a new one."""
    publisher = publisher or Publisher()
    await publisher.serve(path)
    try:
        yield publisher
    finally:
        publisher.close()
        await until(lambda: not publisher.subscriber_count)
        with contextlib.suppress(FileNotFoundError):  # Python 3.13 has removed it
            os.unlink(path)  # noqa: PTH108 - does not block


def health_of(*, ready: bool, stale: bool, source: str = ALL_SOURCES) -> SourceHealth:
    """The health of a source."""
    return SourceHealth(ready, 1.0 if stale else None, source)


def contents(table: Table) -> tuple[int, list[Change]]:
    """The serial and the sorted contents of a table."""
    return table.serial, sorted(table.contents(), key=repr)


def member(number: int, host: str = "10.0.0.1") -> Member:
    return Member(f"member_{number:010d}", Endpoint(host, 80))


def put(service: str, *members: Member) -> SetPut:
    return SetPut(f"/discovery/staging/{service}", ServiceName(service, "staging"), members)


def watcher_context(config: Config, publisher: Publisher) -> WatcherContext:
    """The context of a watcher without sources."""
    history = History(publisher, config.zone)
    publisher.add_listener(history)
    return WatcherContext(config, publisher, history, HostResolver(publisher.table, publisher.publish))
