"""How the server is, told to the service manager while it runs: ready, alive, and in a sentence.

Ready is who answers. The table is waited for a while, so that what starts after this finds its services; but
where ZooKeeper stays away, a start that never ends would help nobody, least of all those whose other names
are forwarded.

Alive is who has just answered a query of its own at each of its addresses. Of several workers with sockets of
their own the kernel chooses one by the asker's port, so each round asks from several.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.self_asking import silent_addresses
from zkdns.durations import format_duration
from zkdns.observe.figures import Figures, WatcherFigures
from zkdns.observe.notify import Notifier

TABLE_SECONDS = 10.0
"""How long the table is waited for until a server that answers is ready without one."""
_START_TICK, _TICK = 0.05, 1.0  # seconds
_ROUNDS = 4  # of asking within the watchdog's time: one that fails is no death yet
_STEP = 10  # seconds


class ServiceTeller:
    """Tells the service manager, until cancelled.

    Args:
        notifier: reaches it.
        config: the server's of now.
        addresses: where it answers now, as bound.
        is_ready: whether every answerer has a table.
        figures: what the watcher counts.
    """

    def __init__(
        self,
        notifier: Notifier,
        config: Callable[[], Config],
        addresses: Callable[[], Sequence[HostPort]],
        is_ready: Callable[[], bool],
        figures: Callable[[], Figures | None],
    ) -> None:
        self._notifier = notifier
        self._config = config
        self._addresses = addresses
        self._is_ready = is_ready
        self._was_ready = False
        self._figures = figures

    async def run(self) -> None:
        """Tell for ever; at once done where nobody listens."""
        if not self._notifier.is_heard:
            return
        await self._start()
        watchdog = self._notifier.watchdog_seconds
        pause = min(_TICK, watchdog / _ROUNDS) if watchdog else _TICK
        due = time.monotonic()
        silent: HostPort | None = None
        while True:
            if watchdog and time.monotonic() >= due:
                due = time.monotonic() + watchdog / _ROUNDS
                silent = await self._silent()
                if silent is None:
                    self._notifier.alive()
            if silent is None:
                self._tell_status()
            else:
                self._notifier.status(f"does not answer at {silent}")
            await asyncio.sleep(pause)

    async def _start(self) -> None:
        """Tell that the server is ready, when it is."""
        patience = time.monotonic() + TABLE_SECONDS
        while True:
            self._tell_status()
            if (self._is_ready() or time.monotonic() >= patience) and not await self._silent():
                self._notifier.ready()
                return
            await asyncio.sleep(_START_TICK)

    def _tell_status(self) -> None:
        self._was_ready |= self._is_ready()
        figures = self._figures()
        if figures is None and self._was_ready:
            return  # the process that watches is being replaced, and answers stand meanwhile
        self._notifier.status(describe(figures, is_ready=self._was_ready, now=time.monotonic()))

    async def _silent(self) -> HostPort | None:
        """An address of ours where nobody answers."""
        config = self._config()
        silent = await silent_addresses(self._addresses(), config.zones[0], config.workers)
        return silent[0] if silent else None


def describe(figures: Figures | None, *, is_ready: bool, now: float) -> str:
    """The state of a server in a sentence.

    Args:
        figures: what its watcher counts; None: it has counted nothing yet.
        is_ready: whether every answerer has a table, or had one.
        now: the time, by `time.monotonic`.
    """
    if not isinstance(figures, WatcherFigures) or not is_ready:
        return "waiting for the table; until it is there, names of the zones are SERVFAIL"
    table = f"{_count(figures.services, 'service')}, {_count(figures.alive, 'member')}"
    if figures.held:
        table += f", {figures.held:,} held"
    since = _since(now - figures.stale_since) if figures.stale_since is not None else ""
    match figures.state:
        case "live":
            return f"live: {table}; ZooKeeper in reach"
        case "away":
            return f"ZooKeeper out of reach{since}; answers stay: {table}"
        case "readonly":
            return f"ZooKeeper without a quorum{since}; answers as it tells readers: {table}"
        case "reading":
            return f"answers from the snapshot, until ZooKeeper has been read: {table}"
        case _:
            return f"live: {table}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _since(seconds: float) -> str:
    """Format an outage in steps of 10 seconds, minutes or hours, so that the status changes rarely."""
    if seconds < _STEP:
        return ""
    return f" for {format_duration(seconds // _STEP * _STEP, units=1)}"
