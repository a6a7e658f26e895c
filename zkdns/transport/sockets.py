"""The sockets of the server: binding, sharing a port, options, addresses, and the limit on open files.

Each worker has a pair of sockets (UDP and TCP on one port) at each address. An address for DNS over TLS has a
TCP socket alone.
"""

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
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from zkdns.address import HostPort
from zkdns.causes import cause_of
from zkdns.errors import ListenError

MAX_CONNECTIONS: Final = 1024
"""Maximum number of connections of a listener."""

# Open files in addition to connections: standard files, event loop, feed, and some spare ones.
_OTHER_FILES = 64
_FILES_OF_LISTENER = 3  # TCP socket, selector, and the UDP socket of the same address

_TCP_BACKLOG = 1024
# Room for bursts while the process is busy; the kernel may grant less.
_RECEIVE_BUFFER = 1 << 20
# With port 0, the kernel chooses a port for TCP, which may be in use for UDP. Another attempt gets another
# one.
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
"""Ancillary data for `socket.sendmsg`: level, type, data."""
Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""The address of a datagram's client; for IPv6 with flow information and scope."""


class SocketPair(msgspec.Struct, frozen=True):
    """The sockets of one worker at one address."""

    udp: socket.socket
    tcp: socket.socket

    @property
    def each(self) -> tuple[socket.socket, ...]:
        """Both sockets."""
        return self.udp, self.tcp

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.close()


class TlsListener(msgspec.Struct, frozen=True):
    """The socket of one worker at one address for DNS over TLS."""

    tcp: socket.socket

    @property
    def each(self) -> tuple[socket.socket, ...]:
        """The socket."""
        return (self.tcp,)

    def close(self) -> None:
        """Close it."""
        self.tcp.close()


class _UdpSocket(msgspec.Struct, frozen=True):
    """The UDP socket of one worker at one address, before it is part of a pair."""

    udp: socket.socket

    @property
    def each(self) -> tuple[socket.socket, ...]:
        """The socket."""
        return (self.udp,)

    def close(self) -> None:
        """Close it."""
        self.udp.close()


BoundSockets: TypeAlias = SocketPair | TlsListener
"""The sockets of one worker at one address."""
_Bound = TypeVar("_Bound", SocketPair, TlsListener, _UdpSocket)
_Bound_co = TypeVar("_Bound_co", covariant=True)


def bind(address: HostPort, workers: int, *, shared: bool = False) -> list[SocketPair]:
    """Bind UDP and TCP at the address, once for each worker. With port 0, all workers share one free port.

    Args:
        address: the address.
        workers: number of pairs.
        shared: whether other sockets of this server already use the port at an overlapping address.

    Raises:
        ListenError: with the reason and a remedy.
    """
    return _bind(address, workers, _bind_pair, is_shared=shared)


def bind_tls(address: HostPort, workers: int, *, shared: bool = False) -> list[TlsListener]:
    """Bind TCP at an address for DNS over TLS; otherwise as `bind`."""
    return _bind(address, workers, _bind_tls, is_shared=shared)


def without_udp(pairs: Iterable[SocketPair]) -> list[TlsListener]:
    """The TCP sockets of these, to use them for DNS over TLS."""
    return [TlsListener(pair.tcp) for pair in pairs]


def with_udp(listeners: Sequence[TlsListener], *, shared: bool) -> list[SocketPair]:
    """The TCP sockets of these, and new UDP sockets at their address.

    Raises:
        ListenError: with the reason; the existing sockets are unchanged.
    """
    address = bound_address(listeners[0])

    def bind_udp(address: HostPort, *, shared: bool) -> _UdpSocket:
        return _UdpSocket(_bind_one(address, socket.SOCK_DGRAM, shared=shared))

    bound = _bind(address, len(listeners), bind_udp, is_shared=shared)
    return [SocketPair(each.udp, listener.tcp) for each, listener in zip(bound, listeners, strict=True)]


class _BindOnce(Protocol[_Bound_co]):
    """Binds the sockets of one worker."""

    def __call__(self, address: HostPort, *, shared: bool) -> _Bound_co: ...


