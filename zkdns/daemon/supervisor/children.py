"""The child processes: starting one, keeping it running, and waiting for its state.

start ──▶ task ──▶ reports … ──▶ exit ──▶ the next process
           orders ──▶                └──▶ none after `stop` (exit at once) or `retire` (finish queries first)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

import zkdns
from zkdns.config.setting import PREFIX
from zkdns.daemon.ipc.child import ORDERS, REPORTS, RETIRE_SECONDS, TASKS, Order, Report, Retire, Task
from zkdns.errors import ZkdnsError
from zkdns.telemetry.stats import MembersReport, ServiceMembers, Stats
from zkdns.telemetry.traffic import ServiceTotals, TopReport

log = structlog.get_logger("zkdns.supervisor")

STOP_SECONDS = 3.0
"""Time-out of a child that was terminated; then it is killed."""
_RETIRE_SLACK = 1.0  # seconds after which a retiring child is terminated, in addition to RETIRE_SECONDS

# A child that ran this long is replaced at once, and so is the first one that did not. For the next ones, the
# pause doubles each time.
_STEADY_SECONDS = 5.0
_MIN_PAUSE, _MAX_PAUSE = 0.1, 5.0


class ChildNotReadyError(ZkdnsError):
    """A new process does not become ready. The text names it and the reason."""


class ChildProcess:
    """A child process, and its successors if it exits, until `stop` or `retire`.

    Attributes:
        task: the task of the next process that starts.
        deaths: number of processes that exited unexpectedly or could not be started.
        ready: from the last report of the current process.
        stats: from the last report of the current process. None: it has not reported any.
        members: the members by service, if it is a watcher.
        top: the most frequent names and clients of the current process. None: it has reported none.
        pid: process id of the current process. None: no process is running.

    Args:
        task: see above. Each process inherits its file descriptors.
        on_change: called after each report about its state, and when a process has exited.
        totals: counts the responses of its processes by service. None: not counted.
    """

    def __init__(
        self, task: Task, on_change: Callable[[], None], totals: ServiceTotals | None = None
    ) -> None:
        self.task = task
        self.deaths = 0
        self.ready = False
        self.stats: Stats | None = None
        self.members: dict[str, ServiceMembers] = {}
        self.top: TopReport | None = None
        self.pid: int | None = None
        self._on_change = on_change
        self._totals = totals
        self._writer: asyncio.StreamWriter | None = None
        self._is_retiring = False
        self._has_stopped_receiving = False
        self._transfer = ""
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep a process running. Returns after `stop` or `retire`, when the last one has exited."""
        early_deaths = 0
        while not self._stopping.is_set():
            started_at = time.monotonic()
            status = await self._run_once()
            if self.is_ending:
                return
            self.deaths += 1
            self._on_change()
            is_steady = time.monotonic() - started_at > _STEADY_SECONDS
            early_deaths = 0 if is_steady else early_deaths + 1
            pause = _pause_after(early_deaths)
            log.error("process_exited", role=self.task.role, status=status, restart_seconds=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    @property
    def is_ending(self) -> bool:
        """True if the process has no successor."""
        return self._is_retiring or self._stopping.is_set()

    @property
    def has_stopped_receiving(self) -> bool:
        """True if the process retires and accepts no more queries from shared sockets, or has exited."""
        return self._has_stopped_receiving if self._writer is not None else self.is_ending

    @property
    def relays_as_told(self) -> bool:
        """False if the process still relays zone transfers in another way than its task says."""
        return self._transfer == self.task.transfer if self.stats is not None else True

    def send(self, order: Order) -> None:
        """Send an order to the current process, if there is one."""
        if self._writer is not None:
            self._writer.write(ORDERS.encode(order))

    def retire(self, exclusive_sockets: tuple[int, ...] = ()) -> None:
        """Let a worker finish its queries and exit.

        Args:
            exclusive_sockets: those of its sockets that no other worker reads.
        """
        self._is_retiring = True
        if self._writer is None:  # no process is running
            self.stop()
            return
        self.send(Retire(exclusive_sockets))
        asyncio.get_running_loop().call_later(RETIRE_SECONDS + _RETIRE_SLACK, self.stop)

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not exit. `run` returns when it has exited."""
        self._stopping.set()

    async def _run_once(self) -> int | None:
        """Run one process, and return its exit status. None: it could not be started."""
        try:
            process, control = await self._start()
        except OSError as error:  # out of processes, memory or file descriptors, which may be temporary
            log.error("process_start_failed", role=self.task.role, reason=str(error))
            return None
        self.pid = process.pid
        terminating = asyncio.create_task(self._terminate_on_stop(process))
        reader, writer = await asyncio.open_unix_connection(sock=control)
        writer.write(TASKS.encode(self.task))
        self._writer = writer
        log.debug("process_started", role=self.task.role, pid=process.pid)
        while (report := await REPORTS.read(reader)) is not None:
            if isinstance(report, MembersReport):
                self._update_members(report)
                continue
            if not isinstance(report, Report):
                self.top = report.top or self.top
                if self._totals is not None:
                    self._totals.add(report.services)
                continue
            self.ready, self.stats = report.ready, report.stats
            self._has_stopped_receiving = report.has_stopped_receiving
            self._transfer = report.transfer
            self._on_change()
        status = await process.wait()
        terminating.cancel()
        writer.close()
        self.pid, self.ready, self.stats, self.top, self._writer = None, False, None, None, None
        self.members = {}
        self._on_change()
        return status

    def _update_members(self, report: MembersReport) -> None:
        """Replace the dictionary, because a scrape may read it in a thread."""
        members = {**self.members, **report.services}
        for service in report.gone:
            members.pop(service, None)
        self.members = members

    async def _start(self) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """Start a process, and return it with the supervisor's end of its control socket."""
        parent_end, child_end = socket.socketpair()
        with child_end, contextlib.ExitStack() as closed_on_error:
            closed_on_error.enter_context(parent_end)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "zkdns.daemon", self.task.role, str(child_end.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(), *self.task.descriptors),
                env=_environment(),
                process_group=0,  # so that Ctrl-C in a terminal signals the supervisor only
            )
            closed_on_error.pop_all()
        return process, parent_end

    async def _terminate_on_stop(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            log.warning("process_killed", role=self.task.role, pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()


class ChildProcesses:
    """All child processes of a server, including those that are starting or retiring.

    Args:
        on_change: called after each report about a process's state, and when a process has exited.
        on_failure: called if the task of a `ChildProcess` ends unexpectedly, which is an internal error.
        totals: counts the responses of all processes by service.
    """

    def __init__(
        self, on_change: Callable[[], None], on_failure: Callable[[], None], totals: ServiceTotals
    ) -> None:
        self._on_change, self._on_failure, self._totals = on_change, on_failure, totals
        self._running: dict[ChildProcess, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def start(self, task: Task) -> ChildProcess:
        """Start a process, which is replaced whenever it exits, until it is stopped or retired."""
        child = ChildProcess(task, self._notify, self._totals)
        running = self._running[child] = asyncio.create_task(child.run())
        running.add_done_callback(lambda _: self._on_end(child))
        return child

    async def wait_until(
        self, condition: Callable[[], bool], child: ChildProcess, seconds: float, *, reason: str = ""
    ) -> None:
        """Wait until a condition on a new process holds.

        Args:
            condition: checked after each report.
            child: the new process.
            seconds: the time-out.
            reason: end of the error's text, the likely reason of a time-out.

        Raises:
            ChildNotReadyError: the process exited, or the time-out ended.
        """
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if child.deaths:
                        raise ChildNotReadyError(f"the new {child.task.role} ended instead of being ready")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise ChildNotReadyError(
                f"the new {child.task.role} is not ready after {seconds:g} s{reason}"
            ) from None

    async def wait_until_switched(
        self, retiring: Iterable[ChildProcess], kept: Iterable[ChildProcess], seconds: float
    ) -> None:
        """Wait until no worker answers in the old way any more.

        Args:
            retiring: workers that stop to accept queries from shared sockets.
            kept: workers that may have got the order to relay zone transfers in another way.
            seconds: the maximum time.
        """
        leaving, staying = tuple(retiring), tuple(kept)

        def have_switched() -> bool:
            return all(child.has_stopped_receiving for child in leaving if child in self._running) and all(
                child.relays_as_told for child in staying
            )

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not have_switched():
                    self._changed.clear()
                    await self._changed.wait()

    async def wait_until_exited(self, ending: Iterable[ChildProcess]) -> None:
        """Wait until these stopped or retiring processes have exited."""
        if running := [self._running[child] for child in ending if child in self._running]:
            await asyncio.wait(running)

    async def stop_all(self) -> None:
        """Stop all processes, and wait until they have exited."""
        for child in self._running:
            child.stop()
        await asyncio.gather(*self._running.values())

    def _notify(self) -> None:
        self._changed.set()
        self._on_change()

    def _on_end(self, child: ChildProcess) -> None:
        if child.is_ending:
            del self._running[child]
        else:  # `stop_all` raises the error
            self._on_failure()


def _pause_after(early_deaths: int) -> float:
    """Return the seconds to wait before the next start."""
    if early_deaths <= 1:
        return 0.0
    return min(_MAX_PAUSE, _MIN_PAUSE * 2.0 ** min(early_deaths - 2, 6))


def _environment() -> dict[str, str]:
    """Return the environment of a child, which imports this installation of the package.

    It lacks zkdns' own variables, because the task holds all settings, and workers must not see ZooKeeper's.
    """
    here = str(Path(zkdns.__file__).resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**inherited, "PYTHONPATH": os.pathsep.join([here, *others])}
