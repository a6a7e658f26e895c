"""A client's TCP connection to a server under test."""

import select
import socket
import struct
from typing import Self

from tests.support.waiting import PATIENCE
from tests.transport.helpers import Running

SECONDS = PATIENCE


def framed(*messages: bytes) -> bytes:
    """The messages with their lengths (RFC 7766 §8)."""
    return b"".join(len(message).to_bytes(2) + message for message in messages)


def read_messages(sock: socket.socket, count: int) -> list[bytes]:
    """The next messages that the server sends."""
    with sock.makefile("rb") as file:
        return [file.read(int.from_bytes(file.read(2))) for _ in range(count)]


class TcpClient:
    """A client's connection."""

    def __init__(self, server: Running, source: str | None = None, receive_buffer: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in server.address.host else socket.AF_INET)
        self.socket.settimeout(SECONDS)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(server.at)

    def send(self, *messages: bytes) -> None:
        self.socket.sendall(framed(*messages))

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self.socket.recv(min(count - len(data), 65536))):
            data += more
        return data

    def answer(self) -> bytes | None:
        """The next response; None if the server has closed the connection."""
        length = self.read(2)
        return self.read(int.from_bytes(length)) if length else None

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it; no response may be pending."""
        readable, _, _ = select.select([self.socket], [], [], 0)
        return not readable

    @property
    def is_closed(self) -> bool:
        return not self.is_open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close like a crashed process: with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
