"""Simulated DNS secondaries: they follow a primary as a zkdns secondary does, hundreds in one process.

Each has a loopback address of its own, since a server limits what one client may do. At each NOTIFY, and
every five seconds, it queries the serial over UDP. If that is new, it requests the changes (IXFR), or if it
has no copy or that fails, the whole zone (AXFR). After a failure it waits, longer each time. It keeps no
records, and decodes only parts of them: serials, the last record, and the addresses of new members.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from tests.bench.fleet_messages import Forget, Leave, Observe, Observed
from tests.bench.fleet_writer import NETWORK
from zkdns.config import PrimarySettings

_HEADER = struct.Struct("!6H")
_QUESTION_AT: Final = _HEADER.size
_TYPE_CLASS = struct.Struct("!HH")
_LENGTH = struct.Struct("!H")
_SOA_NUMBERS = struct.Struct("!5I")
_SOA, _IXFR, _AXFR, _IN = 6, 251, 252, 1
_QR, _AA, _OPCODE, _RCODE = 0x8000, 0x0400, 0x7800, 0x000F
_NOTIFY: Final = 4 << 11
_POINTER: Final = 0xC0

_NEW_MEMBER = re.compile(
    rb"\0\x01\0\x01....\0\x04(" + re.escape(bytes(map(int, NETWORK.split(".")))) + rb"..)", re.DOTALL
)
"""An A record of a member that the benchmark has added, from its type on."""

_QUERY_SECONDS, _TRANSFER_SECONDS = 2.0, 20.0
_FIRST_PAUSE: Final = 0.5  # as `daemon.watcher.zone_source`
_JITTER: Final = 0.2  # likewise
_REFRESH: Final = float(PrimarySettings().refresh)


@dataclass(frozen=True)
class Follow:
    """Message: add secondaries with these addresses, which copy the zone within `seconds`."""

    zone: str
    primaries: Sequence[tuple[str, int]]
    """The address of the primary of each secondary."""
    addresses: Sequence[tuple[str, int]]
    """The address at which each receives NOTIFY."""
    seconds: float


class SecondaryFleet:
    """The secondaries of this process, and their measurements."""

    def __init__(self) -> None:
        self.secondaries: list[Secondary] = []
        self.observed = Observed()

    def handle(self, message: Follow | Leave | Forget | Observe) -> Observed | None:
        """Handle a message, and return the reply."""
        match message:
            case Follow():
                loop = asyncio.get_running_loop()
                for number, address in enumerate(message.addresses):
                    secondary = Secondary(self, message.zone, message.primaries[number], address)
                    self.secondaries.append(secondary)
                    loop.call_later(message.seconds * number / len(message.addresses), secondary.start)
            case Leave():
                while self.secondaries:
                    self.secondaries.pop().leave()
            case Forget():
                self.observed = Observed()
            case Observe():
                observed = self.observed
                observed.hosts = len(self.secondaries)
                observed.current = sum(each.serial is not None for each in self.secondaries)
                return observed if message.is_complete else observed.summary()
        return None


class Secondary(asyncio.DatagramProtocol):
    """One secondary.

    Args:
        fleet: receives the measurements.
        zone: the apex.
        primary: the address of the primary.
        address: its own.
    """

    def __init__(
        self, fleet: SecondaryFleet, zone: str, primary: tuple[str, int], address: tuple[str, int]
    ) -> None:
        self.serial: int | None = None
        """That of its copy; None before the first transfer."""
        self._fleet = fleet
        self._name = b"".join(bytes((len(label),)) + label.encode() for label in zone.split(".")) + b"\0"
        self._primary = primary
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._is_outdated = asyncio.Event()
        self._known: set[bytes] = set()
        self._reply: asyncio.Future[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._udp: asyncio.DatagramTransport | None = None

    def start(self) -> None:
        """Follow the primary, until `leave`."""
        self._task = self._loop.create_task(self._run())

    def leave(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
        if self._udp is not None:
            self._udp.close()

    # -- NOTIFY (RFC 1996) and SOA queries -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._udp = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        ident, flags, questions, *_ = _HEADER.unpack_from(data)
        if flags & (_QR | _OPCODE) == _NOTIFY and self._udp is not None:
            end = _QUESTION_AT + len(self._name) + _TYPE_CLASS.size
            header = _HEADER.pack(ident, _QR | _AA | _NOTIFY, questions, 0, 0, 0)
            self._udp.sendto(header + data[_QUESTION_AT:end], address)
            self._fleet.observed.notifies += 1
            self._is_outdated.set()
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(data)

    async def _query_serial(self) -> int:
        assert self._udp is not None
        self._reply = self._loop.create_future()
        self._udp.sendto(encode_query(self._name, _SOA), self._primary)
        async with asyncio.timeout(_QUERY_SECONDS):
            return serial_of(first_record(await self._reply, len(self._name)))

    # -- transfers (RFC 5936, RFC 1995) --------------------------------------------------------------------

    async def _run(self) -> None:
        await self._loop.create_datagram_endpoint(lambda: self, local_addr=self._address)
        pause = 0.0
        while True:
            self._is_outdated.clear()
            try:
                await self._update()
            except (OSError, EOFError, TransferError):
                wait = pause = min(max(_FIRST_PAUSE, 2 * pause), _REFRESH)
            else:
                wait, pause = _REFRESH, 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait * random.uniform(1 - _JITTER, 1)):
                    await self._is_outdated.wait()

    async def _update(self) -> None:
        """Query the serial, and transfer the changes or the whole zone if it is new."""
        if await self._query_serial() == self.serial:
            return
        if self.serial is not None:
            self._fleet.observed.requests += 1
            try:
                await self._transfer(self.serial)
            except TransferError:
                pass
            else:
                return
        await self._transfer(None)

    async def _transfer(self, serial: int | None) -> None:
        """Copy the changes since this serial, or the whole zone."""
        self._fleet.observed.attempts.append(time.monotonic())
        query = encode_query(self._name, _AXFR if serial is None else _IXFR, serial)
        async with asyncio.timeout(_TRANSFER_SECONDS):
            reader, writer = await asyncio.open_connection(*self._primary, local_addr=(self._address[0], 0))
            try:
                writer.write(_LENGTH.pack(len(query)) + query)
                messages = await self._read(reader)
            finally:
                writer.close()
        now = time.monotonic()
        self.serial = serial_of(first_record(messages[0], len(self._name)))
        found = {address for message in messages for address in _NEW_MEMBER.findall(message)}
        for address in found - self._known:
            self._fleet.observed.add_read(socket.inet_ntoa(address), now)
        self._known |= found
        if serial is None:
            self._fleet.observed.returned.append(now)

    async def _read(self, reader: asyncio.StreamReader) -> list[bytes]:
        """Read the messages of a transfer."""
        messages: list[bytes] = []
        while not messages or not is_last(messages, len(self._name)):
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            messages.append(await reader.readexactly(length))
        return messages


class TransferError(Exception):
    """The primary has refused a transfer, or has sent no SOA record first."""


def encode_query(name: bytes, qtype: int, serial: int | None = None) -> bytes:
    """A query for a zone; an IXFR query has the serial of the copy."""
    authority = b"" if serial is None else _soa_with(serial)
    header = _HEADER.pack(random.randrange(1 << 16), 0, 1, 0, bool(authority), 0)
    return header + name + _TYPE_CLASS.pack(qtype, _IN) + authority


def serial_of(soa: bytes) -> int:
    """The serial of an SOA record."""
    serial: int = _SOA_NUMBERS.unpack(soa[-_SOA_NUMBERS.size :])[0]
    return serial


def _soa_with(serial: int) -> bytes:
    """An SOA record in which only the serial matters (RFC 1995 §3)."""
    data = b"\0\0" + _SOA_NUMBERS.pack(serial, 0, 0, 0, 0)
    return b"\xc0\x0c" + _TYPE_CLASS.pack(_SOA, _IN) + bytes(4) + _LENGTH.pack(len(data)) + data


def first_record(message: bytes, name_size: int) -> bytes:
    """The first record of a response, which must be an SOA record.

    Raises:
        TransferError: it is another one, or the response is an error.
    """
    _, flags, questions, answers, *_ = _HEADER.unpack_from(message)
    if flags & _RCODE or not answers:
        raise TransferError(f"the response has the code {flags & _RCODE} and {answers} records")
    start = _QUESTION_AT + (name_size + _TYPE_CLASS.size) * questions
    at = start + (2 if message[start] >= _POINTER else name_size)
    if _TYPE_CLASS.unpack_from(message, at) != (_SOA, _IN):
        raise TransferError("the first record is no SOA record")
    at += _TYPE_CLASS.size + 4
    return message[start : at + _LENGTH.size + _LENGTH.unpack_from(message, at)[0]]


def is_last(messages: Sequence[bytes], name_size: int) -> bool:
    """Whether the last message ends the transfer: with the SOA record that the first message begins with.

    A response of one record reports that the secondary is up to date.
    """
    soa = first_record(messages[0], name_size)
    _, _, _, answers, *_ = _HEADER.unpack_from(messages[0])
    is_single = len(messages) == 1 and answers == 1
    return is_single or messages[-1].endswith(soa)
