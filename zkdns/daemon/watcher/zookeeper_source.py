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
from collections.abc import Iterable, Sequence

import structlog

from zkdns.config import Config
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.observer_moves import MOVE_SECONDS, ObserverMoves
from zkdns.daemon.watcher.table_audit import TableAudit
from zkdns.errors import ConfigError
from zkdns.serverset.auth import load_access
from zkdns.serverset.changes import DirectoryUnread, SetDropped, SetPut
from zkdns.serverset.client import Client, dispose, make_client, server_of, tls_of
from zkdns.serverset.kazoo_ext import has_ended_thread
from zkdns.serverset.reachability import NO_QUORUM, Diagnosis
from zkdns.serverset.sync import AUDIT_SECONDS, SyncState, TreeSync
from zkdns.serverset.znode_stat import ZnodeStat, read_stats
from zkdns.table import Table
from zkdns.telemetry.stats import NamespaceStats, WatcherStats

log = structlog.get_logger("zkdns.watcher")

CHECK_SECONDS = 2.0
"""Time between two checks whether the client has ended, and whether restored sets are absent."""
_UNREACHABLE_SECONDS = 3.0  # time without a connection, before the cause is logged
_STOP_SECONDS = 2.0
_MAX_CLIENT_PAUSE = 60.0  # seconds between two clients, if one after the other ends
_RECONNECT_SPREAD = 1.0  # seconds; when a server is lost, a fleet connects to the others over this time
_REPLACED = "replaced"
"""Value of `_last_problem` after a client was replaced."""

_READ_STATES = (SyncState.LIVE, SyncState.READ_ONLY)
_WORST_STATE_FIRST = (SyncState.READING, SyncState.UNREACHABLE, SyncState.READ_ONLY, SyncState.LIVE)


