"""The supervisor: binds the sockets, starts the other processes, replaces those that exit, and ends them all.

It keeps the listening sockets open, so that queries wait in the kernel while a worker is replaced.

    signals, HTTP API ──▶ Reloader ──▶ Supervisor._apply ──▶ Handover ──▶ next Generation
    ServerState (the current Generation) ──▶ AdminBackend, SystemdNotifier
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from zkdns.address import HostPort
from zkdns.admin.server import AdminServer
from zkdns.config import Config
from zkdns.daemon.supervisor.children import ChildProcesses
from zkdns.daemon.supervisor.config_diff import ConfigDiff
from zkdns.daemon.supervisor.handover import Handover
from zkdns.daemon.supervisor.http_servers import PLACES, Place, bind_http, moved_places
from zkdns.daemon.supervisor.listeners import Listeners
from zkdns.daemon.supervisor.reload import Reloader
from zkdns.daemon.supervisor.server_state import ServerState
from zkdns.daemon.supervisor.systemd_notifier import SystemdNotifier
from zkdns.names import to_text
from zkdns.telemetry.log_setup import configure_logging
from zkdns.telemetry.sd_notify import Notifier
from zkdns.transport.rate_counters import create_shared_memory

if TYPE_CHECKING:
    from zkdns.daemon.supervisor.admin_backend import AdminBackend

log = structlog.get_logger("zkdns.supervisor")

SWITCH_SECONDS = 0.001
"""Time after which a thread passes the interpreter on, such as one that renders metrics.

The event loop waits for it at each system call. With Python's default of 5 ms, a scrape with the metrics of
1,000 services delayed it by 10 ms, and with this by 2 ms (measured, p50 of the longest delays).
"""
_SECRET_BYTES = 16
_MAX_DIRECTORY = 86  # bytes of a path; /feed999.requests fits into the 103 bytes of a socket's path on macOS


class Supervisor:
    """Runs a server.

    Args:
        config: the configuration.
        on_ready: called once with the bound addresses, when every worker has a table.
        read: reads the configuration again, in a thread. Raises ConfigError with all errors.
        passed: sockets from socket activation. They are served in addition to the configured addresses.
        notifier: sends notices to the service manager.
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
        self._on_ready = on_ready
        self._passed = passed
        self._notifier = notifier or Notifier(None)
        self._started_at = time.monotonic()
        self._state = ServerState(config)
        self._was_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._http: dict[Place, AdminServer] = {}
        self._http_stopping: set[asyncio.Task[None]] = set()
        self._children = ChildProcesses(self._on_child_change, self._stopping.set, self._state.service_totals)
        self._handover: Handover
        self._had_terminal = _has_terminal()
        self._reloader = Reloader(self._state, self._notifier, read, self._apply)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ListenError: an address cannot be bound. Nothing was started then.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        config = self._state.config
        with contextlib.ExitStack() as stack:
            listeners = Listeners.passed(self._passed)
            stack.callback(listeners.close)
            listeners = listeners.changed(config.listen, config.workers, config.tls.listen)
            stack.callback(listeners.close)
            self._http = bind_http(config, PLACES)
            stack.callback(self._close_http)
            directory = stack.enter_context(_private_directory())
            rates = create_shared_memory()
            if rates is not None:
                stack.callback(os.close, rates)
            secret = secrets.token_bytes(_SECRET_BYTES)
            self._handover = Handover(self._children, directory, secret, rates)
            self._state.set(self._handover.start(config, listeners))
            self._serve_http(self._http)
            background = [
                asyncio.create_task(work)
                for work in (self._reloader.run(), SystemdNotifier(self._notifier, self._state).run())
            ]
            await self._stopping.wait()  # for a signal, or an internal error in self._children
            self._notifier.stopping()
            log.info("shutdown_started")
            for task in background:
                task.cancel()
            await asyncio.wait(background)  # an interrupted reload leaves its processes to self._children
            servers = [server.stop() for server in self._http.values()]
            await asyncio.gather(self._children.stop_all(), *servers, *self._http_stopping)
            self._state.generation.listeners.close()  # a reload may have replaced those of the start
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # the process is about to exit

    async def _apply(self, config: Config, diff: ConfigDiff) -> tuple[str, ...]:
        """Apply a configuration, and return the roles of the replaced processes.

        Raises:
            ListenError, ChildNotReadyError: the old configuration stays in force.
        """
        old, before = self._state.generation, self._state.config
        moved = moved_places(before, config)
        new_http = bind_http(config, moved, self._http)
        try:
            new = await self._handover.replace(old, config, diff)
        except BaseException:
            for server in new_http.values():
                server.close()
            raise
        self._state.set(new)
        if (config.log.format, config.log.level) != (before.log.format, before.log.level):
            configure_logging(config.log.format, config.log.level, process="supervisor")
        old_http = [self._http.pop(place) for place in moved if place in self._http]
        self._http |= new_http
        self._serve_http(new_http)
        await self._wait_until_switched(old_http)
        return tuple(child.task.role for child in old.children if child not in new.children)

    async def _wait_until_switched(self, old_http: Sequence[AdminServer]) -> None:
        """Wait until the old generation accepts no more queries or HTTP requests."""
        try:
            await self._handover.wait_until_switched()
            for server in old_http:
                await server.stop_listening()
        finally:
            for server in old_http:
                # In the background, because it may still have to respond to the request for this reload.
                stopping = asyncio.create_task(server.stop())
                self._http_stopping.add(stopping)
                stopping.add_done_callback(self._http_stopping.discard)

    def _close_http(self) -> None:
        for server in self._http.values():
            server.close()

    def _serve_http(self, servers: Mapping[Place, AdminServer]) -> None:
        for server in servers.values():
            server.start(self._make_admin_backend, self._was_ready)
            log.info("admin_server_started", address=str(server.address))

    def _make_admin_backend(self) -> AdminBackend:
        from zkdns.daemon.supervisor.admin_backend import AdminBackend  # noqa: PLC0415 - not needed to serve DNS

        return AdminBackend(self._state, self._reloader)

    def _on_hangup(self) -> None:
        """Handle SIGHUP: reload, or stop if the terminal that the server was started in is closed."""
        if self._had_terminal and not _has_terminal():
            self._stopping.set()
        else:
            self._reloader.request()

    def _on_child_change(self) -> None:
        if self._state.is_ready and not self._was_ready.is_set():
            self._was_ready.set()
            zones = " ".join(map(to_text, self._state.config.zones))
            log.info("server_ready", zones=zones, seconds=round(time.monotonic() - self._started_at, 3))
            self._on_ready(list(self._state.addresses))


def _has_terminal() -> bool:
    """True if standard input, output or error is an open terminal."""
    return any(map(os.isatty, range(3)))


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    """A temporary directory with mode 0700, for the sockets between the processes.

    It is in /tmp if TMPDIR is too long for the path of a socket (107 bytes on Linux, 103 on macOS).
    """
    directory = Path(tempfile.mkdtemp(prefix="zkdns-"))
    if len(os.fsencode(directory)) > _MAX_DIRECTORY:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="zkdns-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
