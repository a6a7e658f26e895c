"""A TCP server that follows a script: what each of its connections does is a function of the test."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

Script = Callable[[socket.socket], None]
"""Serves one connection, which is closed when the function returns. Its OSErrors end it."""


class ScriptedServer:
    """Runs `script` for each connection, in a thread of its own.

    Attributes:
        endpoint: `host:port`.
        script: may be replaced; connections that are accepted later follow the new one.
        accepted: the number of connections so far.
        ended: how many of them have been closed.
        done: set when the server ends. A script that waits should wait for it.

    Args:
        script: what each connection does.
        listener: a socket that listens. None: one at a free port. The server closes it.
    """

    def __init__(self, script: Script, listener: socket.socket | None = None) -> None:
        self.script = script
        self.accepted = 0
        self.ended = 0
        self.done = threading.Event()
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for one in (self._listener, *tuple(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self.done.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(connection)
            if self.done.is_set():
                connection.close()
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.script(connection)
        self._open.discard(connection)
        self.ended += 1


def receive(connection: socket.socket) -> bytes:
    """Some bytes.

    Raises:
        OSError: the peer has closed the connection.
    """
    data = connection.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


def reset(connection: socket.socket) -> None:
    """Close the connection with a TCP reset instead of its normal end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silent_script(connection: socket.socket) -> None:
    """Read, and never reply."""
    while True:
        receive(connection)


def resetting(connection: socket.socket) -> None:
    """Reset the connection when the first bytes have arrived."""
    receive(connection)
    reset(connection)


def closing(connection: socket.socket) -> None:
    """Close the connection without a reply when the first bytes have arrived."""
    receive(connection)


def replying(*replies: bytes) -> Script:
    """Send one of these for each chunk that arrives, and then close."""

    def script(connection: socket.socket) -> None:
        for reply in replies:
            receive(connection)
            connection.sendall(reply)

    return script
