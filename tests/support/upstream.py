"""An upstream resolver over UDP, TCP and TLS with configurable faults, which records its queries.

A `Behaviour` is a function from a query to the messages to send. This module defines the common ones; tests
define others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.loopback import paired_sockets
from zkdns.address import UpstreamAddress

UDP, TCP, TLS = "udp", "tcp", "tls"
TLS_NAME = "resolver.example"
_TIMEOUT = 10.0


class ReceivedQuery(NamedTuple):
    """A received query."""

    message: bytes
    transport: str
    """`udp`, `tcp` or `tls`."""
    port: int
    """The source port."""
    last_byte: int
    """The last byte of the addresses that the receiving resolver answers with."""

    @property
    def ident(self) -> int:
        return int.from_bytes(self.message[:2])

    @property
    def query(self) -> dns.message.Message:
        return dns.message.from_wire(self.message)

    @property
    def name(self) -> str:
        """The name of the question in lower case, with the final dot."""
        return self.query.question[0].name.to_text().lower()

    @property
    def has_edns(self) -> bool:
        return self.query.edns >= 0


class Send(NamedTuple):
    """An action of the resolver: send a message, or close the connection."""

    message: bytes | None
    """None: close the connection; without effect over UDP."""
    after: float = 0.0
    """Delay in seconds."""
    from_another_port: bool = False
    """Send from another source port; only over UDP."""
    framed: bool = True
    """Send the length before the message; only over TCP and TLS."""


Behaviour = Callable[[ReceivedQuery], Iterable[Send]]


def reply_to(query: ReceivedQuery, *records: str, rcode: int = dns.rcode.NOERROR, flags: int = 0) -> bytes:
    """A reply with these records in the form `name ttl type data`."""
    reply = dns.message.make_response(query.query, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.flags |= flags
    for record in records:
        owner, ttl, rdtype, data = record.split(maxsplit=3)
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    return reply.to_wire(max_size=65535)


def correct_answer(query: ReceivedQuery) -> bytes:
    """The correct answer: an address that identifies the resolver."""
    return reply_to(query, f"{query.name} 60 A 192.0.2.{query.last_byte}")


def answers(query: ReceivedQuery) -> Iterable[Send]:
    """Send the correct answer."""
    return [Send(correct_answer(query))]


def is_silent(_: ReceivedQuery) -> Iterable[Send]:
    """Send nothing."""
    return []


def is_slow(seconds: float) -> Behaviour:
    """Send the correct answer after a delay."""
    return lambda query: [Send(correct_answer(query), after=seconds)]


def truncates(query: ReceivedQuery) -> Iterable[Send]:
    """Send an empty truncated reply over UDP, and the correct answer over TCP and TLS."""
    return [Send(reply_to(query, flags=dns.flags.TC))] if query.transport == UDP else answers(query)


def only_over_udp(behaviour: Behaviour) -> Behaviour:
    """Apply a behaviour over UDP, and send the correct answer over TCP and TLS."""
    return lambda query: behaviour(query) if query.transport == UDP else answers(query)


def forges_ids(count: int) -> Behaviour:
    """Send `count` replies with wrong IDs, and then the correct answer."""

    def behaviour(query: ReceivedQuery) -> Iterable[Send]:
        forged = reply_to(query, f"{query.name} 60 A 203.0.113.1")
        for number in range(1, count + 1):
            yield Send((query.ident ^ number).to_bytes(2) + forged[2:])
        yield Send(correct_answer(query))

    return behaviour


def answers_another_question(query: ReceivedQuery) -> Iterable[Send]:
    """Send a reply with the correct ID and a wrong question, and then the correct answer."""
    other = dns.message.make_query("other.example.", "A", id=query.ident).to_wire()
    return [Send(reply_to(query._replace(message=other), "other.example. 60 A 203.0.113.1")), *answers(query)]


def answers_from_another_port(query: ReceivedQuery) -> Iterable[Send]:
    """Send a reply from another port of the same address."""
    return [Send(reply_to(query, f"{query.name} 60 A 203.0.113.1"), from_another_port=True)]


def sends_garbage(query: ReceivedQuery) -> Iterable[Send]:
    """Send a malformed message with the correct ID."""
    return [Send(query.message[:2] + b"\xff" * 40)]


def is_long(query: ReceivedQuery) -> Iterable[Send]:
    """Send a reply of nearly 65,535 bytes; over UDP a truncated one."""
    if query.transport == UDP:
        return truncates(query)
    records = [f'{query.name} 60 TXT "{number:05d}{"x" * 245}"' for number in range(248)]
    return [Send(reply_to(query, *records))]


def hangs_up(query: ReceivedQuery) -> Iterable[Send]:
    """Send a truncated reply over UDP, and close connections."""
    return truncates(query) if query.transport == UDP else [Send(None)]


def returns_rcode(rcode: int) -> Behaviour:
    """Send a response code, with the question."""
    return lambda query: [Send(reply_to(query, rcode=rcode))]


def returns_bare_rcode(rcode: int) -> Behaviour:
    """Send a response code in a header without the question, as servers do that could not parse the query."""
    return lambda query: [Send(query.message[:2] + bytes([0x80, rcode]) + bytes(8))]


def rejects_edns(rejection: Behaviour) -> Behaviour:
    """Apply a behaviour to queries with EDNS, and send the correct answer to others."""
    return lambda query: rejection(query) if query.has_edns else answers(query)


class UpstreamServer:
    """A resolver on a port of 127.0.0.1. As a context manager it runs in a separate thread.

    Attributes:
        queries: the queries so far.
        connections: the number of connections so far.

    Args:
        behaviour: the default for all names.
        last_byte: the last byte of the addresses that it answers with.
        certificate: a PEM file with key and certificate; enables TLS.
        port: the port for UDP and TCP; 0: a free one.
    """

    def __init__(
        self,
        behaviour: Behaviour = answers,
        *,
        last_byte: int = 1,
        certificate: Path | None = None,
        port: int = 0,
    ) -> None:
        self.queries: list[ReceivedQuery] = []
        self.connections = 0
        self._last_byte = last_byte
        self._behaviours: dict[str, Behaviour] = {}
        self._behaviour = behaviour
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._port, self._tls_port = port, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="resolver", daemon=True)
        self._udp: asyncio.DatagramTransport | None = None
        self._other_udp: asyncio.DatagramTransport | None = None
        self._servers: list[asyncio.Server] = []
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    @property
    def address(self) -> UpstreamAddress:
        """The address for UDP and TCP."""
        return UpstreamAddress("127.0.0.1", self._port)

    @property
    def tls_address(self) -> UpstreamAddress:
        """The address for TLS, with the name that its certificate must have."""
        return UpstreamAddress("127.0.0.1", self._tls_port, TLS_NAME)

    def set_behaviour(self, behaviour: Behaviour, name: str | None = None) -> None:
        """Change the behaviour for one name, or the default for all names without their own."""
        if name is None:
            self._behaviour = behaviour
        else:
            self._behaviours[f"{name}."] = behaviour

    def queries_over(self, transport: str, name: str | None = None) -> Sequence[ReceivedQuery]:
        """The queries over a transport, for all names or for one."""
        return [
            query
            for query in list(self.queries)
            if query.transport == transport and name in (None, query.name.rstrip("."))
        ]

    def send_datagram(self, message: bytes, port: int) -> None:
        """Send an unsolicited datagram to a port of 127.0.0.1."""
        assert self._udp is not None
        self._loop.call_soon_threadsafe(self._udp.sendto, message, ("127.0.0.1", port))

    def send_to_connections(self, messages: Iterable[bytes]) -> None:
        """Send unsolicited messages over each connection, in one write."""
        framed = b"".join(len(message).to_bytes(2) + message for message in messages)

        async def write() -> None:
            for writer in self._writers:
                writer.write(framed)

        self._wait(write())

    def go_down(self) -> None:
        """Close the listeners, and reset all connections."""
        self._wait(self._close())

    def come_up(self) -> None:
        """Listen again on the same port."""
        self._wait(self._open())

    def hang_up(self) -> None:
        """Reset all connections."""
        self._wait(self._hang_up())

    def __enter__(self) -> Self:
        self._thread.start()
        self.come_up()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT)
        self._loop.close()

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIMEOUT)

    # -- in the thread -------------------------------------------------------------------------------------

    async def _open(self) -> None:
        udp, tcp = paired_sockets(self._port)
        self._port = tcp.getsockname()[1]
        self._udp, _ = await self._loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._other_udp, _ = await self._loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        self._servers = [await asyncio.start_server(self._accept(TCP), sock=tcp)]
        if self._tls is not None:
            server = await asyncio.start_server(self._accept(TLS), "127.0.0.1", self._tls_port)
            self._tls_port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for transport in (self._udp, self._other_udp):
            if transport is not None:
                transport.abort()
        for server in self._servers:
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
        await _run_pending_callbacks()  # otherwise a connection that is being accepted would leak
        for server in self._servers:
            server.close()
        await self._hang_up()

    async def _hang_up(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        await self._close()
        serving = list(self._writers.values())
        await self._hang_up()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await _run_pending_callbacks()  # let the transports call connection_lost

    def datagram(self, message: bytes, source: tuple[str, int]) -> None:
        """Respond to a datagram."""
        for sent in self._actions(ReceivedQuery(message, UDP, source[1], self._last_byte)):
            transport = self._other_udp if sent.from_another_port else self._udp
            if sent.message is None or transport is None:
                continue
            if sent.after:
                self._loop.call_later(sent.after, _send_later, transport, sent.message, source)
            else:
                transport.sendto(sent.message, source)

    def _accept(self, transport: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._writers[writer] = self._loop.create_task(self._serve(reader, writer, transport))

        return accepted

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: str
    ) -> None:
        port = writer.get_extra_info("peername")[1]
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if transport == TLS and self._tls is not None:
                    # The handshake is done here, so that its connection is closed if it fails.
                    await writer.start_tls(self._tls)
                while True:
                    message = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                    self._send(writer, ReceivedQuery(message, transport, port, self._last_byte))
        finally:
            self._writers.pop(writer, None)
            writer.transport.abort()

    def _send(self, writer: asyncio.StreamWriter, query: ReceivedQuery) -> None:
        for sent in self._actions(query):
            if sent.message is None:
                self._loop.call_later(sent.after, writer.transport.abort)
            else:
                framed = len(sent.message).to_bytes(2) + sent.message if sent.framed else sent.message
                self._loop.call_later(sent.after, writer.write, framed)

    def _actions(self, query: ReceivedQuery) -> Iterable[Send]:
        self.queries.append(query)
        return self._behaviours.get(query.name, self._behaviour)(query)


def _send_later(transport: asyncio.DatagramTransport, message: bytes, target: tuple[str, int]) -> None:
    if not transport.is_closing():
        transport.sendto(message, target)


async def _run_pending_callbacks() -> None:
    """Let the event loop run pending callbacks. An accepted connection takes four rounds."""
    for _ in range(10):
        await asyncio.sleep(0)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: UpstreamServer) -> None:
        self._resolver = resolver

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._resolver.datagram(data, addr)
