"""`PrimaryClient`: queries to one primary: the serial of a zone, and its transfer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from zkdns.address import UpstreamAddress
from zkdns.causes import cause_of
from zkdns.dns.message import Type
from zkdns.names import Labels
from zkdns.secondary.access import PrimaryAccess
from zkdns.secondary.inbound import Inbound, build_query, check_rcode, read_soa
from zkdns.secondary.records import BadTransferError, Soa, TransferMessage, read_message
from zkdns.transport.framing import LENGTH

if TYPE_CHECKING:
    from zkdns.dns.tsig import SignedExchange

_ID_SIZE = 2


class TransferLimits(msgspec.Struct, frozen=True):
    """Bounds of a query or a transfer; seconds."""

    udp: float = 1.0
    """Until a response over UDP; then the query is sent once more, and then over TCP."""
    connect: float = 3.5
    """Until a connection is established, with TLS."""
    idle: float = 10.0
    """Between two messages of a transfer."""
    total: float = 600.0
    """For a whole transfer."""
    max_bytes: int = 1 << 30
    """For a whole transfer: 100,000 members take about 70 MB."""


LIMITS: Final = TransferLimits()
_UDP_ATTEMPTS = 2


class PrimaryClient:
    """Sends the queries of a secondary to one primary. All errors are `OSError` or `BadTransferError`.

    Args:
        address: its address.
        access: the TSIG key and the TLS context.
        limits: as `TransferLimits`.
    """

    def __init__(
        self,
        address: UpstreamAddress,
        access: PrimaryAccess,
        limits: TransferLimits = LIMITS,
    ) -> None:
        self.address = address
        self._key = access.key
        self._tls = access.tls if address.tls is not None else None
        self._limits = limits

    async def find_soa(self, apex: Labels) -> Soa:
        """Query the SOA record of a zone: over UDP, and over TCP if there is no response.

        Raises:
            RefusedTransferError: the primary has no authority for the zone.
            BadTransferError: its response is not valid.
            OSError: it does not respond.
        """
        for _ in range(0 if self.address.is_stream else _UDP_ATTEMPTS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.udp):
                    if (soa := await self._query_over_udp(apex)) is not None:
                        return soa
                    break  # the response is truncated
        ident = _new_id()
        exchange = self._new_exchange()
        reader, writer = await self._connect()
        with contextlib.closing(writer):
            query = build_query(apex, Type.SOA, ident)
            _write(writer, exchange.sign(query) if exchange else query)
            soa = read_soa(_verified(await self._read(reader), exchange), apex, ident)
        if soa is None:
            raise BadTransferError("a response over TCP is truncated")
        return soa

    async def transfer(self, apex: Labels, serial: int | None = None) -> Inbound:
        """Transfer a zone.

        Args:
            apex: its apex.
            serial: request the differences to this version (IXFR). None: the whole zone.

        Raises:
            RefusedTransferError: the primary refuses the transfer.
            BadTransferError: the transfer is not valid, or exceeds a limit.
            OSError: the primary cannot be reached, or is too slow.
        """
        ident = _new_id()
        exchange = self._new_exchange()
        qtype = Type.AXFR if serial is None else Type.IXFR
        inbound = Inbound(apex, qtype, ident, serial)
        deadline = time.monotonic() + self._limits.total
        size = 0
        reader, writer = await self._connect()
        with contextlib.closing(writer):
            query = build_query(apex, qtype, ident, serial)
            _write(writer, exchange.sign(query) if exchange else query)
            is_complete = False
            while not is_complete:
                message = await self._read(reader)
                size += len(message)
                if size > self._limits.max_bytes:
                    raise BadTransferError(f"it has more than {self._limits.max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise BadTransferError(f"it takes longer than {self._limits.total:g} s")
                is_complete = inbound.feed(_verified(message, exchange))
                await asyncio.sleep(0)  # a message of 64 KiB takes a few milliseconds
            if exchange is not None:
                with _tsig_errors():
                    exchange.finish()
        return inbound

    def _new_exchange(self) -> SignedExchange | None:
        """Return the signatures of one query. None: there is no key."""
        if self._key is None:
            return None
        from zkdns.dns.tsig import SignedExchange  # noqa: PLC0415 - only needed with a key

        return SignedExchange(self._key, time.time)

    async def _query_over_udp(self, apex: Labels) -> Soa | None:
        """Query the SOA record over UDP. None: the response is truncated.

        Messages that are no response to the query are ignored.
        """
        ident = _new_id()
        exchange = self._new_exchange()
        query = build_query(apex, Type.SOA, ident)
        loop = asyncio.get_running_loop()
        address = self.address
        transport, datagrams = await loop.create_datagram_endpoint(
            _Datagrams, remote_addr=(address.host, address.port)
        )
        try:
            transport.sendto(exchange.sign(query) if exchange else query)
            while True:
                message = await datagrams.receive()
                if message[:_ID_SIZE] == ident.to_bytes(_ID_SIZE):
                    return read_soa(_verified(message, exchange), apex, ident)
        finally:
            transport.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.address
        async with asyncio.timeout(self._limits.connect):
            return await asyncio.open_connection(
                address.host, address.port, ssl=self._tls, server_hostname=address.tls
            )

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """Read the next message."""
        try:
            async with asyncio.timeout(self._limits.idle):
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                return await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise BadTransferError("the connection ends before the transfer does") from None


async def check_transfer(client: PrimaryClient, apex: Labels) -> int | str:
    """Check whether a primary permits transfers of a zone, without a transfer of the whole zone.

    Returns:
        the serial, or why a transfer fails.
    """
    try:
        soa = await client.find_soa(apex)
        await client.transfer(apex, soa.serial)  # there is nothing newer
    except (OSError, BadTransferError) as error:
        return failure_of(error)
    return soa.serial


def failure_of(error: Exception) -> str:
    """Describe why a query or transfer has failed."""
    if isinstance(error, BadTransferError):
        return str(error)
    return "it does not respond" if isinstance(error, TimeoutError) else cause_of(error)


class _Datagrams(asyncio.DatagramProtocol):
    """Received datagrams, and errors of the socket."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Keep a datagram."""
        del addr
        self._queue.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """Keep an error, such as that no process uses the port."""
        self._queue.put_nowait(exc)

    async def receive(self) -> bytes:
        """Return the next datagram.

        Raises:
            OSError: the socket has an error.
        """
        received = await self._queue.get()
        if isinstance(received, Exception):
            raise received
        return received


def _new_id() -> int:
    return int.from_bytes(os.urandom(_ID_SIZE))


def _write(writer: asyncio.StreamWriter, query: bytes) -> None:
    writer.write(LENGTH.pack(len(query)) + query)


def _verified(message: bytes, exchange: SignedExchange | None) -> TransferMessage:
    """Read a message, and verify its signature.

    Raises:
        RefusedTransferError: it is an error without a signature; the query fails in any case.
        BadTransferError: it is malformed, or its signature is wrong or missing.
    """
    read = read_message(message)
    if exchange is not None:
        if read.tsig_at is None:
            check_rcode(read)
        with _tsig_errors():
            exchange.verify(message, read.tsig_at)
    return read


@contextlib.contextmanager
def _tsig_errors() -> Iterator[None]:
    """Convert errors of signatures to `BadTransferError`."""
    from zkdns.dns.tsig import TsigError  # noqa: PLC0415 - as above

    try:
        yield
    except TsigError as error:
        raise BadTransferError(str(error)) from None
