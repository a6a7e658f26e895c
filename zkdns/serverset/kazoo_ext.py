"""Requests of ZooKeeper 3.6 that kazoo lacks: recursive watches (addWatch) and batched reads (multiRead).

All use of kazoo's private parts is in this module:

    KazooClient._call(request, async_object)                 send_request
    the request's type, serialize(), deserialize(data, at)   AddWatch, GetData, MultiRead
    the result's set(value) and set_exception(error),        send_request
      called in the connection thread after `last_zxid` was set
    KazooClient._connection                                  intercept_events
    its _read_watch_event(buffer, at), found by this name    intercept_events
    its _expand_client_hosts(), if it has one                prefer_servers
    its _socket, _read_sock and _write_sock, if it has them  release_in_child
    its _connection_routine, if it has one                   has_ended_thread
    the handler's _workers and running, if it has them       has_ended_thread

`kazoo_check.incompatibility` tests each of them with the installed kazoo, before it is used with a real
server. If one has changed, the sync uses one-shot watches, which need only kazoo's public API.

Callbacks run in kazoo's connection thread, in the order in which the server sent events and responses. They
must be quick and must not raise: an exception there ends the connection for good.
"""

from __future__ import annotations

import atexit
import contextlib
import struct
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, TypeAlias

from kazoo import exceptions
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoAuthError, NoNodeError

CREATED: Final = 1
DELETED: Final = 2
CHANGED: Final = 3

GET_DATA: Final = 4
GET_CHILDREN: Final = 8


class Znode(NamedTuple):
    """A znode's data, and the useful part of its Stat."""

    data: bytes
    czxid: int
    """The transaction that created it."""
    mzxid: int
    """The transaction that changed its data last; at first the one that created it."""
    ctime: int
    """When it was created: Unix time in milliseconds."""
    mtime: int
    """When its data was changed last: Unix time in milliseconds; at first when it was created."""
    pzxid: int
    """The transaction that created or deleted a child last; at first the one that created it."""


Result: TypeAlias = Znode | list[str] | KazooException
"""The result of one read: a znode (GET_DATA), names (GET_CHILDREN), or an error."""
ResponseCallback: TypeAlias = Callable[[list[Result], BaseException | None], None]
EventCallback: TypeAlias = Callable[[int, str], None]

_RECURSIVE = 1
_INT = struct.Struct("!i")
_HEADER = struct.Struct("!i?i")  # MultiHeader: operation, end flag, error
_HEADERS = {op: _HEADER.pack(op, False, -1) for op in (GET_DATA, GET_CHILDREN)}
_END = _HEADER.pack(-1, True, -1)
_STAT = struct.Struct("!qqqq28xq")  # czxid, mzxid, ctime, mtime and, at the end, pzxid
_NO_NODE, _NO_AUTH = NoNodeError(), NoAuthError()
_EVENT = struct.Struct("!iii")  # WatcherEvent: kind, state, and the length of the path
_COMMON_ERRORS = {NoNodeError.code: _NO_NODE, NoAuthError.code: _NO_AUTH}


class AddWatch:
    """Watch a znode and all its descendants until the connection ends.

    Args:
        path: with the chroot.
    """

    type = 106

    def __init__(self, path: str) -> None:
        self._path = path.encode()

    def serialize(self) -> bytes:
        """Encode the request."""
        return _INT.pack(len(self._path)) + self._path + _INT.pack(_RECURSIVE)

    def deserialize(self, _data: bytes, _offset: int) -> list[Result]:
        """Decode the response, which is empty."""
        return []


class GetData:
    """Read one znode's data, at half the cost of kazoo's `get`.

    Args:
        path: with the chroot.
        watch: whether to watch the data. Its event arrives through `intercept_events`.
    """

    type = GET_DATA

    def __init__(self, path: str, *, watch: bool = False) -> None:
        self._path = path.encode()
        self._watch = watch

    def serialize(self) -> bytes:
        """Encode the request."""
        return _INT.pack(len(self._path)) + self._path + bytes((self._watch,))

    def deserialize(self, data: bytes, offset: int) -> list[Result]:
        """Decode the data, and the Stat that follows it."""
        end = offset + _INT.size + max(_INT.unpack_from(data, offset)[0], 0)
        return [Znode(data[offset + _INT.size : end], *_STAT.unpack_from(data, end))]


