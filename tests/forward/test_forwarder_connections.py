"""TCP clients of a forwarder: order of responses, half-closed connections and shutdown."""

from __future__ import annotations

import asyncio
import socket
import struct

import dns.message

from tests.forward.forwarder_helpers import Scene, Waits, data_of, forwarding, queries_to, rcode_of
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import UpstreamServer, answers, is_silent


def framed(*names: str, flags: int = 0x0100) -> bytes:
    """Return framed A queries for these names; the id of each is its index."""
    messages = [
        dns.message.make_query(name, "A", id=number, flags=flags).to_wire()
        for number, name in enumerate(names)
    ]
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


class Client:
    """A client with a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *names: str) -> None:
        self.writer.write(framed(*names))

    async def receive(self) -> dns.message.Message:
        size = int.from_bytes(await self.reader.readexactly(2))
        return dns.message.from_wire(await self.reader.readexactly(size))

    async def is_closed(self) -> bool:
        return await self.reader.read(1) == b""


async def connected(scene: Scene) -> Client:
    return Client(*await asyncio.open_connection(scene.address.host, scene.address.port))


def test_pipelined_queries_are_answered_in_order_of_completion() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            upstream.set_behaviour(answers, "quick.example")
            async with forwarding(upstream) as scene:
                client = await connected(scene)
                client.send("slow.example", "none.staging.discovery", "quick.example", "slower.example")
                responses = [await client.receive(), await client.receive()]
                assert [message.id for message in responses] == [1, 2]
                assert rcode_of(responses[0]) == "NXDOMAIN"
                assert data_of(responses[1]) == ["192.0.2.1"]
                for name, ident in (("slower.example", 3), ("slow.example", 0)):
                    await until(lambda: queries_to(upstream, name))  # noqa: B023 - used at once
                    await waits.release(upstream, name)
                    message = await client.receive()
                    assert (message.id, data_of(message)) == (ident, ["192.0.2.1"])
                client.send("quick.example")
                assert data_of(await client.receive()) == ["192.0.2.1"]
                client.writer.close()

    run(scenario)


def test_equal_queries_on_one_connection_are_forwarded_once_and_all_answered() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream) as scene:
                client = await connected(scene)
                client.send(*["www.example"] * 20)
                await until(lambda: scene.forwarder.waiting == 20)
                assert scene.questions_sent == 1
                await waits.release(upstream)
                responses = [await client.receive() for _ in range(20)]
                assert sorted(message.id for message in responses) == list(range(20))
                client.writer.close()

    run(scenario)


def test_half_closed_connection_gets_all_responses_before_it_is_closed() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream) as scene:
                client = await connected(scene)
                client.send("one.example", "two.example")
                client.writer.write_eof()
                await until(lambda: scene.forwarder.waiting == 2)
                for name in ("two.example", "one.example"):
                    await until(lambda: queries_to(upstream, name))  # noqa: B023 - used at once
                    await waits.release(upstream, name)
                    assert data_of(await client.receive()) == ["192.0.2.1"]
                assert await client.is_closed()
                client.writer.close()

    run(scenario)


def test_disconnected_client_does_not_affect_others() -> None:
    async def scenario() -> None:
        waits = Waits()
        with UpstreamServer(waits) as upstream:
            async with forwarding(upstream) as scene:
                leaving, staying = await connected(scene), await connected(scene)
                for client in (leaving, staying):
                    client.send("www.example")
                await until(lambda: scene.forwarder.waiting == 2)
                sock = leaving.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaving.writer.transport.abort()
                await waits.release(upstream)
                assert data_of(await staying.receive()) == ["192.0.2.1"]
                assert scene.forwarder.waiting == 0
                staying.writer.close()

    run(scenario)


def test_waiting_tcp_queries_are_answered_at_shutdown() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as upstream:
            async with forwarding(upstream) as scene:
                client = await connected(scene)
                client.send("one.example", "two.example")
                await until(lambda: scene.forwarder.waiting == 2)
                scene.forwarder.stop()
                scene.tcp.stop()
                assert [rcode_of(await client.receive()) for _ in range(2)] == ["SERVFAIL", "SERVFAIL"]
                client.writer.close()

    run(scenario)
