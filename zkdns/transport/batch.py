"""Batches of datagrams with one system call: Linux' `recvmmsg` and `sendmmsg`, through ctypes.

The buffers never move, so their addresses are written into the message headers only once. The lengths and ids
of all datagrams are copied together, with one strided `memoryview` assignment per column, so that no Python
code runs per datagram. Each datagram has these buffers:

    slot        id | head | question … | length    a query, followed by its length
    overflow    … the rest of a query that is longer than its slot
    body        lengths | id | head | rest …       a response, sent with the question of the slot

A body has room for the id. Until the id is copied there, that room holds the response class
(`zkdns.transport.counters`).

`receive` returns a query as the bytes of its slot after the id, padded with zeros. Two queries are equal
exactly if these bytes are equal, so that a cache needs no other check. `send` takes a response as the bytes
of its body. The kernel gathers a datagram from three buffers: id and head of the body, the question in the
slot as it was received, and the rest of the body. `zkdns.transport.codecs.UdpCodec` converts queries and
responses to and from these forms.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import ClassVar, Final

import msgspec

from zkdns.transport.sockets import (
    IP_PKTINFO,
    IPV6_PKTINFO,
    Address,
    Ancillary,
    fragmentation_allowed,
    is_wildcard,
)

MAX_BATCH: Final = 64
"""Datagrams in a batch. Larger batches do not make a datagram cheaper (measured: 32 to 64 are enough)."""

ID: Final = 2
LENGTH: Final = 2
SLOT: Final = 96
"""Bytes of a slot. Most queries are shorter; a query with EDNS and a name of 63 bytes fills it."""
MAX_RESPONSE: Final = 1232
"""Bytes of the longest response."""
CLASS_OFFSET: Final = 4
"""Offset of the response class in a body."""
PREFIX: Final = 6
"""Bytes of a body before its head: the lengths of the rest and of the question, and room for the id."""
HEAD: Final = 10
"""Bytes of a message's header after the id."""

_SLOT_CAPACITY = SLOT - LENGTH
_OVERFLOW = 65536
_BODY = PREFIX - ID + MAX_RESPONSE
_SOCKADDR_SIZE = {socket.AF_INET: 16, socket.AF_INET6: 28}  # sockaddr_in, sockaddr_in6
_ADDRESS = {socket.AF_INET: "4x4s8x", socket.AF_INET6: "8x16s4x"}
# A header of 16 bytes, and in_pktinfo or in6_pktinfo.
_CONTROL_SIZE = {socket.AF_INET: 32, socket.AF_INET6: 40}
_CMSG_HEADER, _IN_PKTINFO, _IN6_PKTINFO = 16, 12, 20
_NO_DATAGRAMS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
_LINK_LOCAL = b"\xfe\x80"

_SOCKADDR_IN = struct.Struct("!2xH4s8x")  # port, address
_SOCKADDR_IN_SIZE = _SOCKADDR_IN.size
_SOCKADDR_IN6 = struct.Struct("!2xH4s16s4s")  # port, flow information, address, scope


_host_of = lru_cache(maxsize=1024)(socket.inet_ntoa)  # clients send several queries


class Client(msgspec.Struct, frozen=True, gc=False):
    """The client of a deferred response."""

    query: bytes
    """The query with its id, cut to the capacity of a slot. The response repeats its id and question."""
    address: Address
    ancillary: list[Ancillary]
    """Ancillary data with the local address at which the query arrived."""
    packed: bytes
    """The IP address in 4 or 16 bytes."""


class _IoVec(ctypes.Structure):
    _fields_: ClassVar = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _MsgHdr(ctypes.Structure):
    _fields_: ClassVar = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _MmsgHdr(ctypes.Structure):
    _fields_: ClassVar = [("header", _MsgHdr), ("length", ctypes.c_uint32)]


