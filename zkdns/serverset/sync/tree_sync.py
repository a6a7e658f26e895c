"""`TreeSync`: decides what to read after each event and response, and publishes the changes.

    connected ──▶ start a strategy (recursive watch, otherwise one-shot watches) ──▶ read everything that is
    not known yet ──▶ live: after each event, read the znodes that it concerns

Rules of this file:
- All decisions are made in the event loop. kazoo's threads only add calls to one queue.
- Each request belongs to a connection through its strategy. Late responses of an old connection are dropped.
- When ZooKeeper becomes unreachable, only the `SyncState` changes. The contents stay.
- An audit reads everything again, a little at a time, and counts changes that no event had reported.
- A heartbeat notices that ZooKeeper has paused, before any consequence of the pause is published.
- kazoo's ChildrenWatch is not used: it ends when its znode is deleted, and starts a thread per reconnect.
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog
from kazoo.client import KazooState
from kazoo.exceptions import NoAuthError, NoNodeError

from zkdns.serverset.changes import Change, SetPut
from zkdns.serverset.client import hosts_of, is_read_only
from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.kazoo_check import incompatibility
from zkdns.serverset.kazoo_ext import CHANGED, CREATED, DELETED, Znode, intercept_events
from zkdns.serverset.passed_over import PassedOver
from zkdns.serverset.propagation import Propagation
from zkdns.serverset.reachability import describe_missing_chroot
from zkdns.serverset.service_counts import ServiceCount
from zkdns.serverset.sync.audit import Audit
from zkdns.serverset.sync.event_queue import ThreadsafeQueue
from zkdns.serverset.sync.heartbeat import Heartbeat
from zkdns.serverset.sync.one_shot import OneShotStrategy
from zkdns.serverset.sync.recursive import RecursiveStrategy
from zkdns.serverset.sync.strategy import CONNECTION_ERRORS, Read, SyncListener, WatchStrategy
from zkdns.serverset.sync.tree import Directory, Node, SetNode, ZnodeTree

if TYPE_CHECKING:
    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult

    from zkdns.namespace import Namespace

log = structlog.get_logger("zkdns.sync")

T = TypeVar("T")

_MILLISECONDS = 1000  # per second

AUDIT_SECONDS = 300.0
"""The period of audits, which read everything again although events should report every change."""

RETRY_SECONDS = 2.0
"""The interval of attempts to read a znode that cannot be read, for instance because access is denied.

