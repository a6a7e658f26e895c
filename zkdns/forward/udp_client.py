"""UDP to upstreams: a new socket for each query; one epoll object watches all of them for the event loop.

A new socket has a new port, which the kernel chooses at random (from net.ipv4.ip_local_port_range). It is
connected, so it receives only datagrams from the address and port of its upstream. To forge a response, an
attacker must guess the port as well as the id (RFC 5452 §9.2).

To create and close a socket takes some 11 µs (measured). So a few are created in advance, and used ones are
closed later, when no query waits for it. A spare socket has no port until it is connected.
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
from typing import Final, Generic, TypeVar

from zkdns.address import UpstreamAddress
from zkdns.transport.event_loop import Defer
from zkdns.transport.sockets import raise_open_file_limit, socket_address

MAX_DATAGRAMS_PER_CALL: Final = 4
"""Number of datagrams read by one call of `UdpClient.receive`, after which the caller checks the time."""
# Queries request at most 1,232 bytes (EDNS); a longer message is cut here and rejected as malformed.
_MAX_DATAGRAM = 4096

_SPARE_SOCKETS = 4  # of each address family, created in advance
# A flag of the socket's type saves the system call that makes it non-blocking.
_TYPE = socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0)
# EAGAIN: no port is left.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


class SocketLimitError(OSError):
    """The maximum number of sockets is in use."""


OwnerT = TypeVar("OwnerT")
"""The owner of a query, which is passed on with its messages."""


class UdpClient(Generic[OwnerT]):
    """Sends queries, each from a socket of its own, and receives the messages on these sockets.

    Args:
        max_sockets: maximum number of sockets with an open query; each takes a file descriptor.
        defer: runs work that can wait; see `zkdns.transport.event_loop.deferrer`.
        poll: watches the sockets; None: an epoll object if this system has epoll.
    """

    def __init__(
        self, max_sockets: int, defer: Defer, poll: select.epoll | SelectorPoll | None = None
    ) -> None:
        self._max_sockets = max_sockets
        self._poll = _new_poll() if poll is None else poll
        self._defer = defer
        self._waiting: dict[int, tuple[socket.socket, OwnerT]] = {}
        self._spare: dict[socket.AddressFamily, list[socket.socket]] = {}
        self._released: deque[socket.socket] = deque()  # not closed yet

    def fileno(self) -> int:
        """Return a file descriptor that is readable when `receive` has messages."""
        return self._poll.fileno()

    def __len__(self) -> int:
        """Return the number of sockets with an open query."""
        return len(self._waiting)

    def send(self, address: UpstreamAddress, query: bytes, owner: OwnerT) -> socket.socket:
        """Send a query from a new socket.

        Args:
            address: the upstream.
            query: the message.
            owner: passed to the receiver of the messages on this socket.

        Returns:
            The socket. The caller must pass it to `release`.

        Raises:
            SocketLimitError: too many sockets are in use.
            OSError: no file descriptor is left, or the address cannot be reached.
        """
        if len(self._waiting) >= self._max_sockets:
            raise SocketLimitError(errno.EMFILE, "too many queries are waiting for responses")
        family, at = socket_address(address.host, address.port)
        if not self._spare.get(family) and self._released:
            self._recycle()  # keeps the total within the limit
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

    def release(self, sock: socket.socket) -> None:
        """Ignore further messages on a socket, and close it soon."""
        if self._waiting.pop(sock.fileno(), None) is None:
            return
        self._released.append(sock)
        if len(self._released) == 1:
            self._defer(self._recycle_next)

    def _recycle_next(self) -> None:
        if self._released:  # empty if `send` needed the socket meanwhile
            self._recycle()
        if self._released:
            self._defer(self._recycle_next)

    def _recycle(self) -> None:
        """Close one of the released sockets, and create a spare one in its place."""
        sock = self._released.popleft()
        family = sock.family
        self._close(sock)
        spare = self._spare.setdefault(family, [])
        if len(spare) < _SPARE_SOCKETS:
            with contextlib.suppress(OSError):  # for example, no file descriptor is left
                spare.append(self._new(family))

    def _new(self, family: socket.AddressFamily) -> socket.socket:
        """Create a socket, unconnected and watched."""
        sock = socket.socket(family, _TYPE)
        try:
            if _TYPE == socket.SOCK_DGRAM:
                sock.setblocking(False)
            self._poll.register(sock.fileno(), selectors.EVENT_READ)
        except BaseException:
            sock.close()
            raise
        return sock

    def _close(self, sock: socket.socket) -> None:
        self._poll.unregister(sock.fileno())
        sock.close()

    def receive(self, on_message: Callable[[OwnerT, bytes | OSError], None]) -> bool:
        """Read up to `MAX_DATAGRAMS_PER_CALL` datagrams or errors.

        Args:
            on_message: called with the owner of each socket, and the message or error.

        Returns:
            Whether there may be more.
        """
        ready = self._poll.poll(0, MAX_DATAGRAMS_PER_CALL)
        for fd, _ in ready:
            waiting = self._waiting.get(fd)
            if waiting is None:  # released because of an earlier message of this call
                continue
            sock, owner = waiting
            try:
                message: bytes | OSError = sock.recv(_MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):  # wrong checksum, or the descriptor was reused
                continue
            except OSError as error:
                message = error
            on_message(owner, message)
        return len(ready) == MAX_DATAGRAMS_PER_CALL

    def close(self) -> None:
        """Close all sockets."""
        waiting = (sock for sock, _ in self._waiting.values())
        for sock in itertools.chain(waiting, self._released, *self._spare.values()):
            self._close(sock)
        self._waiting.clear()
        self._released.clear()
        self._spare.clear()
        self._poll.close()


def is_resource_shortage(error: OSError) -> bool:
    """Return whether this machine lacks file descriptors, ports or memory: not the fault of the upstream."""
    return error.errno in _SHORTAGES


def affordable_sockets(wanted: int) -> int:
    """Return how many of the wanted sockets this process can have in addition to its other files.

    Raises the soft limit of open files by the wanted number, as far as the hard limit allows. If that is not
    enough, the sockets get at most half of all file descriptors.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    granted = raise_open_file_limit(soft + wanted)
    return max(1, min(wanted, max(granted - soft, granted // 2)))


class SelectorPoll:
    """The methods of `select.epoll` that `UdpClient` uses, for systems without epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """Return a file descriptor that is readable when `poll` has events."""
        return self._selector.fileno()

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a file descriptor."""
        self._selector.register(fd, eventmask)

    def unregister(self, fd: int) -> None:
        """Stop watching a file descriptor."""
        self._selector.unregister(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        """Return file descriptors with events, and the events."""
        return [(key.fd, events) for key, events in self._selector.select(timeout)][:maxevents]

    def close(self) -> None:
        """Close the selector."""
        self._selector.close()


def _new_poll() -> select.epoll | SelectorPoll:
    return select.epoll() if hasattr(select, "epoll") else SelectorPoll()
