"""The control socket: requests, responses in one or many parts, failures, and takeover of the path."""

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
from zkdns.daemon.ipc.control import REQUESTS, ControlError, ControlServer, send_request, stream_responses
from zkdns.daemon.ipc.control_messages import (
    AcceptLosses,
    Contents,
    Dump,
    FlushCaches,
    Flushed,
    LossesAccepted,
    Refused,
    ReleasedMember,
    Reload,
    Reloaded,
    Request,
    Response,
)
from zkdns.serverset.changes import SetDropped

FAILED = "control_socket_failed"
ACCEPTED = LossesAccepted(
    (ReleasedMember("web.staging", "/discovery/staging/web/member_0000000001", "10.0.0.1:80", 1.5),)
)


@pytest.fixture
def path(short_path: Path) -> str:
    return str(short_path / "run" / "control")


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
        server = ControlServer(path, respond)
        await server.start()
        try:
            await scenario()
        finally:
            server.close()

    asyncio.run(run())


def test_a_request_gets_a_response(path: str) -> None:
    async def scenario() -> None:
        assert await send_request(path, AcceptLosses(None)) == ACCEPTED
        assert await send_request(path, AcceptLosses("web")) == Refused("not_found", "nothing is held of web")
        assert await send_request(path, FlushCaches("example")) == Flushed(2, 3)

    serve(path, scenario)


def test_other_requests_are_served_between_the_parts_of_a_response(path: str) -> None:
    """Each part is created when the previous one has been sent."""
    created: list[int] = []

    def respond_in_parts(request: Request) -> Response | Iterator[Response]:
        return parts() if isinstance(request, Dump) else respond(request)

    def parts() -> Iterator[Response]:
        for number in range(100):
            created.append(number)
            yield Contents((SetDropped("x" * 100_000),))
        yield Contents(())

    async def scenario() -> None:
        server = ControlServer(path, respond_in_parts)
        await server.start()
        async with contextlib.aclosing(stream_responses(path, Dump())) as stream:
            first = await anext(stream)
            assert await send_request(path, FlushCaches(None)) == Flushed(2, 3)
            assert len(created) < 50
            rest = [response async for response in limited(stream, 100)]
        assert isinstance(first, Contents)
        assert [len(part.changes) for part in rest if isinstance(part, Contents)] == [1] * 99 + [0]
        server.close()

    asyncio.run(scenario())


async def limited(stream: AsyncIterator[Response], count: int) -> AsyncIterator[Response]:
    for _ in range(count):
        yield await anext(stream)


def test_a_client_that_does_not_read_is_disconnected(path: str) -> None:
    ended: list[bool] = []

    def parts() -> Iterator[Response]:
        try:
            while True:
                yield Contents((SetDropped("x" * 1_000_000),))
        finally:
            ended.append(True)

    async def scenario() -> None:
        server = ControlServer(path, lambda _: parts(), timeout=0.2)
        await server.start()
        _, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(REQUESTS.encode(Dump()))
        await until(lambda: ended)
        writer.close()
        server.close()

    asyncio.run(scenario())


def test_an_error_in_a_part_is_logged_and_refused(path: str) -> None:
    def parts() -> Iterator[Response]:
        yield Contents(())
        raise LookupError

    async def scenario() -> None:
        server = ControlServer(path, lambda _: parts())
        await server.start()
        with capture_logs() as logs:
            async with contextlib.aclosing(stream_responses(path, Dump())) as stream:
                assert await anext(stream) == Contents(())
                assert isinstance(await anext(stream), Refused)
                with pytest.raises(ControlError, match="closed the connection"):
                    await anext(stream)
        assert [entry["event"] for entry in logs] == ["control_request_failed"]
        server.close()

    asyncio.run(scenario())


def test_the_socket_has_mode_0600_and_is_removed_at_the_end(path: str) -> None:
    async def scenario() -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116 - does not block

    before = os.umask(0o022)
    try:
        serve(path, scenario)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert not Path(path).exists()


def test_the_socket_of_a_dead_server_is_replaced(path: str) -> None:
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    async def scenario() -> None:
        assert await send_request(path, AcceptLosses(None)) == ACCEPTED

    serve(path, scenario)


def test_the_socket_of_a_running_server_is_not_replaced(path: str) -> None:
    async def scenario() -> None:
        with capture_logs() as logs:
            other = ControlServer(path, lambda _: Refused("invalid", "the wrong server"))
            await other.start()
            other.close()
        assert [(entry["event"], entry["reason"]) for entry in logs] == [
            (FAILED, "another server listens there")
        ]
        assert await send_request(path, AcceptLosses(None)) == ACCEPTED

    serve(path, scenario)


