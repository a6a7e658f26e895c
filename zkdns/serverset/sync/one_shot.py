"""The strategy for any version of ZooKeeper: a child watch on each set, and a data watch on each member.

When a child watch fires, the znode is listed again. When a data watch fires, the member is read again.

It costs a watch and a request for each set and each member. Many requests are in flight at
once, because sequential requests would take a round trip each. kazoo's public API is enough. Members, which
are most of the requests, are read with the faster `GetData` if kazoo's internals are as expected; then their
events arrive at the `TreeSync`.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from kazoo.exceptions import NoNodeError

from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.kazoo_check import incompatibility
from zkdns.serverset.kazoo_ext import GetData, Result, Znode, send_request
from zkdns.serverset.sync.strategy import CONNECTION_ERRORS, Read, WatchStrategy
from zkdns.serverset.sync.tree import Node, SetNode

if TYPE_CHECKING:
    from kazoo.interfaces import IAsyncResult
    from kazoo.protocol.states import WatchedEvent

# Enough to keep the connection busy during a round trip. kazoo's wake-up pipe holds 278 bytes (measured) and
# blocks the writer when it is full: the bytes of a broken connection and of its successor must fit together.
_MAX_IN_FLIGHT = 128
# A watch costs the server about 200 bytes. The data of further members is verified by audits only.
_MAX_DATA_WATCHES = 20_000


class OneShotStrategy(WatchStrategy):
    """Reads one znode per request, and watches each znode."""

    name = "one-shot watches"
    is_ordered = False

    def start(self) -> None:
        """Call `on_started` at once, since watches are set by the reads themselves."""
        self._waiting: deque[Read] = deque()
        self._in_flight = 0
        self._has_fast_reads = incompatibility() is None
        self._watched: set[str] = set()  # paths with a data watch
        self._watches: dict[tuple[Node, str], partial[None]] = {}
        self.listener.on_started()

    def submit(self, read: Read) -> None:
        """Queue a request for each name, or one for the children."""
        if read.names:
            self._waiting.extend(read._replace(names=(name,)) for name in read.names)
        else:
            self._waiting.append(read)

    def read_stat(self, node: Node) -> None:
        """Do nothing: the child watch causes a listing, which has the Stat."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is queued or in flight."""
        return not (self._waiting or self._in_flight)

    def send_pending(self) -> None:
        """Send queued requests, up to the limit of requests in flight."""
        while self._waiting and self._in_flight < _MAX_IN_FLIGHT:
            self._in_flight += 1
            self._send(self._waiting.popleft())

    def _send(self, read: Read) -> None:
        if not read.names:
            result = self.client.get_children_async(
                read.node.path, watch=self._watch_for(read.node), include_data=True
            )
            result.rawlink(partial(self._post_listing, read))
            return
        (name,) = read.names
        path = f"{read.node.path}/{name}"
        is_watched = path in self._watched or len(self._watched) < _MAX_DATA_WATCHES
        if is_watched:
            self._watched.add(path)
        if self._has_fast_reads:
            request = GetData(self.server_path(path), watch=is_watched)
            send_request(self.client, request, partial(self.post, self._on_member_data, read))
        else:
            watch = self._watch_for(read.node, name) if is_watched else None
            self.client.get_async(path, watch=watch).rawlink(partial(self.post, self._on_response, read))

    def _on_member_data(self, read: Read, results: list[Result], error: BaseException | None) -> None:
        if isinstance(error, CONNECTION_ERRORS):
            return  # the next connection reads everything
        self._in_flight -= 1
        if isinstance(error, NoNodeError):  # no watch was set
            self.on_data_watch_fired(f"{read.node.path}/{read.names[0]}")
        znode = next((result for result in results if isinstance(result, Znode)), None)
        if znode is not None:
            self.listener.on_zxid(znode.mzxid)
        self.listener.on_data(read, [znode if znode is not None else error])  # type: ignore[list-item]  # without a result there is an error

    def _post_listing(self, read: Read, result: IAsyncResult) -> None:
        """Pass a response to the event loop, with the zxid that it has shown. Called in kazoo's thread."""
        self.post(self._on_response, read, result, self.client.last_zxid)

    def _on_response(self, read: Read, result: IAsyncResult, zxid: int = 0) -> None:
        if isinstance(result.exception, CONNECTION_ERRORS):
            return  # the next connection reads everything
        self._in_flight -= 1
        error = result.exception
        if read.names:
            if isinstance(error, NoNodeError):  # no watch was set, so no event will remove it
                self._forget_data_watch(read.node, read.names[0])
            if error is not None:
                self.listener.on_data(read, [error])
                return
            data, stat = result.value
            self.listener.on_zxid(stat.mzxid)
            self.listener.on_data(
                read, [Znode(data or b"", stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.pzxid)]
            )
        elif error is None:
            names, stat = result.value
            if read.node is self._root:
                self.listener.on_root(Ensemble(stat.czxid, stat.ctime, zxid))
            self.listener.on_zxid(stat.pzxid)
            self.listener.on_children(read, names, stat.czxid)
        elif isinstance(error, NoNodeError) and read.node is self._root:
            self._await_root(read)
        else:
            if read.node is self._root:
                self.listener.on_root(Ensemble(zxid=zxid))
            elif isinstance(error, NoNodeError):
                self._watches.pop((read.node, ""), None)
            self.listener.on_error(read, error)

    def _await_root(self, read: Read) -> None:
        """Watch for the creation of the root, which has no watched parent that would report it."""
        self._in_flight += 1
        result = self.client.exists_async(read.node.path, watch=self._watch_for(read.node))
        result.rawlink(partial(self._post_root_check, read))

    def _post_root_check(self, read: Read, result: IAsyncResult) -> None:
        """As `_post_listing`."""
        self.post(self._on_root_checked, read, result, self.client.last_zxid)

    def _on_root_checked(self, read: Read, result: IAsyncResult, zxid: int) -> None:
        if isinstance(result.exception, CONNECTION_ERRORS):
            return
        self._in_flight -= 1
        if result.exception is None and result.value is not None:  # created between the two requests
            self.submit(read)
        else:
            self.listener.on_root(Ensemble(zxid=zxid))
            self.listener.on_error(read, result.exception or NoNodeError())

    def _watch_for(self, node: Node, name: str = "") -> partial[None]:
        """The callback for a member's data, or without a name for the node's children.

        Each znode always gets the same callback, so that kazoo's set of callbacks contains it only once.
        """
        watch = self._watches.get((node, name))
        if watch is None:
            handler = partial(self._on_data_watch, name) if name else self._on_child_watch
            watch = self._watches[node, name] = partial(self.post, handler, node)
        return watch

    def _on_data_watch(self, name: str, node: SetNode, event: WatchedEvent) -> None:
        """Handle kazoo's data watch of a member. The set's own watch reports a deletion as well."""
        if event.type == "NONE":
            return
        if event.type == "CHANGED":
            self._watched.discard(f"{node.path}/{name}")
            self.listener.on_data_changed(node, name)
        elif event.type == "DELETED":
            self._forget_data_watch(node, name)
            self.listener.on_data_deleted(node, name)

    def _forget_data_watch(self, node: Node, name: str) -> None:
        self._watched.discard(f"{node.path}/{name}")
        self._watches.pop((node, name), None)

    def on_data_watch_fired(self, path: str) -> None:
        """Note that the data of the member at this path is not watched any more."""
        self._watched.discard(path)

    def _on_child_watch(self, node: Node, event: WatchedEvent) -> None:
        """Handle the node's child watch. Events of type NONE concern the session, not the node."""
        if event.type == "NONE":
            return
        # A deleted node may never be listed again: its parent's listing can arrive first.
        if event.type == "DELETED" or node.is_gone:
            self._watches.pop((node, ""), None)
        if not node.is_gone:
            self.listener.on_changed(node)
