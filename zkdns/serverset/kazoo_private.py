"""What ZooKeeper 3.6 has and kazoo has not: recursive watches (addWatch), many reads at once (multiRead).

All use of kazoo's private parts is here, held against kazoo itself by `unusable`. Whatever is handed over is
called in kazoo's connection thread, in the order in which the server said it: an event and the answer to a
reading that shows the same change are never seen in the wrong order. So it must be quick, and must not raise,
since an exception there ends the connection for good.
"""

from __future__ import annotations

import inspect
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from kazoo import version
from kazoo.client import KazooClient
from kazoo.exceptions import EXCEPTIONS, KazooException, NoAuthError, NoNodeError
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import Watch

CREATED: Final = 1
DELETED: Final = 2
CHANGED: Final = 3

GET_DATA: Final = 4
GET_CHILDREN: Final = 8

Result: TypeAlias = tuple[bytes, int] | list[str] | KazooException
"""Of one read: data and czxid, or the children's names, or why not."""
Answered: TypeAlias = Callable[[list[Result], BaseException | None], None]
Heard: TypeAlias = Callable[[int, str], None]

_SERIES = "2.11."
_ARGUMENTS = (
    (KazooClient, "_call", ("self", "request", "async_object")),
    (ConnectionHandler, "_read_watch_event", ("self", "buffer", "offset")),
    (Watch, "deserialize", ("bytes", "offset")),
)

_RECURSIVE = 1
_INT = struct.Struct("!i")
_HEADER = struct.Struct("!i?i")  # MultiHeader: operation, whether it is the end, error
_HEADERS = {op: _HEADER.pack(op, False, -1) for op in (GET_DATA, GET_CHILDREN)}
_END = _HEADER.pack(-1, True, -1)
_CZXID = struct.Struct("!q")
_STAT_SIZE = 68  # zookeeper.jute: 6 longs and 5 ints
_NO_NODE, _NO_AUTH = NoNodeError(), NoAuthError()
_COMMON = {NoNodeError.code: _NO_NODE, NoAuthError.code: _NO_AUTH}


class AddWatch:
    """Watch a znode and all below it, until the connection ends.

    Args:
        path: as the server knows it, the chroot before it.
    """

    type = 106

    def __init__(self, path: str) -> None:
        self._path = path.encode()

    def serialize(self) -> bytes:
        """The request's body."""
        return _INT.pack(len(self._path)) + self._path + _INT.pack(_RECURSIVE)

    def deserialize(self, _data: bytes, _offset: int) -> list[Result]:
        """The answer says nothing but that it is done."""
        return []


class Read:
    """One znode's data, as kazoo's own `get` asks for it, at half of what that one costs.

    Args:
        path: as the server knows it, the chroot before it.
    """

    type = GET_DATA

    def __init__(self, path: str) -> None:
        self._path = path.encode()

    def serialize(self) -> bytes:
        """The request's body."""
        return _INT.pack(len(self._path)) + self._path + b"\0"  # no watch

    def deserialize(self, data: bytes, offset: int) -> list[Result]:
        """The data, and the czxid behind it."""
        end = offset + _INT.size + max(_INT.unpack_from(data, offset)[0], 0)
        return [(data[offset + _INT.size : end], _CZXID.unpack_from(data, end)[0])]


class MultiRead:
    """Many reads in one question; what one of them fails by is its own.

    Args:
        reads: operation (`GET_DATA`, `GET_CHILDREN`) and path, the chroot before it.
    """

    type = 22

    def __init__(self, reads: Sequence[tuple[int, str]]) -> None:
        self._reads = reads

    def serialize(self) -> bytes:
        """The request's body."""
        parts: list[bytes] = []
        for operation, path in self._reads:
            encoded = path.encode()
            parts += (_HEADERS[operation], _INT.pack(len(encoded)), encoded, b"\0")  # no watch
        parts.append(_END)
        return b"".join(parts)

    def deserialize(self, data: bytes, offset: int) -> list[Result]:
        """The results, in the order of the reads."""
        results: list[Result] = []
        for _ in self._reads:
            operation, _, _ = _HEADER.unpack_from(data, offset)
            (length,) = _INT.unpack_from(data, offset + _HEADER.size)
            offset += _HEADER.size + _INT.size
            if operation == GET_DATA:
                end = offset + max(length, 0)  # no data at all has the length -1
                results.append((data[offset:end], _CZXID.unpack_from(data, end)[0]))
                offset = end + _STAT_SIZE
            elif operation == GET_CHILDREN:
                names = []
                for _ in range(length):
                    start = offset + _INT.size
                    offset = start + _INT.unpack_from(data, offset)[0]
                    names.append(data[start:offset].decode())
                results.append(names)
            else:
                results.append(_COMMON.get(length) or _error(length))
        return results


def _error(code: int) -> KazooException:
    try:
        error: KazooException = EXCEPTIONS[code]()
    except RuntimeError:  # kazoo does not know it
        error = KazooException(f"error {code}")
    return error


class _Answer:
    """What kazoo tells the answer to, in place of its own AsyncResult, which would change threads."""

    __slots__ = ("_answered",)

    def __init__(self, answered: Answered) -> None:
        self._answered = answered

    def set(self, value: list[Result]) -> None:
        self._answered(value, None)

    def set_exception(self, error: BaseException) -> None:
        self._answered([], error)


def ask(client: KazooClient, request: AddWatch | Read | MultiRead, answered: Answered) -> None:
    """Ask; `answered` gets the results, or why the whole question failed."""
    client._call(request, _Answer(answered))  # noqa: SLF001 - see above


def take_events(client: KazooClient, heard: Heard) -> None:
    """Have `heard` called with kind and path of each event, whatever kazoo makes of it; before `start`.

    kazoo looks for a watch of exactly the event's path, and so for none where the watch lies above it.
    """
    connection = client._connection  # noqa: SLF001 - see above
    read = connection._read_watch_event  # noqa: SLF001 - see above

    def read_and_tell(buffer: bytes, offset: int) -> None:
        event, _ = Watch.deserialize(buffer, offset)
        heard(event.type, client.unchroot(event.path))
        read(buffer, offset)

    connection._read_watch_event = read_and_tell  # noqa: SLF001 - see above


def has_ended(client: KazooClient) -> bool:
    """Whether a client that was started has given up for good by itself, which kazoo tells nobody.

    It does so when it is refused (AUTH_FAILED), and by whatever else is raised in its connection thread.
    """
    connection = getattr(client, "_connection", None)
    thread = getattr(connection, "_connection_routine", None)
    return isinstance(thread, threading.Thread) and not thread.is_alive()


def unusable() -> str | None:
    """Why this kazoo cannot be used so; None: it can."""
    if not version.__version__.startswith(_SERIES):
        return f"kazoo is {version.__version__}; its private parts are known of {_SERIES}x"
    for owner, name, expected in _ARGUMENTS:
        function = getattr(owner, name, None)
        found = tuple(inspect.signature(function).parameters) if callable(function) else ("nothing",)
        if found != expected:
            return f"kazoo's {owner.__name__}.{name} takes {', '.join(found)}, not {', '.join(expected)}"
    return None