def _bind(address: HostPort, workers: int, bind_once: _BindOnce[_Bound], *, is_shared: bool) -> list[_Bound]:
    for last_try in (*[False] * (_PORT_TRIES - 1), True):
        try:
            if is_shared:
                return _bind_shared(address, workers, bind_once)
            return _bind_all(address, workers, bind_once)
        except OSError as error:
            if address.port or error.errno != errno.EADDRINUSE or last_try:
                raise ListenError(_explain(address, error)) from None
    raise AssertionError


def bind_one(address: HostPort, kind: socket.SocketKind) -> socket.socket:
    """Bind UDP or TCP at an address for which the other socket was inherited.

    Raises:
        ListenError: with the reason and a remedy.
    """
    try:
        sock = _bind_one(address, kind, shared=False)
        configure_inherited(sock)
    except OSError as error:
        raise ListenError(_explain(address, error)) from None
    return sock


def configure_inherited(sock: socket.socket) -> None:
    """Set the options of an inherited socket."""
    sock.setblocking(False)
    if sock.type == socket.SOCK_STREAM:
        sock.listen(_TCP_BACKLOG)
    elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < _RECEIVE_BUFFER:
        # Not otherwise: root may have set more than this process is permitted to set.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def bind_additional(pairs: Sequence[BoundSockets], count: int) -> Sequence[BoundSockets]:
    """Bind more sockets at the address of these. The kernel numbers them in the order of the result.

    They receive nothing until `direct_traffic` includes them, so that no query is lost if they are closed
    again.

    Raises:
        ListenError: with the reason; the existing ones are unchanged.
    """
    allow_sharing(pairs)
    direct_traffic(pairs, len(pairs))
    address = bound_address(pairs[0])
    try:
        if isinstance(pairs[0], TlsListener):
            return _bind_shared(address, count, _bind_tls)
        return _bind_shared(address, count, _bind_pair)
    except OSError as error:
        raise ListenError(_explain(address, error)) from None


def allow_sharing(pairs: Iterable[BoundSockets | _UdpSocket]) -> None:
    """Set SO_REUSEPORT, so that this user can bind more sockets with that option at the same port."""
    _share(pairs, is_shared=True)


def _share(pairs: Iterable[BoundSockets | _UdpSocket], *, is_shared: bool) -> None:
    for pair in pairs:
        for sock in pair.each:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)


def direct_traffic(pairs: Sequence[BoundSockets], count: int | None) -> None:
    """Direct traffic to the first `count` sockets of an address; None: to all of them.

    Queries that wait in a socket's buffer are lost when it is closed, so a socket is excluded before it is
    closed. The kernel numbers the sockets of a port in the order of binding. Does nothing on systems other
    than Linux.
    """
    if sys.platform != "linux":
        return
    for sock in pairs[0].each:
        with contextlib.suppress(OSError):
            if count is None:
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 1)
            else:
                _attach(sock, _RANDOM_BELOW.pack(*_LOAD_RANDOM, *_MODULO, count, *_RETURN))


