"""Askers over TCP while upstreams are asked: answers come as they are ready, also to who says no more."""

from __future__ import annotations

import asyncio
import socket
import struct

import dns.message

from tests.forward.forwarder_helpers import Scene, Waits, asked_of, data_of, forwarding, rcode_of, release
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import UpstreamServer, answers, is_silent


def framed(*names: str, flags: int = 0x0100) -> bytes:
    """Queries for addresses of these names; each has its place among them for an id."""
    messages = [
        dns.message.make_query(name, "A", id=number, flags=flags).to_wire()
        for number, name in enumerate(names)
    ]
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


class Asker:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, *names: str) -> None:
        self.writer.write(framed(*names))

    async def hear(self) -> dns.message.Message:
        size = int.from_bytes(await self.reader.readexactly(2))
        return dns.message.from_wire(await self.reader.readexactly(size))

    async def is_closed(self) -> bool:
        return await self.reader.read(1) == b""


async def connected(scene: Scene) -> Asker:
    return Asker(*await asyncio.open_connection(scene.address.host, scene.address.port))


def test_pipelined_questions_are_answered_as_they_are_ready() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            resolver.set_behaviour(answers, "quick.example")
            async with forwarding(resolver) as scene:
                asker = await connected(scene)
                asker.ask("slow.example", "none.staging.discovery", "quick.example", "slower.example")
                heard = [await asker.hear(), await asker.hear()]
                assert [message.id for message in heard] == [1, 2]
                assert rcode_of(heard[0]) == "NXDOMAIN"
                assert data_of(heard[1]) == ["192.0.2.1"]
                for name, ident in (("slower.example", 3), ("slow.example", 0)):
                    await until(lambda: asked_of(resolver, name))  # noqa: B023 - used at once
                    release(resolver, name)
                    message = await asker.hear()
                    assert (message.id, data_of(message)) == (ident, ["192.0.2.1"])
                asker.ask("quick.example")
                assert data_of(await asker.hear()) == ["192.0.2.1"]
                asker.writer.close()

    run(scenario)


def test_equal_questions_on_one_connection_are_asked_once_and_each_is_answered() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver) as scene:
                asker = await connected(scene)
                asker.ask(*["www.example"] * 20)
                await until(lambda: scene.forwarder.waiting == 20)
                assert scene.exchanges_asked == 1
                release(resolver)
                heard = [await asker.hear() for _ in range(20)]
                assert sorted(message.id for message in heard) == list(range(20))
                asker.writer.close()

    run(scenario)


def test_who_says_no_more_has_all_answers_before_the_connection_is_closed() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver) as scene:
                asker = await connected(scene)
                asker.ask("one.example", "two.example")
                asker.writer.write_eof()
                await until(lambda: scene.forwarder.waiting == 2)
                for name in ("two.example", "one.example"):
                    await until(lambda: asked_of(resolver, name))  # noqa: B023 - used at once
                    release(resolver, name)
                    assert data_of(await asker.hear()) == ["192.0.2.1"]
                assert await asker.is_closed()
                asker.writer.close()

    run(scenario)


def test_who_has_gone_costs_nobody_anything() -> None:
    async def scenario() -> None:
        with UpstreamServer(Waits()) as resolver:
            async with forwarding(resolver) as scene:
                gone, stays = await connected(scene), await connected(scene)
                for asker in (gone, stays):
                    asker.ask("www.example")
                await until(lambda: scene.forwarder.waiting == 2)
                sock = gone.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.writer.transport.abort()
                release(resolver)
                assert data_of(await stays.hear()) == ["192.0.2.1"]
                assert scene.forwarder.waiting == 0
                stays.writer.close()

    run(scenario)


def test_who_still_waits_at_the_end_is_answered_before_the_connection_is_closed() -> None:
    async def scenario() -> None:
        with UpstreamServer(is_silent) as resolver:
            async with forwarding(resolver) as scene:
                asker = await connected(scene)
                asker.ask("one.example", "two.example")
                await until(lambda: scene.forwarder.waiting == 2)
                scene.forwarder.stop()
                scene.tcp.stop()
                assert [rcode_of(await asker.hear()) for _ in range(2)] == ["SERVFAIL", "SERVFAIL"]
                asker.writer.close()

    run(scenario)
