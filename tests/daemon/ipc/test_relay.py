"""The relay between a worker and another process: responses, failures, back-pressure and bounds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon.ipc.relay_helpers import (
    ADDRESS,
    IDENT,
    UNAVAILABLE,
    Sink,
    framed,
    read_to_the_end,
    start,
    start_unread,
)
from zkdns.daemon.ipc import relay as relay_module
from zkdns.daemon.ipc.relay import Relay, RelayedQuery, RelayServer
from zkdns.transport.contract import DeferredResponse, Render

LONG = [IDENT + bytes(60_000)] * 100
"""Messages that exceed the buffers of sockets."""


class Answers:
    """Makes these messages, then raises or ends."""

    def __init__(self, *messages: bytes, error: Exception | None = None) -> None:
        self.messages, self.error = messages, error
        self.queries: list[RelayedQuery] = []
        self.made = 0
        self.is_closed = asyncio.Event()

    async def respond(self, query: RelayedQuery) -> AsyncGenerator[bytes, None]:
        self.queries.append(query)
        try:
            for message in self.messages:
                self.made += 1
                yield message
            if self.error is not None:
                raise self.error
        finally:
            self.is_closed.set()


async def stop(server: RelayServer) -> None:
    """End a server, and let its transports close."""
    server.stop_accepting()
    await asyncio.wait_for(server.wait_until_idle(), 60.0)
    for _ in range(5):
        await asyncio.sleep(0)


def run(
    directory: Path, answers: Answers, test: Callable[[Relay], object], *, max_seconds: float = 60.0
) -> None:
    """Run a test with a server and a relay."""

    async def main() -> None:
        server = RelayServer(str(directory / "s"), answers.respond, max_seconds=max_seconds)
        await server.start()
        result = test(Relay(str(directory / "s")))
        assert asyncio.iscoroutine(result)
        async with asyncio.timeout(60.0):
            await result
        await stop(server)

    asyncio.run(main())


def test_all_messages_arrive_with_their_lengths(short_path: Path) -> None:
    answers = Answers(b"id1", b"id" + bytes(60_000), b"id3")

    async def test(relay: Relay) -> None:
        sink = Sink()
        start(relay, sink)
        await sink.ended.wait()
        assert (sink.data, sink.is_whole) == (framed(*answers.messages), True)
        assert answers.queries == [RelayedQuery(ADDRESS, True, b"idquery")]
        assert relay.open == 0

    run(short_path, answers, test)


def test_a_response_over_udp_is_delivered_without_its_id(short_path: Path) -> None:
    async def test(relay: Relay) -> None:
        delivered: asyncio.Queue[Render] = asyncio.Queue()
        response = relay.respond(b"query", UNAVAILABLE, lambda body, _: b"<" + body, stream=False)
        assert isinstance(response, DeferredResponse)
        response.start(lambda render, _size=0: delivered.put_nowait(render), ADDRESS)
        assert (await delivered.get())() == b"<answer"

    run(short_path, Answers(b"\0\0answer"), test)


def test_a_client_that_does_not_read_stops_the_sender(short_path: Path) -> None:
    answers = Answers(*LONG)

    async def test(relay: Relay) -> None:
        stream, sink = await start_unread(relay)
        before = -1
        while answers.made != before:  # until the buffers of both sockets are full
            before = answers.made
            await asyncio.sleep(0.2)
        assert answers.made < 30
        assert len(sink.data) <= 1 << 17
        await read_to_the_end(stream, sink)
        assert sink.data == framed(*answers.messages)

    run(short_path, answers, test)


def test_a_client_that_goes_away_ends_the_response(short_path: Path) -> None:
    answers = Answers(*LONG)

    async def test(relay: Relay) -> None:
        stream, sink = await start_unread(relay)
        stream.cancel()
        await answers.is_closed.wait()
        assert sink.is_whole is None
        assert relay.open == 0

    run(short_path, answers, test)


def test_an_error_before_the_first_message_is_unavailable(short_path: Path) -> None:
    async def test(relay: Relay) -> None:
        sink = Sink()
        start(relay, sink)
        await sink.ended.wait()
        assert (sink.data, sink.is_whole) == (framed(IDENT + UNAVAILABLE), True)

    run(short_path, Answers(error=ValueError()), test)


def test_a_response_that_breaks_off_is_not_whole(short_path: Path) -> None:
    async def test(relay: Relay) -> None:
        sink = Sink()
        start(relay, sink)
        await sink.ended.wait()
        assert not sink.is_whole

    run(short_path, Answers(b"id1", error=ValueError()), test)


def test_without_a_process_the_response_is_unavailable(short_path: Path) -> None:
    async def test() -> None:
        sink = Sink()
        start(Relay(str(short_path / "nothing")), sink)
        assert not sink.data  # the sink is called later
        await sink.ended.wait()
        assert sink.data == framed(IDENT + UNAVAILABLE)

    asyncio.run(test())


def test_the_number_of_open_queries_is_bounded(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "MAX_WAITING", 0)
    answers = Answers(*LONG)

    async def test(relay: Relay) -> None:
        streams = [start(relay, Sink(room=1)) for _ in range(relay_module.MAX_OPEN)]
        sink = Sink()
        start(relay, sink)
        await sink.ended.wait()
        assert sink.data == framed(IDENT + UNAVAILABLE)
        while len(answers.queries) < len(streams):  # noqa: ASYNC110 - until the server has accepted all
            await asyncio.sleep(0.01)
        for stream in streams:
            stream.cancel()
        assert relay.open == 0

    run(short_path, answers, test)


def test_a_response_that_takes_too_long_is_ended(short_path: Path) -> None:
    answers = Answers(*LONG)

    async def test(relay: Relay) -> None:
        sink = Sink(room=1)
        stream = start(relay, sink)
        await answers.is_closed.wait()  # although the client has not gone
        stream.cancel()

    run(short_path, answers, test, max_seconds=0.3)


def test_a_process_that_does_not_respond_is_unavailable(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "FIRST_SECONDS", 0.1)

    async def test() -> None:
        sink = Sink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(str(short_path / "s"))
            listening.listen()  # and accepts nothing
            start(Relay(str(short_path / "s")), sink)
            await asyncio.wait_for(sink.ended.wait(), 60.0)
        assert sink.data == framed(IDENT + UNAVAILABLE)

    asyncio.run(test())


def test_a_new_process_takes_over_the_path(short_path: Path) -> None:
    """The previous process finishes its responses, and new queries go to the new one."""

    async def test() -> None:
        old, new = Answers(*LONG[:20]), Answers(b"new")
        servers = [RelayServer(str(short_path / "s"), each.respond, max_seconds=60.0) for each in (old, new)]
        relay, second = Relay(str(short_path / "s")), Sink()
        await servers[0].start()
        stream, first = await start_unread(relay)
        await servers[1].start()
        servers[0].stop_accepting()
        start(relay, second)
        await second.ended.wait()
        assert second.data == framed(b"new")
        await read_to_the_end(stream, first)
        assert first.data == framed(*old.messages)
        for server in servers:
            await stop(server)

    asyncio.run(asyncio.wait_for(test(), 60.0))


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=6), st.lists(st.integers(1, 5), min_size=1))
def test_messages_are_found_in_any_pieces(messages: list[bytes], sizes: list[int]) -> None:
    whole, at, found, has_ended = framed(*messages) + b"\0\0", 0, b"", False
    follower = relay_module.MessageFollower()
    for number in range(len(whole)):
        piece = whole[at : at + sizes[number % len(sizes)]]
        at += len(piece)
        if piece:
            assert not has_ended
            data, has_ended = follower.take(piece)
            found += data
    assert (found, has_ended) == (framed(*messages), True)
