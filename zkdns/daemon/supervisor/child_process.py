"""Keeps one child process running: starts it, hands it its task, hears its reports, replaces it.

start ──▶ task ──▶ reports … ──▶ its end ──▶ another one
            orders ──▶                └──▶ none, after `stop` (at once) and `retire` (in its own time)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

import zkdns
from zkdns.config.setting import PREFIX
from zkdns.daemon.ipc.child import ORDERS, REPORTS, RETIRE_SECONDS, TASKS, Order, Retire, Task
from zkdns.telemetry.stats import Stats

log = structlog.get_logger("zkdns.supervisor")

STOP_SECONDS = 3.0
"""How long a child may take to end before it is killed."""
_RETIRE_SLACK = 1.0  # seconds until one that should have retired by itself is asked to end

# A child that lived this long is replaced at once, and so is the first that did not; the next ones a little
# later each time.
_STEADY_SECONDS = 5.0
_LEAST_PAUSE, _MOST_PAUSE = 0.1, 5.0


class ChildProcess:
    """Runs a child until `stop` or `retire`.

    Attributes:
        task: what each child is told to do from now on.
        deaths: how many children ended, or could not be started, that were to go on.
        ready: what the child that runs now last reported.
        stats: of its last report; None: not reported.
        pid: its process number; None between two of them.

    Args:
        task: what each child is told to do; its sockets are inherited.
        heard: called after each report, and when a child has ended.
    """

    def __init__(self, task: Task, heard: Callable[[], None]) -> None:
        self.ready = False
        self.stats: Stats | None = None
        self.pid: int | None = None
        self.task = task
        self.deaths = 0
        self._heard = heard
        self._writer: asyncio.StreamWriter | None = None
        self._is_retiring = False
        self._has_left = False
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep a child running; returns after `stop` or `retire`, when the last one has ended."""
        early_deaths = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            status = await self._run_once()
            if self.is_ending:
                return
            self.deaths += 1
            self._heard()
            lived = time.monotonic() - begun
            early_deaths = 0 if lived > _STEADY_SECONDS else early_deaths + 1
            pause = (
                min(_MOST_PAUSE, _LEAST_PAUSE * 2 ** min(early_deaths - 2, 6)) if early_deaths > 1 else 0.0
            )
            log.error("process_exited", role=self.task.role, status=status, restart_seconds=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    @property
    def is_ending(self) -> bool:
        """Whether no other child is to follow."""
        return self._is_retiring or self._stopping.is_set()

    @property
    def has_left(self) -> bool:
        """Whether one that retires takes no more queries where others do, or has ended."""
        return self._has_left if self._writer is not None else self.is_ending

    def tell(self, order: Order) -> None:
        """Give an order to the child that runs now, if there is one."""
        if self._writer is not None:
            self._writer.write(ORDERS.encode(order))

    def retire(self, alone: tuple[int, ...] = ()) -> None:
        """Let a worker finish what it has begun, and end.

        Args:
            alone: of its sockets those that nobody else takes from.
        """
        self._is_retiring = True
        if self._writer is None:  # none runs that could have begun anything
            self.stop()
            return
        self.tell(Retire(alone))
        asyncio.get_running_loop().call_later(RETIRE_SECONDS + _RETIRE_SLACK, self.stop)

    def stop(self) -> None:
        """Ask the child to end, and make it end if it does not; `run` returns when it has."""
        self._stopping.set()

    async def _run_once(self) -> int | None:
        """Run one child from start to end; return its exit status, None where it cannot be started."""
        try:
            process, control = await self._start()
        except OSError as error:  # no processes, no memory, no file descriptors: that may pass
            log.error("process_start_failed", role=self.task.role, reason=str(error))
            return None
        self.pid = process.pid
        ender = asyncio.create_task(self._end_when_asked(process))
        reader, writer = await asyncio.open_unix_connection(sock=control)
        writer.write(TASKS.encode(self.task))
        self._writer = writer
        log.debug("process_started", role=self.task.role, pid=process.pid)
        while (report := await REPORTS.read(reader)) is not None:
            self.ready, self.stats, self._has_left = report.ready, report.stats, report.has_stopped_receiving
            self._heard()
        status = await process.wait()
        ender.cancel()
        writer.close()
        self.pid, self.ready, self.stats, self._writer = None, False, None, None
        self._heard()
        return status

    async def _start(self) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """Start a child; return it with our end of its control socket."""
        ours, its = socket.socketpair()
        with its, contextlib.ExitStack() as closed_on_error:
            closed_on_error.enter_context(ours)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "zkdns.daemon", self.task.role, str(its.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(), *self.task.sockets),
                env=_environment(),
                process_group=0,  # Ctrl-C in a terminal is for the supervisor, which ends the others in order
            )
            closed_on_error.pop_all()
        return process, ours

    async def _end_when_asked(self, process: asyncio.subprocess.Process) -> None:
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


def _environment() -> dict[str, str]:
    """The environment of a child: it finds this very package, and nothing that lies in its directory.

    Our own variables stay here: a child is told what it needs to know, and the worker no ZooKeeper.
    """
    here = str(Path(zkdns.__file__).resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**inherited, "PYTHONPATH": os.pathsep.join([here, *others])}
