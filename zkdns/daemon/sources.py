"""Where the table's contents come from, each source with its own idea of ready and stale.

publish(changes), on_health(ready, stale) ◀── ZooKeeperSource, FixedSource
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from zkdns.config import Config
from zkdns.errors import ConfigError
from zkdns.serverset.access import access_of
from zkdns.serverset.changes import Change, SetDropped, SetPut
from zkdns.serverset.client import make_client
from zkdns.serverset.fixed import FixedSets, load_demo, load_fixed
from zkdns.serverset.sync import SyncState, TreeSync

log = structlog.get_logger("zkdns.watcher")

Publish: TypeAlias = Callable[[list[Change]], None]
OnHealth: TypeAlias = Callable[[bool, bool], None]

_POLL_SECONDS = 0.25
_UNREACHABLE_SECONDS = 3.0  # before this a connection that is not there yet is not worth a line
_STOP_SECONDS = 2.0


class ZooKeeperSource:
    """Everything that ZooKeeper holds below the namespace's root."""

    def __init__(self, config: Config, publish: Publish, on_health: OnHealth) -> None:
        assert config.zookeeper  # noqa: S101 - whoever makes this source was asked for it
        self._hosts = config.zookeeper
        self._publish = publish
        self._on_health = on_health
        self._begun = time.monotonic()
        self._restored: set[str] = set()
        self._is_stopping = False
        self._client = make_client(self._hosts, access=access_of(config), read_only=True)
        self._sync = TreeSync(
            self._client,
            config.namespace,
            publish,
            self._state_changed,
            recursive=config.watches == "auto",
        )

    @property
    def sync(self) -> TreeSync:
        """What follows the tree, with its state and its counters."""
        return self._sync

    def restore(self, changes: list[Change]) -> None:
        """Begin with what a snapshot holds, until ZooKeeper says otherwise."""
        self._restored = {change.origin for change in changes if isinstance(change, SetPut)}
        self._publish(changes)
        self._on_health(True, True)

    def start(self) -> None:
        """Connect, and never give up."""
        self._client.start_async()
        asyncio.get_running_loop().call_later(_UNREACHABLE_SECONDS, self._tell_unreachable)

    async def stop(self) -> None:
        """Close the session, if that goes quickly; else it ends by itself in its time."""
        self._is_stopping = True
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            self._client.stop()
            loop.call_soon_threadsafe(stopped.set)

        threading.Thread(target=work, name="zookeeper stop", daemon=True).start()
        await asyncio.wait([asyncio.ensure_future(stopped.wait())], timeout=_STOP_SECONDS)

    def _tell_unreachable(self) -> None:
        if self._sync.state is SyncState.READING and not self._client.connected:
            log.warning("zookeeper cannot be reached; trying again until it can", hosts=self._hosts)

    def _state_changed(self, state: SyncState) -> None:
        if self._is_stopping:
            return
        if state is SyncState.LIVE:
            gone = self._restored - self._sync.origins
            self._restored = set()
            self._publish([SetDropped(origin) for origin in sorted(gone)])
            seconds = round(time.monotonic() - self._begun, 3)
            log.info(
                "zookeeper has been read",
                hosts=self._hosts,
                services=len(self._sync.origins),
                seconds=seconds,
            )
        elif state is SyncState.AWAY:
            self._begun = time.monotonic()
            log.warning("zookeeper is out of reach; answers stay as they are", hosts=self._hosts)
        self._on_health(state is not SyncState.READING, state is not SyncState.LIVE)


class FixedSource:
    """A fixed file, read again when it changes; or the embedded example."""

    def __init__(self, config: Config, publish: Publish, on_health: OnHealth) -> None:
        self._config = config
        self._path = Path(config.fixed) if config.fixed else None
        self._publish = publish
        self._on_health = on_health
        self._origins: set[str] = set()

    async def run(self) -> None:
        """Read the file now, and whenever it has become another.

        A file that changes is let be until it has stood still from one look to the next: many editors empty
        a file before they write it, and an empty one would be taken for one without services.
        """
        if self._path is None:
            self._take(load_demo(self._config.namespaces))
            return
        read = before = _signature(self._path)
        self._read(self._path)
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            now = _signature(self._path)
            if now == before != read:
                read = now
                self._read(self._path)
            before = now

    def _read(self, path: Path) -> None:
        try:
            sets = load_fixed(path, self._config.namespaces)
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error("fixed file has a mistake; what it said before stays in force", mistake=mistake)
            return
        self._take(sets)
        log.info("fixed file has been read", path=str(path), services=len(sets))

    def _take(self, sets: FixedSets) -> None:
        puts = [SetPut(f"fixed:{name.absolute}", name, members) for name, members in sets.items()]
        origins = {put.origin for put in puts}
        self._publish([*puts, *(SetDropped(origin) for origin in sorted(self._origins - origins))])
        self._origins = origins
        self._on_health(True, False)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes whenever a file does: also when an editor replaces it by another of equal size."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
