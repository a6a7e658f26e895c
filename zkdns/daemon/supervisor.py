"""The supervisor: binds, starts the other processes, replaces those that end, and ends them all.

It holds the listening sockets, so what arrives while an answerer is replaced waits in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.child import Task
from zkdns.daemon.keeper import ChildKeeper
from zkdns.names import to_text
from zkdns.observe.admin import AdminServer
from zkdns.serverset.access import ACCESS_KEYS
from zkdns.transport.sockets import SocketPair, bind, bound_address

if TYPE_CHECKING:
    from zkdns.daemon.overview import Overview

log = structlog.get_logger("zkdns.supervisor")

_SECRET_BYTES = 16
_LONGEST_DIRECTORY = 95  # bytes; leaves room for a name in it


class Supervisor:
    """Runs a server.

    Args:
        config: what to run.
        on_ready: called once, with the addresses that are listened at, when every answerer has its table.
    """

    def __init__(self, config: Config, on_ready: Callable[[list[HostPort]], None]) -> None:
        self._config = config
        self._on_ready = on_ready
        self._begun, self._started = time.monotonic(), time.time()
        self._addresses: list[HostPort] = []
        self._answerers: list[ChildKeeper] = []
        self._was_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._secret = secrets.token_bytes(_SECRET_BYTES)

    @property
    def is_ready(self) -> bool:
        """Whether every answerer has a table."""
        return bool(self._answerers) and all(child.ready for child in self._answerers)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ListenError: an address cannot be bound; nothing was started then.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        with contextlib.ExitStack() as stack:
            pairs = self._bind(stack)
            admin = self._bind_admin(stack)
            directory = stack.enter_context(_private_directory())
            feed = str(directory / "feed")
            watcher = ChildKeeper(Task("watcher", self._config, feed, tuple(self._addresses)), self._heard)
            self._answerers = [
                ChildKeeper(self._answerer_task(feed, own), self._heard) for own in zip(*pairs, strict=True)
            ]
            children = (watcher, *self._answerers)
            running = [asyncio.create_task(child.run()) for child in children]
            if admin is not None:
                admin.start(lambda: self._overview(watcher, directory), self._was_ready)
            asked = asyncio.create_task(self._stopping.wait())
            # A keeper never ends by itself; should it, the server ends rather than stand on one leg.
            await asyncio.wait([asked, *running], return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping")
            for child in children:
                child.stop()
            if admin is not None:
                await admin.stop()
            await asyncio.gather(*running)

    def _bind(self, stack: contextlib.ExitStack) -> list[list[SocketPair]]:
        """Sockets by address, then by worker."""
        bound = []
        for address in self._config.listen:
            pairs = bind(address, self._config.workers)
            for pair in pairs:
                stack.callback(pair.close)
            bound.append(pairs)
            self._addresses.append(bound_address(pairs[0]))
            log.info("listening", address=str(self._addresses[-1]), workers=len(pairs))
        return bound

    def _bind_admin(self, stack: contextlib.ExitStack) -> AdminServer | None:
        if self._config.admin is None:
            return None
        admin = AdminServer(self._config.admin)
        stack.callback(admin.close)
        log.info("admin", address=str(admin.address))
        return admin

    def _overview(self, watcher: ChildKeeper, directory: Path) -> Overview:
        """What the admin address is told of."""
        from zkdns.daemon.control import OWN_CONTROL  # noqa: PLC0415 - nobody waits for them at the start
        from zkdns.daemon.overview import Overview  # noqa: PLC0415 - see above

        return Overview(
            started=self._started,
            config=lambda: self._config,
            is_ready=lambda: self.is_ready,
            listening=lambda: self._addresses,
            watcher=lambda: watcher,
            answerers=lambda: self._answerers,
            control=lambda: directory / OWN_CONTROL,
        )

    def _answerer_task(self, feed: str, pairs: tuple[SocketPair, ...]) -> Task:
        numbers = tuple(sock.fileno() for pair in pairs for sock in (pair.udp, pair.tcp))
        # What it does not need to know, it is not told.
        nothing = Config(listen=(), namespaces=self._config.namespaces)
        untold = {
            key: getattr(nothing, key)
            for key in ("zookeeper", *ACCESS_KEYS, "snapshot", "control", "admin_token")
        }
        config = msgspec.structs.replace(self._config, **untold)
        return Task("answerer", config, feed, tuple(self._addresses), numbers, self._secret)

    def _heard(self) -> None:
        if self.is_ready and not self._was_ready.is_set():
            self._was_ready.set()
            zones = " ".join(map(to_text, self._config.zones))
            log.info("ready", zones=zones, seconds=round(time.monotonic() - self._begun, 3))
            self._on_ready(self._addresses)


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
