"""The batch calls: memory layout, and datagrams that cannot be sent."""

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.sandbox import seccomp_prefix
from tests.support.waiting import eventually
from tests.transport.batch_internals import control_size, headers_with_formats, sockaddr_size
from tests.transport.helpers import FILLER, datagram
from tests.transport.udp_client import receives_nothing_more, udp_client
from zkdns.transport.batch import HEAD, ID, LENGTH, MAX_BATCH, MAX_RESPONSE, SLOT, Batch, is_available
from zkdns.transport.codecs import UdpCodec
from zkdns.transport.sockets import enable_packet_info

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no calls for batches")

_SLOT_CAPACITY = SLOT - 2 - LENGTH
"""Bytes of a query after its id that a slot holds."""
_LONGEST_REST = MAX_RESPONSE - ID - HEAD


@contextlib.contextmanager
def receiver(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A bound socket that does not block."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setblocking(False)
        sock.bind((host, 0))
        if host in {"0.0.0.0", "::"}:
            enable_packet_info(sock)
        yield sock


def slotted(query: bytes) -> bytes:
    """A query after its id, as its slot holds it."""
    return query[:_SLOT_CAPACITY].ljust(_SLOT_CAPACITY, b"\0") + (2 + len(query)).to_bytes(
        LENGTH, sys.byteorder
    )


def sendable(response: bytes) -> bytes:
    """A response after its id and the filler, ready to send."""
    return datagram(response)


# -- memory layout ------------------------------------------------------------------------------------------


def test_the_headers_have_the_layout_of_the_system() -> None:
    """<bits/types/struct_iovec.h>, <bits/socket.h>, on 64-bit systems."""
    for structure, fields in headers_with_formats().items():
        layout = ""
        for name, code in fields.items():
            layout += code
            assert getattr(structure, name).offset == struct.calcsize(layout) - struct.calcsize(code), name
            assert getattr(structure, name).size == struct.calcsize(code)
        assert ctypes.sizeof(structure) == struct.calcsize(layout + "0P")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_there_is_room_for_addresses_and_ancillary_data(family: socket.AddressFamily) -> None:
    """<netinet/in.h>: sockaddr_in, sockaddr_in6, and the ancillary data with in_pktinfo or in6_pktinfo."""
    is_ipv6 = family == socket.AF_INET6
    assert sockaddr_size(family) == struct.calcsize("=HHI16sI" if is_ipv6 else "=HHI8x")
    header = struct.calcsize("@Nii0N")
    assert control_size(family) == header + struct.calcsize("@16sI0N" if is_ipv6 else "@iII0N")
    assert control_size(family) == socket.CMSG_SPACE(struct.calcsize("=16sI" if is_ipv6 else "=iII"))


# -- receive ------------------------------------------------------------------------------------------------


def test_nothing_has_arrived() -> None:
    with receiver() as sock:
        batch = Batch(sock)
        assert list(batch.receive()) == []
        assert batch.send([]) == 0


@pytest.mark.parametrize("count", [1, 2, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 3 * MAX_BATCH + 5])
def test_queries_are_received_in_order_up_to_a_full_batch(count: int) -> None:
    sent = [number.to_bytes(2) + b"query %d" % number for number in range(count)]
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for message in sent:
            other.sendto(message, sock.getsockname())
        received: list[bytes] = []
        while queries := batch.receive():
            assert len(queries) == min(MAX_BATCH, count - len(received))
            received += queries
        assert received == [slotted(message[2:]) for message in sent]


def test_a_slot_is_cleared_before_each_batch() -> None:
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for size in (500, _SLOT_CAPACITY, 50, 1, 0, 200, 0):
            message = b"id" + os.urandom(size)
            other.sendto(message, sock.getsockname())
            assert list(batch.receive()) == [slotted(message[2:])]


@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, *range(93, 100), 512, 4096, 9_000, 32_768, 65_507], ids="{} bytes".format
)
def test_a_query_longer_than_its_slot_is_available_as_a_whole(size: int) -> None:
    message = os.urandom(size)
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for around in (b"id before", message, b"id behind"):
            other.sendto(around, sock.getsockname())
        queries = batch.receive()
        long_query = message[2:] + size.to_bytes(LENGTH, sys.byteorder)
        assert queries[1][-LENGTH:] == long_query[-LENGTH:]
        assert batch.long_query(1) == (long_query if size > 2 + _SLOT_CAPACITY else None)
        assert (batch.long_query(0), batch.long_query(2)) == (None, None)


