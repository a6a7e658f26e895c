"""The way of every ZooKeeper: a child watch on each znode, which is listed again when it fires.

It costs a watch and a question for each set, and a question for each member. They go out many at once, since
each would otherwise wait for a round trip of its own. kazoo's public API is enough for it; members, which are
the most of it, are asked for by a shorter way where kazoo's private parts are what they are expected to be.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from kazoo.exceptions import NoNodeError

from zkdns.serverset.kazoo_private import Read, Result, unusable
from zkdns.serverset.kazoo_private import ask as ask_client
from zkdns.serverset.tree import Node, SetNode
from zkdns.serverset.way import AWAY, Ask, Way
from zkdns.serverset.weights import VECTOR_PREFIX

if TYPE_CHECKING:
    from kazoo.interfaces import IAsyncResult
    from kazoo.protocol.states import WatchedEvent

# Enough to keep the connection busy over a round trip. kazoo's wake-up pipe holds 278 bytes (measured) and
# blocks who writes to a full one: those that a broken connection left in it must fit beside a new one's.
_MOST_IN_FLIGHT = 128


class OneShotWay(Way):
    """Lists and reads by one question each."""

    name = "one-shot watches"
    is_ordered = False

    def begin(self) -> None:
        """There is nothing to prepare."""
        self._waiting: deque[Ask] = deque()
        self._in_flight = 0
        self._is_short = unusable() is None
        self._watches: dict[tuple[Node, str], partial[None]] = {}
        self.told.begun()

    def ask(self, ask: Ask) -> None:
        """Ask when there is room, for one name after the other."""
        if ask.names:
            self._waiting.extend(ask._replace(names=(name,)) for name in ask.names)
        else:
            self._waiting.append(ask)

    def pump(self) -> None:
        """Send what there is room for."""
        while self._waiting and self._in_flight < _MOST_IN_FLIGHT:
            self._in_flight += 1
            self._send(self._waiting.popleft())

    def _send(self, ask: Ask) -> None:
        if not ask.names:
            result = self.client.get_children_async(
                ask.node.path, watch=self._watch_of(ask.node), include_data=True
            )
            result.rawlink(partial(self.post, self._receive, ask))
            return
        # A member never changes, and thousands of watches on them would tell nothing.
        (name,) = ask.names
        path, is_changeable = f"{ask.node.path}/{name}", name.startswith(VECTOR_PREFIX)
        if self._is_short and not is_changeable:
            ask_client(self.client, Read(self.rooted(path)), partial(self.post, self._read, ask))
        else:
            watch = self._watch_of(ask.node, name) if is_changeable else None
            self.client.get_async(path, watch=watch).rawlink(partial(self.post, self._receive, ask))

    def _read(self, ask: Ask, results: list[Result], error: BaseException | None) -> None:
        if isinstance(error, AWAY):
            return  # a new connection asks anew
        self._in_flight -= 1
        self.told.read(ask, [result[0] for result in results if isinstance(result, tuple)] or [error])  # type: ignore[list-item]  # there is one where there is no result

    def _receive(self, ask: Ask, result: IAsyncResult) -> None:
        if isinstance(result.exception, AWAY):
            return  # a new connection asks anew
        self._in_flight -= 1
        error = result.exception
        if ask.names:
            if isinstance(error, NoNodeError):  # there was nothing to watch: no event will end it
                self._watches.pop((ask.node, ask.names[0]), None)
            self.told.read(ask, [result.value[0] if error is None else error])
        elif error is None:
            names, status = result.value
            self.told.listed(ask, names, status.czxid)
        elif isinstance(error, NoNodeError) and ask.node is self._root:
            self._await_root(ask)
        else:
            if isinstance(error, NoNodeError):
                self._watches.pop((ask.node, ""), None)
            self.told.failed(ask, error)

    def _await_root(self, ask: Ask) -> None:
        """The root is not there, and no parent's watch tells when it comes."""
        self._in_flight += 1
        result = self.client.exists_async(ask.node.path, watch=self._watch_of(ask.node))
        result.rawlink(partial(self.post, self._root_checked, ask))

    def _root_checked(self, ask: Ask, result: IAsyncResult) -> None:
        if isinstance(result.exception, AWAY):
            return
        self._in_flight -= 1
        if result.exception is not None:
            self.told.failed(ask, result.exception)
        elif result.value is not None:  # made between the two questions
            self.ask(ask)
        else:
            self.told.failed(ask, NoNodeError())

    def _watch_of(self, node: Node, name: str = "") -> partial[None]:
        """One callback for each znode, so that kazoo's set of callbacks holds it once.

        With a name it tells of that vector's data, else of the node's children.
        """
        watch = self._watches.get((node, name))
        if watch is None:
            heard = partial(self._changed, name) if name else self._fired
            watch = self._watches[node, name] = partial(self.post, heard, node)
        return watch

    def _changed(self, name: str, node: SetNode, event: WatchedEvent) -> None:
        """A vector's data watch; of a deletion the set's own watch tells as well."""
        if event.type == "CHANGED":
            self.told.replaced(node, name)
        elif event.type == "DELETED":
            self._watches.pop((node, name), None)

    def _fired(self, node: Node, event: WatchedEvent) -> None:
        """A child watch of the node; events of type NONE tell of the session instead."""
        if event.type == "NONE":
            return
        # Who hears of a deletion here first may never ask again: the parent's list can come in between.
        if event.type == "DELETED" or node.is_gone:
            self._watches.pop((node, ""), None)
        if not node.is_gone:
            self.told.changed(node)
