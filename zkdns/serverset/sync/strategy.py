"""The interface of a watch strategy: how znodes are read and watched over one connection.

There are two strategies, `recursive` and `one_shot`. A strategy reports to its `SyncListener`, which is the
`TreeSync`. It lives as long as its connection and runs in the event loop; kazoo's threads only `post` to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, SessionExpiredError

from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.kazoo_ext import Znode
from zkdns.serverset.sync.event_queue import ThreadsafeQueue
from zkdns.serverset.sync.tree import Directory, Node, SetNode

CONNECTION_ERRORS = (ConnectionLoss, ConnectionClosedError, SessionExpiredError)
"""Exceptions caused by the connection rather than by the request.

Unlike in `session`, there is no time-out among them: requests are asynchronous and wait until the connection
ends.
"""


class Read(NamedTuple):
    """A request for a znode's children, or for the data of some members and vectors of a set."""

    node: Node
    names: tuple[str, ...] = ()
    """The children to read. Empty: read the list of children."""
    is_initial: bool = False
    """Whether this belongs to the first complete read over this connection."""
    is_audit: bool = False
    """Whether this belongs to an audit, so that the response should show no change."""
    is_stat: bool = False
    """Whether only the znode's Stat is read, instead of its children."""


class SyncListener(Protocol):
    """The receiver of a strategy's results. All methods are called in the event loop."""

    def on_started(self) -> None:
        """The watches are set up, so the tree can be read."""

    def on_unsupported(self, reason: str) -> None:
        """The server or kazoo does not support this strategy."""

    def on_root(self, shown: Ensemble) -> None:
        """The response to a listing of the root shows this. `on_children` or `on_error` follows."""

    def on_children(self, read: Read, names: list[str], czxid: int) -> None:
        """A znode's children, and the transaction that created the znode."""

    def on_data(self, read: Read, results: Sequence[Znode | BaseException]) -> None:
        """The znode of each name in `read.names`, or the exception that reading it raised."""

    def on_zxid(self, zxid: int) -> None:
        """A transaction that has changed a list of children or data, before the response that shows it."""

    def on_error(self, read: Read, error: BaseException) -> None:
        """The children could not be listed, for instance because the znode does not exist."""

    def on_changed(self, node: Node) -> None:
        """The znode was deleted, or its children may have changed."""

    def on_data_changed(self, node: SetNode, name: str) -> None:
        """The data of a member or a vector has changed."""

    def on_data_deleted(self, node: SetNode, name: str) -> None:
        """A member or a vector was deleted. It may have been created again already."""


class WatchStrategy(ABC):
    """The common part of both strategies.

    Args:
        client: a connected client.
        root: the root of the tree.
        watched_roots: the paths below which all followed sets are: the root's, or others below it.
        queue: the queue into the event loop.
        listener: receives the results.
    """

    name: ClassVar[str]
    is_ordered: ClassVar[bool]
    """Whether the event of a change always arrives before any response that shows the change."""

    def __init__(
        self,
        client: KazooClient,
        root: Directory,
        watched_roots: Sequence[str],
        queue: ThreadsafeQueue,
        listener: SyncListener,
    ) -> None:
        self.client = client
        self.listener = listener
        self._root = root
        self._watched_roots = watched_roots
        self._queue = queue
        self._is_stopped = False

    @abstractmethod
    def start(self) -> None:
        """Set up the watches, then call `on_started` or `on_unsupported`."""

    @abstractmethod
    def submit(self, read: Read) -> None:
        """Queue a request. `send_pending` sends it."""

    @abstractmethod
    def read_stat(self, node: Node) -> None:
        """Let `on_zxid` receive the latest transaction of a znode whose children have changed."""

    @abstractmethod
    def send_pending(self) -> None:
        """Send queued requests, up to the limit of requests in flight."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether no request is queued or in flight."""

    def reports(self, path: str) -> bool:
        """Whether the directory is at or below a watched root, so that events report its children."""
        return any(f"{path}/".startswith(f"{root.rstrip('/')}/") for root in self._watched_roots)

    def server_path(self, path: str) -> str:
        """The path with the client's chroot."""
        return (self.client.chroot + path).removesuffix("/") or "/" if self.client.chroot else path

    def stop(self) -> None:
        """Drop all results from now on: the connection has ended, or another strategy takes over."""
        self._is_stopped = True

    def post(self, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the call's own
        """Run a call in the event loop, unless the strategy has stopped by then. Thread-safe."""
        self._queue.post(self._run, call, arguments)

    def _run(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._is_stopped:
            call(*arguments)