def test_closing_does_not_remove_the_socket_of_a_later_server(path: str) -> None:
    async def scenario() -> None:
        os.unlink(path)  # noqa: PTH108 - does not block
        successor = ControlServer(path, respond)
        await successor.start()
        try:
            first.close()
            assert await send_request(path, AcceptLosses(None)) == ACCEPTED
        finally:
            successor.close()

    async def run() -> None:
        await first.start()
        await scenario()

    first = ControlServer(path, respond)
    asyncio.run(run())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("precious"), "the path exists and is not a socket"),
        (lambda path: path.mkdir(), "the path exists and is not a socket"),
        (lambda path: path.parent.rmdir() or path.parent.write_text(""), "File exists"),
    ],
)
def test_a_failure_to_listen_is_logged_and_not_raised(
    path: str, make: Callable[[Path], object], reason: str
) -> None:
    Path(path).parent.mkdir()
    make(Path(path))

    async def scenario() -> None:
        server = ControlServer(path, respond)
        with capture_logs() as logs:
            await server.start()
        assert [(entry["event"], entry["reason"]) for entry in logs] == [(FAILED, reason)]
        server.close()

    asyncio.run(scenario())
    assert not Path(path).is_file() or Path(path).read_text() == "precious"


def test_a_path_that_is_too_long_for_a_socket_is_logged(short_path: Path) -> None:
    async def scenario() -> None:
        with capture_logs() as logs:
            await ControlServer(str(short_path / ("x" * 120)), respond).start()
        assert [entry["reason"] for entry in logs] == ["AF_UNIX path too long"]

    asyncio.run(scenario())


def test_a_failed_request_is_logged_and_the_next_one_is_served(path: str) -> None:
    async def scenario() -> None:
        with capture_logs() as logs:
            refused = await send_request(path, AcceptLosses("broken"))
        assert refused == Refused("invalid", "internal error; the server's log has the details")
        assert [entry["event"] for entry in logs] == ["control_request_failed"]
        assert await send_request(path, AcceptLosses(None)) == ACCEPTED

    serve(path, scenario)


@pytest.mark.parametrize(
    "sent", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", REQUESTS.encode(AcceptLosses(None))[:-1], b""]
)
def test_invalid_requests_do_not_affect_other_clients(path: str, sent: bytes) -> None:
    async def scenario() -> None:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        assert await send_request(path, AcceptLosses(None)) == ACCEPTED
        writer.close()

    serve(path, scenario)


def test_an_unknown_request_is_refused(path: str) -> None:
    async def scenario() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"\0\0\0\x0d\x81\xa4type\xa6reload")
        assert b"unknown to this version of zkdns" in await reader.read()
        writer.close()

    serve(path, scenario)


def test_the_error_names_the_path_if_no_server_listens(path: str) -> None:
    with pytest.raises(ControlError, match=f"^no server listens at {path}; start one"):
        asyncio.run(send_request(path, AcceptLosses(None)))


def test_a_connection_that_closes_without_a_response_is_an_error(path: str) -> None:
    async def scenario() -> None:
        Path(path).parent.mkdir()
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
        with pytest.raises(ControlError, match=r"closed the connection without|cannot be reached"):
            await send_request(path, AcceptLosses(None))
        server.close()

    asyncio.run(scenario())


def test_only_the_socket_of_the_named_predecessor_is_taken_over(path: str) -> None:
    async def scenario() -> None:
        successor = ControlServer(path, lambda _: Refused("not_found", "the successor"))
        with capture_logs() as logs:
            await successor.start(predecessor=1)
        assert [entry["reason"] for entry in logs] == ["another server listens there"]
        await successor.start(predecessor=os.getpid())
        try:
            assert await send_request(path, AcceptLosses(None)) == Refused("not_found", "the successor")
            first.close()
            assert await send_request(path, AcceptLosses(None)) == Refused("not_found", "the successor")
        finally:
            successor.close()
        assert os.listdir(Path(path).parent) == []  # noqa: PTH208 - does not block

    async def run() -> None:
        await first.start()
        await scenario()

    first = ControlServer(path, respond)
    asyncio.run(run())


def test_a_response_may_be_awaitable(path: str) -> None:
    async def reloaded() -> Response:
        await asyncio.sleep(0)
        return Reloaded(("ttl",), ("worker",), 0.5)

    async def scenario() -> None:
        server = ControlServer(path, lambda _: reloaded())
        await server.start()
        try:
            assert await send_request(path, Reload(all=False)) == Reloaded(("ttl",), ("worker",), 0.5)
        finally:
            server.close()

    asyncio.run(scenario())
