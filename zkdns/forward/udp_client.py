"""UDP to upstreams: a new port for each query; one epoll object watches all sockets for the event loop.

The kernel chooses the port at random when a socket is connected (from net.ipv4.ip_local_port_range). A
connected socket receives only datagrams from the address and port of its upstream. To forge a response, an
attacker must guess the port as well as the id (RFC 5452 §9.2).

To create, watch and close a socket takes 16 µs (measured). To disconnect it, which releases its port, and to
connect it again takes 6 µs. So sockets without an unread message are used again.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import resource
import select
import selectors
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from zkdns.address import UpstreamAddress
from zkdns.transport.sockets import raise_open_file_limit, socket_address

MAX_DATAGRAMS_PER_CALL: Final = 4
"""Number of datagrams read by one call of `UdpClient.receive`, after which the caller checks the time."""
# Queries request at most 1,232 bytes (EDNS); a longer message is cut here and rejected as malformed.
_MAX_DATAGRAM = 4096

_MAX_SPARE_SOCKETS = 64  # of each address family
# A flag of the socket's type saves the system call that makes it non-blocking.
_TYPE = socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0)
# EAGAIN: no port is left.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


class SocketLimitError(OSError):
    """The maximum number of sockets is in use."""


# Only Linux is known to release the port of a socket that is disconnected.
_IS_PORT_RELEASED = sys.platform == "linux"
_connect = ctypes.PyDLL(None).connect  # PyDLL keeps the GIL: the call does not wait
_ADDRESS_SIZE = 16
_NO_ADDRESS = bytes(_ADDRESS_SIZE)  # a sockaddr of the family AF_UNSPEC

OwnerT = TypeVar("OwnerT")
"""The owner of a query, which is passed on with its messages."""


_SpareSockets: TypeAlias = dict[int, socket.socket]
"""Sockets without a port, by file descriptor. They are watched."""
_Destination: TypeAlias = tuple[socket.AddressFamily, _SpareSockets, tuple[Any, ...]]
"""An address family, its spare sockets, and an address for the socket functions."""


class UdpClient(Generic[OwnerT]):
    """Sends queries, each from a port of its own, and receives the messages to these ports.

    Args:
        max_sockets: maximum number of sockets with an open query; each takes a file descriptor.
        poll: watches the sockets; None: an epoll object if this system has epoll.
    """

    def __init__(self, max_sockets: int, poll: select.epoll | SelectorPoll | None = None) -> None:
        self._max_sockets = max_sockets
        self._poll = _new_poll() if poll is None else poll
        # By file descriptor: the socket, the owner of its query, and the spare sockets of its family.
        self._waiting: dict[int, tuple[socket.socket, OwnerT, _SpareSockets]] = {}
        self._addresses: dict[UpstreamAddress, _Destination] = {}
        self._spare: dict[socket.AddressFamily, _SpareSockets] = {socket.AF_INET: {}, socket.AF_INET6: {}}

    def fileno(self) -> int:
        """Return a file descriptor that is readable when `receive` has messages."""
        return self._poll.fileno()

    def __len__(self) -> int:
        """Return the number of sockets with an open query."""
        return len(self._waiting)

    def send(self, address: UpstreamAddress, query: bytes, owner: OwnerT) -> int:
        """Send a query from a new port.

        Args:
            address: the upstream.
            query: the message.
            owner: passed to the receiver of the messages to this port.

        Returns:
            The file descriptor of the port. The caller must pass it to `release`, once.

        Raises:
            SocketLimitError: too many sockets are in use.
            OSError: no file descriptor is left, or the address cannot be reached.
        """
        if len(self._waiting) >= self._max_sockets:
            raise SocketLimitError(errno.EMFILE, "too many queries are waiting for responses")
        family, spare, at = self._addresses.get(address) or self._find(address)
        fd, sock = spare.popitem() if spare else self._new(family)
        try:
            sock.connect(at)
            sock.send(query)
        except BaseException:
            self._close(sock)
            raise
        self._waiting[fd] = sock, owner, spare
        return fd

    def release(self, fd: int, *, is_answered: bool = False) -> None:
        """Receive no further messages on a port.

        Args:
            fd: as `send` has returned it.
            is_answered: whether it has received its reply, and nothing else. Otherwise the socket may have a
                message or error that a later query must not receive.
        """
        sock, _, spare = self._waiting.pop(fd)
        if (
            _IS_PORT_RELEASED
            and len(spare) < _MAX_SPARE_SOCKETS
            and _connect(fd, _NO_ADDRESS, _ADDRESS_SIZE) == 0  # disconnects it
            and (is_answered or not _drop_message(sock))
        ):
            spare[fd] = sock
        else:
            self._close(sock)

    def _find(self, address: UpstreamAddress) -> _Destination:
        """The destination of an address. One with an interface is not kept: its number may change."""
        family, at = socket_address(address.host, address.port)
        found = family, self._spare[family], at
        if "%" not in address.host:
            self._addresses[address] = found
        return found

    def _new(self, family: socket.AddressFamily) -> tuple[int, socket.socket]:
        """Create a socket, unconnected and watched, and return it after its file descriptor."""
        sock = socket.socket(family, _TYPE)
        try:
            if _TYPE == socket.SOCK_DGRAM:
                sock.setblocking(False)
            self._poll.register(sock.fileno(), selectors.EVENT_READ)
        except BaseException:
            sock.close()
            raise
        return sock.fileno(), sock

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
            if waiting is None:
                self._discard(fd)
                continue
            sock, owner, _ = waiting
            try:
                message: bytes | OSError = sock.recv(_MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):  # wrong checksum, or the descriptor was reused
                continue
            except OSError as error:
                message = error
            on_message(owner, message)
        return len(ready) == MAX_DATAGRAMS_PER_CALL

    def _discard(self, fd: int) -> None:
        """Read and drop a message of a spare socket, such as a second copy of a reply.

        Otherwise the event loop would find the socket readable again and again. A socket that was closed
        because of an earlier message has none.
        """
        for spare in self._spare.values():
            if fd in spare:
                _drop_message(spare[fd])

    def close(self) -> None:
        """Close all sockets."""
        waiting = (sock for sock, _, _ in self._waiting.values())
        spare_sockets = (spare.values() for spare in self._spare.values())
        for sock in itertools.chain(waiting, *spare_sockets):
            self._close(sock)
        self._waiting.clear()
        for spare in self._spare.values():
            spare.clear()
        self._poll.close()


def _drop_message(sock: socket.socket) -> bool:
    """Read and drop a message or error of a socket, and return whether there was one."""
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


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
