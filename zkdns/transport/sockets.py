"""Sockets for serving: one pair, UDP and TCP on one port, for each address and each worker."""

from __future__ import annotations

import array
import contextlib
import errno
import ipaddress
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from zkdns.address import HostPort
from zkdns.errors import ListenError

MAX_CONNECTIONS: Final = 1024
"""Connections that a listener has at most."""

# What a process has open beside connections: standard files, event loop, feed, and some to spare.
_OTHER_FILES = 64
_FILES_OF_LISTENER = 3  # its TCP socket, its selector, and the UDP socket beside it

_TCP_BACKLOG = 1024
# Room for a burst that arrives while the process is busy with something else; the kernel may give less.
_RECEIVE_BUFFER = 1 << 20
# With port 0 the port that TCP got may be taken for UDP; another try gets another port.
_PORT_TRIES = 20

# <linux/in.h>, <linux/in6.h>: not in Python's socket module everywhere.
IP_PKTINFO = 8
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_PROBE = 10, 0, 3
_SO_ATTACH_REUSEPORT_CBPF, _SO_DETACH_REUSEPORT_BPF = 51, 68

# <linux/filter.h>: `A = random; A %= count; return A`, each instruction as code, two jumps, operand.
_INSTRUCTION = 8
_RANDOM_BELOW = struct.Struct("=HBBI HBBI HBBI")
_LOAD_RANDOM = 0x20, 0, 0, 0xFFFFF000 + 56  # BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_RANDOM
_MODULO = 0x94, 0, 0  # BPF_ALU | BPF_MOD | BPF_K
_RETURN = 0x16, 0, 0, 0  # BPF_RET | BPF_A
_SOCK_FPROG = struct.Struct("@HP")

Ancillary: TypeAlias = tuple[int, int, bytes]
"""Ancillary data as `socket.sendmsg` takes them: level, type, data."""
Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""Where a datagram comes from or goes to; for IPv6 with flow information and scope."""


class SocketPair(msgspec.Struct, frozen=True):
    """What one worker listens with at one address."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.close()


def bind(address: HostPort, workers: int, *, shared: bool = False) -> list[SocketPair]:
    """Bind UDP and TCP at the address, once for each worker; port 0 means one free port for all.

    Args:
        address: where.
        workers: how many.
        shared: whether other sockets of ours have that port, at an address that holds this one or lies in it.

    Raises:
        ListenError: saying why not, and what would help.
    """
    for last_try in (*[False] * (_PORT_TRIES - 1), True):
        try:
            return _bind_shared(address, workers) if shared else _bind_all(address, workers)
        except OSError as error:
            if address.port or error.errno != errno.EADDRINUSE or last_try:
                raise ListenError(_explain(address, error)) from None
    raise AssertionError


def bind_one(address: HostPort, kind: socket.SocketKind) -> socket.socket:
    """Bind UDP or TCP alone at an address whose other half somebody else has bound.

    Raises:
        ListenError: saying why not, and what would help.
    """
    try:
        sock = _bind_one(address, kind, shared=False)
        configure_inherited(sock)
    except OSError as error:
        raise ListenError(_explain(address, error)) from None
    return sock


def configure_inherited(sock: socket.socket) -> None:
    """Give a socket that somebody else has bound what ours have."""
    sock.setblocking(False)
    if sock.type == socket.SOCK_STREAM:
        sock.listen(_TCP_BACKLOG)
    elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < _RECEIVE_BUFFER:
        # Only then: who is root may have given it more than we could ask for.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def bind_additional(pairs: Sequence[SocketPair], count: int) -> list[SocketPair]:
    """Bind more where these are bound, in the order in which the kernel then has them all.

    Nothing arrives at them until `favour` says so, lest it is lost where they are closed again.

    Raises:
        ListenError: saying why not; those that are there have not changed.
    """
    allow_sharing(pairs)
    direct_traffic(pairs, len(pairs))
    address = bound_address(pairs[0])
    try:
        return _bind_shared(address, count)
    except OSError as error:
        raise ListenError(_explain(address, error)) from None


def allow_sharing(pairs: Iterable[SocketPair]) -> None:
    """Let others be bound at the same port by this user, who must bind theirs so as well."""
    _share(pairs, is_shared=True)


def _share(pairs: Iterable[SocketPair], *, is_shared: bool) -> None:
    for pair in pairs:
        for sock in (pair.udp, pair.tcp):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)


def direct_traffic(pairs: Sequence[SocketPair], count: int | None) -> None:
    """Let what arrives go to the first so many sockets of an address alone; None: to all as before.

    What is on its way to one that is closed would be lost, so one that is to be closed is left out before.
    The kernel numbers the sockets of a port in the order in which they were bound. Where it cannot be told so
    (no Linux), nothing happens.
    """
    if sys.platform != "linux":
        return
    for sock in (pairs[0].udp, pairs[0].tcp):
        with contextlib.suppress(OSError):
            if count is None:
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 1)
            else:
                _attach(sock, _RANDOM_BELOW.pack(*_LOAD_RANDOM, *_MODULO, count, *_RETURN))


