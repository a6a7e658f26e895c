"""A way of following a tree over one connection: how znodes are asked for, and how changes are heard of.

There are two, `recursive` and `one_shot`; what they find out is told to the sync, which knows what to make of
it. A way lives as long as its connection, and lives in the event loop: whatever comes from kazoo's threads is
posted there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, SessionExpiredError

from zkdns.serverset.inbox import Inbox
from zkdns.serverset.tree import Directory, Node, SetNode

AWAY = (ConnectionLoss, ConnectionClosedError, SessionExpiredError)
"""What is raised where the connection is the reason."""


class Ask(NamedTuple):
    """A question: a znode's children, or the data of some of a set's members and vectors."""

    node: Node
    names: tuple[str, ...] = ()
    """Whose data is asked for; empty: the children are."""
    is_walk: bool = False
    """Whether it is part of the first reading of everything over this connection."""
    is_audit: bool = False
    """Whether the answer should hold nothing new."""


class Told(Protocol):
    """What a way tells, in the event loop."""

    def begun(self) -> None:
        """Changes are heard of from now on: everything can be read."""

    def refused(self, reason: str) -> None:
        """The server, or kazoo, does not do what this way needs."""

    def listed(self, ask: Ask, names: list[str], czxid: int) -> None:
        """A znode's children, and the transaction that made it."""

    def read(self, ask: Ask, results: Sequence[bytes | BaseException]) -> None:
        """The data of the names that were asked for, or why there is none."""

    def failed(self, ask: Ask, error: BaseException) -> None:
        """The znode is not there, or its children cannot be listed."""

    def changed(self, node: Node) -> None:
        """A znode's children may be others than before, or itself no more."""

    def replaced(self, node: SetNode, name: str) -> None:
        """The data of a member or a vector is another than before."""

    def happened(self, kind: int, path: str) -> None:
        """Something was created, deleted or changed at this path."""


class Way(ABC):
    """What both ways have in common.

    Args:
        client: it is connected.
        root: where everything lies below.
        inbox: the queue into the event loop.
        told: whom to tell.
    """

    name: ClassVar[str]
    is_ordered: ClassVar[bool]
    """Whether a change is always told before an answer that shows it."""

    def __init__(self, client: KazooClient, root: Directory, inbox: Inbox, told: Told) -> None:
        self.client = client
        self._root = root
        self.told = told
        self._inbox = inbox
        self._is_over = False

    @abstractmethod
    def begin(self) -> None:
        """Prepare, and tell `begun` or `refused`."""

    @abstractmethod
    def ask(self, ask: Ask) -> None:
        """Take a question; it is sent by `pump`."""

    @abstractmethod
    def pump(self) -> None:
        """Send what there is room for."""

    def rooted(self, path: str) -> str:
        """A path as the server knows it."""
        return (self.client.chroot + path).removesuffix("/") or "/" if self.client.chroot else path

    def end(self) -> None:
        """The connection is over, or another way is taken: whatever still comes is dropped."""
        self._is_over = True

    def post(self, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - whatever it takes
        """Have something called in the event loop, unless this way has ended then; from any thread."""
        self._inbox.post(self._call, call, arguments)

    def _call(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._is_over:
            call(*arguments)