No event reports the end of the error. Trying ten thousand such znodes again costs 40 requests.
"""

# Maximum random delay after a reconnect, so that a thousand machines do not read everything at once.
_RECONNECT_JITTER = 0.25
# After a server has refused the recursive watch, one-shot watches are used for this long. A server that is
# too old closes the connection at each attempt, but it may be updated.
_UNSUPPORTED_SECONDS = 3600.0

_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it

_CHROOT = "the chroot"
"""The entry of the chroot among the paths with logged errors. Unlike them it has no slash."""


class SyncState(enum.StrEnum):
    """How current the published contents are."""

    READING = "reading"
    """The first complete read has not finished."""
    LIVE = "live"
    """Everything was read, and watches report every change."""
    READ_ONLY = "readonly"
    """As LIVE, but the server has no quorum, so that recent changes may be missing."""
    UNREACHABLE = "unreachable"
    """ZooKeeper is unreachable, and the contents are those before the disconnect."""


class TreeSync(SyncListener):
    """Follows all server sets of one namespace and publishes each change.

    Args:
        client: a kazoo client that is not started yet. The caller starts and stops it.
        namespace: the sets to follow.
        publish: called in the event loop with changes, in order.
        on_state: called in the event loop when the state changes. Before `LIVE`, all changes were published.
        on_delay: called in the event loop with True when a response of ZooKeeper is late, before changes that
            may be a consequence are published; with False when it has arrived. Not called when the delay ends
            with the connection: the state becomes `UNREACHABLE`.
        on_ensemble: called in the event loop with what a connection has shown of its ensemble, before the
            changes of the first read over it are published; and again if the root was missing or unreadable
            then, and is read later.
        on_same_ensemble: called in the event loop with what the same connection has shown since: its latest
            transaction, or a root that was created again.
        on_zxid: called in the event loop with a new `zxid`, after the changes up to it were published and
            the state is `LIVE`.
        on_audited: called in the event loop with a set that an audit has read, after its changes.
        wall_clock: the Unix time in seconds.
        recursive: whether to use a recursive watch if the server supports it.
        audit_seconds: seconds between two audits.
        retry_seconds: seconds between two attempts to read a znode that cannot be read.
    """

    def __init__(
        self,
        client: KazooClient,
        namespace: Namespace,
        publish: Callable[[list[Change]], None],
        on_state: Callable[[SyncState], None],
        *,
        on_delay: Callable[[bool], None] = lambda _: None,
        on_ensemble: Callable[[Ensemble], None] = lambda _: None,
        on_same_ensemble: Callable[[Ensemble], None] = lambda _: None,
        on_zxid: Callable[[int], None] = lambda _: None,
        on_audited: Callable[[SetPut], None] = lambda _: None,
        wall_clock: Callable[[], float] = time.time,
        recursive: bool = True,
        audit_seconds: float = AUDIT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.state = SyncState.READING
        self.repairs = 0
        """The number of changes without an event that audits have found since the start. Expected: 0."""
        self.last_activity_at: float | None = None
        """When ZooKeeper last sent anything, by the event loop's clock. None: not yet."""
        self.last_audit_at: float | None = None
        """When the last audit or initial read began, by the event loop's clock. None: not yet."""
        self.missing = ""
        """A sentence if the root or the chroot does not exist. Empty: both exist."""
        self.zxid = 0
        """The highest transaction of the contents that were read over this connection. 0: none."""
        self.propagation = Propagation()
        """The times from the writing of members to their publication."""
        self._tree = ZnodeTree(namespace, is_chrooted=bool(client.chroot))
        self._watched_roots = namespace.followed_roots
        self._searched: set[Node] = set()  # unwatched directories that are listed because of an event below
        self._publish = publish
        self._on_state = on_state
        self._on_delay = on_delay
        self._on_ensemble = on_ensemble
        self._on_same_ensemble = on_same_ensemble
        self._on_zxid = on_zxid
        self._on_audited = on_audited
        self._audited: list[SetNode] = []  # since the last changes were published
        self._last_zxid: int | None = None  # that was reported over this connection
        self._wall_clock = wall_clock
        self._is_recursive = recursive
        self._unsupported_until = 0.0
        self._audit_seconds = audit_seconds
        self._audit = Audit(audit_seconds)
        self._retry_seconds = retry_seconds
        self._loop = asyncio.get_running_loop()
        self.queue = ThreadsafeQueue(self._on_queue_drained)  # public, so that the caller can block it
        self._heartbeat = Heartbeat(self._loop, self._send_sync, self.queue.post, self._report_delay)
        self._shown: Ensemble | None = None  # what was reported over this connection
        self._strategy: WatchStrategy | None = None
        self._strategy_name = ""
        self._initial_pending = 0  # requests of the initial read over this connection without a response
        self._is_initial_done = self._is_read_only = self._was_connected = False
        self._timer: asyncio.TimerHandle | None = None
        self._client: KazooClient | None = None
        self._reported: set[str] = set()  # paths with logged errors
        self.attach(client)

    def attach(self, client: KazooClient) -> None:
        """Use this client, which is not started yet, in place of one that has ended."""
        self._heartbeat.stop()
        self._client = client
        self.prepare(client)

    def prepare(self, client: KazooClient) -> None:
        """Prepare a client, which is not started yet, for `attach` or `switch_to`."""
        if incompatibility() is None:
            intercept_events(client, partial(self.queue.post, self._on_watch_event, client))
        client.add_listener(lambda state: self._on_client_state(client, state))

    def switch_to(self, client: KazooClient) -> None:
        """Use this prepared and connected client in place of the present one. The state does not change."""
        self._client = client
        self._on_connection(client, KazooState.CONNECTED, is_read_only(client))

    @property
    def is_settled(self) -> bool:
        """Whether no event, response or request is outstanding, and all changes were published."""
        return not self.queue.has_calls and (self._strategy is None or self._strategy.is_idle)

    def detach(self) -> None:
        """Send no more requests, and ignore the client from now on: the caller is about to stop it."""
        self._client = None
        self._heartbeat.stop()
        self._stop_strategy()

    @property
    def origins(self) -> set[str]:
        """The origins of all sets that exist, including unreadable ones."""
        return {node.path for node in self._tree.sets()}

    def may_exist(self, origin: str) -> bool:
        """Whether a set is in `origins`, or may exist below a znode that cannot be listed."""
        elements = [element for element in origin[len(self._tree.root.path) :].split("/") if element]
        for count in range(len(elements)):
            node = self._tree.find(elements[:count])
            if node is None or not node.is_listed:
                return node is not None
        return self._tree.find(elements) is not None

    @property
    def unread_directories(self) -> set[str]:
        """Paths of the znodes above the sets that could not be listed."""
        return self._tree.unread_directories

    @property
    def unread(self) -> Mapping[str, str]:
        """The znodes that could not be listed or read at the last attempt: the reason by path."""
        return self._tree.unread

    @property
    def delays(self) -> int:
        """How often a response of ZooKeeper was late since the start."""
        return self._heartbeat.delays

    @property
    def bad_members(self) -> Counter[str]:
        """How many members were skipped since the start, by reason."""
        return self._tree.bad_members

    @property
    def ignored_fields(self) -> Counter[str]:
        """How many optional fields were ignored since the start because they were invalid, by name."""
        return self._tree.ignored_fields

    @property
    def bad(self) -> Mapping[str, str]:
        """The members that are skipped now: the reason by path."""
        return self._tree.bad

    def unreadable(self, origin: str) -> AbstractSet[str]:
        """Names of a set's members that could not be read, so that their data is unknown."""
        return self._tree.unreadable(origin)

    def service_counts(self) -> Iterator[ServiceCount]:
        """A row for each set that exists, in no order."""
        return self._tree.service_counts()

    def empty_directories(self) -> Iterator[str]:
        """The paths of all znodes above the sets without children that lead to sets."""
        return self._tree.empty_directories()

    @property
    def bad_names(self) -> int:
        """How many sets had a name that is not valid in DNS, since the start."""
        return self._tree.bad_names

    @property
    def passed_over(self) -> int:
        """How many children of sets are neither members nor vectors, and so are not read."""
        return self._tree.passed_over

    def passed_over_of(self, origin: str) -> PassedOver:
        """The children of a set that are neither members nor vectors."""
        return self._tree.passed_over_of(origin)

    # -- the connection ------------------------------------------------------------------------------------

    def _on_client_state(self, client: KazooClient, state: str) -> None:
        """Pass a change of the connection to the event loop. Called in kazoo's thread."""
        self.queue.post(self._on_connection, client, state, is_read_only(client))

    def _on_connection(self, client: KazooClient, state: str, is_without_quorum: bool) -> None:
        if client is not self._client:
            return
        self._heartbeat.stop()
        self._stop_strategy()
        self._tree.cancel_requests()
        self._shown = None
        self.zxid, self._last_zxid = 0, None
        if state != KazooState.CONNECTED:
            if self.state is not SyncState.READING:
                self._set_state(SyncState.UNREACHABLE)
            return
        self._is_read_only = is_without_quorum
        self._heartbeat.start()  # before the first read (see `serverset.ensemble`)
        delay = _random.uniform(0, _RECONNECT_JITTER) if self._was_connected else 0.0
        self._was_connected = True
        self._timer = self._loop.call_later(delay, self._start_strategy, client)

    def _start_strategy(self, client: KazooClient) -> None:
        is_unsupported = self._loop.time() < self._unsupported_until
        kind = RecursiveStrategy if self._is_recursive and not is_unsupported else OneShotStrategy
        self._strategy = kind(client, self._tree.root, self._watched_roots, self.queue, self)
        self._strategy.start()
        self._strategy.send_pending()

    def _stop_strategy(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._strategy is not None:
            self._strategy.stop()
            self._strategy = None
        self._initial_pending = 0
        self._is_initial_done = False
        self._searched.clear()

    def _set_state(self, state: SyncState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

    def _on_queue_drained(self) -> None:
        """Publish the changes of a batch of events and responses, and send the reads that it caused."""
        changes = self._tree.take_changes()
        if changes:
            self._heartbeat.check()
            self._publish(changes)
        audited, self._audited = self._audited, []
        for put in filter(None, map(self._tree.settled, audited)):
            self._notify(self._on_audited, put)
        if self._strategy is not None:
            self.last_activity_at = self._loop.time()
            self._strategy.send_pending()
        if self._is_initial_done and not self.queue.is_blocked():
            self._set_state(SyncState.READ_ONLY if self._is_read_only else SyncState.LIVE)
            self._report_zxid()

    def _report_zxid(self) -> None:
        """Report the highest transaction, once all changes of it and of earlier ones were published.

        Then no read is outstanding, since events arrive before the responses that show their changes. After
        the first read over a connection it is reported in any case. A server without a quorum may lag behind.
        """
        is_idle = self._strategy is not None and self._strategy.is_idle
        is_due = self._last_zxid is None or (is_idle and self.zxid != self._last_zxid)
        if is_due and not self._is_read_only:
            self._last_zxid = self.zxid
            self._notify(self._on_zxid, self.zxid)

    # -- the ensemble --------------------------------------------------------------------------------------

    def _send_sync(self, on_reply: Callable[[], None]) -> None:
        """Send a request that passes through ZooKeeper's leader."""
        client = self._client
        if client is None:
            return

        def on_result(result: IAsyncResult) -> None:
            """Handle the response, which may be an error. Called in kazoo's thread."""
            if not isinstance(result.exception, CONNECTION_ERRORS):
                self.queue.post(self._note_zxid, client, client.last_zxid)
                on_reply()

        client.sync_async(self._tree.root.path).rawlink(on_result)

    def _report_delay(self, is_delayed: bool) -> None:
        self._notify(self._on_delay, is_delayed)

    def _note_zxid(self, client: KazooClient, zxid: int) -> None:
        """Report the latest transaction, once the ensemble of this connection was reported."""
        if client is self._client and self._shown is not None and not self._is_read_only:
            self._notify(self._on_same_ensemble, Ensemble(zxid=zxid))

    def on_root(self, shown: Ensemble) -> None:
        """Report the ensemble, unless this connection has shown the root before."""
        if self._is_read_only:
            shown = msgspec.structs.replace(shown, zxid=0)
        if self._shown is None or (shown.root_czxid and not self._shown.root_czxid):
            self._shown = shown
            self._notify(self._on_ensemble, shown)
        else:
            self._notify(self._on_same_ensemble, shown)

    def _notify(self, callback: Callable[[T], None], value: T) -> None:
        """Call a callback of the caller. Its exception must not prevent the publication that follows."""
        try:
            callback(value)
        except Exception:  # an internal error
            log.exception("zookeeper_event_failed")

    # -- results of the strategy ---------------------------------------------------------------------------

    def on_started(self) -> None:
        """Begin the initial read: the watches work."""
        assert self._strategy is not None  # noqa: S101 - it is the caller
        if self._strategy.name != self._strategy_name:
            self._strategy_name = self._strategy.name
            log.info("zookeeper_watch_started", strategy=self._strategy_name, path=self._tree.root.path)
        self._list(self._tree.root, is_initial=True)

    def on_unsupported(self, reason: str) -> None:
        """Fall back to one-shot watches."""
        log.warning("recursive_watch_refused", reason=reason)
        assert self._strategy is not None  # noqa: S101 - it is the caller
        client = self._strategy.client
        self._unsupported_until = self._loop.time() + _UNSUPPORTED_SECONDS
        self._stop_strategy()
        self._tree.cancel_requests()
        self._start_strategy(client)

    def on_children(self, read: Read, names: list[str], czxid: int) -> None:
        """Update the tree from a list of children, and read the new ones."""
        node = read.node
        self._searched.discard(node)
        if not node.is_gone:
            self._reported.discard(node.path)
            if node is self._tree.root:
                self.missing = ""
                self._reported.discard(_CHROOT)
            if isinstance(node, Directory):
                unrequested, missed = self._tree.list_directory(node, names)
                for child in node.children.values() if read.is_audit else unrequested:
                    if read.is_audit and isinstance(child, SetNode) and child.is_requested:
                        self._audit.add(child)
                    else:
                        self._list(child, is_initial=read.is_initial, is_audit=read.is_audit)
            else:
                unread, missed = self._tree.list_set(node, names, czxid)
                if unread:
                    self._submit(Read(node, tuple(unread), read.is_initial))
            if read.is_audit and missed:
                self._count_repairs(node, missed)
        self._finish(read)

    def on_data(self, read: Read, results: Sequence[Znode | BaseException]) -> None:
        """Store the data of members and vectors."""
        node = read.node
        assert isinstance(node, SetNode)  # noqa: S101 - only a set's children are read
        has_errors = False
        missed = 0
        for name, result in zip(read.names, results, strict=True):
            if name not in node.reading:
                continue  # it was deleted in the meantime
            if isinstance(result, Znode):
                before = node.data_hashes.get(name)
                missed += self._tree.set_data(node, name, result.data)
                # Otherwise it was written before this connection, or an event was lost.
                is_news = not (read.is_initial or read.is_audit)
                if is_news and before != node.data_hashes.get(name):
                    self.propagation.add(self._wall_clock() - result.mtime / _MILLISECONDS)
            else:
                self._on_data_error(read, node, name, result)
                has_errors = True
        if read.is_audit:
            self._audited.append(node)
        if read.is_audit and missed:
            self._count_repairs(node, missed)
        if self._reported and not has_errors:
            self._reported.discard(f"{node.path}/*")
        self._finish(read)

    def _on_data_error(self, read: Read, node: SetNode, name: str, error: BaseException) -> None:
        is_missing = isinstance(error, NoNodeError)
        self._tree.reading_failed(node, name, None if is_missing else _reason_of(error))
        if not is_missing:
            self._report_and_retry(read, error, f"{node.path}/{name}")
        elif self._strategy is not None and not self._strategy.is_ordered:
            self.on_changed(node)  # the event of a replacement may not have arrived yet

    def on_zxid(self, zxid: int) -> None:
        """Note a transaction that the next result shows."""
        self.zxid = max(self.zxid, zxid)

    def on_error(self, read: Read, error: BaseException) -> None:
        """Remove a znode that does not exist. After any other error keep it and try again."""
        node = read.node
        self._searched.discard(node)
        if not node.is_gone:
            if isinstance(error, NoNodeError):
                self._remove(node)
            else:
                self._report_and_retry(read, error, node.path)
                self._tree.listing_failed(node, _reason_of(error))
        self._finish(read)

    def on_changed(self, node: Node) -> None:
        """List a znode again: it was deleted, or its children may have changed."""
        self._tree.mark_outdated(node)
        self._list(node)

    def on_data_changed(self, node: SetNode, name: str) -> None:
        """Read a member or a vector again."""
        if self._tree.start_reading(node, name):
            self._submit(Read(node, (name,)))

    def on_data_deleted(self, node: SetNode, name: str) -> None:
        """Read a member or a vector again if the next listing of its set still has it."""
        self._tree.mark_data_outdated(node, name)

    # -- events of the recursive watch ---------------------------------------------------------------------

    def _on_watch_event(self, client: KazooClient, kind: int, path: str) -> None:
        """Handle an event of the recursive watch or of a data watch. kazoo's own events arrive as well."""
        if client is not self._client or self._strategy is None:
            return
        root = self._tree.root.path
        if path == root or path.startswith(root.rstrip("/") + "/"):
            elements = [element for element in path[len(root) :].split("/") if element]
            if isinstance(self._strategy, OneShotStrategy):
                self._apply_data_event(self._strategy, kind, path, elements)
            else:
                self._apply_event(kind, elements)
        elif isinstance(self._strategy, RecursiveStrategy):
            self.on_unsupported(f"ZooKeeper sent an event for {path!r}, which is not below {root}")

    def _apply_event(self, kind: int, elements: list[str]) -> None:
        """Update the tree after the creation, deletion or change of the znode at this path below the root."""
        if not elements:
            if kind in (CREATED, DELETED):
                self._list(self._tree.root)
            return
        *above, name = elements
        parent = self._tree.find(above)
        if parent is None:
            self._search(self._tree.nearest(above))
            return
        if not parent.is_requested:
            return  # the parent's first listing will include the change
        if kind != CHANGED and self._strategy is not None:
            self._strategy.read_stat(parent)  # since no znode that is left has the transaction of a deletion
        if isinstance(parent, SetNode):
            self._apply_member_event(parent, kind, name)
            return
        node = parent.children.get(name)
        if kind == DELETED and node is not None:
            # It may have been created again at once, so it is listed before it is removed.
            self._tree.mark_deleted(node)
            self._list(node)
        elif kind == CREATED:
            child = node or self._tree.add_child(parent, name)
            if child is not None:
                self._list(child)

    def _search(self, node: Node) -> None:
        """List a directory after an event below it, if no watch has reported the znodes in between."""
        is_watched = self._strategy is None or self._strategy.reports(node.path)
        if isinstance(node, Directory) and not is_watched and node not in self._searched:
            self._searched.add(node)
            self._list(node)

    def _apply_member_event(self, node: SetNode, kind: int, name: str) -> None:
        if not self._tree.is_read(name):
            is_known = kind in (CREATED, DELETED)
            if is_known and self._tree.note_other_child(node, name, is_created=kind == CREATED):
                self._list(node)
        elif kind == DELETED:
            self._tree.remove(node, name)
        else:
            self.on_data_changed(node, name)

    def _apply_data_event(
        self, strategy: OneShotStrategy, kind: int, path: str, elements: Sequence[str]
    ) -> None:
        """Handle the data watch of a member or vector. A child watch reports its deletion as well."""
        if kind not in (CHANGED, DELETED) or not elements:
            return
        strategy.on_data_watch_fired(path)
        *above, name = elements
        parent = self._tree.find(above)
        if not isinstance(parent, SetNode) or name not in parent.data_hashes:
            return
        if kind == CHANGED:
            self.on_data_changed(parent, name)
        else:
            self.on_data_deleted(parent, name)

    # -- requests ------------------------------------------------------------------------------------------

    def _list(self, node: Node, *, is_initial: bool = False, is_audit: bool = False) -> None:
        self._tree.start_listing(node)
        self._submit(Read(node, (), is_initial, is_audit))

    def _submit(self, read: Read) -> None:
        if self._strategy is not None:
            self._initial_pending += read.is_initial and (len(read.names) or 1)
            self._strategy.submit(read)

    def _finish(self, read: Read) -> None:
        """Count the response of a request. After the last one of the initial read, schedule the audit."""
        if read.is_initial:
            self._initial_pending -= len(read.names) or 1
            if not self._initial_pending:
                self._is_initial_done = True
                self.last_audit_at = self._loop.time()
                self._start_audits()

    def _remove(self, node: Node) -> None:
        """Remove a znode that does not exist. If it is created again, an event reports that."""
        if node is self._tree.root:
            self._on_root_missing()
        for lost in self._tree.walk(node) if self._reported else ():
            if lost is not self._tree.root:
                self._reported.difference_update((lost.path, f"{lost.path}/*"))
        self._tree.drop(node)

    def _on_root_missing(self) -> None:
        """Report that the root does not exist or, if so, that the chroot does not exist."""
        client = self._client
        if client is None or not client.chroot:
            self._report_missing(self._tree.root.path, f"the znode {self._tree.root.path} does not exist")
            return
        found = client.exists_async("/")
        found.rawlink(lambda result: self.queue.post(self._on_chroot_checked, self._strategy, result))

    def _on_chroot_checked(self, strategy: WatchStrategy | None, found: IAsyncResult) -> None:
        root, client = self._tree.root, self._client
        if client is None or strategy is not self._strategy or found.exception is not None or root.is_listed:
            return
        if found.value is not None:
            self._report_missing(root.path, f"the znode {root.path} does not exist")
            return
        chroot = client.chroot
        is_new = _CHROOT not in self._reported
        self._reported.add(_CHROOT)
        hosts = hosts_of(client)
        self.missing = describe_missing_chroot(chroot, hosts)
        if is_new:
            log.warning("zookeeper_chroot_missing", zookeeper=hosts, chroot=chroot)

    def _report_missing(self, path: str, sentence: str) -> None:
        self.missing = sentence
        if path not in self._reported:
            self._reported.add(path)
            log.warning("znode_missing", path=path)

    def _report_and_retry(self, read: Read, error: BaseException, path: str) -> None:
        """Log a znode's error once, keep its contents, and try again later."""
        node = read.node
        subject = f"{node.path}/*" if read.names else path  # one log line for all members of a set
        if subject not in self._reported:
            self._reported.add(subject)
            log.warning("znode_read_failed", path=path, reason=_reason_of(error))
        if not self._tree.start_retry(node):
            return  # another member of the set has failed before this one
        # The initial read includes the retry of a directory, since its error usually passes soon. But a
        # denied access is an answer: the znode is published as unread.
        is_initial = read.is_initial and isinstance(node, Directory) and not isinstance(error, NoAuthError)
        self._initial_pending += is_initial
        self._loop.call_later(self._retry_seconds, self._retry, self._strategy, node, is_initial)

    def _retry(self, strategy: WatchStrategy | None, node: Node, is_initial: bool) -> None:
        if strategy is not None and strategy is self._strategy and not node.is_gone:
            self._tree.end_retry(node)
            self._initial_pending -= is_initial
            self._list(node, is_initial=is_initial)
            strategy.send_pending()

    # -- the audit -----------------------------------------------------------------------------------------

    def _start_audits(self) -> None:
        """Begin the first audit after a period, since everything was read just now."""
        self._audit = Audit(self._audit_seconds)
        self._timer = self._loop.call_later(self._audit_seconds, self._run_audit_round)

    def _run_audit_round(self) -> None:
        """Read a part of the tree again. A difference means that an event was lost."""
        assert self._strategy is not None  # noqa: S101 - stopping the strategy cancels the timer
        if self._audit.is_beginning():
            self.last_audit_at = self._loop.time()
            self._audit.begin(self._tree.sets())
            self._list(self._tree.root, is_audit=True)
        to_list, to_read = self._audit.next_round()
        for node in to_list:
            if not node.is_gone:
                self._list(node, is_audit=True)
        for node in to_read:
            if names := self._tree.start_verifying(node):
                self._submit(Read(node, names, is_audit=True))
            else:
                self._audited.append(node)  # without members
        self._strategy.send_pending()
        self._timer = self._loop.call_later(self._audit.round_seconds, self._run_audit_round)

    def _count_repairs(self, node: Node, count: int) -> None:
        """Count changes without an event, although there is a watch.

        Not with one-shot watches, whose events may arrive later.
        """
        if self._strategy is not None and self._strategy.is_ordered and self._strategy.reports(node.path):
            self.repairs += count
            log.error("missed_changes_repaired", path=node.path, count=count)


def _reason_of(error: BaseException) -> str:
    """Return why a znode could not be read."""
    return "access denied" if isinstance(error, NoAuthError) else repr(error)