def _attach(sock: socket.socket, program: bytes) -> None:
    """Let a program choose among the sockets that share a port."""
    memory = array.array("B", program)
    values = _SOCK_FPROG.pack(len(program) // _INSTRUCTION, memory.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, values)


def bound_address(pair: SocketPair) -> HostPort:
    """Where the pair really listens."""
    return address_of(pair.udp)


def address_of(sock: socket.socket) -> HostPort:
    """Where a socket is bound."""
    host, port, *numbers = sock.getsockname()
    scope = numbers[-1] if numbers else 0  # which the host is told without
    return HostPort(f"{host}%{socket.if_indextoname(scope)}" if scope else host, port)


def socket_address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """An address as sockets take it, which leave the zone that IPv6 may have out of a host.

    Raises:
        OSError: its interface is not there.
    """
    if ":" not in host:
        return socket.AF_INET, (host, port)
    host, _, zone = host.partition("%")
    scope = 0
    if zone:
        try:
            scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
        except OSError:  # which has no number
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return socket.AF_INET6, (host, port, 0, scope)


def is_wildcard(udp: socket.socket) -> bool:
    """Whether the socket listens at every address, so that each answer must be told where to leave from."""
    return ipaddress.ip_address(udp.getsockname()[0]).is_unspecified


def packed_address(host: str) -> bytes:
    """An address as sockets tell it, in 4 or 16 bytes; the zone that IPv6 may have is left out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0])


def enable_packet_info(udp: socket.socket) -> None:
    """Let the socket tell at which address each datagram arrived."""
    if udp.family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def disable_fragmentation(udp: socket.socket) -> None:
    """Let no datagram be taken apart on its way, where there is IPv4 (RFC 9715 §3.1).

    Fragments can be forged, and who forges news of a narrow path would bring them about. Besides, a datagram
    that stays whole needs no number from a counter that all processors share, which is a twentieth of what
    an answer costs (measured).
    """
    if udp.family == socket.AF_INET and sys.platform == "linux":
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)


@contextlib.contextmanager
def fragmentation_allowed(udp: socket.socket) -> Iterator[None]:
    """For what does not fit into the network that it leaves by: better in fragments than not at all."""
    if udp.family == socket.AF_INET and sys.platform == "linux":
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    try:
        yield
    finally:
        disable_fragmentation(udp)


def send_datagram(
    udp: socket.socket, message: bytes, ancillary: Iterable[Ancillary], address: Address
) -> None:
    """Send a datagram, in fragments if it must be.

    Raises:
        OSError: it cannot be sent.
    """
    try:
        udp.sendmsg((message,), ancillary, 0, address)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        with fragmentation_allowed(udp):
            udp.sendmsg((message,), ancillary, 0, address)


def _bind_all(address: HostPort, workers: int) -> list[SocketPair]:
    # The first try is without SO_REUSEPORT, which would let two servers share a port unnoticed.
    first = _bind_pair(address, shared=False)
    if workers == 1 and sys.platform != "linux":
        return [first]
    found = bound_address(first)
    first.close()
    pairs = _bind_shared(found, workers)
    if workers == 1:
        # Nobody else may be bound there; but the kernel knows it as the first of several that may come, and
        # so can be told who gets what before there are others (`favour`).
        _share(pairs, is_shared=False)
    return pairs


def _bind_shared(address: HostPort, count: int) -> list[SocketPair]:
    with contextlib.ExitStack() as closed_on_error:
        pairs = []
        for _ in range(count):
            pair = _bind_pair(address, shared=True)
            closed_on_error.callback(pair.close)
            pairs.append(pair)
        closed_on_error.pop_all()
    return pairs


def _bind_pair(address: HostPort, *, shared: bool) -> SocketPair:
    tcp = _bind_one(address, socket.SOCK_STREAM, shared=shared)
    try:
        tcp.listen(_TCP_BACKLOG)
        found = HostPort(address.host, tcp.getsockname()[1])
        return SocketPair(_bind_one(found, socket.SOCK_DGRAM, shared=shared), tcp)
    except OSError:
        tcp.close()
        raise


def _bind_one(address: HostPort, kind: socket.SocketKind, *, shared: bool) -> socket.socket:
    family, at = socket_address(address.host, address.port)
    sock = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # so that 0.0.0.0 and [::] can be given side by side
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(at)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(address: HostPort, error: OSError) -> str:
    match error.errno:
        case errno.EACCES:
            why = (
                "ports below 1024 need root or CAP_NET_BIND_SERVICE: start it from systemd with "
                "AmbientCapabilities=CAP_NET_BIND_SERVICE, lower net.ipv4.ip_unprivileged_port_start, "
                "or choose another port with --listen 127.0.0.1:5300"
            )
        case errno.EADDRINUSE:
            why = (
                f"another program listens there (ss -lunpt 'sport = :{address.port}' names it); "
                "stop that, or choose another address with --listen"
            )
        case errno.EADDRNOTAVAIL:
            why = "this machine does not have that address (ip address lists those that it has)"
        case errno.ENODEV:
            why = "this machine does not have that interface (ip link lists those that it has)"
        case _:
            why = error.strerror or str(error)
    return f"cannot listen on {address}: {why}"


def connections_per_listener(listeners: int) -> int:
    """How many connections each of so many listeners of this process may have.

    It takes the files that the system grants (a soft limit of 1,024 is common, the hard one far above it):
    without a file left no connection is accepted, and so none makes room for another.
    """
    others = _OTHER_FILES + _FILES_OF_LISTENER * listeners
    wanted = others + MAX_CONNECTIONS * listeners
    return max(1, (raise_open_file_limit(wanted) - others) // listeners)


def raise_open_file_limit(wanted: int) -> int:
    """How many of so many files this process may open, its limit being raised where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    except (OSError, ValueError):
        return soft
    return granted
