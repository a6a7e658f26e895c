"""ZooKeeper as a source of the table's contents: one session, and one tree, for each namespace.

A kazoo client may end for good (it was refused, or met what it does not understand); then another one takes
its place, and what is known stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from zkdns.config import Config
from zkdns.errors import ConfigError
from zkdns.namespace import Namespace
from zkdns.serverset.auth import load_access
from zkdns.serverset.changes import Change, SetDropped
from zkdns.serverset.client import Client, dispose, make_client
from zkdns.serverset.kazoo_ext import is_terminated
from zkdns.serverset.sync import SyncState, TreeSync
from zkdns.serverset.znode_stat import ZnodeStat, read_stats
from zkdns.telemetry.stats import WatcherStats

log = structlog.get_logger("zkdns.watcher")

_UNREACHABLE_SECONDS = 3.0  # before this a connection that is not there yet is not worth a line
_STOP_SECONDS = 2.0
_LOOK_SECONDS = 2.0
_REPLACED = "replaced"  # what was logged last of a client that had ended
"""How often a client is looked at, whether it has ended; an ended one is replaced then."""

_READ = (SyncState.LIVE, SyncState.READ_ONLY)
_LONGEST_PAUSE = 60.0  # seconds between two clients, where one after the other is refused

_WORST_FIRST = (SyncState.READING, SyncState.AWAY, SyncState.READ_ONLY, SyncState.LIVE)


class ZooKeeperSource:
    """All sets of one namespace.

    Args:
        config: where ZooKeeper is, and how it is accessed.
        namespace: where the sets lie.
        publish: called in the event loop with changes, in order.
        on_health: called in the event loop with whether all has been read, and whether it may be out of date.
    """

    def __init__(
        self,
        config: Config,
        namespace: Namespace,
        publish: Callable[[list[Change]], None],
        on_health: Callable[[bool, bool], None],
    ) -> None:
        self._config = config
        self._namespace = namespace
        self._publish = publish
        self._on_health = on_health
        self._begun = time.monotonic()
        self._restored: set[str] = set()
        self._is_stopping = False
        self._complaint = ""
        self._pause = _LOOK_SECONDS / 2
        self._next_client = 0.0
        self._client = self._make_client()
        self.sync = TreeSync(self._client, namespace, publish, self._state_changed)
        """What follows the tree, with its state and its counters."""

    def restore(self, origins: Iterable[str]) -> None:
        """Begin with these sets of a snapshot, until ZooKeeper says otherwise."""
        self._restored = {origin for origin in origins if self._namespace.matches_path(origin)}

    def start(self) -> None:
        """Connect, and never give up."""
        self._client.start_async()
        loop = asyncio.get_running_loop()
        loop.call_later(_UNREACHABLE_SECONDS, self._tell_unreachable)
        loop.call_later(_LOOK_SECONDS, self._look)

    def holds(self, path: str) -> bool:
        """Whether a member's znode at this path would be of this namespace."""
        return self._namespace.matches_path(path.rpartition("/")[0])

    async def read_stats(self, paths: Iterable[str], seconds: float) -> dict[str, ZnodeStat]:
        """What ZooKeeper tells of these znodes within so many seconds; see `looking.look`."""
        return await read_stats(self._client, paths, seconds)

    async def stop(self) -> None:
        """Close the session, if that goes quickly; else it ends by itself in its time."""
        self._is_stopping = True
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(stopped.set)

        dispose(self._client, tell)
        await asyncio.wait([asyncio.ensure_future(stopped.wait())], timeout=_STOP_SECONDS)

    def _make_client(self) -> Client:
        config = self._config
        return make_client(
            str(config.zookeeper.hosts),
            session_timeout=config.zookeeper.session_timeout,
            access=load_access(config.zookeeper),
            read_only=True,
        )

    def _tell_unreachable(self) -> None:
        if self.sync.state is SyncState.READING and not self._client.connected:
            log.warning("zookeeper_unreachable", zookeeper=self._config.zookeeper.hosts)

    def _look(self) -> None:
        """Put another client in the place of one that has ended, and see whether what was hidden is."""
        if self._is_stopping:
            return
        asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        if self._restored and self.sync.state in _READ:
            self._drop_absent()
        if time.monotonic() < self._next_client or not is_terminated(self._client):
            return
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._next_client = time.monotonic() + self._pause
        try:
            client = self._make_client()
        except ConfigError as error:  # a file of credentials that is being changed
            if str(error) != self._complaint:
                log.warning(
                    "zookeeper_client_restart_failed", zookeeper=self._config.zookeeper, reason=str(error)
                )
            self._complaint = str(error)
            return
        if self._complaint != _REPLACED:
            log.warning("zookeeper_client_replaced", zookeeper=self._config.zookeeper)
        self._complaint = _REPLACED
        ended, self._client = self._client, client
        self.sync.attach(client)
        dispose(ended)
        client.start_async()

    def _state_changed(self, state: SyncState) -> None:
        if self._is_stopping:
            return
        if state in _READ:
            self._read(state)
        elif state is SyncState.AWAY:
            self._begun = time.monotonic()
            log.warning("zookeeper_disconnected", zookeeper=self._config.zookeeper.hosts)
        self._on_health(state is not SyncState.READING, state is not SyncState.LIVE)

    def _read(self, state: SyncState) -> None:
        """Everything has been read."""
        self._complaint = ""
        self._pause = _LOOK_SECONDS / 2
        self._drop_absent()
        log.info(
            "zookeeper_read",
            zookeeper=self._config.zookeeper.hosts,
            namespace=self._namespace.template,
            services=len(self.sync.origins),
            seconds=round(time.monotonic() - self._begun, 3),
            state=state.value,
        )

    def _drop_absent(self) -> None:
        """What only the snapshot knew is no more; what cannot be listed keeps what it knew of that."""
        absent = self._restored - self.sync.origins
        self._restored = {origin for origin in absent if self.sync.may_contain(origin)}
        self._publish([SetDropped(origin) for origin in sorted(absent - self._restored)])


def stats_of(sources: Sequence[ZooKeeperSource]) -> WatcherStats:
    """Return the sum of the stats of all namespaces, at least one. The worst state counts."""
    syncs = [source.sync for source in sources]
    reasons = {reason for sync in syncs for reason in sync.bad_members}
    return WatcherStats(
        state=min((sync.state for sync in syncs), key=_WORST_FIRST.index).value,
        bad=sum(len(sync.bad) for sync in syncs),
        bad_members={reason: sum(sync.bad_members[reason] for sync in syncs) for reason in sorted(reasons)},
        bad_names=sum(sync.bad_names for sync in syncs),
        repairs=sum(sync.repairs for sync in syncs),
    )