class _Messages:
    """The message headers for one of the calls, and the buffers (pieces) that each header refers to."""

    def __init__(self, pieces: int) -> None:
        self._headers = (_MmsgHdr * MAX_BATCH)()
        self._pieces = (_IoVec * (pieces * MAX_BATCH))()
        self._count = pieces
        # A pointer to each datagram, since datagrams that could not be sent are skipped.
        self.starting_at = [ctypes.c_void_p(ctypes.addressof(entry)) for entry in self._headers]
        # The numbers have the byte order of the machine. All lengths fit into 16 bits, so only these are
        # copied.
        halves = memoryview(self._headers).cast("B").cast("H")
        self.lengths = halves[_half_of(_MmsgHdr.length.offset, 4) :: ctypes.sizeof(_MmsgHdr) // 2]
        words = memoryview(self._headers).cast("B").cast("Q")
        self.control_lengths = words[_MsgHdr.control_length.offset // 8 :: ctypes.sizeof(_MmsgHdr) // 8]
        halves = memoryview(self._pieces).cast("B").cast("H")
        size = ctypes.sizeof(_IoVec)
        self.piece_lengths = [
            halves[_half_of(at * size + _IoVec.length.offset, 8) :: pieces * size // 2]
            for at in range(pieces)
        ]

    def place(self, at: int, client: tuple[int, int], *pieces: tuple[int, int]) -> None:
        """Set the addresses and sizes of a datagram's socket address and pieces."""
        header = self._headers[at].header
        header.name, header.name_length = client
        header.iov, header.iov_count = ctypes.addressof(self._pieces[self._count * at]), self._count
        for number, (base, length) in enumerate(pieces):
            self._pieces[self._count * at + number] = _IoVec(base, length)

    def place_control(self, at: int, address: int) -> None:
        """Set the address of a datagram's ancillary data."""
        self._headers[at].header.control = address


class _Columns:
    """Pairs of a target column and a source column, with a row for each datagram."""

    def __init__(self, pairs: Sequence[tuple[memoryview, memoryview]]) -> None:
        # Sliced in advance for each number of datagrams.
        self._pairs = [
            [(target[:count], source[:count]) for target, source in pairs] for count in range(MAX_BATCH + 1)
        ]

    def copy(self, count: int) -> None:
        """Copy the first `count` rows of each source to its target."""
        for target, source in self._pairs[count]:
            target[:] = source


class Batch:
    """The datagrams of one call, and their responses.

    On a wildcard socket, a response leaves from the address at which the query arrived (IP_PKTINFO).
    Otherwise the kernel chooses the address, and on hosts with several addresses the client drops the
    response.

    Args:
        sock: a UDP socket; on a wildcard address, `enable_packet_info` must have been called.
        libc: the C library with the two calls. None: that of the system.
    """

    def __init__(self, sock: socket.socket, libc: ctypes.PyDLL | None = None) -> None:
        self._sock = sock  # keeps the file descriptor open
        self._fd, self._flags = ctypes.c_int(sock.fileno()), ctypes.c_int(socket.MSG_DONTWAIT)
        self._numbers = [ctypes.c_uint(count) for count in range(MAX_BATCH + 1)]
        self.has_empty = False
        """Whether some of the last responses were empty (no response, deferred or per-client)."""
        self.classes = bytearray()
        """The response classes of the last responses; 0 for empty ones."""
        self._count = 0
        self._family = socket.AddressFamily(sock.family)
        self._is_ipv4 = self._family == socket.AF_INET
        self._slots, self._bodies = bytearray(MAX_BATCH * SLOT), bytearray(MAX_BATCH * _BODY)
        self._overflow = mmap.mmap(-1, MAX_BATCH * _OVERFLOW)  # takes no memory until it is used
        self._clients = bytearray(MAX_BATCH * _SOCKADDR_SIZE[socket.AddressFamily(sock.family)])
        self._received, self._sent = _Messages(2), _Messages(3)
        libc = libc or _load_libc()
        self._sendmmsg = libc.sendmmsg
        first, max_count = self._received.starting_at[0], self._numbers[MAX_BATCH]
        self._receive = partial(libc.recvmmsg, self._fd, first, max_count, self._flags, None)
        self._lay_out(socket.AddressFamily(sock.family))
        self._map_columns()
        self._address_readers = [
            struct.Struct(_ADDRESS[self._family] * count) for count in range(MAX_BATCH + 1)
        ]
        self._readers = [struct.Struct(f"{ID}x{SLOT - ID}s" * count) for count in range(MAX_BATCH + 1)]
        self._writers = [struct.Struct(f"{_BODY}s" * count) for count in range(MAX_BATCH + 1)]
        self._local_addresses = (
            _LocalAddresses(sock.family, self._received, self._sent) if is_wildcard(sock) else None
        )

    def _lay_out(self, family: socket.AddressFamily) -> None:
        slots, bodies = _address_of(self._slots), _address_of(self._bodies)
        overflow, clients = _address_of(self._overflow), _address_of(self._clients)
        for at in range(MAX_BATCH):
            client = clients + at * _SOCKADDR_SIZE[family], _SOCKADDR_SIZE[family]
            slot, body = slots + at * SLOT, bodies + at * _BODY + PREFIX
            self._received.place(at, client, (slot, _SLOT_CAPACITY), (overflow + at * _OVERFLOW, _OVERFLOW))
            self._sent.place(at, client, (body - ID, ID + HEAD), (slot + ID + HEAD, 0), (body + HEAD, 0))

    def _map_columns(self) -> None:
        """Create the views of the buffers that are copied as columns."""
        slots, bodies = memoryview(self._slots).cast("H"), memoryview(self._bodies).cast("H")
        self._slot_lengths = slots[_SLOT_CAPACITY // 2 :: SLOT // 2]
        self._lengths = _Columns(((self._slot_lengths, self._received.lengths),))
        rest_lengths, question_lengths, ids = (bodies[at :: _BODY // 2] for at in range(3))
        _, questions, rests = self._sent.piece_lengths
        self._responses = _Columns(
            ((ids, slots[:: SLOT // 2]), (questions, question_lengths), (rests, rest_lengths))
        )
        used, empty = memoryview(self._slots), memoryview(bytes(len(self._slots)))
        self._used = [(used[: count * SLOT], empty[: count * SLOT]) for count in range(MAX_BATCH + 1)]

    def receive(self) -> Sequence[bytes]:
        """The queries that have arrived, without their ids; at most `MAX_BATCH`. Never waits.

        Raises:
            OSError: the kernel reports that an earlier response failed. Queries may be waiting all the same.
        """
        used, empty = self._used[self._count]
        used[:] = empty
        if self._local_addresses is not None:
            self._local_addresses.reset_sizes()
        self._count = self._receive()
        if self._count <= 0:
            self._count = 0
            number = ctypes.get_errno()
            if number in _NO_DATAGRAMS:
                return ()
            raise OSError(number, os.strerror(number))
        self._lengths.copy(self._count)
        return self._readers[self._count].unpack_from(self._slots)

    def addresses(self) -> Sequence[bytes]:
        """The clients' addresses, in 4 or 16 bytes each."""
        return self._address_readers[self._count].unpack_from(self._clients)

    def long_query(self, at: int) -> bytes | None:
        """The query at this position, in the same form, if it is longer than its slot; otherwise None."""
        length = self._slot_lengths[at]
        if length <= _SLOT_CAPACITY:
            return None
        start, rest = at * SLOT + ID, at * _OVERFLOW
        query = (
            self._slots[start : at * SLOT + _SLOT_CAPACITY]
            + self._overflow[rest : rest + length - _SLOT_CAPACITY]
        )
        return bytes(query) + length.to_bytes(LENGTH, sys.byteorder)

    def query(self, at: int) -> bytes:
        """The query at this position, in the same form, even if it is longer than its slot."""
        return self.long_query(at) or bytes(self._slots[at * SLOT + ID : (at + 1) * SLOT])

    def send(self, responses: Sequence[bytes]) -> int:
        """Send the response to each query, in their order; nothing is sent for empty responses.

        Returns:
            the number of responses that the kernel did not accept, for lack of buffer space or of a route.
        """
        self.has_empty = not all(responses)
        if self._local_addresses is not None:
            self._local_addresses.reply_from_local_address(self._count)
        if self.has_empty and not any(responses):
            self.classes = bytearray()
            return 0
        self._writers[self._count].pack_into(self._bodies, 0, *responses)
        self.classes = self._bodies[CLASS_OFFSET : self._count * _BODY : _BODY]
        self._responses.copy(self._count)
        if not self.has_empty:
            return self._send_run(0, self._count)
        lost, start = 0, 0
        for at, response in enumerate((*responses, b"")):
            if not response:
                lost += self._send_run(start, at)
                start = at + 1
        return lost

    def client(self, at: int) -> Client:
        """The client of the query at this position; valid after `send` and before the next `receive`."""
        slot = at * SLOT
        address: Address
        if self._is_ipv4:
            port, ip = _SOCKADDR_IN.unpack_from(self._clients, at * _SOCKADDR_IN_SIZE)
            address = _host_of(ip), port
        else:
            port, flow, ip, scope = _SOCKADDR_IN6.unpack_from(self._clients, at * _SOCKADDR_IN6.size)
            numbers = int.from_bytes(flow), int.from_bytes(scope, sys.byteorder)
            address = socket.inet_ntop(socket.AF_INET6, ip), port, *numbers
        ancillary = [self._local_addresses.source(at)] if self._local_addresses is not None else []
        return Client(bytes(self._slots[slot : slot + _SLOT_CAPACITY]), address, ancillary, ip)

    def _send_run(self, start: int, end: int) -> int:
        lost = 0
        while start < end:
            first, rest = self._sent.starting_at[start], self._numbers[end - start]
            sent = self._sendmmsg(self._fd, first, rest, self._flags)
            if sent <= 0:  # the first one cannot be sent, but the others may
                sent, lost = 1, lost + (not self._send_fragmented(start))
            start += sent
        return lost

    def _send_fragmented(self, at: int) -> bool:
        """Send a response that exceeds the network's MTU in fragments; return whether that succeeded."""
        if ctypes.get_errno() != errno.EMSGSIZE:
            return False
        with fragmentation_allowed(self._sock):
            sent = self._sendmmsg(self._fd, self._sent.starting_at[at], self._numbers[1], self._flags)
        return bool(sent == 1)


class _LocalAddresses:
    """The local address at which each datagram arrived: ancillary data that both calls share."""

    def __init__(self, family: int, received: _Messages, sent: _Messages) -> None:
        self._is_ipv6 = family == socket.AF_INET6
        self._received, self._sent = received.control_lengths, sent.control_lengths
        self._size = _CONTROL_SIZE[socket.AddressFamily(family)]
        self._memory = bytearray(MAX_BATCH * self._size)
        self._room = memoryview(struct.pack("Q", self._size) * MAX_BATCH).cast("Q")
        words = memoryview(self._memory).cast("I")
        self._interfaces = words[8::10] if self._is_ipv6 else words[4::8]
        self._no_interfaces = memoryview(bytes(4 * MAX_BATCH)).cast("I")
        for at in range(MAX_BATCH):
            for messages in (received, sent):
                messages.place_control(at, _address_of(self._memory) + at * self._size)

    def reset_sizes(self) -> None:
        """Reset the sizes of the ancillary data, which each receive call overwrites."""
        self._received[:] = self._room

    def reply_from_local_address(self, count: int) -> None:
        """Send this many responses from the addresses at which their queries arrived.

        The interface is left to the routing table, since the route back may use another one. A link-local
        address is the exception, as it is valid on one interface only.
        """
        self._sent[:] = self._received
        if not self._is_ipv6:
            self._interfaces[:] = self._no_interfaces
            return
        for at in range(count):
            address = at * self._size + _CMSG_HEADER
            if self._memory[address : address + 2] != _LINK_LOCAL:
                self._interfaces[at] = 0

    def source(self, at: int) -> Ancillary:
        """The local address of a response, as ancillary data."""
        start = at * self._size + _CMSG_HEADER
        if self._is_ipv6:
            return socket.IPPROTO_IPV6, IPV6_PKTINFO, bytes(self._memory[start : start + _IN6_PKTINFO])
        return socket.IPPROTO_IP, IP_PKTINFO, bytes(self._memory[start : start + _IN_PKTINFO])


def is_available(libc: ctypes.PyDLL | None = None) -> bool:
    """Whether this system has the calls, with the structures defined here, and permits them.

    Args:
        libc: as for `Batch`.
    """
    libc = libc or _load_libc()
    return (
        sys.platform == "linux"
        and ctypes.sizeof(ctypes.c_void_p) == 8  # noqa: PLR2004 - bytes of an address
        and all(hasattr(libc, name) for name in ("recvmmsg", "sendmmsg"))
        and _is_permitted(libc)
    )


def _is_permitted(libc: ctypes.PyDLL) -> bool:
    """Whether the call is permitted, which seccomp may prevent. Tries it on a socket without datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return not Batch(probe, libc).receive()
        except OSError:
            return False


def _load_libc() -> ctypes.PyDLL:
    return ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL: neither of the calls waits


def _half_of(offset: int, size: int) -> int:
    """The index of the lowest 16 bits of a wider number, in an array of 16-bit numbers."""
    return (offset if sys.byteorder == "little" else offset + size - 2) // 2


def _address_of(memory: bytearray | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
