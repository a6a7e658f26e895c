"""Tests whether the private parts of kazoo that `kazoo_ext` uses behave as expected in the installed version.

A client of kazoo talks to a scripted server over a pair of sockets. So no real server sees a request that a
changed kazoo encodes wrongly, and no real connection ends by an exception in kazoo's thread. The test takes
some milliseconds, once per process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from kazoo import version
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import NoNodeError
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.retry import KazooRetry

from zkdns.serverset.client import dispose
from zkdns.serverset.kazoo_ext import (
    CREATED,
    GET_CHILDREN,
    GET_DATA,
    AddWatch,
    GetData,
    MultiRead,
    Znode,
    intercept_events,
    send_request,
)

_SECONDS: Final = 5.0  # for everything; only a kazoo that hangs takes so long

_CHROOT = "/chroot"
_WATCHED, _CHANGED = f"{_CHROOT}/watched", f"{_CHROOT}/watched/below"
_WATCH_XID, _PING_XID = -1, -2
_EXISTS, _CLOSE, _CLIENT_TIMEOUT = 3, -11, 10_000  # the latter in milliseconds
_ZXID = 318  # of all responses
_ZNODE = Znode(b"data", czxid=7, mzxid=8, ctime=9, mtime=11, pzxid=10)
_STAT = struct.pack(
    "!qqqqiiiqiiq", _ZNODE.czxid, _ZNODE.mzxid, _ZNODE.ctime, _ZNODE.mtime, 0, 0, 0, 0, 0, 0, _ZNODE.pzxid
)

_HEADER = struct.Struct("!iqi")  # ReplyHeader: xid, zxid, error
_CONNECTED = struct.pack("!iiqi16s?", 0, _CLIENT_TIMEOUT, 1, 16, b"", False)  # ConnectResponse
_END = struct.pack("!i?i", -1, True, -1)

Seen = tuple[str, object]


def _string(text: str) -> bytes:
    return struct.pack("!i", len(text)) + text.encode()


_ADD_WATCH = AddWatch(_WATCHED)
_GET_DATA = GetData(_WATCHED, watch=True)
_MULTI_READ = MultiRead([(GET_DATA, _WATCHED), (GET_CHILDREN, _WATCHED)])
_REPLIES: dict[int, tuple[int, bytes]] = {
    _ADD_WATCH.type: (0, b""),
    _GET_DATA.type: (NoNodeError.code, b""),
    _MULTI_READ.type: (
        0,
        struct.pack("!i?i", GET_DATA, False, 0)
        + _string(_ZNODE.data.decode())
        + _STAT
        + struct.pack("!i?ii", GET_CHILDREN, False, 0, 1)
        + _string("child")
        + _END,
    ),
    _EXISTS: (NoNodeError.code, b""),
}
"""By type of request: the error and the content of the scripted response."""

_EXPECTED: list[Seen] = [
    ("the event", (CREATED, "/watched/below")),
    ("the response to addWatch", ([], "None", _ZXID)),
    ("the error", ([], "NoNodeError()", _ZXID)),
    ("the response to multiRead", ([_ZNODE, ["child"]], "None", _ZXID)),
]
"""What arrives before the response to the last request, in this order."""


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's handler with one connection, to the scripted server. The first exception is stored."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.unused = [connection]

    def create_connection(self, *_: object, **__: object) -> socket.socket:
        if not self.unused:
            raise ConnectionRefusedError
        return self.unused.pop()

    def spawn(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - kazoo's
        def run() -> None:
            try:
                func(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - of a changed kazoo it can be any
                self.error = self.error or error

        return super().spawn(run)


@functools.cache
def incompatibility() -> str | None:
    """Why the requests of `kazoo_ext` do not work with the installed kazoo. None: they do."""
    try:
        failure = _test()
    except Exception as error:  # noqa: BLE001 - of a changed kazoo it can be any
        failure = repr(error)
    return failure and f"kazoo {version.__version__} differs from the kazoo that zkdns knows: {failure}"


def _test() -> str | None:
    logger = logging.getLogger("zkdns.kazoo")
    logger.setLevel(logging.CRITICAL + 1)
    ours, theirs = socket.socketpair()
    ours.settimeout(_SECONDS)
    handler = _Handler(theirs)
    client = KazooClient(
        hosts=f"127.0.0.1:1{_CHROOT}",
        timeout=_CLIENT_TIMEOUT / 1000,
        handler=handler,
        connection_retry=KazooRetry(max_tries=1, delay=0.01),
        logger=logger,
    )
    try:
        return _compare(client, ours) or (repr(handler.error) if handler.error else None)
    finally:
        for connection in handler.unused:  # of a client that was not started
            connection.close()
        stopping = dispose(client)
        with contextlib.suppress(OSError), ours:
            _serve(ours, _CLOSE)
        stopping.join(_SECONDS)


def _compare(client: KazooClient, server: socket.socket) -> str | None:
    """Send each request, and compare what arrives with what should."""
    seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()

    def arrived(name: str) -> Callable[[object, BaseException | None], None]:
        return lambda results, error: seen.put((name, (results, repr(error), client.last_zxid)))

    client.add_listener(lambda state: seen.put(("the connection", state)))
    intercept_events(client, lambda kind, path: seen.put(("the event", (kind, path))))
    client.start_async()
    _receive(server)
    server.sendall(struct.pack("!i", len(_CONNECTED)) + _CONNECTED)
    state = seen.get(timeout=_SECONDS)
    if state != ("the connection", KazooState.CONNECTED):
        return f"no connection, but {state}"
    send_request(client, _ADD_WATCH, arrived("the response to addWatch"))
    send_request(client, _GET_DATA, arrived("the error"))
    send_request(client, _MULTI_READ, arrived("the response to multiRead"))
    client.exists_async("/last").rawlink(lambda _: seen.put(("the response to exists", None)))
    try:
        _serve(server, _EXISTS)
    except (ConnectionError, TimeoutError):
        return "its connection has ended"
    for name, expected in _EXPECTED:
        found = seen.get(timeout=_SECONDS)
        if found != (name, expected):
            return f"{name} should be {expected}, but {found[0]} is {found[1]}"
    return None


def _serve(server: socket.socket, last: int) -> None:
    """Answer requests up to the first one of this type, which is answered too.

    Raises:
        OSError: the connection has ended, or nothing has arrived in time.
    """
    kind = 0
    while kind != last:
        xid, kind = struct.unpack_from("!ii", request := _receive(server))
        if kind == _ADD_WATCH.type and request[8:] == _ADD_WATCH.serialize():
            event = struct.pack("!ii", CREATED, 3) + _string(_CHANGED)
            _send(server, _WATCH_XID, -1, 0, event)
        error, content = _REPLIES.get(kind, (0, b""))
        _send(server, xid, -1 if xid == _PING_XID else _ZXID, error, content)


def _send(server: socket.socket, xid: int, zxid: int, error: int, content: bytes) -> None:
    message = _HEADER.pack(xid, zxid, error) + content
    server.sendall(struct.pack("!i", len(message)) + message)


def _receive(server: socket.socket) -> bytes:
    (length,) = struct.unpack("!i", _receive_exactly(server, 4))
    return _receive_exactly(server, length)


def _receive_exactly(server: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (part := server.recv(size - len(data))):
            raise ConnectionAbortedError
        data += part
    return data