def test_a_batch_of_the_longest_queries_does_not_overlap() -> None:
    sent = [os.urandom(20_000) for _ in range(8)]
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for message in sent:
            other.sendto(message, sock.getsockname())
        assert len(batch.receive()) == len(sent)
        wholes = [batch.long_query(at) for at in range(len(sent))]
        assert wholes == [message[2:] + (20_000).to_bytes(LENGTH, sys.byteorder) for message in sent]


def test_a_socket_error_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, udp_client() as other:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        batch = Batch(sock)
        with udp_client() as gone:
            gone.bind(("127.0.0.1", 0))
            sock.connect(gone.getsockname())
        sock.send(b"to a closed port")  # comes back as ICMP port unreachable
        refused = eventually(lambda: _error_of(batch))
        assert isinstance(refused, ConnectionRefusedError)
        other.bind(("127.0.0.1", 0))
        sock.connect(other.getsockname())
        other.sendto(b"id and what comes then", sock.getsockname())
        assert list(batch.receive()) == [slotted(b" and what comes then")]


def _error_of(batch: Batch) -> OSError | None:
    try:
        assert not batch.receive()
    except OSError as error:
        return error
    return None


# -- send ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_client_gets_its_response_with_its_id(host: str) -> None:
    with receiver(host) as sock, contextlib.ExitStack() as stack:
        batch = Batch(sock)
        clients = [stack.enter_context(udp_client(host)) for _ in range(MAX_BATCH)]
        for rounds in range(2):
            for at, other in enumerate(clients):
                other.sendto(bytes((rounds, at)) + b"query", sock.getsockname())
            assert len(batch.receive()) == MAX_BATCH
            assert batch.send([sendable(b"response %d" % at) for at in range(MAX_BATCH)]) == 0
            for at, other in enumerate(clients):
                assert other.recv(100) == bytes((rounds, at)) + b"response %d" % at
                assert receives_nothing_more(other)
                other.settimeout(5.0)


def test_a_response_has_the_question_as_received() -> None:
    """The question may fill the slot after id and head."""
    questions = [os.urandom(_SLOT_CAPACITY - HEAD - size) for size in range(MAX_BATCH)]
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for number, question in enumerate(questions):
            other.sendto(bytes((0, number)) + bytes(HEAD) + question + b"more", sock.getsockname())
        assert len(batch.receive()) == MAX_BATCH
        responses = [
            UdpCodec.response(FILLER + question.upper() + b"rest", len(question)) for question in questions
        ]
        assert batch.send(responses) == 0
        for number, question in enumerate(questions):
            assert other.recv(200) == bytes((0, number)) + question + b"rest"


@pytest.mark.parametrize("silent", [[0], [1], [7], [0, 7], [2, 3, 4], [*range(8)], [0, 2, 4, 6], []], ids=str)
def test_an_empty_response_is_not_sent(silent: list[int]) -> None:
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for at in range(8):
            other.sendto(bytes((0, at)), sock.getsockname())
        assert len(batch.receive()) == 8
        assert batch.send([b"" if at in silent else sendable(b"%d" % at) for at in range(8)]) == 0
        for at in range(8):
            if at not in silent:
                assert other.recv(100) == bytes((0, at)) + b"%d" % at
        assert receives_nothing_more(other)


