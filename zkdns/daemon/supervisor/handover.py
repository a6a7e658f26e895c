"""How one configuration takes the place of another, without a query going unanswered.

    bind what is new ─▶ start a watcher ─▶ start workers, one after the other ─▶ all of them work
                            ╰── reads what the old one knows           ╰── on the same sockets
    an error up to here: the new ones go, and nothing has happened          │
                                                                            ▼
              close what nobody reads any more ◀─ the old ones finish ◀─ the old ones take no more

Until the new processes work, all that serves stays as it is. So there is no gap, no mixture that stays, and
nothing to be undone; for a moment there are twice as many processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.ipc.child import RETIRE_SECONDS, Configure, Follow, Promote, Task
from zkdns.daemon.supervisor.child_process import ChildProcess
from zkdns.daemon.supervisor.children import ChildProcesses
from zkdns.daemon.supervisor.config_diff import ConfigDiff, config_for
from zkdns.daemon.supervisor.listeners import Listeners, close
from zkdns.telemetry.stats import WatcherStats
from zkdns.transport.sockets import SocketPair

log = structlog.get_logger("zkdns.supervisor")

READY_SECONDS: Final = 30.0
"""How long a new process may take until it works."""
# A new watcher has the table of the old one at once; so long it may read ZooKeeper before it takes the place
# of one that may have read it.
_SETTLE_SECONDS = 3.0


class Generation(msgspec.Struct, frozen=True):
    """What serves."""

    config: Config
    listeners: Listeners
    watcher: ChildProcess
    workers: tuple[ChildProcess, ...]

    @property
    def is_ready(self) -> bool:
        """Whether every worker has a table."""
        return all(worker.ready for worker in self.workers)

    @property
    def has_table(self) -> bool:
        """Whether a worker has one."""
        return any(worker.ready for worker in self.workers)


class Handover:
    """Starts what serves, and puts something else in its place.

    Args:
        crew: starts processes.
        directory: for the sockets of feeds.
        secret: what workers have in common.
    """

    def __init__(self, crew: ChildProcesses, directory: Path, secret: bytes) -> None:
        self._crew = crew
        self._directory = directory
        self._secret = secret
        self._feeds = 0
        self._retiring: list[ChildProcess] = []
        self._closing: asyncio.Task[None] | None = None

    def begin(self, config: Config, listeners: Listeners) -> Generation:
        """Start the first processes."""
        _tell_addresses(listeners, Listeners())
        watcher = self._crew.start(Task("watcher", config, self._next_feed(), listeners.addresses))
        workers = [
            self._crew.start(self._worker_task(config, watcher, listeners, number))
            for number in range(config.workers)
        ]
        return Generation(config, listeners, watcher, tuple(workers))

    async def change(self, old: Generation, config: Config, plan: ConfigDiff) -> Generation:
        """Let processes of another configuration work, and those of the old one end.

        Raises:
            ListenError: an address cannot be bound.
            NotReadyError: a new process does not come to work. In both cases all is as it was.
        """
        if self._closing is not None:
            await asyncio.wait([self._closing])  # lest there are ever more that finish
        listeners = old.listeners.changed(config.listen, config.workers)
        hired: list[ChildProcess] = []
        try:
            watcher = old.watcher
            if plan.watcher:
                watcher = await self._new_watcher(old, config, listeners, plan, hired)
            kept = () if plan.workers else old.workers[: config.workers]
            for number in range(len(kept), config.workers):
                task = self._worker_task(config, watcher, listeners, number)
                task = msgspec.structs.replace(task, waits_for_table=old.has_table)
                await self._hire(task, hired, must_be_ready=task.waits_for_table)
        except BaseException:
            self._let_go(hired, listeners.without(old.listeners), then=old.listeners)
            raise
        workers = *kept, *(keeper for keeper in hired if keeper is not watcher)
        running = Generation(config, listeners, watcher, workers)
        self._hand_over(old, running, kept)
        return running

    async def left(self) -> None:
        """Wait until the new processes alone take queries: from then on the old configuration answers none.

        An old one that does not say so in time answers nobody either, or nothing that comes.
        """
        await self._crew.left(self._retiring, RETIRE_SECONDS)

    async def _new_watcher(
        self,
        old: Generation,
        config: Config,
        listeners: Listeners,
        plan: ConfigDiff,
        hired: list[ChildProcess],
    ) -> ChildProcess:
        feed = self._next_feed()
        task = Task("watcher", config, feed, listeners.addresses, is_leader=False)
        if plan.inherits:
            since = _stale_since(old.watcher)
            task = msgspec.structs.replace(task, predecessor_feed=old.watcher.task.feed, stale_since=since)
        watcher = await self._hire(task, hired, must_be_ready=old.has_table)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._crew.ready(watcher, READY_SECONDS, is_enough=lambda: _is_settled(watcher))
        return watcher

    async def _hire(self, task: Task, hired: list[ChildProcess], *, must_be_ready: bool) -> ChildProcess:
        """Start a process and wait until it works: where nobody has a table, it need not have one either."""
        keeper = self._crew.start(task)
        hired.append(keeper)
        zookeeper = task.config.zookeeper.hosts  # which no worker knows
        await self._crew.ready(
            keeper,
            READY_SECONDS,
            is_enough=lambda: keeper.ready or (not must_be_ready and keeper.stats is not None),
            awaited=f": ZooKeeper at {zookeeper} has not been read" if zookeeper else "",
        )
        return keeper

    def _hand_over(self, old: Generation, new: Generation, kept: Sequence[ChildProcess]) -> None:
        """Let the new ones work alone."""
        if new.watcher is not old.watcher:
            feed = new.watcher.task.feed
            for keeper in kept:
                keeper.task = msgspec.structs.replace(keeper.task, feed=feed)
                keeper.tell(Follow(feed))
            new.watcher.tell(Promote(old.watcher.pid or 0))
            task = msgspec.structs.replace(
                new.watcher.task, is_leader=True, predecessor_feed=None, stale_since=None
            )
            new.watcher.task = task
        elif new.config != old.config:  # it explains what workers do
            new.watcher.task = msgspec.structs.replace(new.watcher.task, config=new.config)
            new.watcher.tell(Configure(new.config))
        for keeper in new.workers:
            keeper.task = msgspec.structs.replace(keeper.task, waits_for_table=False)
        new.listeners.share_out()
        stay = new.watcher, *new.workers
        gone = [keeper for keeper in (old.watcher, *old.workers) if keeper not in stay]
        self._let_go(gone, old.listeners.without(new.listeners), then=new.listeners)
        _tell_addresses(new.listeners, old.listeners)

    def _let_go(
        self, keepers: Sequence[ChildProcess], alone: Sequence[SocketPair], *, then: Listeners
    ) -> None:
        """Let processes finish, and close the sockets that only they read when they have."""
        files = {sock.fileno() for pair in alone for sock in (pair.udp, pair.tcp)}
        then.leave_out(alone)
        self._retiring = [keeper for keeper in keepers if _is_at_work(keeper)]
        for keeper in keepers:
            if keeper in self._retiring:
                keeper.retire(tuple(file for file in keeper.task.sockets if file in files))
            else:
                keeper.stop()

        async def close_in_time() -> None:
            await self._crew.gone(keepers)
            close(alone)
            then.share_out()
            for keeper in keepers:
                if keeper.task.role == "watcher":
                    _unlink(keeper.task.feed)

        self._closing = asyncio.create_task(close_in_time())

    def _next_feed(self) -> str:
        self._feeds += 1
        return str(self._directory / f"feed{self._feeds}")

    def _worker_task(self, config: Config, watcher: ChildProcess, listeners: Listeners, number: int) -> Task:
        return worker_task(
            config, watcher.task.feed, listeners.addresses, listeners.of_worker(number), self._secret
        )


def worker_task(
    config: Config, feed: str, listening: tuple[HostPort, ...], sockets: tuple[int, ...], secret: bytes
) -> Task:
    """Return the task of a worker, with the settings that it uses."""
    return Task("worker", config_for("worker", config), feed, listening, sockets, secret)


def _is_at_work(keeper: ChildProcess) -> bool:
    """Whether it may have begun to answer somebody."""
    return keeper.task.role == "worker" and (keeper.ready or not keeper.task.waits_for_table)


def _unlink(feed: str) -> None:
    Path(feed).unlink(missing_ok=True)


def _tell_addresses(now: Listeners, before: Listeners) -> None:
    for listener in now.each:
        if listener.address not in before.addresses:
            log.info("listener_opened", address=str(listener.address), socket_activated=listener.is_passed)
    for address in before.addresses:
        if address not in now.addresses:
            log.info("listener_closed", address=str(address))


def _is_settled(watcher: ChildProcess) -> bool:
    """Whether it says that its table is of now."""
    return watcher.ready and watcher.stats is not None and _stale_since(watcher) is None


def _stale_since(watcher: ChildProcess) -> float | None:
    """Since when it has told that its table is not of now."""
    stats = watcher.stats
    return stats.stale_since if isinstance(stats, WatcherStats) else None
