"""UDP to upstreams: a fresh socket for each query, all of them in one object that the event loop watches.

A fresh socket has a fresh port, which the kernel takes at random (from net.ipv4.ip_local_port_range). Being
connected, it takes datagrams from its upstream's address and port alone, so that who forges an answer must
guess the port as well (RFC 5452 §9.2). It costs some 11 µs in all (measured), so a few are made beforehand
and closed afterwards, when nobody waits for that: such a new socket has no port yet.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import resource
import select
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from zkdns.address import UpstreamAddress
from zkdns.transport.event_loop import Defer
from zkdns.transport.files import raise_open_file_limit
from zkdns.transport.sockets import socket_address

MAX_DATAGRAMS_PER_TURN: Final = 4
"""So many datagrams are taken before the clock is looked at."""
# More than is ever asked for (RFC 6891: 1,232 bytes); what is longer is cut, and so cannot be read.
_LARGEST = 4096

# So many sockets of each kind are made beforehand.
_SPARE = 4
# Not to wait is said where the socket is made: a system call less for each query.
_KIND = socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0)
# The last is what the kernel says when no port is left.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


class NoSocketError(OSError):
    """There are as many sockets as there may be."""


class UdpClient:
    """The sockets on which answers are waited for.

    Args:
        most: how many there may be; each takes a file.
        put_off: does what can wait, as `zkdns.transport.event_loop.putting_off` has it.
    """

    def __init__(self, most: int, put_off: Defer) -> None:
        self._most = most
        self._poll = _new_poll()
        self._put_off = put_off
        self._waiting: dict[int, tuple[socket.socket, Any]] = {}
        self._spare: dict[socket.AddressFamily, list[socket.socket]] = {}
        self._dropped: deque[socket.socket] = deque()  # still open

    def fileno(self) -> int:
        """What is readable when `receive` has something to tell."""
        file: int = self._poll.fileno()
        return file

    def __len__(self) -> int:
        """How many sockets wait."""
        return len(self._waiting)

    def send(self, address: UpstreamAddress, query: bytes, owner: object) -> socket.socket:
        """Send a query from a socket of its own.

        Returns:
            The socket; it belongs to whoever sent, who gives it back with `drop`.

        Raises:
            NoSocketError: there are too many sockets.
            OSError: no file is left, or there is no way to that address.
        """
        if len(self._waiting) >= self._most:
            raise NoSocketError(errno.EMFILE, "too many queries are waiting for answers")
        family, at = socket_address(address.host, address.port)
        if not self._spare.get(family) and self._dropped:
            self._renew()  # or there would be more than there may be
        spare = self._spare.get(family)
        sock = spare.pop() if spare else self._new(family)
        try:
            sock.connect(at)
            sock.send(query)
        except BaseException:
            self._close(sock)
            raise
        self._waiting[sock.fileno()] = sock, owner
        return sock

    def drop(self, sock: socket.socket) -> None:
        """Wait for nothing more there; the socket is closed when nobody waits for that."""
        if self._waiting.pop(sock.fileno(), None) is None:
            return
        self._dropped.append(sock)
        if len(self._dropped) == 1:
            self._put_off(self._renew_one)

    def _renew_one(self) -> None:
        if self._dropped:  # or it was needed at once
            self._renew()
        if self._dropped:
            self._put_off(self._renew_one)

    def _renew(self) -> None:
        """Close one of the dropped sockets, and have another one at hand in its place."""
        sock = self._dropped.popleft()
        family = sock.family
        self._close(sock)
        spare = self._spare.setdefault(family, [])
        if len(spare) < _SPARE:
            with contextlib.suppress(OSError):  # as when no file is left
                spare.append(self._new(family))

    def _new(self, family: socket.AddressFamily) -> socket.socket:
        """A socket that is watched, and cannot get anything yet."""
        sock = socket.socket(family, _KIND)
        try:
            if _KIND == socket.SOCK_DGRAM:
                sock.setblocking(False)
            self._poll.register(sock.fileno(), selectors.EVENT_READ)
        except BaseException:
            sock.close()
            raise
        return sock

    def _close(self, sock: socket.socket) -> None:
        self._poll.unregister(sock.fileno())
        sock.close()

    def receive(self, arrived: Callable[[Any, bytes | OSError], None]) -> bool:
        """Hand over a few of the datagrams that are there, or errors, each with who sent on that socket.

        Returns:
            Whether there may be more.
        """
        ready = self._poll.poll(0, MAX_DATAGRAMS_PER_TURN)
        for number, _ in ready:
            waiting = self._waiting.get(number)
            if waiting is None:  # dropped a moment ago by who got the one before
                continue
            sock, owner = waiting
            try:
                message: bytes | OSError = sock.recv(_LARGEST)
            except (
                BlockingIOError,
                InterruptedError,
            ):  # its checksum was wrong, or the number is another's now
                continue
            except OSError as error:
                message = error
            arrived(owner, message)
        return len(ready) == MAX_DATAGRAMS_PER_TURN

    def close(self) -> None:
        """Close everything."""
        waiting = (sock for sock, _ in self._waiting.values())
        for sock in itertools.chain(waiting, self._dropped, *self._spare.values()):
            self._close(sock)
        self._waiting.clear()
        self._dropped.clear()
        self._spare.clear()
        self._poll.close()


def is_resource_shortage(error: OSError) -> bool:
    """Whether it is files, ports or memory of this machine that are missing, not a way to the upstream."""
    return error.errno in _SHORTAGES


def affordable_sockets(wanted: int) -> int:
    """How many sockets of the wanted ones this process may have beside all its other files.

    A soft limit is raised by that many, as far as the hard one allows; if that is not far enough, half of all
    files are left to others.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    granted = raise_open_file_limit(soft + wanted)
    return max(1, min(wanted, max(granted - soft, granted // 2)))


class _SelectorPoll:
    """What of `select.epoll` is needed here, where there is none."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        return self._selector.fileno()

    def register(self, number: int, events: int) -> None:
        self._selector.register(number, events)

    def unregister(self, number: int) -> None:
        self._selector.unregister(number)

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self._selector.select(timeout)][:most]

    def close(self) -> None:
        self._selector.close()


def _new_poll() -> Any:  # noqa: ANN401 - either of two that share no type
    return select.epoll() if hasattr(select, "epoll") else _SelectorPoll()
