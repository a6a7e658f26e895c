"""A resolver that answers as badly as a test wants, over UDP, TCP and TLS, and remembers what it was asked.

Its `Behaviour` is a function of the query. Some are defined below, and a test can define others.
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
_LIMIT = 10.0


class ReceivedQuery(NamedTuple):
    """A query as it came."""

    message: bytes
    transport: str
    """Over what it came."""
    port: int
    """From where."""
    last_byte: int
    """Of the resolver that was asked: the last byte of the addresses that it answers."""

    @property
    def ident(self) -> int:
        return int.from_bytes(self.message[:2])

    @property
    def query(self) -> dns.message.Message:
        return dns.message.from_wire(self.message)

    @property
    def name(self) -> str:
        """In lower case, with the dot at its end."""
        return self.query.question[0].name.to_text().lower()

    @property
    def has_edns(self) -> bool:
        return self.query.edns >= 0


class Send(NamedTuple):
    """What the resolver sends."""

    message: bytes | None
    """None: it hangs up, where there is something to hang up."""
    after: float = 0.0
    """Seconds."""
    from_another_port: bool = False
    """From another port, over UDP."""


Behaviour = Callable[[ReceivedQuery], Iterable[Send]]


def reply_to(asked: ReceivedQuery, *records: str, rcode: int = dns.rcode.NOERROR, flags: int = 0) -> bytes:
    """A reply with these records, each as `name ttl type data`."""
    reply = dns.message.make_response(asked.query, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.flags |= flags
    for record in records:
        owner, ttl, rdtype, data = record.split(maxsplit=3)
        reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    return reply.to_wire(max_size=65535)


def correct_answer(asked: ReceivedQuery) -> bytes:
    """The right answer: an address that tells who gave it."""
    return reply_to(asked, f"{asked.name} 60 A 192.0.2.{asked.last_byte}")


def answers(asked: ReceivedQuery) -> Iterable[Send]:
    """As it should be."""
    return [Send(correct_answer(asked))]


def is_silent(_: ReceivedQuery) -> Iterable[Send]:
    """Nothing comes."""
    return []


def is_slow(seconds: float) -> Behaviour:
    """The answer comes late."""
    return lambda asked: [Send(correct_answer(asked), after=seconds)]


def truncates(asked: ReceivedQuery) -> Iterable[Send]:
    """Over UDP there is room for nothing."""
    return [Send(reply_to(asked, flags=dns.flags.TC))] if asked.transport == UDP else answers(asked)


def only_over_udp(act: Behaviour) -> Behaviour:
    """A fault that TCP and TLS do not have."""
    return lambda asked: act(asked) if asked.transport == UDP else answers(asked)


def forges_ids(count: int) -> Behaviour:
    """So many answers with other ids, and then the right one."""

    def act(asked: ReceivedQuery) -> Iterable[Send]:
        forged = reply_to(asked, f"{asked.name} 60 A 203.0.113.1")
        for number in range(1, count + 1):
            yield Send((asked.ident ^ number).to_bytes(2) + forged[2:])
        yield Send(correct_answer(asked))

    return act


def answers_another_question(asked: ReceivedQuery) -> Iterable[Send]:
    """The id is right, the question is not; the right answer follows."""
    other = dns.message.make_query("other.example.", "A", id=asked.ident).to_wire()
    return [Send(reply_to(asked._replace(message=other), "other.example. 60 A 203.0.113.1")), *answers(asked)]


def answers_from_another_port(asked: ReceivedQuery) -> Iterable[Send]:
    """From another port of the same address."""
    return [Send(reply_to(asked, f"{asked.name} 60 A 203.0.113.1"), from_another_port=True)]


def sends_garbage(asked: ReceivedQuery) -> Iterable[Send]:
    """The id is right, and nothing else."""
    return [Send(asked.message[:2] + b"\xff" * 40)]


def is_long(asked: ReceivedQuery) -> Iterable[Send]:
    """As much as fits into a message; over UDP that does not."""
    if asked.transport == UDP:
        return truncates(asked)
    records = [f'{asked.name} 60 TXT "{number:05d}{"x" * 245}"' for number in range(248)]
    return [Send(reply_to(asked, *records))]


def hangs_up(asked: ReceivedQuery) -> Iterable[Send]:
    """Truncated over UDP; over a connection, it is closed."""
    return truncates(asked) if asked.transport == UDP else [Send(None)]


def returns_rcode(rcode: int) -> Behaviour:
    """An error, with the question."""
    return lambda asked: [Send(reply_to(asked, rcode=rcode))]


def returns_bare_rcode(rcode: int) -> Behaviour:
    """An error in a header and no more, as those send that could not read the query, or would not."""
    return lambda asked: [Send(asked.message[:2] + bytes([0x80, rcode]) + bytes(8))]


def rejects_edns(refuses: Behaviour) -> Behaviour:
    """With EDNS it refuses in this way."""
    return lambda asked: refuses(asked) if asked.has_edns else answers(asked)


class UpstreamServer:
    """A resolver on a port of 127.0.0.1; as a context manager it is started, in its own thread, and ended.

    Attributes:
        queries: every query so far.
        connections: how many were made to it so far.

    Args:
        act: what it does, unless told otherwise for a name.
        last_byte: the last byte of the addresses that it answers.
        certificate: a PEM file with key and certificate, to serve TLS as well.
        port: for those who can be told of no other; 0: a free one.
    """

    def __init__(
        self, act: Behaviour = answers, *, last_byte: int = 1, certificate: Path | None = None, port: int = 0
    ) -> None:
        self.queries: list[ReceivedQuery] = []
        self.connections = 0
        self._last_byte = last_byte
        self._behaviours: dict[str, Behaviour] = {}
        self._behaviour = act
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._port, self._tls_port = port, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="resolver", daemon=True)
        self._udp: asyncio.DatagramTransport | None = None
        self._elsewhere: asyncio.DatagramTransport | None = None
        self._servers: list[asyncio.Server] = []
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    @property
    def address(self) -> UpstreamAddress:
        """Where it is asked in clear."""
        return UpstreamAddress("127.0.0.1", self._port)

    @property
    def tls_address(self) -> UpstreamAddress:
        """Where it is asked over TLS; its certificate should have that name."""
        return UpstreamAddress("127.0.0.1", self._tls_port, TLS_NAME)

    def set_behaviour(self, act: Behaviour, name: str | None = None) -> None:
        """Let it do that from now on, for one name or for all that it was told nothing of."""
        if name is None:
            self._behaviour = act
        else:
            self._behaviours[f"{name}."] = act

    def queries_over(self, way: str, name: str | None = None) -> Sequence[ReceivedQuery]:
        """What it was asked over that, of a name or at all."""
        return [
            asked
            for asked in list(self.queries)
            if asked.transport == way and name in (None, asked.name.rstrip("."))
        ]

    def send_datagram(self, message: bytes, port: int) -> None:
        """Send that over UDP to a port of 127.0.0.1, unasked."""
        assert self._udp is not None
        self._loop.call_soon_threadsafe(self._udp.sendto, message, ("127.0.0.1", port))

    def send_to_connections(self, messages: Iterable[bytes]) -> None:
        """Send that over every connection, at once and unasked."""
        framed = b"".join(len(message).to_bytes(2) + message for message in messages)

        async def write() -> None:
            for writer in self._writers:
                writer.write(framed)

        self._wait(write())

    def go_down(self) -> None:
        """Be there no longer: nothing listens, and connections are reset."""
        self._wait(self._close())

    def come_up(self) -> None:
        """Be there again, at the same port."""
        self._wait(self._open())

    def hang_up(self) -> None:
        """Close all connections."""
        self._wait(self._hang_up())

    def __enter__(self) -> Self:
        self._thread.start()
        self.come_up()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT)
        self._loop.close()

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT)

    # -- in the thread -------------------------------------------------------------------------------------

    async def _open(self) -> None:
        udp, tcp = paired_sockets(self._port)
        self._port = tcp.getsockname()[1]
        self._udp, _ = await self._loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._elsewhere, _ = await self._loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        self._servers = [await asyncio.start_server(self._accept(TCP), sock=tcp)]
        if self._tls is not None:
            server = await asyncio.start_server(self._accept(TLS), "127.0.0.1", self._tls_port)
            self._tls_port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for transport in (self._udp, self._elsewhere):
            if transport is not None:
                transport.abort()
        for server in self._servers:
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
        await _some_rounds()  # closing the server would lose a connection that it is about to accept
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
        await _some_rounds()  # what is closed is told so

    def datagram(self, message: bytes, source: tuple[str, int]) -> None:
        """Do with a datagram what is to be done."""
        for sent in self._told(ReceivedQuery(message, UDP, source[1], self._last_byte)):
            transport = self._elsewhere if sent.from_another_port else self._udp
            if sent.message is None or transport is None:
                continue
            if sent.after:
                self._loop.call_later(sent.after, transport.sendto, sent.message, source)
            else:
                transport.sendto(sent.message, source)

    def _accept(self, way: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._writers[writer] = self._loop.create_task(self._serve(reader, writer, way))

        return accepted

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        port = writer.get_extra_info("peername")[1]
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if (
                    way == TLS and self._tls is not None
                ):  # here, so that one that fails is closed all the same
                    await writer.start_tls(self._tls)
                while True:
                    message = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                    self._send(writer, ReceivedQuery(message, way, port, self._last_byte))
        finally:
            self._writers.pop(writer, None)
            writer.transport.abort()

    def _send(self, writer: asyncio.StreamWriter, asked: ReceivedQuery) -> None:
        for sent in self._told(asked):
            if sent.message is None:
                self._loop.call_later(sent.after, writer.transport.abort)
            else:
                framed = len(sent.message).to_bytes(2) + sent.message
                self._loop.call_later(sent.after, writer.write, framed)

    def _told(self, asked: ReceivedQuery) -> Iterable[Send]:
        self.queries.append(asked)
        return self._behaviours.get(asked.name, self._behaviour)(asked)


async def _some_rounds() -> None:
    """Let the loop come to what is on its way in it; an accepted connection takes longest, four rounds."""
    for _ in range(10):
        await asyncio.sleep(0)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: UpstreamServer) -> None:
        self._resolver = resolver

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._resolver.datagram(data, addr)
