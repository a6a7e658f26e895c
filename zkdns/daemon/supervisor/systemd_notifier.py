"""Reports the state of the server to systemd: ready, alive, and a status line.

The server is ready when it answers queries and has the table, so that units ordered after it find their
services. Without ZooKeeper it becomes ready after a while without the table, because forwarded names already
work.

The server is alive if it has just answered a query at each of its addresses. If workers have sockets of their
own, the kernel selects one by the client's port, so each round queries from several ports.
"""

from __future__ import annotations

import asyncio
import time

from zkdns.address import HostPort
from zkdns.clock import elapsed_seconds
from zkdns.daemon.supervisor.self_check import RESPONSE_SECONDS, unresponsive_addresses
from zkdns.daemon.supervisor.server_state import ServerState
from zkdns.durations import format_duration
from zkdns.plurals import counted
from zkdns.telemetry.sd_notify import Notifier
from zkdns.telemetry.stats import WatcherStats

TABLE_SECONDS = 10.0
"""Maximum time that a server waits for the table before it is ready without one."""
_START_TICK, _TICK = 0.05, 1.0  # seconds
_ROUNDS = 4  # number of self-checks within the time of the watchdog, so that one may fail
_STEP = 10  # seconds; the precision of the duration of an outage


class SystemdNotifier:
    """Reports to systemd, until cancelled.

    Args:
        notifier: sends to systemd.
        state: state of the server.
        table_seconds: as `TABLE_SECONDS`.
        response_seconds: time-out of a self-check.
    """

    def __init__(
        self,
        notifier: Notifier,
        state: ServerState,
        *,
        table_seconds: float = TABLE_SECONDS,
        response_seconds: float = RESPONSE_SECONDS,
    ) -> None:
        self._table_seconds = table_seconds
        self._response_seconds = response_seconds
        self._notifier = notifier
        self._state = state
        self._was_ready = False

    async def run(self) -> None:
        """Report without end. Returns at once without a service manager."""
        if not self._notifier.is_connected:
            return
        await self._start()
        watchdog = self._notifier.watchdog_seconds
        pause = min(_TICK, watchdog / _ROUNDS) if watchdog else _TICK
        due = time.monotonic()
        silent: HostPort | None = None
        while True:
            if watchdog and time.monotonic() >= due:
                due = time.monotonic() + watchdog / _ROUNDS
                silent = await self._unresponsive()
                if silent is None:
                    self._notifier.alive()
            if silent is None:
                self._report_status()
            else:
                self._notifier.status(f"no response at {silent}")
            await asyncio.sleep(pause)

    async def _start(self) -> None:
        """Wait until the server is ready, and report it."""
        deadline = time.monotonic() + self._table_seconds
        while True:
            self._report_status()
            if (self._state.is_ready or time.monotonic() >= deadline) and not await self._unresponsive():
                self._notifier.ready()
                return
            await asyncio.sleep(_START_TICK)

    def _report_status(self) -> None:
        self._was_ready |= self._state.is_ready
        stats = self._state.watcher_stats
        if stats is None and self._was_ready:
            return  # the watcher is being replaced, which does not change the responses
        self._notifier.status(describe(stats, is_ready=self._was_ready, now=elapsed_seconds()))

    async def _unresponsive(self) -> HostPort | None:
        """Return an address that does not respond."""
        config = self._state.config
        silent = await unresponsive_addresses(
            self._state.addresses, config.zones[0], config.workers, self._response_seconds
        )
        return silent[0] if silent else None


def describe(stats: WatcherStats | None, *, is_ready: bool, now: float) -> str:
    """Return the state of the server in a sentence, and the problem of its source if there is one.

    Args:
        stats: stats of the watcher. None: it has not reported any.
        is_ready: true if every worker has, or had, a table.
        now: time by `zkdns.clock`.
    """
    state = _describe_state(stats, is_ready=is_ready, now=now)
    if stats is None or not stats.problem or stats.state == "readonly":  # the state names the quorum
        return state
    return f"{state}; {stats.problem}"


def _describe_state(stats: WatcherStats | None, *, is_ready: bool, now: float) -> str:
    """Return the state of the server. The arguments are those of `describe`."""
    if stats is None or not is_ready:
        return "loading the table; names in the zones get SERVFAIL until then"
    table = f"{counted(stats.services, 'service')}, {counted(stats.alive, 'member')}"
    if stats.held:
        table += f", {stats.held:,} held"
    since = _since(now - stats.stale_since) if stats.stale_since is not None else ""
    source = "primary" if stats.is_secondary else "ZooKeeper"
    match stats.state:
        case "live":
            return f"live: {table}; {source} connected"
        case "unreachable":
            return f"{source} unreachable{since}; serving the last table: {table}"
        case "readonly":
            return f"ZooKeeper without a quorum{since}; serving its read-only data: {table}"
        case "reading":
            return f"serving the snapshot until {'the ' * stats.is_secondary}{source} has been read: {table}"
        case _:
            return f"live: {table}"


def _since(seconds: float) -> str:
    """Format an outage in steps of 10 seconds, minutes or hours, so that the status changes rarely."""
    if seconds < _STEP:
        return ""
    return f" for {format_duration(seconds // _STEP * _STEP, units=1)}"
