"""Handover: replaces the processes of one configuration with those of another, without losing a query.

    bind new sockets ─▶ start a watcher ─▶ start workers, one at a time ─▶ all are ready
                            ╰─ copies the old watcher's table ╰─ on the same sockets
    an error up to here: stop the new processes and keep the old ones       │
                                                                            ▼
                   close unused sockets ◀─ the old ones finish ◀─ the old workers stop accepting queries

The old generation serves until the new one is ready. So there is no gap in service, and an error needs no
rollback. For a moment, twice as many processes run.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from zkdns.config import Config
from zkdns.daemon.ipc.child import (
    RETIRE_SECONDS,
    Configure,
    Follow,
    Promote,
    RelayTransfers,
    Task,
    copy_path,
)
from zkdns.daemon.supervisor.children import ChildProcess, ChildProcesses
from zkdns.daemon.supervisor.config_diff import ConfigDiff, config_for
from zkdns.daemon.supervisor.listeners import Listener, Listeners, close
from zkdns.daemon.supervisor.server_state import Generation
from zkdns.telemetry.stats import WatcherStats

log = structlog.get_logger("zkdns.supervisor")

READY_SECONDS: Final = 30.0
"""Time-out until a new process is ready."""
# A new watcher is ready as soon as it has copied the old one's table. It gets this time to read ZooKeeper
# too, before it replaces a watcher that has.
_SETTLE_SECONDS = 3.0


class Handover:
    """Starts the first generation, and replaces a generation with the next one.

    Args:
        children: starts the processes.
        directory: the directory for the sockets of feeds.
        secret: the secret that all workers share.
        rates: the memory that all workers share (`Task.rates`).
    """

    def __init__(
        self, children: ChildProcesses, directory: Path, secret: bytes, rates: int | None = None
    ) -> None:
        self._children = children
        self._directory = directory
        self._secret = secret
        self._rates = rates
        self._feeds = 0
        self._copies = 0
        self._retiring: list[ChildProcess] = []
        self._kept: Sequence[ChildProcess] = ()
        self._closing: asyncio.Task[None] | None = None

    def start(self, config: Config, listeners: Listeners) -> Generation:
        """Start the first generation."""
        _log_addresses(listeners, Listeners())
        watcher = self._children.start(
            Task("watcher", config, self._next_feed(), listeners.addresses, notify=self._notify_path)
        )
        workers = [
            self._children.start(self._worker_task(config, watcher, listeners, number))
            for number in range(config.workers)
        ]
        transfer = None
        if config.transfer.is_enabled:
            transfer = self._children.start(self._transfer_task(config, watcher, listeners))
        return Generation(config, listeners, watcher, tuple(workers), transfer)

    async def replace(self, old: Generation, config: Config, diff: ConfigDiff) -> Generation:
        """Start the generation of another configuration, and retire the processes that it replaces.

        Raises:
            ListenError: an address cannot be bound.
            ChildNotReadyError: a new process does not become ready. After both errors the old generation
                serves as before.
        """
        if self._closing is not None:
            await asyncio.wait([self._closing])  # limits the number of retiring processes
        listeners = old.listeners.changed(config.listen, config.workers, config.tls.listen)
        started: list[ChildProcess] = []
        try:
            watcher = old.watcher
            if diff.watcher:
                watcher = await self._start_watcher(old, config, listeners, diff, started)
            kept = () if diff.workers else old.workers[: config.workers]
            for number in range(len(kept), config.workers):
                task = self._worker_task(config, watcher, listeners, number)
                task = msgspec.structs.replace(task, waits_for_table=old.has_table)
                await self._start_and_wait(task, started, must_be_ready=task.waits_for_table)
            transfer = old.transfer if config.transfer.is_enabled else None
            if config.transfer.is_enabled and (diff.transfer or transfer is None):
                task = self._transfer_task(config, watcher, listeners)
                transfer = await self._start_and_wait(task, started, must_be_ready=False)
        except BaseException:
            self._end(started, listeners.without(old.listeners), remaining=old.listeners)
            raise
        workers = *kept, *(child for child in started if child.task.role == "worker")
        new = Generation(config, listeners, watcher, workers, transfer)
        self._switch(old, new, kept)
        return new

    async def wait_until_switched(self) -> None:
        """Wait until only the new generation accepts queries, so that no client gets an old response.

        Workers that stay have carried out their orders then: they refuse zone transfers, for instance.

        The wait is limited: a worker that does not report by then hangs, and does not respond either.
        """
        await self._children.wait_until_switched(self._retiring, self._kept, RETIRE_SECONDS)

    async def _start_watcher(
        self,
        old: Generation,
        config: Config,
        listeners: Listeners,
        diff: ConfigDiff,
        started: list[ChildProcess],
    ) -> ChildProcess:
        task = Task(
            "watcher",
            config,
            self._next_feed(),
            listeners.addresses,
            is_leader=False,
            notify=self._notify_path,
        )
        if diff.takes_over_table:
            task = msgspec.structs.replace(task, predecessor_feed=old.watcher.task.feed)
        watcher = await self._start_and_wait(task, started, must_be_ready=old.has_table)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._children.wait_until(lambda: _is_settled(watcher), watcher, READY_SECONDS)
        return watcher

    async def _start_and_wait(
        self, task: Task, started: list[ChildProcess], *, must_be_ready: bool
    ) -> ChildProcess:
        """Start a process, add it to `started`, and wait until it is ready.

        Args:
            task: its task.
            started: all processes started so far.
            must_be_ready: False if no old worker has a table. Then the first report is enough.
        """
        child = self._children.start(task)
        started.append(child)
        config = task.config
        source = f"ZooKeeper at {config.zookeeper.hosts}" if config.zookeeper.hosts else ""
        if config.is_secondary and task.role == "watcher":
            source = f"the primary {' or '.join(map(str, config.primary.servers))}"
        await self._children.wait_until(
            lambda: child.ready or (not must_be_ready and child.stats is not None),
            child,
            READY_SECONDS,
            reason=f": {source} has not been read" if source else "",
        )
        return child

    def _switch(self, old: Generation, new: Generation, kept: Sequence[ChildProcess]) -> None:
        """Let the new generation serve alone, and end the processes that are not part of it.

        Args:
            old: the previous generation.
            new: the next one.
            kept: workers that are part of both.
        """
        if new.watcher is not old.watcher:
            feed = new.watcher.task.feed
            for child in (*kept, *([new.transfer] if new.transfer is not None else [])):
                if child.task.feed != feed:
                    child.task = msgspec.structs.replace(child.task, feed=feed)
                    child.send(Follow(feed))
            new.watcher.send(Promote())
            new.watcher.task = msgspec.structs.replace(
                new.watcher.task, is_leader=True, predecessor_feed=None
            )
        elif new.config != old.config:  # the watcher explains responses, which depend on workers' settings
            new.watcher.task = msgspec.structs.replace(new.watcher.task, config=new.config)
            new.watcher.send(Configure(new.config))
        transfer = self._transfer_path(new.config)
        for child in new.workers:
            if child.task.transfer != transfer:
                child.send(RelayTransfers(transfer))
            child.task = msgspec.structs.replace(child.task, waits_for_table=False, transfer=transfer)
        self._kept = kept
        new.listeners.share_out()
        ending = [child for child in old.children if child not in new.children]
        self._end(ending, old.listeners.without(new.listeners), remaining=new.listeners)
        _log_addresses(new.listeners, old.listeners)

    def _end(
        self, ending: Sequence[ChildProcess], unused: Sequence[socket.socket], *, remaining: Listeners
    ) -> None:
        """End processes, and close the sockets that only they read.

        Args:
            ending: the processes. Workers that may have accepted queries retire; the others stop.
            unused: the sockets, closed when the processes have exited.
            remaining: the listeners that stay.
        """
        descriptors = {sock.fileno() for sock in unused}
        remaining.leave_out(unused)
        self._retiring = [child for child in ending if _may_have_queries(child)]
        for child in ending:
            if child.task.role == "transfer":
                child.retire()
            elif child in self._retiring:
                child.retire(tuple(number for number in child.task.sockets if number in descriptors))
            else:
                child.stop()

        async def close_unused() -> None:
            await self._children.wait_until_exited(ending)
            close(unused)
            remaining.share_out()
            for child in ending:
                if child.task.role != "transfer":  # its successor listens at the same path
                    _unlink(child.task.feed if child.task.role == "watcher" else child.task.copy)

        self._closing = asyncio.create_task(close_unused())

    def _next_feed(self) -> str:
        self._feeds += 1
        return str(self._directory / f"feed{self._feeds}")

    def _worker_task(self, config: Config, watcher: ChildProcess, listeners: Listeners, number: int) -> Task:
        self._copies += 1
        return Task(
            "worker",
            config_for("worker", config),
            watcher.task.feed,
            listeners.addresses,
            sockets=listeners.of_worker(number),
            tls_sockets=listeners.tls_of_worker(number),
            rates=self._rates,
            secret=self._secret,
            copy=copy_path(self._directory, self._copies),
            notify=self._notify_path,
            transfer=self._transfer_path(config),
        )

    def _transfer_task(self, config: Config, watcher: ChildProcess, listeners: Listeners) -> Task:
        return Task(
            "transfer",
            config_for("transfer", config),
            watcher.task.feed,
            listeners.addresses,
            transfer=self._transfer_path(config),
        )

    @property
    def _notify_path(self) -> str:
        """The socket at which a watcher receives NOTIFY messages. Only that of a secondary listens."""
        return str(self._directory / "notify")

    def _transfer_path(self, config: Config) -> str:
        return str(self._directory / "transfer") if config.transfer.is_enabled else ""


def _may_have_queries(child: ChildProcess) -> bool:
    """True if the process is a worker that may have accepted queries."""
    return child.task.role == "worker" and (child.ready or not child.task.waits_for_table)


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _log_addresses(now: Listeners, before: Listeners) -> None:
    for listener in now.each:
        if not _has(before, listener):
            log.info(
                "listener_opened",
                address=str(listener.address),
                tls=listener.is_tls,
                socket_activated=listener.is_passed,
            )
    for listener in before.each:
        if not _has(now, listener):
            log.info("listener_closed", address=str(listener.address), tls=listener.is_tls)


def _has(listeners: Listeners, listener: Listener) -> bool:
    return any(one.is_for(listener.address, is_tls=listener.is_tls) for one in listeners.each)


def _is_settled(watcher: ChildProcess) -> bool:
    """True if the watcher reports that its table is up to date."""
    return watcher.ready and watcher.stats is not None and _stale_since(watcher) is None


def _stale_since(watcher: ChildProcess) -> float | None:
    """Return the time since which the watcher's table has been stale. None: it is up to date, or unknown."""
    stats = watcher.stats
    return stats.stale_since if isinstance(stats, WatcherStats) else None
