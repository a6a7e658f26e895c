"""Publishes the sets of one namespace in ZooKeeper: one session and one znode tree.

A kazoo client can end for good, after a refused session or a message that it cannot parse. The source then
makes a new client, and the table keeps its content.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog

from zkdns.config import Config
from zkdns.errors import ConfigError
from zkdns.namespace import Namespace
from zkdns.serverset.auth import load_access
from zkdns.serverset.changes import Change, SetDropped
from zkdns.serverset.client import Client, dispose, make_client
from zkdns.serverset.kazoo_ext import is_terminated
from zkdns.serverset.reachability import describe_failures
from zkdns.serverset.sync import SyncState, TreeSync
from zkdns.serverset.znode_stat import ZnodeStat, read_stats
from zkdns.telemetry.stats import WatcherStats

log = structlog.get_logger("zkdns.watcher")

CHECK_SECONDS = 2.0
"""Time between two checks whether the client has ended, and whether restored sets are absent."""
_UNREACHABLE_SECONDS = 3.0  # time for the first connection, before a warning is logged
_STOP_SECONDS = 2.0
_MAX_CLIENT_PAUSE = 60.0  # seconds between two clients, if one after the other ends
_REPLACED = "replaced"
"""Value of `_last_problem` after a client was replaced."""

_READ_STATES = (SyncState.LIVE, SyncState.READ_ONLY)
_WORST_STATE_FIRST = (SyncState.READING, SyncState.AWAY, SyncState.READ_ONLY, SyncState.LIVE)


class ZooKeeperSource:
    """All sets of one namespace.

    Attributes:
        sync: follows the znode tree; has its state and counters.

    Args:
        config: address of ZooKeeper and the credentials.
        namespace: the namespace.
        publish: called in the event loop with changes, in order.
        on_health: called in the event loop with (ready, stale): whether all sets have been read, and whether
            the table may be out of date.
        check_seconds: as `CHECK_SECONDS`.
    """

    def __init__(
        self,
        config: Config,
        namespace: Namespace,
        publish: Callable[[list[Change]], None],
        on_health: Callable[[bool, bool], None],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._check_seconds = check_seconds
        self._config = config
        self._namespace = namespace
        self._publish = publish
        self._on_health = on_health
        self._disconnected_at = time.monotonic()
        self._restored_origins: set[str] = set()
        self._is_stopping = False
        self._last_problem = ""  # so that each problem of the client is logged once
        self._client_pause = self._check_seconds / 2
        self._next_client_at = 0.0
        self._client = self._make_client()
        self.sync = TreeSync(self._client, namespace, publish, self._state_changed)

    def restore(self, origins: Iterable[str]) -> None:
        """Note sets of a snapshot. Those that ZooKeeper does not have are dropped after the first read."""
        self._restored_origins = {origin for origin in origins if self._namespace.matches_path(origin)}

    def start(self) -> None:
        """Connect, and retry without end."""
        self._client.start_async()
        loop = asyncio.get_running_loop()
        loop.call_later(_UNREACHABLE_SECONDS, self._warn_if_unreachable)
        loop.call_later(self._check_seconds, self._check)

    def holds(self, path: str) -> bool:
        """Return True if a member's znode is in this namespace."""
        return self._namespace.matches_path(path.rpartition("/")[0])

    async def read_stats(self, paths: Iterable[str], seconds: float) -> dict[str, ZnodeStat]:
        """Read znodes, with a timeout. Znodes that could not be read in time are not in the result."""
        return await read_stats(self._client, paths, seconds)

    async def stop(self) -> None:
        """Close the session, or leave it to its timeout if that takes too long."""
        self._is_stopping = True
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_disposed() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(stopped.set)

        dispose(self._client, on_disposed)
        await asyncio.wait([asyncio.ensure_future(stopped.wait())], timeout=_STOP_SECONDS)

    def _make_client(self) -> Client:
        config = self._config
        return make_client(
            str(config.zookeeper.hosts),
            session_timeout=config.zookeeper.session_timeout,
            access=load_access(config.zookeeper),
            read_only=True,
        )

    def _warn_if_unreachable(self) -> None:
        if self.sync.state is SyncState.READING and not self._client.connected:
            # In a thread, because it resolves host names and connects.
            threading.Thread(target=self._log_unreachable, daemon=True).start()

    def _log_unreachable(self) -> None:
        hosts = str(self._config.zookeeper.hosts)
        reason = describe_failures(hosts)
        if not self._client.connected and not self._is_stopping:
            log.warning("zookeeper_unreachable", zookeeper=hosts, reason=reason)

    def _check(self) -> None:
        """Replace a client that has ended. Drop restored sets that have become known to be absent."""
        if self._is_stopping:
            return
        asyncio.get_running_loop().call_later(self._check_seconds, self._check)
        if self._restored_origins and self.sync.state in _READ_STATES:
            self._drop_absent()
        if time.monotonic() < self._next_client_at or not is_terminated(self._client):
            return
        self._client_pause = min(self._client_pause * 2, _MAX_CLIENT_PAUSE)
        self._next_client_at = time.monotonic() + self._client_pause
        zookeeper = self._config.zookeeper.hosts
        try:
            client = self._make_client()
        except ConfigError as error:  # for instance while the credentials file is being edited
            if str(error) != self._last_problem:
                log.warning("zookeeper_client_restart_failed", zookeeper=zookeeper, reason=str(error))
            self._last_problem = str(error)
            return
        if self._last_problem != _REPLACED:
            log.warning("zookeeper_client_replaced", zookeeper=zookeeper)
        self._last_problem = _REPLACED
        ended, self._client = self._client, client
        self.sync.attach(client)
        dispose(ended)
        client.start_async()

    def _state_changed(self, state: SyncState) -> None:
        if self._is_stopping:
            return
        if state in _READ_STATES:
            self._read_completed(state)
        elif state is SyncState.AWAY:
            self._disconnected_at = time.monotonic()
            log.warning("zookeeper_disconnected", zookeeper=self._config.zookeeper.hosts)
        self._on_health(state is not SyncState.READING, state is not SyncState.LIVE)

    def _read_completed(self, state: SyncState) -> None:
        self._last_problem = ""
        self._client_pause = self._check_seconds / 2
        self._drop_absent()
        log.info(
            "zookeeper_read",
            zookeeper=self._config.zookeeper.hosts,
            namespace=self._namespace.template,
            services=len(self.sync.origins),
            seconds=round(time.monotonic() - self._disconnected_at, 3),
            state=state.value,
        )

    def _drop_absent(self) -> None:
        """Drop restored sets that are not in ZooKeeper. Keep those below a znode that cannot be listed."""
        absent = self._restored_origins - self.sync.origins
        self._restored_origins = {origin for origin in absent if self.sync.may_contain(origin)}
        self._publish([SetDropped(origin) for origin in sorted(absent - self._restored_origins)])


def stats_of(sources: Sequence[ZooKeeperSource]) -> WatcherStats:
    """Return the sum of the stats of all namespaces (at least one). The state is the worst of them."""
    syncs = [source.sync for source in sources]
    return WatcherStats(
        state=min((sync.state for sync in syncs), key=_WORST_STATE_FIRST.index).value,
        bad=sum(len(sync.bad) for sync in syncs),
        bad_members=dict(sum((sync.bad_members for sync in syncs), Counter())),
        ignored_fields=dict(sum((sync.ignored_fields for sync in syncs), Counter())),
        bad_names=sum(sync.bad_names for sync in syncs),
        repairs=sum(sync.repairs for sync in syncs),
    )
