"""Requests to the watcher: responses in one or many parts, and failures."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from zkdns.admin.api_types import Flushed, LossesAccepted, ReleasedMember
from zkdns.daemon.ipc.request_messages import (
    AcceptLosses,
    FlushCaches,
    Lines,
    ReadTable,
    Refused,
    Request,
    Response,
)
from zkdns.daemon.ipc.requests import (
    REQUESTS,
    RequestFailedError,
    RequestRefusedError,
    RequestServer,
    requests_path,
    send_request,
    stream_responses,
)

ACCEPTED = LossesAccepted(
    (ReleasedMember("web.staging", "/discovery/staging/web/member_0000000001", "10.0.0.1:80", 1.5),)
)


@pytest.fixture
def path(short_path: Path) -> str:
    return requests_path(str(short_path / "feed"))


def respond(request: Request) -> Response:
    if isinstance(request, FlushCaches):
        return Flushed(2, 3)
    assert isinstance(request, AcceptLosses)
    assert request.service != "broken"
    return (
        ACCEPTED if request.service is None else Refused("not_found", f"nothing is held of {request.service}")
    )


def serve(path: str, scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        server = RequestServer(path, respond)
        await server.start()
        try:
            await scenario()
        finally:
            server.close()

    asyncio.run(run())


def test_a_request_gets_a_response(path: str) -> None:
    async def scenario() -> None:
        assert await send_request(path, AcceptLosses(None), LossesAccepted) == ACCEPTED
        with pytest.raises(RequestRefusedError, match="nothing is held of web") as caught:
            await send_request(path, AcceptLosses("web"), LossesAccepted)
        assert caught.value.refused.reason == "not_found"
        assert await send_request(path, FlushCaches("example"), Flushed) == Flushed(2, 3)

    serve(path, scenario)


def test_other_requests_are_served_between_the_parts_of_a_response(path: str) -> None:
    """Each part is created when the previous one has been sent."""
    created: list[int] = []

    def respond_in_parts(request: Request) -> Response | Iterator[Response]:
        return parts() if isinstance(request, ReadTable) else respond(request)

    def parts() -> Iterator[Response]:
        for number in range(100):
            created.append(number)
            yield Lines(b"x" * 100_000)
        yield Lines(b"")

    async def scenario() -> None:
        server = RequestServer(path, respond_in_parts)
        await server.start()
        async with contextlib.aclosing(stream_responses(path, ReadTable(), Lines)) as stream:
            assert len((await anext(stream)).data) == 100_000
            assert await send_request(path, FlushCaches(None), Flushed) == Flushed(2, 3)
            assert len(created) < 50
            rest = [response async for response in limited(stream, 100)]
        assert [len(part.data) for part in rest] == [100_000] * 99 + [0]
        server.close()

    asyncio.run(scenario())


async def limited(stream: AsyncIterator[Lines], count: int) -> AsyncIterator[Lines]:
    for _ in range(count):
        yield await anext(stream)


def test_a_client_that_does_not_read_is_disconnected(path: str) -> None:
    ended: list[bool] = []

    def parts() -> Iterator[Response]:
        try:
            while True:
                yield Lines(b"x" * 1_000_000)
        finally:
            ended.append(True)

    async def scenario() -> None:
        server = RequestServer(path, lambda _: parts(), timeout=0.2)
        await server.start()
        _, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(REQUESTS.encode(ReadTable()))
        await until(lambda: ended)
        writer.close()
        server.close()

    asyncio.run(scenario())


def test_an_error_in_a_part_is_logged_and_refused(path: str) -> None:
    def parts() -> Iterator[Response]:
        yield Lines(b"x")
        raise LookupError

    async def scenario() -> None:
        server = RequestServer(path, lambda _: parts())
        await server.start()
        with capture_logs() as logs:
            async with contextlib.aclosing(stream_responses(path, ReadTable(), Lines)) as stream:
                assert await anext(stream) == Lines(b"x")
                with pytest.raises(RequestRefusedError, match="internal error") as caught:
                    await anext(stream)
        assert caught.value.refused.reason == "failed"
        assert [entry["event"] for entry in logs] == ["watcher_request_failed"]
        server.close()

    asyncio.run(scenario())


def test_the_socket_has_mode_0600(path: str) -> None:
    async def scenario() -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116 - does not block

    before = os.umask(0o022)
    try:
        serve(path, scenario)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_the_socket_of_a_killed_watcher_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    async def scenario() -> None:
        assert await send_request(path, AcceptLosses(None), LossesAccepted) == ACCEPTED

    serve(path, scenario)


def test_a_failed_request_is_logged_and_the_next_one_is_served(path: str) -> None:
    async def scenario() -> None:
        with capture_logs() as logs, pytest.raises(RequestRefusedError, match="internal error"):
            await send_request(path, AcceptLosses("broken"), LossesAccepted)
        assert [entry["event"] for entry in logs] == ["watcher_request_failed"]
        assert await send_request(path, AcceptLosses(None), LossesAccepted) == ACCEPTED

    serve(path, scenario)


@pytest.mark.parametrize(
    "sent", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", REQUESTS.encode(AcceptLosses(None))[:-1], b""]
)
def test_invalid_requests_do_not_affect_others(path: str, sent: bytes) -> None:
    async def scenario() -> None:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        assert await send_request(path, AcceptLosses(None), LossesAccepted) == ACCEPTED
        writer.close()

    serve(path, scenario)


def test_a_watcher_that_does_not_exist_is_an_error(path: str) -> None:
    with pytest.raises(RequestFailedError, match="cannot be reached: no such file"):
        asyncio.run(send_request(path, AcceptLosses(None), LossesAccepted))


def test_a_watcher_that_is_starting_is_awaited(path: str) -> None:
    async def scenario() -> None:
        server = RequestServer(path, respond)
        sent = asyncio.create_task(send_request(path, AcceptLosses(None), LossesAccepted, wait=30.0))
        await asyncio.sleep(0.05)
        await server.start()
        assert await sent == ACCEPTED
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\x01\xc1", b"\0\0\0\x03\x92\xc0\xc0"])
def test_an_incomplete_or_invalid_response_is_an_error(path: str, sent: bytes) -> None:
    async def scenario() -> None:
        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            writer.close()

        server = await asyncio.start_unix_server(answer, path)
        with pytest.raises(RequestFailedError):
            await send_request(path, AcceptLosses(None), LossesAccepted)
        server.close()

    asyncio.run(scenario())


def test_a_response_may_be_awaitable(path: str) -> None:
    async def flushed() -> Response:
        await asyncio.sleep(0)
        return Flushed(1, 1)

    async def scenario() -> None:
        server = RequestServer(path, lambda _: flushed())
        await server.start()
        try:
            assert await send_request(path, FlushCaches(None), Flushed) == Flushed(1, 1)
        finally:
            server.close()

    asyncio.run(scenario())
