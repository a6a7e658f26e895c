"""Keeps a tree equal to what ZooKeeper holds below a namespace's root, and publishes each difference.

    connected ──▶ a way is taken: a recursive watch, else one-shot ones ──▶ everything is listed, and of the
    members those read that are not known yet ──▶ live: each event is followed by reading what it concerns

Rules of this file:
- One thread decides: the event loop's. kazoo's threads only post to it, on one queue.
- Everything asked belongs to a connection, by its way; late answers of an old one are dropped.
- Losing ZooKeeper changes nothing that is known; it is only said (`SyncState`).
- What events should have told is checked every few minutes, and counted where it was not so.
- Not kazoo's recipes: ChildrenWatch ends silently when its znode is deleted and starts a thread per watch on
  reconnect.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from kazoo.client import KazooState
from kazoo.exceptions import NoAuthError, NoNodeError
from kazoo.protocol.states import KeeperState

from zkdns.serverset.changes import Change
from zkdns.serverset.inbox import Inbox
from zkdns.serverset.kazoo_private import CREATED, DELETED, take_events, unusable
from zkdns.serverset.one_shot import OneShotWay
from zkdns.serverset.recursive import RecursiveWay
from zkdns.serverset.tree import FOLLOWED, Directory, Node, SetNode, Tree
from zkdns.serverset.way import Ask, Way

if TYPE_CHECKING:
    from kazoo.client import KazooClient

    from zkdns.namespace import Namespace

log = structlog.get_logger("zkdns.sync")

AUDIT_SECONDS = 300.0
"""How often everything is listed again, though events should have told of every change."""

# After an error that is the znode's own (access denied, say) nothing will announce that it is over. Asking
# for ten thousand such znodes again costs 40 questions.
_RETRY_SECONDS = 2.0
# A thousand machines that lost ZooKeeper together do not come back in step.
_RELOAD_SECONDS = 0.25
# A server that is too old closes the connection of who asks it for a recursive watch; it may be updated.
_REFUSAL_SECONDS = 3600.0


class SyncState(enum.StrEnum):
    """How far what is known can be trusted."""

    READING = "reading"
    """Nothing has been read completely yet."""
    LIVE = "live"
    """Everything was read, and watches tell of every change."""
    READ_ONLY = "readonly"
    """The same, from a server that is cut off from the others, so that it may not know of every change."""
    AWAY = "away"
    """ZooKeeper is out of reach; what is known is the last that it said."""


class TreeSync:
    """Follows all server sets of one namespace and tells each change.

    Args:
        client: a kazoo client that is not started; its owner starts and stops it.
        namespace: where the sets lie.
        publish: called in the event loop with changes, in order.
        on_state: called in the event loop whenever the state becomes another; on the way to `LIVE` all
            changes were published before.
        recursive: whether a recursive watch may be used where that is possible.
        audit_seconds: between two audits.
    """

    def __init__(
        self,
        client: KazooClient,
        namespace: Namespace,
        publish: Callable[[list[Change]], None],
        on_state: Callable[[SyncState], None],
        *,
        recursive: bool = True,
        audit_seconds: float = AUDIT_SECONDS,
    ) -> None:
        self.state = SyncState.READING
        self.repairs = 0
        """Znodes of which events should have told, and did not, since the start; expected: none, ever."""
        self.heard_at: float | None = None
        """When ZooKeeper last told anything (by the event loop's clock); None: not yet."""
        self.audited_at: float | None = None
        """When everything was last listed, or began to be."""
        self._tree = Tree(namespace)
        self._publish = publish
        self._on_state = on_state
        self._is_recursive = recursive
        self._refused_until = 0.0
        self._audit_seconds = audit_seconds
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._settle)
        self._way: Way | None = None
        self._way_name = ""
        self._walking = 0  # questions of the first walk over this connection that are not answered yet
        self._is_walked = False
        self._is_read_only = False
        self._was_connected = False
        self._timer: asyncio.TimerHandle | None = None
        self._complained: set[str] = set()
        self.attach(client)

    def attach(self, client: KazooClient) -> None:
        """Follow by this client from now on, which is not started yet; the one before has ended."""
        self._client = client
        self._tree.is_chrooted = bool(client.chroot)
        if unusable() is None:
            take_events(client, lambda kind, path: self._inbox.post(self._event, client, kind, path))
        client.add_listener(lambda state: self._heard(client, state))

    @property
    def origins(self) -> set[str]:
        """The origins of all sets that exist, also of those that cannot be read."""
        return {node.path for node in self._tree.sets()}

    def may_hold(self, origin: str) -> bool:
        """Whether a set that is not known may be there all the same, below a znode that cannot be listed."""
        elements = [element for element in origin[len(self._tree.root.path) :].split("/") if element]
        for count in range(len(elements)):
            node = self._tree.find(elements[:count])
            if node is None or not node.is_listed:
                return node is not None
        return False

    @property
    def bad_members(self) -> Counter[str]:
        """Members that were skipped, by reason, since the start."""
        return self._tree.bad_members

    @property
    def bad(self) -> Mapping[str, str]:
        """The reason by the path, of all members that are skipped now."""
        return self._tree.bad

    def unreadable(self, origin: str) -> set[str]:
        """Names of a set's members that could not be read, and are not known therefore."""
        return self._tree.unreadable(origin)

    @property
    def bad_names(self) -> int:
        """Sets that DNS cannot name, since the start."""
        return self._tree.bad_names

    # -- the connection ------------------------------------------------------------------------------------

    def _heard(self, client: KazooClient, state: str) -> None:
        """The state listener, called in a thread of kazoo's."""
        is_read_only = client.client_state == KeeperState.CONNECTED_RO
        self._inbox.post(self._connection_changed, client, state, is_read_only)

    def _connection_changed(self, client: KazooClient, state: str, is_read_only: bool) -> None:
        if client is not self._client:
            return
        self._end_way()
        self._tree.disconnected()
        if state != KazooState.CONNECTED:
            if self.state is not SyncState.READING:
                self._set_state(SyncState.AWAY)
            return
        self._is_read_only = is_read_only
        pause = random.uniform(0, _RELOAD_SECONDS) if self._was_connected else 0.0
        self._was_connected = True
        self._timer = self._loop.call_later(pause, self._take_way)

    def _end_way(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._way is not None:
            self._way.end()
            self._way = None
        self._walking = 0
        self._is_walked = False

    def _take_way(self) -> None:
        is_refused = self._loop.time() < self._refused_until
        way = RecursiveWay if self._is_recursive and not is_refused else OneShotWay
        self._way = way(self._client, self._tree.root, self._inbox, self)
        self._way.begin()
        self._way.pump()

    def _set_state(self, state: SyncState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

    def _settle(self) -> None:
        """All that had arrived has been looked at: publish, ask, and say where we stand."""
        changes = self._tree.take_changes()
        if changes:
            self._publish(changes)
        if self._way is not None:
            self.heard_at = self._loop.time()
            self._way.pump()
        if self._is_walked:
            self._set_state(SyncState.READ_ONLY if self._is_read_only else SyncState.LIVE)

    # -- what the way tells --------------------------------------------------------------------------------

    def begun(self) -> None:
        """Changes are heard of from now on: read everything."""
        assert self._way is not None  # noqa: S101 - it is what tells
        if self._way.name != self._way_name:
            self._way_name = self._way.name
            log.info("zookeeper_watch_started", strategy=self._way_name, path=self._tree.root.path)
        self._list(self._tree.root, is_walk=True)

    def refused(self, reason: str) -> None:
        """Take the other way."""
        log.warning("recursive_watch_refused", reason=reason)
        self._refused_until = self._loop.time() + _REFUSAL_SECONDS
        self._end_way()
        self._tree.disconnected()
        self._take_way()

    def listed(self, ask: Ask, names: list[str], czxid: int) -> None:
        """A znode's children."""
        node = ask.node
        if not node.is_gone:
            self._complained.discard(node.path)
            if isinstance(node, Directory):
                unasked, surprises = self._tree.list_directory(node, names)
                for child in node.children.values() if ask.is_audit else unasked:
                    self._list(child, is_walk=ask.is_walk, is_audit=ask.is_audit)
            else:
                unread, surprises = self._tree.list_set(node, names, czxid)
                if unread:
                    self._ask(Ask(node, tuple(unread), ask.is_walk))
            if ask.is_audit and surprises:
                self._repaired(node, surprises)
        self._answered(ask)

    def read(self, ask: Ask, results: Sequence[bytes | BaseException]) -> None:
        """The data of members and vectors, or why there is none."""
        node = ask.node
        assert isinstance(node, SetNode)  # noqa: S101 - of nothing else data is asked for
        is_whole = True
        for name, result in zip(ask.names, results, strict=True):
            if name not in node.reading:
                continue  # it has gone meanwhile
            if isinstance(result, bytes):
                self._tree.learn(node, name, result)
            else:
                self._unread(ask, name, result)
                is_whole = False
        if is_whole and self._complained:
            self._complained.discard(f"{node.path}/*")
        self._answered(ask)

    def _unread(self, ask: Ask, name: str, error: BaseException) -> None:
        node = ask.node
        assert isinstance(node, SetNode)  # noqa: S101 - as above
        is_missing = isinstance(error, NoNodeError)
        self._tree.unread(node, name, is_there=not is_missing)
        if not is_missing:
            self._complain(ask, error, f"{node.path}/{name}")
        elif self._way is not None and not self._way.is_ordered:
            self.changed(node)  # another may have come in its place, of which a watch tells yet

    def failed(self, ask: Ask, error: BaseException) -> None:
        """The znode is not there, or its children cannot be listed."""
        node = ask.node
        if not node.is_gone:
            if isinstance(error, NoNodeError):
                self._missing(node)
            else:
                self._complain(ask, error, node.path)
                if isinstance(node, SetNode):
                    self._tree.unlisted(node)
        self._answered(ask)

    def changed(self, node: Node) -> None:
        """A znode's children may be others than before, or itself no more."""
        if isinstance(node, SetNode):
            node.is_doubtful = True
        self._list(node)

    def replaced(self, node: SetNode, name: str) -> None:
        """A member's or a vector's data is new, or another than before."""
        if not node.is_gone and name not in node.reading:
            node.reading.add(name)
            self._ask(Ask(node, (name,)))

    def happened(self, kind: int, path: str) -> None:
        """Something was created, deleted or changed at this path, below the root."""
        elements = [element for element in path[len(self._tree.root.path) :].split("/") if element]
        if not elements:
            if kind in (CREATED, DELETED):
                self._list(self._tree.root)
            return
        *above, name = elements
        parent = self._tree.find(above)
        if parent is None or not parent.is_asked:
            return  # it is listed yet, and then tells
        if isinstance(parent, SetNode):
            self._member_happened(parent, kind, name)
            return
        node = parent.children.get(name)
        if kind == DELETED and node is not None:
            # It may have been made again at once: whoever asks for it next must not hear that it is gone.
            node.is_listed = False
            self._list(node)
        elif kind == CREATED:
            child = node or self._tree.add_child(parent, name)
            if child is not None:
                self._list(child)

    def _member_happened(self, node: SetNode, kind: int, name: str) -> None:
        if not name.startswith(FOLLOWED):
            return
        if kind == DELETED:
            self._tree.remove(node, name)
        else:
            self.replaced(node, name)

    # -- asking --------------------------------------------------------------------------------------------

    def _event(self, client: KazooClient, kind: int, path: str) -> None:
        """An event of a recursive watch, or of one that kazoo itself has set, which it tells as well."""
        if client is not self._client or not isinstance(self._way, RecursiveWay):
            return
        root = self._tree.root.path
        if path == root or path.startswith(root.rstrip("/") + "/"):
            self.happened(kind, path)
        else:
            self.refused(f"ZooKeeper tells of {path!r}, which does not lie below {root}")

    def _ask(self, ask: Ask) -> None:
        if self._way is not None:
            self._walking += ask.is_walk and (len(ask.names) or 1)
            self._way.ask(ask)

    def _list(self, node: Node, *, is_walk: bool = False, is_audit: bool = False) -> None:
        node.is_asked = True
        self._ask(Ask(node, (), is_walk, is_audit))

    def _answered(self, ask: Ask) -> None:
        if ask.is_walk:
            self._walking -= len(ask.names) or 1
            if not self._walking:
                self._is_walked = True
                self.audited_at = self._loop.time()
                self._audit_later()

    def _missing(self, node: Node) -> None:
        """The znode is not there; an event tells when it comes back."""
        if node is self._tree.root and node.path not in self._complained:
            self._complained.add(node.path)
            log.warning("znode_missing", path=node.path)
        for lost in self._tree.below(node) if self._complained else ():
            if lost is not self._tree.root:
                self._complained.difference_update((lost.path, f"{lost.path}/*"))
        self._tree.drop(node)

    def _complain(self, ask: Ask, error: BaseException, path: str) -> None:
        """An error that is the znode's own: keep what is known of it, say it once, try again later."""
        node = ask.node
        complaint = f"{node.path}/*" if ask.names else path  # one line for all of a set's members
        if complaint not in self._complained:
            self._complained.add(complaint)
            why = "access denied" if isinstance(error, NoAuthError) else repr(error)
            log.warning("znode_read_failed", path=path, reason=why)
        if node.is_retried:
            return  # many members of one set may fail at once
        node.is_retried = True
        # Without the root nothing has been read at all; and what no ACL forbids will be read in a moment.
        is_open = ask.is_walk and (
            node is self._tree.root or (isinstance(node, Directory) and not isinstance(error, NoAuthError))
        )
        self._walking += is_open
        self._loop.call_later(_RETRY_SECONDS, self._retry, self._way, node, is_open)

    def _retry(self, way: Way | None, node: Node, is_walk: bool) -> None:
        if way is not None and way is self._way and not node.is_gone:
            node.is_retried = False
            self._walking -= is_walk
            self._list(node, is_walk=is_walk)
            way.pump()

    # -- the audit -----------------------------------------------------------------------------------------

    def _audit_later(self) -> None:
        self._timer = self._loop.call_later(self._audit_seconds, self._audit)

    def _audit(self) -> None:
        """List everything again; what the answers hold is known already, or an event was lost."""
        assert self._way is not None  # noqa: S101 - the timer ends with it
        self.audited_at = self._loop.time()
        self._list(self._tree.root, is_audit=True)
        self._way.pump()
        self._audit_later()

    def _repaired(self, node: Node, count: int) -> None:
        """A listing told what an event should have told before."""
        if self._way is not None and self._way.is_ordered:
            self.repairs += count
            log.error("missed_changes_repaired", path=node.path, count=count)