def test_long_and_short_responses_do_not_mix() -> None:
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock)
        for lengths in ([_LONGEST_REST] * MAX_BATCH, [1] * MAX_BATCH, [1, _LONGEST_REST] * (MAX_BATCH // 2)):
            responses = [os.urandom(length) for length in lengths]
            for _ in lengths:
                other.sendto(b"id", sock.getsockname())
            assert len(batch.receive()) == MAX_BATCH
            assert batch.send(list(map(sendable, responses))) == 0
            assert [other.recv(2000) for _ in responses] == [b"id" + response for response in responses]


class LimitedLibc(ctypes.PyDLL):
    """A C library whose `sendmmsg` sends only some datagrams at a time, as the system may.

    Attributes:
        room: number of datagrams that the kernel accepts until its queue is full; None: no limit.
        counts: number of datagrams of each call.
    """

    def __init__(self, at_a_time: int, room: int | None = None) -> None:
        super().__init__(None, use_errno=True)
        self.room = room
        self.counts: list[int] = []
        self._at_a_time = at_a_time
        self._send = self["sendmmsg"]

    def sendmmsg(self, file: object, messages: object, count: ctypes.c_uint, flags: object) -> int:
        """The number of datagrams that were sent; an error only if it is the first one that fails."""
        self.counts.append(count.value)
        if self.room == 0:
            ctypes.set_errno(errno.EAGAIN)
            return -1
        limit = self._at_a_time if self.room is None else min(self._at_a_time, self.room)
        sent = int(self._send(file, messages, ctypes.c_uint(min(count.value, limit)), flags))
        if self.room is not None:
            self.room -= sent
        return sent


@pytest.mark.parametrize("at_a_time", [1, 7, 63])
def test_a_partly_sent_batch_is_continued(at_a_time: int) -> None:
    libc = LimitedLibc(at_a_time)
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock, libc)
        for at in range(MAX_BATCH):
            other.sendto(bytes((0, at)), sock.getsockname())
        assert len(batch.receive()) == MAX_BATCH
        assert batch.send([sendable(b"%d" % at) for at in range(MAX_BATCH)]) == 0
        assert [other.recv(100) for _ in range(MAX_BATCH)] == [
            bytes((0, at)) + b"%d" % at for at in range(MAX_BATCH)
        ]
        assert libc.counts == [*range(MAX_BATCH, 0, -at_a_time)]


@pytest.mark.parametrize("room", [0, 3, 7])
def test_responses_without_room_in_the_kernel_are_counted_as_lost(room: int) -> None:
    """EAGAIN without waiting."""
    libc = LimitedLibc(MAX_BATCH, room)
    with receiver() as sock, udp_client() as other:
        batch = Batch(sock, libc)
        for at in range(8):
            other.sendto(bytes((0, at)), sock.getsockname())
        assert len(batch.receive()) == 8
        assert batch.send([sendable(b"response")] * 8) == 8 - room
        assert [other.recv(100) for _ in range(room)] == [bytes((0, at)) + b"response" for at in range(room)]
        assert receives_nothing_more(other)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_dns_24_a_wildcard_responds_from_the_address_of_the_query(host: str) -> None:
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"] if host == "0.0.0.0" else ["::1"]
    with receiver(host) as sock, contextlib.ExitStack() as stack:
        batch = Batch(sock)
        port = sock.getsockname()[1]
        clients = [(stack.enter_context(udp_client(host)), address) for address in addresses * 10]
        for _ in range(2):
            for other, address in clients:
                other.sendto(b"id", (address, port))
            assert len(batch.receive()) == len(clients)
            assert batch.send([sendable(b"response")] * len(clients)) == 0
            for other, address in clients:
                response, source = other.recvfrom(100)
                assert (response, source[0]) == (b"idresponse", address)


# -- systems without these calls ----------------------------------------------------------------------------


class PartialLibc(ctypes.PyDLL):
    """A C library without one of its functions."""

    def __init__(self, absent: str) -> None:
        super().__init__(None, use_errno=True)
        self._absent = absent

    def __getattr__(self, name: str) -> Any:
        if name == self._absent:
            raise AttributeError(name)
        return super().__getattr__(name)


class ForbiddingLibc(ctypes.PyDLL):
    """A C library whose `recvmmsg` fails, for example because seccomp forbids the call."""

    def __init__(self, error: int) -> None:
        super().__init__(None, use_errno=True)
        self._error = error

    def recvmmsg(self, *_: object) -> int:
        """Fail."""
        ctypes.set_errno(self._error)
        return -1


@pytest.mark.parametrize(
    ("libc", "is_usable"),
    [
        (PartialLibc("recvmmsg"), False),
        (PartialLibc("sendmmsg"), False),
        (PartialLibc("recvmsg"), True),
        (ForbiddingLibc(errno.ENOSYS), False),
        (ForbiddingLibc(errno.EPERM), False),
        (ForbiddingLibc(errno.EAGAIN), True),  # the usual result without datagrams
    ],
)
def test_missing_and_forbidden_calls_are_not_used(libc: ctypes.PyDLL, is_usable: bool) -> None:
    assert is_available(libc) == is_usable


def test_other_systems_are_without_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not is_available()
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "sizeof", lambda _: 4)
        assert not is_available()
    assert is_available()


def test_a_call_that_a_sandbox_forbids_is_not_used() -> None:
    program = "from zkdns.transport.batch import is_available; print(is_available())"
    command = [*seccomp_prefix("recvmmsg"), sys.executable, "-c", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"
