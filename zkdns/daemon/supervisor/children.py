"""The processes that there are: those that work, those that are about to, and those that finish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from zkdns.daemon.ipc.child import Task
from zkdns.daemon.supervisor.child_process import ChildProcess
from zkdns.errors import ZkdnsError


class ChildNotReadyError(ZkdnsError):
    """A process does not come to work; the text says which, and why."""


class ChildProcesses:
    """Starts processes, and knows when they have ended.

    Args:
        heard: called after each report, and when a process has ended.
        failed: called when nobody keeps a process any more that is to run, which never should be.
    """

    def __init__(self, heard: Callable[[], None], failed: Callable[[], None]) -> None:
        self._heard, self._failed = heard, failed
        self._running: dict[ChildProcess, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    def start(self, task: Task) -> ChildProcess:
        """Start a process, and others in its place, until it is stopped."""
        keeper = ChildProcess(task, self._hear)
        running = self._running[keeper] = asyncio.create_task(keeper.run())
        running.add_done_callback(lambda _: self._ended(keeper))
        return keeper

    async def ready(
        self, keeper: ChildProcess, seconds: float, *, is_enough: Callable[[], bool], awaited: str = ""
    ) -> None:
        """Wait until a new process works.

        Args:
            keeper: whose.
            seconds: how long that may take.
            is_enough: whether it does; looked at after each report.
            awaited: what it waits for, for the error.

        Raises:
            NotReadyError: it ended, or does not in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while not is_enough():
                    if keeper.deaths:
                        raise ChildNotReadyError(f"the new {keeper.task.role} ended instead of being ready")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise ChildNotReadyError(
                f"the new {keeper.task.role} is not ready after {seconds:g} s{awaited}"
            ) from None

    async def left(self, keepers: Iterable[ChildProcess], seconds: float) -> None:
        """Wait until these take no more queries where others do, but no longer than so many seconds.

        They must have been asked to retire.
        """
        keepers = tuple(keepers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(keeper.has_left for keeper in keepers if keeper in self._running):
                    self._news.clear()
                    await self._news.wait()

    async def gone(self, keepers: Iterable[ChildProcess]) -> None:
        """Wait until these have ended, which must have been asked to."""
        if running := [self._running[keeper] for keeper in keepers if keeper in self._running]:
            await asyncio.wait(running)

    async def end(self) -> None:
        """End all."""
        for keeper in self._running:
            keeper.stop()
        await asyncio.gather(*self._running.values())

    def _hear(self) -> None:
        self._news.set()
        self._heard()

    def _ended(self, keeper: ChildProcess) -> None:
        if keeper.is_ending:
            del self._running[keeper]
        else:  # `end` tells why
            self._failed()
