"""Queries that wait because a worker relays as many as it may: their order, their bound, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.daemon.ipc.relay_helpers import ADDRESS, IDENT, UNAVAILABLE, Sink, framed, start
from zkdns.daemon.ipc import relay as relay_module
from zkdns.daemon.ipc.relay import Relay, RelayedQuery, RelayServer
from zkdns.transport.contract import DeferredResponse, Render

TIMEOUT = 60.0


class Server:
    """Answers each query with itself, as soon as it may."""

    def __init__(self) -> None:
        self.queries: list[bytes] = []
        self.has_two = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def respond(self, query: RelayedQuery) -> AsyncGenerator[bytes, None]:
        self.queries.append(query.message)
        if len(self.queries) == 2:
            self.has_two.set()
        await self.may_answer.wait()
        yield query.message


def run(directory: Path, test: Callable[[Relay, Server], Awaitable[None]]) -> None:
    """Run a test with a server, and a relay with room for two queries."""

    async def main() -> None:
        answers = Server()
        server = RelayServer(str(directory / "s"), answers.respond, max_seconds=TIMEOUT)
        await server.start()
        async with asyncio.timeout(TIMEOUT):
            await test(Relay(str(directory / "s"), max_open=2), answers)
        server.stop_accepting()
        await server.wait_until_idle()

    asyncio.run(main())


def test_queries_beyond_the_limit_wait_and_all_are_answered(short_path: Path) -> None:
    async def test(relay: Relay, server: Server) -> None:
        clients = [Sink() for _ in range(20)]
        for number, client in enumerate(clients):
            start(relay, client, b"%d" % number)
        await server.has_two.wait()
        assert relay.open == 2
        server.may_answer.set()
        for client in clients:
            await client.ended.wait()
        assert [client.data for client in clients] == [framed(b"id%d" % number) for number in range(20)]
        assert all(client.is_whole for client in clients)
        assert server.queries == [b"id%d" % number for number in range(20)]
        assert relay.open == 0

    run(short_path, test)


def test_a_client_that_goes_away_while_it_waits_is_forgotten(short_path: Path) -> None:
    async def test(relay: Relay, server: Server) -> None:
        clients = [Sink() for _ in range(4)]
        streams = [start(relay, client, b"%d" % number) for number, client in enumerate(clients)]
        streams[2].cancel()
        server.may_answer.set()
        for number in (0, 1, 3):
            await clients[number].ended.wait()
        assert sorted(server.queries) == [b"id0", b"id1", b"id3"]
        assert not clients[2].data
        assert relay.open == 0

    run(short_path, test)


def test_the_number_of_waiting_queries_is_bounded(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_WAITING", 1)

    async def test(relay: Relay, server: Server) -> None:
        clients = [Sink() for _ in range(4)]
        for number, client in enumerate(clients):
            start(relay, client, b"%d" % number)
        await clients[3].ended.wait()
        assert clients[3].data == framed(IDENT + UNAVAILABLE)
        server.may_answer.set()
        for number, client in enumerate(clients[:3]):
            await client.ended.wait()
            assert client.data == framed(b"id%d" % number)
        assert relay.open == 0

    run(short_path, test)


def test_a_query_that_waits_too_long_is_unavailable(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "FIRST_SECONDS", 0.2)

    async def test(relay: Relay, server: Server) -> None:
        clients = [Sink() for _ in range(3)]
        for number, client in enumerate(clients):
            start(relay, client, b"%d" % number)
        for client in clients:
            await client.ended.wait()
            assert client.data == framed(IDENT + UNAVAILABLE)
        assert relay.open == 0
        server.may_answer.set()

    run(short_path, test)


def test_a_query_over_udp_does_not_wait(short_path: Path) -> None:
    """Its client repeats it, and its address may be forged."""

    async def test(relay: Relay, server: Server) -> None:
        clients = [Sink(), Sink()]
        for number, client in enumerate(clients):
            start(relay, client, b"%d" % number)
        delivered: asyncio.Queue[Render] = asyncio.Queue()
        response = relay.respond(b"query", UNAVAILABLE, lambda body, _: body, stream=False)
        assert isinstance(response, DeferredResponse)
        response.start(lambda render, _size=0: delivered.put_nowait(render), ADDRESS)
        assert (await delivered.get())() == UNAVAILABLE
        server.may_answer.set()
        for client in clients:
            await client.ended.wait()

    run(short_path, test)
