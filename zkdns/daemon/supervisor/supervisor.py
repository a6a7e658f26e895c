"""The supervisor: binds, starts the other processes, replaces those that end, and ends them all.

It holds the listening sockets, so what arrives while a worker is replaced waits in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from zkdns.address import HostPort
from zkdns.admin.server import AdminServer
from zkdns.config import Config
from zkdns.daemon.ipc.control import ControlServer, reload_socket_path
from zkdns.daemon.ipc.control_messages import Refused, Reload, Request, Response
from zkdns.daemon.supervisor.children import ChildProcesses
from zkdns.daemon.supervisor.config_diff import ConfigDiff
from zkdns.daemon.supervisor.handover import Generation, Handover
from zkdns.daemon.supervisor.listeners import Listeners
from zkdns.daemon.supervisor.reload import Reloader
from zkdns.daemon.supervisor.systemd_notifier import SystemdNotifier
from zkdns.names import to_text
from zkdns.telemetry.log_setup import configure_logging
from zkdns.telemetry.sd_notify import Notifier

if TYPE_CHECKING:
    from zkdns.daemon.supervisor.admin_backend import AdminBackend

log = structlog.get_logger("zkdns.supervisor")

_SECRET_BYTES = 16
_LONGEST_DIRECTORY = 87  # bytes; leaves room for /feed999.control in a path of 103


class Supervisor:
    """Runs a server.

    Attributes:
        reloading: takes requests to read the configuration again; there while it runs.

    Args:
        config: what to run.
        on_ready: called once, with the addresses that are listened at, when every worker has its table.
        read: reads the configuration again, in a thread; raises ConfigError with all its mistakes.
        passed: sockets that are bound already; what they listen at is answered too, and not bound again.
        notifier: tells the service manager.
    """

    def __init__(
        self,
        config: Config,
        on_ready: Callable[[list[HostPort]], None],
        read: Callable[[], Config],
        *,
        passed: Sequence[socket.socket] = (),
        notifier: Notifier | None = None,
    ) -> None:
        self._config = config
        self._on_ready = on_ready
        self._passed = passed
        self._notifier = notifier or Notifier(None)
        self._begun, self._started = time.monotonic(), time.time()
        self._running: Generation | None = None
        self._was_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._admin: AdminServer | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._crew = ChildProcesses(self._heard, self._stopping.set)
        self._succession: Handover
        self._control: ControlServer | None = None
        self._had_terminal = _has_terminal()
        self._reloading = Reloader(read, lambda: self._config, self._change)
        self._reloading.on_begun, self._reloading.on_ended = self._notifier.reloading, self._notifier.reloaded

    @property
    def is_ready(self) -> bool:
        """Whether every worker has a table."""
        return self._running is not None and self._running.is_ready

    @property
    def _now(self) -> Generation:
        """What serves."""
        assert self._running is not None  # noqa: S101 - who asks was started after it
        return self._running

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ListenError: an address cannot be bound; nothing was started then.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        with contextlib.ExitStack() as stack:
            listeners = Listeners.passed(self._passed)
            stack.callback(listeners.close)
            listeners = listeners.changed(self._config.listen, self._config.workers)
            stack.callback(listeners.close)  # again, where others have taken their place
            self._admin = _bind_admin(self._config)
            stack.callback(lambda: self._admin.close() if self._admin else None)
            directory = stack.enter_context(_private_directory())
            self._succession = Handover(self._crew, directory, secrets.token_bytes(_SECRET_BYTES))
            self._running = self._succession.begin(self._config, listeners)
            self._start_admin()
            others = [
                asyncio.create_task(work)
                for work in (
                    self._listen_for_commands(),
                    self._reloading.run(),
                    self._systemd_notifier().run(),
                )
            ]
            # A keeper never ends by itself; should it, the server ends rather than stand on one leg.
            await self._stopping.wait()
            self._notifier.stopping()
            log.info("shutdown_started")
            for other in others:
                other.cancel()
            await asyncio.wait(others)  # what a reload has begun is of the crew by now
            if self._control is not None:
                self._control.close()
            await asyncio.gather(self._crew.end(), *([self._admin.stop()] if self._admin else []))
            if self._leaving is not None:
                await self._leaving
            self._now.listeners.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # it ends already

    async def _change(self, config: Config, plan: ConfigDiff) -> tuple[str, ...]:
        """Put another configuration in force; return the roles of which processes were replaced.

        Raises:
            ListenError, NotReadyError: all is as it was.
        """
        old = self._now
        new_admin = _bind_admin(config) if "admin" in plan.changed else None
        try:
            new = await self._succession.change(old, config, plan)
        except BaseException:
            if new_admin is not None:
                new_admin.close()
            raise
        self._running, self._config = new, config
        if {"log.format", "log.level"}.intersection(plan.changed):
            configure_logging(config.log.format, config.log.level, process="supervisor")
        old_admin = None
        if "admin" in plan.changed:
            old_admin, self._admin = self._admin, new_admin
            self._start_admin()
        if "control" in plan.changed:
            await self._listen_for_commands()
        await self._leave(old_admin)
        stays = old.watcher, *old.workers
        now = new.watcher, *new.workers
        return tuple(keeper.task.role for keeper in stays if keeper not in now)

    async def _leave(self, old_admin: AdminServer | None) -> None:
        """Wait until the old configuration answers nobody who asks from now on."""
        try:
            await self._succession.left()
            if old_admin is not None:
                await old_admin.leave()
        finally:
            if old_admin is not None:  # which may have to tell who asked for this what came of it
                self._leaving = asyncio.create_task(old_admin.stop())

    def _start_admin(self) -> None:
        if self._admin is None:
            return
        self._admin.start(self._admin_backend, self._was_ready)
        log.info("admin_server_started", address=str(self._admin.address))

    def _admin_backend(self) -> AdminBackend:
        """Create the backend of the admin address."""
        from zkdns.daemon.supervisor.admin_backend import AdminBackend  # noqa: PLC0415 - nobody waits for it at the start

        return AdminBackend(
            started=self._started,
            config=lambda: self._config,
            is_ready=lambda: self.is_ready,
            listening=lambda: self._now.listeners.addresses,
            watcher=lambda: self._now.watcher,
            workers=lambda: self._now.workers,
            reloading=self._reloading,
        )

    def _systemd_notifier(self) -> SystemdNotifier:
        return SystemdNotifier(
            self._notifier,
            config=lambda: self._config,
            addresses=lambda: self._now.listeners.addresses,
            is_ready=lambda: self.is_ready,
            stats=lambda: self._now.watcher.stats,
        )

    async def _listen_for_commands(self) -> None:
        """Listen for `zkdns reload`, where that is not done already."""
        if self._control is not None:
            self._control.close()
        path = self._config.control
        self._control = ControlServer(reload_socket_path(path) if path else None, self._respond)
        await self._control.start()

    async def _respond(self, request: Request) -> Response:
        if not isinstance(request, Reload):
            return Refused("invalid", "this is asked at the other control socket")
        return await self._reloading.request(all_of_them=request.all)

    def _hang_up(self) -> None:
        """SIGHUP: read the configuration again; but where a terminal has gone, whoever looked on has too."""
        if self._had_terminal and not _has_terminal():
            self._stopping.set()
        else:
            self._reloading.request()

    def _heard(self) -> None:
        if self.is_ready and not self._was_ready.is_set():
            self._was_ready.set()
            zones = " ".join(map(to_text, self._config.zones))
            log.info("server_ready", zones=zones, seconds=round(time.monotonic() - self._begun, 3))
            self._on_ready(list(self._now.listeners.addresses))


def _bind_admin(config: Config) -> AdminServer | None:
    """The admin server; None: there is none.

    Raises:
        ListenError: its address cannot be bound.
    """
    return AdminServer(config.admin.listen) if config.admin.listen is not None else None


def _has_terminal() -> bool:
    """Whether somebody can look on; a terminal that has been closed is none any more."""
    return any(map(os.isatty, range(3)))


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """A directory that only we can look into, gone at the end.

    Where TMPDIR is too long for a socket's path (107 bytes on Linux, 103 on macOS), it lies in /tmp.
    """
    directory = Path(tempfile.mkdtemp(prefix="zkdns-"))
    if len(os.fsencode(directory)) > _LONGEST_DIRECTORY:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="zkdns-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
