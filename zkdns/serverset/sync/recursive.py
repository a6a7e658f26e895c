"""The strategy for ZooKeeper 3.6 and later: a recursive watch, and hundreds of reads per request.

The watch is on the root. If only some sets are followed, there are watches on znodes below it instead.

The server sends events and responses in one order: the event of a change arrives before any response that
shows the change. So an event after a response reports what that response does not show. Reads that are
submitted while requests are in flight wait, and go into the next request together. So a single change is read
at once, and a storm of changes with a few large requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from zkdns.serverset.ensemble import Ensemble
from zkdns.serverset.kazoo_check import incompatibility
from zkdns.serverset.kazoo_ext import (
    GET_CHILDREN,
    GET_DATA,
    AddWatch,
    MultiRead,
    Result,
    Znode,
    send_request,
)
from zkdns.serverset.sync.strategy import CONNECTION_ERRORS, Read, WatchStrategy

if TYPE_CHECKING:
    from kazoo.interfaces import IAsyncResult

    from zkdns.serverset.sync.tree import Node

# Maximum reads per request. With a quarter of it, a start takes 10 % longer (measured); more would delay
# urgent reads.
_MAX_READS = 1024
_MAX_BYTES = 256 << 10  # per request; ZooKeeper closes the connection at 1 MB (jute.maxbuffer)
_NAME_SIZE = 40  # bytes of a member's name and of the framing of a read
_MAX_IN_FLIGHT = 4
_RESULTS_AT_ONCE = 128  # of a response that are handled in one piece: 1 to 2 ms
_SELF_TEST_TRIES = 5  # a comparison may fail because the root changes between the two reads


class RecursiveStrategy(WatchStrategy):
    """Reads with multiRead, and watches with recursive watches."""

    name = "a recursive watch"
    is_ordered = True

    def start(self) -> None:
        """Set the watches, then check that multiRead and single reads return the same."""
        self._urgent: deque[Read] = deque()
        self._waiting: deque[Read] = deque()
        self._in_flight = 0
        self._stats: set[Node] = set()  # whose Stat is queued or in flight
        if (reason := incompatibility()) is not None:
            self.listener.on_unsupported(reason)
            return
        self._unconfirmed = len(self._watched_roots)
        for path in self._watched_roots:
            request = AddWatch(self.server_path(path))
            send_request(self.client, request, partial(self.post, self._on_watch_added))

    def submit(self, read: Read) -> None:
        """Queue a request. Reads after events are sent before those of the initial read and of audits."""
        queue = self._waiting if read.is_initial or read.is_audit else self._urgent
        if len(read.names) <= _MAX_READS:
            queue.append(read)
            return
        for start in range(0, len(read.names), _MAX_READS):
            queue.append(read._replace(names=read.names[start : start + _MAX_READS]))

    def read_stat(self, node: Node) -> None:
        """Queue a read of the znode's Stat, unless the response to an earlier one will show the change."""
        if node not in self._stats:
            self._stats.add(node)
            self._urgent.append(Read(node, is_stat=True))

    @property
    def is_idle(self) -> bool:
        """Whether no request is queued or in flight."""
        return not (self._urgent or self._waiting or self._in_flight)

    def send_pending(self) -> None:
        """Send queued reads, up to the limit of requests in flight: one request now, and others later.

        A request of 1,024 reads takes 5 ms (measured).
        """
        if self._may_send:
            self._in_flight += 1
            self._send_batch()
            if self._may_send:
                self.post(self.send_pending)

    @property
    def _may_send(self) -> bool:
        return bool(self._urgent or self._waiting) and self._in_flight < _MAX_IN_FLIGHT

    def _send_batch(self) -> None:
        batch: list[Read] = []
        operations: list[tuple[int, str]] = []
        size = 0
        while len(operations) < _MAX_READS and size < _MAX_BYTES and (self._urgent or self._waiting):
            read = (self._urgent or self._waiting).popleft()
            batch.append(read)
            path = self.server_path(read.node.path)
            if read.names:
                operations += [(GET_DATA, f"{path}/{name}") for name in read.names]
            elif read.is_stat:
                operations.append((GET_DATA, path))  # a multiRead permits no `exists`
            else:
                # In this order, so that events follow if the znode is created again between the two.
                operations += ((GET_DATA, path), (GET_CHILDREN, path))
            size += (len(path) + _NAME_SIZE) * (len(read.names) or 1)
        send_request(self.client, MultiRead(operations), partial(self._post_response, batch))

    def _post_response(
        self, batch: Sequence[Read], results: list[Result], error: BaseException | None
    ) -> None:
        """Pass a response to the event loop, with the zxid that it has shown. Called in kazoo's thread."""
        zxid = self.client.last_zxid
        for reads, part in _divide(batch, results) if error is None else ():
            self.post(self._on_results, reads, part, zxid)
        self.post(self._on_end, batch, error, zxid)

    def _on_end(self, batch: Sequence[Read], error: BaseException | None, zxid: int) -> None:
        """Handle the end of a response, or an error of the whole request."""
        if isinstance(error, CONNECTION_ERRORS):
            return  # the next connection reads everything
        self._in_flight -= 1
        self._stats.difference_update(read.node for read in batch if read.is_stat)
        if error is not None:
            for read in batch:
                if read.names:
                    self.listener.on_data(read, [error] * len(read.names))
                elif not read.is_stat:
                    self._fail(read, error, zxid)

    def _on_results(self, reads: Sequence[Read], results: Sequence[Result], zxid: int) -> None:
        """Handle a part of a response."""
        remaining = iter(results)
        for read in reads:
            if read.names:
                self._pass_data(read, list(islice(remaining, len(read.names))))
            elif not read.is_stat:
                self._pass_children(read, next(remaining), next(remaining), zxid)
            elif isinstance(znode := next(remaining), Znode):
                self.listener.on_zxid(znode.pzxid)

    def _pass_data(self, read: Read, found: Sequence[Result]) -> None:
        self.listener.on_zxid(max((one.mzxid for one in found if isinstance(one, Znode)), default=0))
        self.listener.on_data(read, found)  # type: ignore[arg-type]  # GET_DATA returns no list

    def _pass_children(self, read: Read, znode: Result, names: Result, zxid: int) -> None:
        """Pass on a list of children."""
        if isinstance(names, list) and isinstance(znode, Znode):
            if read.node is self._root:
                self.listener.on_root(Ensemble(znode.czxid, znode.ctime, zxid))
            self.listener.on_zxid(znode.pzxid)
            self.listener.on_children(read, names, znode.czxid)
            return
        failure = znode if isinstance(znode, BaseException) else names
        assert isinstance(failure, BaseException)  # noqa: S101 - the only type left
        self._fail(read, failure, zxid)

    def _fail(self, read: Read, error: BaseException, zxid: int) -> None:
        if read.node is self._root:
            self.listener.on_root(Ensemble(zxid=zxid))
        self.listener.on_error(read, error)

    # -- the self-test -------------------------------------------------------------------------------------

    def _on_watch_added(self, _: list[Result], error: BaseException | None) -> None:
        if error is not None:
            if not isinstance(error, CONNECTION_ERRORS):
                self.listener.on_unsupported(f"ZooKeeper refused the recursive watch: {error!r}")
            return
        self._unconfirmed -= 1
        if not self._unconfirmed:
            self._start_self_test(_SELF_TEST_TRIES)

    def _start_self_test(self, tries: int) -> None:
        """Read the root with multiRead and with a single request, and compare."""
        path = self._root.path
        operations = [(GET_DATA, self.server_path(path)), (GET_CHILDREN, self.server_path(path))]
        send_request(self.client, MultiRead(operations), partial(self.post, self._on_test_batch, tries))

    def _on_test_batch(self, tries: int, results: list[Result], error: BaseException | None) -> None:
        if isinstance(error, CONNECTION_ERRORS):
            return
        if error is not None:
            self.listener.on_unsupported(f"ZooKeeper refused a multiRead: {error!r}")
            return
        single = self.client.get_children_async(self._root.path, include_data=True)
        single.rawlink(partial(self.post, self._on_test_single, tries, results))

    def _on_test_single(self, tries: int, results: list[Result], single: IAsyncResult) -> None:
        if isinstance(single.exception, CONNECTION_ERRORS):
            return
        data, names = results
        if single.exception is not None:
            is_same = type(names) is type(single.exception)
        else:
            expected, stat = single.value
            is_same = isinstance(names, list) and sorted(names) == sorted(expected)
            shown = (stat.czxid, stat.mzxid, stat.ctime, stat.mtime, stat.pzxid)
            is_same = is_same and not (isinstance(data, Znode) and data[1:] != shown)
        if is_same:
            self.listener.on_started()
        elif tries > 1:  # the root may have changed in between
            self._start_self_test(tries - 1)
        else:
            self.listener.on_unsupported("multiRead and single reads return different results")


def _divide(
    batch: Sequence[Read], results: Sequence[Result]
) -> Iterator[tuple[list[Read], Sequence[Result]]]:
    """Divide a response into parts that are handled in a short time, each with its reads."""
    reads: list[Read] = []
    begin = end = 0
    for whole in batch:
        for start in range(0, len(whole.names) or 1, _RESULTS_AT_ONCE):
            read = whole._replace(names=whole.names[start : start + _RESULTS_AT_ONCE])
            reads.append(read)
            end += len(read.names) or (1 if read.is_stat else 2)
            if end - begin >= _RESULTS_AT_ONCE:
                yield reads, results[begin:end]
                reads, begin = [], end
    if reads:
        yield reads, results[begin:]