class ZooKeeperSource:
    """All sets of one namespace.

    Attributes:
        sync: follows the znode tree; has its state and counters.
        table_audit: compares the table with the tree; counts differences.
        namespace: the namespace.

    Args:
        config: address of ZooKeeper and the credentials.
        guarded: has the namespace, and gets its changes and its state, in order.
        check_seconds: as `CHECK_SECONDS`.
        move_seconds: as `observer_moves.MOVE_SECONDS`.
        audit_seconds: as `tree_sync.AUDIT_SECONDS`.
    """

    def __init__(
        self,
        config: Config,
        guarded: GuardedPublisher,
        *,
        check_seconds: float = CHECK_SECONDS,
        move_seconds: float = MOVE_SECONDS,
        audit_seconds: float = AUDIT_SECONDS,
    ) -> None:
        self._check_seconds = check_seconds
        self._config = config
        self._servers = config.zookeeper.servers
        self._guarded = guarded
        self.namespace = guarded.namespace
        self._loop = asyncio.get_running_loop()
        self._disconnected_at = time.monotonic()
        self._restored_origins: set[str] = set()
        self._restored_directories: set[str] = set()
        self._is_stopping = False
        self._unreachable_reason = ""  # of the present outage, once it is known
        self._outage_timer: asyncio.TimerHandle | None = None
        self._last_problem = ""  # so that each problem of the client is logged once
        self._client_pause = self._check_seconds / 2
        self._next_client_at = 0.0
        self._moves = ObserverMoves(config.zookeeper.observers, self._make_second, move_seconds=move_seconds)
        self._client = self._make_client()
        self.table_audit = TableAudit(guarded)
        self._audited_at: float | None = None
        self.sync = TreeSync(
            self._client,
            self.namespace,
            guarded.publish,
            self._state_changed,
            on_delay=self._delay_changed,
            on_ensemble=guarded.set_ensemble,
            on_same_ensemble=guarded.update_ensemble,
            on_zxid=guarded.set_zxid,
            on_audited=self._audit,
            audit_seconds=audit_seconds,
        )
        self.sync.queue.is_blocked = lambda: guarded.is_busy
        guarded.on_idle = self.sync.queue.resume
        guarded.run_after_arrived = self.sync.queue.post_after_batch

    def restore(self, table: Table) -> None:
        """Note the sets of a restored table. Those that ZooKeeper does not have are dropped after a read."""
        self._restored_origins = set(filter(self.namespace.matches_path, table.origins))
        self._restored_directories = set(filter(self.namespace.contains, table.unread_directories))

    def start(self) -> None:
        """Connect, and retry without end."""
        self._client.start_async()
        loop = asyncio.get_running_loop()
        self._outage_timer = loop.call_later(_UNREACHABLE_SECONDS, self._warn_if_unreachable)
        loop.call_later(self._check_seconds, self._check)

    @property
    def is_settled(self) -> bool:
        """Whether all changes that ZooKeeper has reported were published."""
        return self.sync.is_settled and not self._guarded.is_busy

    @property
    def problem(self) -> str:
        """Why the sets are missing or may be out of date. Empty: no problem is known."""
        if self.sync.state is SyncState.READ_ONLY:
            return f"the ZooKeeper server may be out of date: {NO_QUORUM}"
        if self.sync.state is SyncState.LIVE:
            return self.sync.missing
        reason = self._unreachable_reason
        return f"ZooKeeper is unreachable: {reason}" if reason and not self._client.connected else ""

    def holds(self, path: str) -> bool:
        """Return True if a member's znode is in this namespace."""
        return self.namespace.matches_path(path.rpartition("/")[0])

    async def read_stats(self, paths: Iterable[str], seconds: float) -> dict[str, ZnodeStat]:
        """Read znodes, with a timeout. Znodes that could not be read in time are not in the result."""
        return await read_stats(self._client, paths, seconds)

    async def stop(self) -> None:
        """Close the session, or leave it to its timeout if that takes too long."""
        self._is_stopping = True
        self._moves.close()
        self.sync.detach()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_disposed() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(stopped.set)

        dispose(self._client, on_disposed)
        await asyncio.wait([asyncio.ensure_future(stopped.wait())], timeout=_STOP_SECONDS)

    def _make_client(self) -> Client:
        config = self._config.zookeeper
        return make_client(
            config.servers,
            session_timeout=config.session_timeout,
            access=load_access(config),
            read_only=True,
            preferred=config.observers,
            reconnect_spread=min(_RECONNECT_SPREAD, config.session_timeout / 4),
            on_connect_failed=self._post_connect_failed,
        )

    def _make_second(self, on_observer: bool) -> Client:
        """A client for a move: for the observers only, or for all servers with a quorum.

        Raises:
            ConfigError: the credentials cannot be read.
        """
        client = self._make_client()
        client.read_only = False
        if on_observer:
            client.set_hosts(self._config.zookeeper.observers_only)
        self.sync.prepare(client)
        return client

    def _move(self) -> None:
        """Move to an observer if it is time, or away from one that has lost its quorum."""
        is_live = self.sync.state is SyncState.LIVE
        is_quiet = is_live and not self._guarded.is_in_window
        try:
            client = self._moves.next_client(self._client, time.monotonic(), is_quiet=is_quiet)
        except ConfigError as error:
            log.warning("zookeeper_client_restart_failed", zookeeper=self._servers, reason=str(error))
            return
        if client is not None:
            before, self._client = self._client, client
            client.set_hosts(self._servers)  # if this connection is lost
            client.read_only = True
            self.sync.switch_to(client)
            dispose(before)

    def _post_connect_failed(self) -> None:
        """Pass a failed attempt to connect to the event loop. Called in kazoo's thread."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._connect_failed)

    def _connect_failed(self) -> None:
        # In the state LIVE, a connection has been made and read since the attempt: nothing would end the
        # disturbance.
        if not self._is_stopping and self.sync.state is not SyncState.LIVE:
            self._guarded.disturb("a server was unreachable")

    def _audit(self, read: SetPut) -> None:
        """Compare a set with the table, when all earlier changes are in the table."""
        self._guarded.call_in_order(lambda: self.table_audit.check(read))

    def _audit_sets(self) -> None:
        """Search the table for sets that ZooKeeper does not have: some at a time, all in each audit."""
        if self._audited_at != self.sync.last_audit_at:
            self._audited_at = self.sync.last_audit_at
            self.table_audit.begin()
        self._guarded.call_in_order(lambda: self.table_audit.check_some(self.sync.may_exist))

    def _delay_changed(self, is_delayed: bool) -> None:
        if self._is_stopping:
            return
        if is_delayed:
            self._guarded.disturb("zookeeper replied late")
        elif self.sync.state is SyncState.LIVE:
            self._guarded.settle()

    def _warn_if_unreachable(self) -> None:
        if not self._client.connected and not self._is_stopping:
            # In a thread, because it resolves host names and connects.
            threading.Thread(target=self._log_unreachable, daemon=True).start()

    def _log_unreachable(self) -> None:
        hosts = self._servers
        reason = Diagnosis(hosts, tls_of(self._client)).wait().describe()
        if not self._client.connected and not self._is_stopping:
            self._unreachable_reason = reason
            log.warning("zookeeper_unreachable", zookeeper=hosts, reason=reason, effect="retrying")

    def _check(self) -> None:
        """Replace a client that has ended. Drop restored sets that have become known to be absent."""
        if self._is_stopping:
            return
        asyncio.get_running_loop().call_later(self._check_seconds, self._check)
        if self._restored_origins and self.sync.state in _READ_STATES:
            self._drop_absent()
        if self.sync.state is SyncState.LIVE:
            self._audit_sets()
        self._move()
        if time.monotonic() < self._next_client_at or not has_ended_thread(self._client):
            return
        self._client_pause = min(self._client_pause * 2, _MAX_CLIENT_PAUSE)
        self._next_client_at = time.monotonic() + self._client_pause
        zookeeper = self._servers
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
            if state is SyncState.LIVE:
                self._guarded.set_zxid(self.sync.zxid)  # before the workers learn that everything was read
        elif state is SyncState.UNREACHABLE:
            self._disconnected_at = time.monotonic()
            log.warning(
                "zookeeper_disconnected",
                zookeeper=self._servers,
                namespace=self.namespace.template,
            )
            self._unreachable_reason = ""
            if self._outage_timer is not None:
                self._outage_timer.cancel()
            self._outage_timer = self._loop.call_later(_UNREACHABLE_SECONDS, self._warn_if_unreachable)
        self._guarded.set_health(state is not SyncState.READING, state is not SyncState.LIVE)

    def _read_completed(self, state: SyncState) -> None:
        self._last_problem = ""
        self._client_pause = self._check_seconds / 2
        self._drop_absent()
        log.info(
            "zookeeper_read",
            zookeeper=self._servers,
            namespace=self.namespace.template,
            services=len(self.sync.origins),
            seconds=round(time.monotonic() - self._disconnected_at, 3),
            state=state.value,
        )

    def _drop_absent(self) -> None:
        """Drop restored sets that are not in ZooKeeper. Keep those below a znode that cannot be listed."""
        absent = self._restored_origins - self.sync.origins
        self._restored_origins = {origin for origin in absent if self.sync.may_exist(origin)}
        readable = self._restored_directories - self.sync.unread_directories
        self._restored_directories.clear()
        self._guarded.publish(
            [
                *(SetDropped(origin) for origin in sorted(absent - self._restored_origins)),
                *(DirectoryUnread(path, is_unread=False) for path in sorted(readable)),
            ]
        )

    @property
    def stats(self) -> NamespaceStats:
        """The state of the namespace."""
        guard = self._guarded.guard
        return NamespaceStats(
            namespace=self.namespace.template,
            state=self.sync.state.value,
            stale_since=self._guarded.stale_since,
            held=len(guard.held),
            holds=guard.holds_total,
            unread=len(self.sync.unread_directories),
            server=str(server_of(self._client) or "") if self._client.connected else "",
            delays=self.sync.delays,
            propagation_counts=tuple(self.sync.propagation.counts),
            propagation_seconds=self.sync.propagation.seconds,
        )


def stats_of(sources: Sequence[ZooKeeperSource]) -> WatcherStats:
    """Return the sum of the stats of all namespaces (at least one). The state is the worst of them."""
    syncs = [source.sync for source in sources]
    namespaces = tuple(source.stats for source in sources)
    stale = [one.stale_since for one in namespaces if one.stale_since is not None]
    return WatcherStats(
        state=min((sync.state for sync in syncs), key=_WORST_STATE_FIRST.index).value,
        stale_since=min(stale, default=None),
        namespaces=namespaces,
        bad=sum(len(sync.bad) for sync in syncs),
        bad_members=dict(sum((sync.bad_members for sync in syncs), Counter())),
        ignored_fields=dict(sum((sync.ignored_fields for sync in syncs), Counter())),
        bad_names=sum(sync.bad_names for sync in syncs),
        passed_over=sum(sync.passed_over for sync in syncs),
        repairs=sum(source.sync.repairs + source.table_audit.repairs for source in sources),
    )
