"""Keeps one child process running: starts it, hands it its task, hears its reports, replaces it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

import zkdns
from zkdns.daemon.child import REPORTS, TASKS, Task

log = structlog.get_logger("zkdns.supervisor")

STOP_SECONDS = 4.0
"""How long a child may take to end before it is killed."""

# A child that lived this long is replaced at once; one that died sooner a little later each time.
_STEADY_SECONDS = 5.0
_LEAST_PAUSE, _MOST_PAUSE = 0.1, 5.0


class ChildKeeper:
    """Runs a child until `stop`.

    Attributes:
        ready: what the child that runs now last reported.
        pid: its process number; None between two of them.

    Args:
        task: what each child is told to do; its sockets are inherited.
        heard: called after each report, and when a child has ended.
    """

    def __init__(self, task: Task, heard: Callable[[], None]) -> None:
        self.ready = False
        self.pid: int | None = None
        self._task = task
        self._heard = heard
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep a child running; returns after `stop`, when the last one has ended."""
        pause = 0.0
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                status = await self._run_once()
            except OSError as error:  # no processes, no memory, no file descriptors: that may pass
                log.error("process cannot be started", role=self._task.role, reason=str(error))
                status = None
            if self._stopping.is_set():
                return
            lived = time.monotonic() - begun
            pause = 0.0 if lived > _STEADY_SECONDS else min(_MOST_PAUSE, max(_LEAST_PAUSE, pause * 2))
            log.error(
                "process ended; starting another", role=self._task.role, status=status, in_seconds=pause
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def stop(self) -> None:
        """Ask the child to end, and make it end if it does not."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        self._signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("process does not end; killing it", role=self._task.role, pid=process.pid)
            self._signal(process, signal.SIGKILL)

    async def _run_once(self) -> int:
        """Run one child from start to end; return its exit status."""
        ours, its = socket.socketpair()
        with its:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "zkdns.daemon", self._task.role, str(its.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(), *self._task.sockets),
                env=_environment(),
                process_group=0,  # Ctrl-C in a terminal is for the supervisor, which ends the others in order
            )
        self._process, self.pid = process, process.pid
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(TASKS.encode(self._task))
        log.debug("process started", role=self._task.role, pid=process.pid)
        if self._stopping.is_set():  # asked to stop while it was being started
            self._signal(process, signal.SIGTERM)
        while (report := await REPORTS.read(reader)) is not None:
            self.ready = report.ready
            self._heard()
        status = await process.wait()
        self._process, self.pid, self.ready = None, None, False
        writer.close()
        self._heard()
        return status

    def _signal(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _environment() -> dict[str, str]:
    """The environment of a child: it finds this very package, and nothing that lies in its directory."""
    here = str(Path(zkdns.__file__).resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *others])}
