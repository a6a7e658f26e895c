"""A hostile client that sends queries over TCP and does not read the responses."""

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_TICK = 0.05
_PAUSE = 0.1
"""Seconds between the end of a connection and the next attempt."""
_POLLRDHUP = 0x2000  # the server has closed its side; select has no constant for it


@dataclass
class Unread:
    """The traffic of the client. It is complete when the client has ended."""

    sent: int = 0
    """Queries that were sent completely."""
    opened: int = 0
    """Connections that were opened."""
    closed: int = 0
    """Connections that the server closed."""


@dataclass
class _Connection:
    socket: socket.socket
    left: memoryview
    """Bytes that were not sent yet."""


@dataclass
class _Client:
    port: int
    query: bytes
    each: int
    """Queries on each connection."""
    result: Unread = field(default_factory=Unread)

    def run(self, connections: int, until: threading.Event) -> None:
        """Keep the connections open, and open new ones for those that the server has closed."""
        prefix, rest = len(self.query).to_bytes(2), self.query[2:]
        everything = memoryview(b"".join(prefix + ident.to_bytes(2) + rest for ident in range(self.each)))
        opened: dict[int, _Connection] = {}
        poll = select.poll()
        next_at = 0.0
        try:
            while not until.is_set():
                while len(opened) < connections and time.monotonic() >= next_at:
                    made = self._connect()
                    if made is None:
                        next_at = time.monotonic() + _PAUSE
                        break
                    opened[made.fileno()] = _Connection(made, everything)
                    poll.register(made, select.POLLOUT | _POLLRDHUP)
                for number, events in poll.poll(_TICK * 1000):
                    connection = opened[number]
                    if events & ~select.POLLOUT or not self._send(connection):
                        poll.unregister(number)
                        self._end(opened.pop(number))
                        self.result.closed += 1
                        next_at = time.monotonic() + _PAUSE
                    elif not connection.left:
                        poll.modify(number, _POLLRDHUP)
        finally:
            for connection in opened.values():
                self._end(connection)

    def _connect(self) -> socket.socket | None:
        try:
            made = socket.create_connection(("127.0.0.1", self.port), 1.0)
        except OSError:
            return None
        made.setblocking(False)
        self.result.opened += 1
        return made

    def _send(self, connection: _Connection) -> bool:
        """Send as much as the kernel accepts. Returns whether the connection is still open."""
        try:
            connection.left = connection.left[connection.socket.send(connection.left) :]
        except OSError as error:
            return error.errno == errno.EAGAIN
        return True

    def _end(self, connection: _Connection) -> None:
        self.result.sent += self.each - -(-len(connection.left) // (2 + len(self.query)))
        connection.socket.close()


@contextlib.contextmanager
def unread_responses(port: int, query: bytes, *, connections: int, each: int) -> Iterator[Unread]:
    """Send queries over TCP during the `with` block without reading; the result is complete after the block.

    Args:
        port: of the server.
        query: sent repeatedly, with different ids.
        connections: number of connections at a time.
        each: queries on each connection, at most 65,536.
    """
    client = _Client(port, query, each)
    end = threading.Event()
    thread = threading.Thread(target=client.run, args=(connections, end), name="unread", daemon=True)
    thread.start()
    try:
        yield client.result
    finally:
        end.set()
        thread.join()
