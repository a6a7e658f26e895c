"""Keeps watch over every server set of a namespace, with ZooKeeper's one-shot watches.

    CONNECTED ──▶ new generation: list the root, then what lies below it, each with a child watch
    a watch fires ──▶ list that znode again ──▶ read the members that are not known yet ──▶ changes

Rules of this file:
- One thread decides: the event loop's. kazoo's threads only post to it.
- Everything asked belongs to a generation (one per connection); late results of an old one are dropped.
- A member's data never changes under its name and its parent's czxid, so it is read once.
- Losing ZooKeeper changes nothing that is known; it is only said (`SyncState`).
- Not kazoo's recipes: ChildrenWatch ends silently when its znode is deleted and starts a thread per watch on
  reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog
from kazoo.client import KazooState
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoAuthError,
    NoNodeError,
    SessionExpiredError,
)

from zkdns.errors import BadMemberError, BadValueError
from zkdns.serverset.changes import Change, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import MEMBER_PREFIX, Member, decode_member

if TYPE_CHECKING:
    from kazoo.client import KazooClient
    from kazoo.interfaces import IAsyncResult
    from kazoo.protocol.states import WatchedEvent

    from zkdns.namespace import Namespace, ServiceName

log = structlog.get_logger("zkdns.sync")

# Enough to keep the connection busy over a round trip. kazoo's wake-up pipe holds 278 bytes (measured) and
# blocks who writes to a full one: those that a broken connection left in it must fit beside a new one's.
_MOST_IN_FLIGHT = 128
# After an error that is the znode's own (access denied, say) nothing will announce that it is over.
_RETRY_SECONDS = 30.0

_DISCONNECTED = (ConnectionLoss, ConnectionClosedError, SessionExpiredError)


class SyncState(enum.StrEnum):
    """How far what is known can be trusted."""

    READING = "reading"
    """Nothing has been read completely yet."""
    LIVE = "live"
    """Everything was read, and watches tell of every change."""
    AWAY = "away"
    """ZooKeeper is out of reach; what is known is the last that it said."""


class _Directory:
    """A znode above the sets: the root, an environment."""

    __slots__ = ("children", "elements", "is_retried", "path", "watch")

    def __init__(self, path: str, elements: tuple[str, ...]) -> None:
        self.path = path
        self.watch: Callable[[WatchedEvent], None] | None = None
        self.is_retried = False
        self.elements = elements
        self.children: dict[str, _Node] = {}


class _Set:
    """A set's znode and what is known of its members; a member that cannot be used is None."""

    __slots__ = (
        *("added", "czxid", "is_retried", "members", "name", "path"),
        *("published", "reading", "removed", "watch"),
    )

    def __init__(self, path: str, name: ServiceName) -> None:
        self.path = path
        self.watch: Callable[[WatchedEvent], None] | None = None
        self.is_retried = False
        self.name = name
        self.czxid = 0
        self.members: dict[str, Member | None] = {}
        self.reading: set[str] = set()
        self.published = False
        self.added: list[Member] = []
        self.removed: set[str] = set()


_Node = _Directory | _Set