def _attach(sock: socket.socket, program: bytes) -> None:
    """Attach a program that selects a socket among those that share a port."""
    memory = array.array("B", program)
    values = _SOCK_FPROG.pack(len(program) // _INSTRUCTION, memory.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, values)


def bound_address(pair: BoundSockets | _UdpSocket) -> HostPort:
    """The address at which the sockets are bound."""
    return address_of(pair.each[-1])


def address_of(sock: socket.socket) -> HostPort:
    """The address at which a socket is bound."""
    host, port, *numbers = sock.getsockname()
    scope = numbers[-1] if numbers else 0  # the host does not include it
    return HostPort(f"{host}%{socket.if_indextoname(scope)}" if scope else host, port)


def socket_address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """An address for the socket functions; an IPv6 zone becomes a scope id.

    Raises:
        OSError: the interface of the zone does not exist.
    """
    if ":" not in host:
        return socket.AF_INET, (host, port)
    host, _, zone = host.partition("%")
    scope = 0
    if zone:
        try:
            scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
        except OSError:  # it has no error number
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return socket.AF_INET6, (host, port, 0, scope)


def is_wildcard(udp: socket.socket) -> bool:
    """Whether the socket is bound to all addresses, so that each response needs a source address."""
    return ipaddress.ip_address(udp.getsockname()[0]).is_unspecified


def packed_address(host: str) -> bytes:
    """An address in 4 or 16 bytes, without an IPv6 zone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0])


def client_of(peer: object) -> str:
    """The key that identifies a client: its address, or the /64 network of an IPv6 address.

    A host may use all addresses of its /64.
    """
    host = str(peer[0]) if isinstance(peer, tuple) else ""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is not None:  # an IPv4 client at a dual-stack socket
                return str(address.ipv4_mapped)
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return host


def enable_packet_info(udp: socket.socket) -> None:
    """Make the socket report the local address of each datagram."""
    if udp.family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def disable_fragmentation(udp: socket.socket) -> None:
    """Forbid fragmentation of IPv4 datagrams (RFC 9715 §3.1).

    Fragments can be forged, and forged reports of a small path MTU would cause them. Also, a datagram that is
    never fragmented needs no IP id from a counter that all processors share; this saves a twentieth of a
    response (measured).
    """
    if udp.family == socket.AF_INET and sys.platform == "linux":
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)


@contextlib.contextmanager
def fragmentation_allowed(udp: socket.socket) -> Iterator[None]:
    """Allow fragmentation in the `with` block, for a datagram that exceeds the interface's MTU."""
    if udp.family == socket.AF_INET and sys.platform == "linux":
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    try:
        yield
    finally:
        disable_fragmentation(udp)


def send_datagram(
    udp: socket.socket, message: bytes, ancillary: Iterable[Ancillary], address: Address
) -> None:
    """Send a datagram, in fragments if necessary.

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


def _bind_all(address: HostPort, workers: int, bind_once: _BindOnce[_Bound]) -> list[_Bound]:
    # The first attempt is without SO_REUSEPORT, which would let two servers share a port unnoticed.
    first = bind_once(address, shared=False)
    if workers == 1 and sys.platform != "linux":
        return [first]
    found = bound_address(first)
    first.close()
    pairs = _bind_shared(found, workers, bind_once)
    if workers == 1:
        # Without the option, no other server can bind the port unnoticed. But since the socket was bound with
        # it, the kernel has made a group, to which `direct_traffic` can attach a program before there are
        # others.
        _share(pairs, is_shared=False)
    return pairs


def _bind_shared(address: HostPort, count: int, bind_once: _BindOnce[_Bound]) -> list[_Bound]:
    with contextlib.ExitStack() as closed_on_error:
        pairs = []
        for _ in range(count):
            pair = bind_once(address, shared=True)
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


def _bind_tls(address: HostPort, *, shared: bool) -> TlsListener:
    tcp = _bind_one(address, socket.SOCK_STREAM, shared=shared)
    try:
        tcp.listen(_TCP_BACKLOG)
    except OSError:
        tcp.close()
        raise
    return TlsListener(tcp)


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
        if family == socket.AF_INET6:  # so that both 0.0.0.0 and [::] can be bound
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
            why = cause_of(error)
    return f"cannot listen on {address}: {why}"


def connections_per_listener(listeners: int) -> int:
    """The maximum number of connections of each listener of this process, given the limit on open files.

    Raises the limit on open files as far as permitted (a soft limit of 1,024 is common, the hard limit is far
    higher). At the limit, a listener cannot accept a connection, and so cannot replace an idle one either.
    """
    others = _OTHER_FILES + _FILES_OF_LISTENER * listeners
    wanted = others + MAX_CONNECTIONS * listeners
    return max(1, (raise_open_file_limit(wanted) - others) // listeners)


def raise_open_file_limit(wanted: int) -> int:
    """Raise the limit on open files, if permitted; return how many of the wanted files may be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    except (OSError, ValueError):
        return soft
    return granted
