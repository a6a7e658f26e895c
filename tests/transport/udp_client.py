"""UDP clients."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from tests.support.waiting import PATIENCE
from tests.transport.helpers import FILLER, Running

SECONDS = PATIENCE

Serve: TypeAlias = Callable[..., AbstractContextManager[Running]]
"""`serving`, with batches or single datagrams."""


class UdpClient(socket.socket):
    """A socket that removes the filler from responses."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return _unfilled(super().recv(size + len(FILLER), flags))

    def recvfrom(self, size: int, flags: int = 0, /) -> tuple[bytes, Any]:
        response, source = super().recvfrom(size + len(FILLER), flags)
        return _unfilled(response), source


def _unfilled(response: bytes) -> bytes:
    assert response[2 : 2 + len(FILLER)] == FILLER
    return response[:2] + response[2 + len(FILLER) :]


@contextlib.contextmanager
def udp_client(host: str = "127.0.0.1") -> Iterator[UdpClient]:
    """A client socket for such an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with UdpClient(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield sock


def ask(host: str, port: int, message: bytes) -> tuple[bytes, str]:
    """The response and its source address."""
    with udp_client(host) as sock:
        sock.sendto(message, (host, port))
        answer, source = sock.recvfrom(65535)
        assert source[1] == port
        return answer, str(source[0])


def receives_nothing_more(sock: socket.socket) -> bool:
    """Whether nothing else has arrived; call it after all expected responses were received."""
    sock.setblocking(False)
    try:
        sock.recv(65535)
    except BlockingIOError:
        return True
    return False
