"""A primary with a zone and a behaviour that a test changes, over UDP and TCP on one port."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import dns.message
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring

from tests.secondary.helpers import Line, messages, with_soa_last
from tests.support.loopback import paired_sockets
from zkdns.address import UpstreamAddress
from zkdns.dns.message import Type

Respond = Callable[[dns.message.Message], Iterable[bytes] | None]
"""The messages of a response, or None for no response. Bytes are sent as they are."""


class ScriptedPrimary:
    """Serves the records `versions[-1]`; the first of each version is the SOA record.

    Attributes:
        versions: all versions of the zone. IXFR has the difference of each to the next one.
        queries: the numbers of queries by type.
        override: answers queries instead of the rules above.
        is_silent: it answers nothing.
        has_too_many_connections: it closes connections instead of answering, as a server with too many does.
        answers_ixfr: False: IXFR gets NOTIMP.
        key: signs all messages.

    Args:
        versions: the first versions.
        apex: the apex of the zone.
        tls: for connections; then nothing is answered over UDP.
    """

    def __init__(
        self, *versions: Sequence[Line], apex: str = "discovery.", tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self.versions = list(versions)
        self.queries: Counter[str] = Counter()
        self.override: Respond | None = None
        self.is_silent = self.has_too_many_connections = False
        self.answers_ixfr = True
        self.key: dns.tsig.Key | None = None
        self._apex = apex
        self._server: asyncio.Server | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def address(self) -> UpstreamAddress:
        return UpstreamAddress("127.0.0.1", self.port, "ns1.example.com" if self._tls else None)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        primary, tls = self, self._tls

        class Datagrams(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                for message in primary.respond(data) if tls is None else ():
                    self.transport.sendto(message, addr)

        udp, tcp = paired_sockets()
        self.port = tcp.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=tcp, ssl=self._tls)
        self._transport, _ = await loop.create_datagram_endpoint(Datagrams, sock=udp)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._transport is not None
        self._server.close()
        self._transport.close()
        for writer in self._writers:
            writer.transport.abort()

    def respond(self, wire: bytes) -> Iterable[bytes]:
        """The messages of the response to a query."""
        query = dns.message.from_wire(wire, keyring=self.key or False)
        qtype = query.question[0].rdtype
        self.queries[dns.rdatatype.to_text(qtype)] += 1
        if self.is_silent:
            return
        if self.override is not None and (found := self.override(query)) is not None:
            yield from found
            return
        if qtype == dns.rdatatype.IXFR and not self.answers_ixfr:
            yield error(query, dns.rcode.NOTIMP)
            return
        records = self._records(query)
        context = None
        for message in messages(records, Type(int(qtype)), query.id, per_message=5, apex=self._apex):
            if self.key is None:
                yield message
                continue
            signed = dns.message.from_wire(message)
            signed.use_tsig(self.key)
            signed.request_mac = query.mac or b""
            data = signed.to_wire(multi=True, tsig_ctx=context)
            assert data is not None
            yield data
            context = signed.tsig_ctx

    def _records(self, query: dns.message.Message) -> list[Line]:
        newest = list(self.versions[-1])
        qtype = query.question[0].rdtype
        if qtype == dns.rdatatype.SOA:
            return newest[:1]
        if qtype == dns.rdatatype.IXFR:
            serial = query.authority[0][0].serial
            serials = [version[0][2].serial for version in self.versions]  # type: ignore[attr-defined]
            if serial == serials[-1]:
                return newest[:1]
            if serial in serials:
                return self._difference(serials.index(serial))
        return with_soa_last(newest)

    def _difference(self, start: int) -> list[Line]:
        newest = self.versions[-1][0]
        records = [newest]
        for before, after in zip(self.versions[start:], self.versions[start + 1 :], strict=False):
            records += [before[0], *(line for line in before[1:] if line not in after)]
            records += [after[0], *(line for line in after[1:] if line not in before)]
        return [*records, newest]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                if self.has_too_many_connections:
                    writer.transport.abort()
                    return
                for message in self.respond(await reader.readexactly(length)):
                    writer.write(struct.pack("!H", len(message)) + message)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def error(query: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
    """A response with an error."""
    response = dns.message.make_response(query)
    response.set_rcode(rcode)
    return response.to_wire()