class TreeSync:
    """Follows all server sets of one namespace and tells each change.

    Args:
        client: a kazoo client that is not started; its owner starts and stops it.
        namespace: where the sets lie.
        publish: called in the event loop with changes, in order.
        on_state: called in the event loop whenever the state becomes another; on the way to `LIVE` all
            changes were published before.
    """

    def __init__(
        self,
        client: KazooClient,
        namespace: Namespace,
        publish: Callable[[list[Change]], None],
        on_state: Callable[[SyncState], None],
    ) -> None:
        self.state = SyncState.READING
        self.bad_members: Counter[str] = Counter()
        """Members that were skipped, by reason, since the start."""
        self.bad_names = 0
        """Sets that DNS cannot name, since the start."""
        self._client = client
        self._namespace = namespace
        self._publish = publish
        self._on_state = on_state
        self._loop = asyncio.get_running_loop()
        self._root = _Directory(namespace.root, ())
        self._generation = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._in_flight = 0
        self._walking = 0  # questions of the first walk of this generation that are not answered yet
        self._complained: set[str] = set()
        self._was_complete = False
        client.add_listener(self._heard)

    @property
    def origins(self) -> set[str]:
        """The origins of all sets that exist, also of those that cannot be read."""
        return {node.path for node in self._sets(self._root)}

    # -- the connection ------------------------------------------------------------------------------------

    def _heard(self, state: str) -> None:
        """The state listener, called in a thread of kazoo's."""
        self._post(self._connection_changed, state)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        """Hand something to the event loop from whatever thread; nobody listens after its end."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _connection_changed(self, state: str) -> None:
        self._generation += 1
        self._waiting.clear()
        self._in_flight = self._walking = 0
        self._forget_watches(self._root)
        if state == KazooState.CONNECTED:
            self._list(self._root, walk=True)
        elif self._was_complete:
            self._set_state(SyncState.AWAY)

    def _forget_watches(self, node: _Node) -> None:
        """With its connection kazoo has dropped all watches, and all that was asked."""
        node.watch = None
        node.is_retried = False
        if isinstance(node, _Set):
            node.reading.clear()
            return
        for child in node.children.values():
            self._forget_watches(child)

    def _set_state(self, state: SyncState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

    # -- asking --------------------------------------------------------------------------------------------

    def _ask(
        self, call: Callable[[], IAsyncResult], answered: Callable[[IAsyncResult, bool], None], *, walk: bool
    ) -> None:
        """Ask ZooKeeper when there is room; `answered` gets the result in the event loop."""
        self._walking += walk
        self._waiting.append(partial(self._send, call, answered, walk))
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self._in_flight < _MOST_IN_FLIGHT:
            self._in_flight += 1
            self._waiting.popleft()()

    def _send(
        self, call: Callable[[], IAsyncResult], answered: Callable[[IAsyncResult, bool], None], walk: bool
    ) -> None:
        generation = self._generation
        call().rawlink(lambda result: self._post(self._receive, generation, answered, walk, result))

    def _receive(
        self,
        generation: int,
        answered: Callable[[IAsyncResult, bool], None],
        walk: bool,
        result: IAsyncResult,
    ) -> None:
        if generation != self._generation or isinstance(result.exception, _DISCONNECTED):
            return  # a new generation asks anew
        self._in_flight -= 1
        answered(result, walk)
        self._pump()
        self._walking -= walk
        if walk and not self._walking:
            self._was_complete = True
            self._set_state(SyncState.LIVE)

    def _fired(self, generation: int, node: _Node, event: WatchedEvent) -> None:
        """A child watch of the node, in the event loop; events of type NONE tell of the session instead."""
        if generation == self._generation and event.type != "NONE" and self._is_attached(node):
            self._list(node, walk=False)

    def _failed(self, node: _Node, path: str, error: BaseException, *, walk: bool) -> None:
        """An error that is the znode's own: keep what is known of it, say it once, try again later."""
        if path not in self._complained:
            self._complained.add(path)
            why = "access denied" if isinstance(error, NoAuthError) else repr(error)
            log.warning("cannot read znode; keeping what is known of it", path=path, reason=why)
        if node.is_retried:
            return  # many members of one set may fail at once
        node.is_retried = True
        is_open = walk and node is self._root  # without the root nothing has been read at all
        self._walking += is_open
        self._loop.call_later(_RETRY_SECONDS, self._retry, self._generation, node, is_open)

    def _retry(self, generation: int, node: _Node, walk: bool) -> None:
        if generation == self._generation and self._is_attached(node):
            node.is_retried = False
            self._walking -= walk
            self._list(node, walk=walk)

    # -- listing -------------------------------------------------------------------------------------------

    def _list(self, node: _Node, *, walk: bool) -> None:
        """List a znode's children and leave a watch on them."""
        watch = self._watch_of(node)
        self._ask(
            lambda: self._client.get_children_async(node.path, watch=watch, include_data=True),
            partial(self._listed, node),
            walk=walk,
        )

    def _watch_of(self, node: _Node) -> Callable[[WatchedEvent], None]:
        """One callback per znode and generation, so that kazoo's set of callbacks holds it once."""
        if node.watch is None:
            node.watch = partial(self._post, self._fired, self._generation, node)
        return node.watch

    def _listed(self, node: _Node, result: IAsyncResult, walk: bool) -> None:
        if not self._is_attached(node):
            return
        if isinstance(result.exception, NoNodeError):
            self._missing(node, walk=walk)
        elif result.exception is not None:
            self._failed(node, node.path, result.exception, walk=walk)
        elif isinstance(node, _Directory):
            self._complained.discard(node.path)
            self._directory_listed(node, result.value[0], walk=walk)
        else:
            self._complained.discard(node.path)
            self._set_listed(node, result.value[0], result.value[1].czxid, walk=walk)

    def _directory_listed(self, node: _Directory, names: list[str], *, walk: bool) -> None:
        level = len(node.elements)
        wanted = self._namespace.fixed[level]
        present = {name for name in names if wanted in (None, name)}
        if node.path == "/" and not self._client.chroot:
            present.discard("zookeeper")  # ZooKeeper's own
        for name in node.children.keys() - present:
            self._drop(node.children.pop(name))
        for name in sorted(present):
            child = node.children.get(name) or self._child(node, name)
            if child is None:
                continue
            node.children[name] = child
            if child.watch is None:  # a new one, or not listed yet in this generation
                self._list(child, walk=walk)

    def _child(self, parent: _Directory, name: str) -> _Node | None:
        """The node of a child that was not known; None where DNS cannot name it."""
        path = f"{parent.path.rstrip('/')}/{name}"
        elements = (*parent.elements, name)
        if len(elements) < self._namespace.depth:
            return _Directory(path, elements)
        service = self._namespace.name_of(elements)
        try:
            service.check()
        except BadValueError as error:
            if path not in self._complained:
                self._complained.add(path)
                self.bad_names += 1
                log.warning("znode not served; DNS cannot carry its name", path=path, reason=str(error))
            return None
        return _Set(path, service)

    def _missing(self, node: _Node, *, walk: bool) -> None:
        """The znode is not there. Its parent's watch tells when it comes back; the root has only us."""
        if node is not self._root:
            parent = self._parent(node)
            if parent is not None:
                del parent.children[node.path.rpartition("/")[2]]
            self._drop(node)
            return
        for child in list(self._root.children.values()):
            self._drop(child)
        self._root.children.clear()
        if node.path not in self._complained:
            self._complained.add(node.path)
            log.warning("znode does not exist yet; waiting for it", path=node.path)
        watch = self._watch_of(node)
        self._ask(
            lambda: self._client.exists_async(node.path, watch=watch),
            partial(self._root_checked, node),
            walk=walk,
        )

    def _root_checked(self, node: _Directory, result: IAsyncResult, walk: bool) -> None:
        if result.exception is not None:
            self._failed(node, node.path, result.exception, walk=walk)
        elif result.value is not None:  # made between the two questions
            self._list(node, walk=walk)

    # -- members -------------------------------------------------------------------------------------------

    def _set_listed(self, node: _Set, names: list[str], czxid: int, *, walk: bool) -> None:
        if czxid != node.czxid:  # another znode than before: equal names mean nothing
            node.czxid = czxid
            node.published = False
            node.members.clear()
            node.reading.clear()
            node.added.clear()
            node.removed.clear()
        present = {name for name in names if name.startswith(MEMBER_PREFIX)}
        node.reading &= present
        for name in node.members.keys() - present:
            if node.members.pop(name) is not None:
                node.removed.add(name)
        for name in sorted(present - node.members.keys() - node.reading):
            node.reading.add(name)
            self._ask(
                partial(self._client.get_async, f"{node.path}/{name}"),
                partial(self._member_read, node, czxid, name),
                walk=walk,
            )
        self._flush(node)

    def _member_read(self, node: _Set, czxid: int, name: str, result: IAsyncResult, walk: bool) -> None:
        if czxid != node.czxid or name not in node.reading or not self._is_attached(node):
            return
        node.reading.discard(name)
        if result.exception is None:
            self._learn(node, name, result.value[0])
        elif not isinstance(result.exception, NoNodeError):
            self._failed(node, f"{node.path}/{name}", result.exception, walk=walk)
        self._flush(node)

    def _learn(self, node: _Set, name: str, data: bytes) -> None:
        try:
            member = decode_member(name, data)
        except BadMemberError as error:
            node.members[name] = None
            self.bad_members[error.reason] += 1
            log.warning("member skipped", path=f"{node.path}/{name}", reason=error.reason, detail=str(error))
            return
        node.members[name] = member
        node.added.append(member)
        node.removed.discard(name)

    def _flush(self, node: _Set) -> None:
        """Publish what is new of a set: at first the whole of it when all is read, then each difference.

        The last who left wait for those that are being read, which have come in their place: a set whose
        members were all replaced while the connection was lost is never seen empty.
        """
        if not node.published:
            if node.reading:
                return
            node.published = True
            members = tuple(member for member in node.members.values() if member is not None)
            self._publish([SetPut(node.path, node.name, members)])
            node.removed.clear()
        else:
            is_left = any(node.members.values())
            removed = tuple(sorted(node.removed)) if is_left or not node.reading else ()
            if node.added or removed:
                self._publish([SetChanged(node.path, tuple(node.added), removed)])
            node.removed.difference_update(removed)
        node.added.clear()

    # -- the tree ------------------------------------------------------------------------------------------

    def _drop(self, node: _Node) -> None:
        """A znode is gone: say so for each set at or below it.

        Also for one that was never read: others may know its members, from a snapshot.
        """
        for lost in self._sets(node):
            self._publish([SetDropped(lost.path)])

    def _sets(self, node: _Node) -> list[_Set]:
        if isinstance(node, _Set):
            return [node]
        return [found for child in node.children.values() for found in self._sets(child)]

    def _parent(self, node: _Node) -> _Directory | None:
        """The directory that holds exactly this node; None where another has taken its place."""
        current: _Node | None = self._root
        below = node.path.removeprefix(self._namespace.root).strip("/").split("/")
        for element in below[:-1]:
            current = current.children.get(element) if isinstance(current, _Directory) else None
        if isinstance(current, _Directory) and current.children.get(below[-1]) is node:
            return current
        return None

    def _is_attached(self, node: _Node) -> bool:
        return node is self._root or self._parent(node) is not None