class MultiRead:
    """A batch of reads in one request. Each read succeeds or fails on its own.

    Args:
        reads: the operation (`GET_DATA` or `GET_CHILDREN`) and the path with the chroot.
    """

    type = 22

    def __init__(self, reads: Sequence[tuple[int, str]]) -> None:
        self._reads = reads

    def serialize(self) -> bytes:
        """Encode the request."""
        parts: list[bytes] = []
        for operation, path in self._reads:
            encoded = path.encode()
            parts += (_HEADERS[operation], _INT.pack(len(encoded)), encoded, b"\0")  # no watch
        parts.append(_END)
        return b"".join(parts)

    def deserialize(self, data: bytes, offset: int) -> list[Result]:
        """Decode the results, in the order of the reads."""
        results: list[Result] = []
        for _ in self._reads:
            operation, _, _ = _HEADER.unpack_from(data, offset)
            (length,) = _INT.unpack_from(data, offset + _HEADER.size)
            offset += _HEADER.size + _INT.size
            if operation == GET_DATA:
                end = offset + max(length, 0)  # null data has the length -1
                results.append(Znode(data[offset:end], *_STAT.unpack_from(data, end)))
                offset = end + _STAT.size
            elif operation == GET_CHILDREN:
                names = []
                for _ in range(length):
                    start = offset + _INT.size
                    offset = start + _INT.unpack_from(data, offset)[0]
                    names.append(data[start:offset].decode())
                results.append(names)
            else:
                results.append(_COMMON_ERRORS.get(length) or _error(length))
        return results


def _error(code: int) -> KazooException:
    try:
        error: KazooException = exceptions.EXCEPTIONS[code]()
    except (AttributeError, LookupError, RuntimeError):  # an error code that kazoo lacks
        error = KazooException(f"error {code}")
    return error


class _CallbackResult:
    """Replaces kazoo's AsyncResult, which would run the callback in another thread."""

    __slots__ = ("_on_response",)

    def __init__(self, on_response: ResponseCallback) -> None:
        self._on_response = on_response

    def set(self, value: list[Result]) -> None:
        self._on_response(value, None)

    def set_exception(self, error: BaseException) -> None:
        self._on_response([], error)


def send_request(
    client: KazooClient, request: AddWatch | GetData | MultiRead, on_response: ResponseCallback
) -> None:
    """Send a request. `on_response` receives the results, or the error of the whole request."""
    client._call(request, _CallbackResult(on_response))  # noqa: SLF001 - see the module's docstring


def intercept_events(client: KazooClient, on_event: EventCallback) -> None:
    """Call `on_event` with the kind and path of each event. Call this before the client is started.

    kazoo dispatches an event only to watches of exactly its path, so it ignores events of a recursive watch.
    """
    connection = client._connection  # noqa: SLF001 - see the module's docstring
    read = connection._read_watch_event  # noqa: SLF001 - see the module's docstring

    def read_and_report(buffer: bytes, offset: int) -> None:
        kind, _, length = _EVENT.unpack_from(buffer, offset)
        start = offset + _EVENT.size
        on_event(kind, client.unchroot(bytes(buffer[start : start + length]).decode()))
        read(buffer, offset)

    connection._read_watch_event = read_and_report  # noqa: SLF001 - see the module's docstring


def prefer_servers(client: KazooClient, preferred: Collection[tuple[str, int]]) -> None:
    """Let a client try these servers (host and port) first. Apart from that, their order stays random."""
    connection = getattr(client, "_connection", None)
    expand = getattr(connection, "_expand_client_hosts", None)
    if connection is not None and expand is not None:
        # It returns each host, its address and its port, in random order.
        connection._expand_client_hosts = lambda: sorted(  # noqa: SLF001 - see the module's docstring
            expand(), key=lambda found: (found[0], found[2]) not in preferred
        )


def has_ended_thread(client: KazooClient) -> bool:
    """Whether a thread of a running client has ended, which kazoo does not report.

    It ends when the server rejects the credentials (AUTH_FAILED), and at any unexpected exception. A forked
    child has none of the threads: they are the parent's.
    """
    if not getattr(client.handler, "running", False):
        return False
    connection = getattr(getattr(client, "_connection", None), "_connection_routine", None)
    threads = (connection, *getattr(client.handler, "_workers", ()))
    return any(isinstance(thread, threading.Thread) and not thread.is_alive() for thread in threads)


def release_in_child(client: KazooClient) -> None:
    """Release what a forked child has inherited of a client. Its session stays the parent's.

    Closing the child's descriptors sends nothing, and does not close the parent's. kazoo's handler at the
    exit of the process would wait for locks that the parent's threads may have held at the fork.
    """
    atexit.unregister(client.handler.stop)
    connection = getattr(client, "_connection", None)
    for name in ("_socket", "_read_sock", "_write_sock"):
        sock = getattr(connection, name, None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
