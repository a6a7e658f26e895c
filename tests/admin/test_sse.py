"""Server-sent events, parsed as a browser does."""

import asyncio
import contextlib
import itertools
import re
import socket
import time
from dataclasses import dataclass, field
from http import HTTPStatus

import pytest
from msgspec.structs import replace

from tests.admin.helpers import DIGEST, QUICK, STATUS, FakeBackend, Reader, ask, entry, reading, serving
from tests.support.waiting import eventually
from zkdns.admin.api_types import HistoryPage
from zkdns.admin.sse import MAX_STREAMS, Events, Stream
from zkdns.admin.timing import Timing


def number() -> int:
    """Return the number of an entry of this moment."""
    return time.time_ns() // 1000


def test_the_status_comes_at_once_and_on_change() -> None:
    backend = FakeBackend()
    with serving(backend, timing=Timing(check=0.02, status=3600.0)) as at, reading(at) as reader:
        assert reader.response.getheader("Content-Type") == "text/event-stream"
        assert reader.next("status")[1]["workers"] == [{"pid": 7, "ready": True, "digests": [DIGEST]}]
        for ready in (False, True, False):
            backend.current = replace(STATUS, ready=ready)
            while reader.next("status")[1]["ready"] != ready:
                pass


def test_the_status_comes_periodically() -> None:
    with serving(timing=Timing(check=0.02, status=0.1)) as at, reading(at) as reader:
        assert [reader.next("status")[1]["ready"] for _ in range(3)] == [True] * 3


def test_each_change_comes_once_with_its_number_as_id() -> None:
    backend = FakeBackend(entries=[entry(1)])
    with serving(backend) as at, reading(at) as reader:
        reader.next("status")
        first, second = number(), number() + 1
        backend.entries += [entry(first), entry(second, "db.prod")]
        ident, data = reader.next("change")
        assert (ident, data["number"], data["service"]) == (str(first), first, "web.staging")
        assert reader.next("change")[1]["service"] == "db.prod"
        backend.entries.append(entry(third := number()))
        assert reader.next("change")[0] == str(third)


def test_a_reconnecting_client_receives_missed_entries_once() -> None:
    backend = FakeBackend(entries=[entry(one) for one in range(1, 2501)])
    with serving(backend) as at, reading(at, Last_Event_ID="400") as reader:
        assert [int(reader.next("change")[0]) for _ in range(2100)] == list(range(401, 2501))
        backend.entries.append(entry(new := number()))
        assert reader.next("change")[0] == str(new)


@dataclass
class Slow(FakeBackend):
    """Delays requests after entry 1 until `opened` is set."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def history(self, service: str | None, after: int, limit: int) -> HistoryPage:
        if after == 1:
            await self.opened.wait()
        return await super().history(service, after, limit)


async def numbers_until(stream: Stream, last: int) -> list[int]:
    """Return the numbers of all changes in a stream, up to this one."""
    found: list[int] = []
    async for piece in stream:
        found += map(int, re.findall(rb"^id: (\d+)$", piece, re.MULTILINE))
        if last in found:
            return found
    return found


def test_entries_during_catch_up_arrive_once_and_in_order() -> None:
    backend = Slow()
    events = Events(backend, QUICK)

    async def scenario() -> None:
        looking = asyncio.create_task(events.watch_changes())
        async with events.stream(None) as first, events.stream(1) as late:
            backend.entries = [entry(2), entry(new := number())]
            assert await numbers_until(first, new) == [new]
            backend.opened.set()
            assert await numbers_until(late, new) == [2, new]
            backend.entries.append(
                entry(newer := number())
            )  # the next stream receives it while it catches up
            async with events.stream(1) as last:
                assert await numbers_until(last, newer) == [2, new, newer]
                assert await numbers_until(first, newer) == [newer]
                backend.entries.append(entry(newest := number()))
                assert await numbers_until(last, newest) == [newest]
                assert await numbers_until(late, newest) == [newer, newest]
        looking.cancel()

    async def within(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(within(20.0))


@dataclass
class Late(FakeBackend):
    """Delays results of requests after entry 1 until `opened` is set."""

    is_requested: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def history(self, service: str | None, after: int, limit: int) -> HistoryPage:
        read = await super().history(service, after, limit)
        if after == 1:
            self.is_requested.set()
            await self.opened.wait()
        return read


def test_entries_sent_to_others_during_catch_up_follow_it() -> None:
    backend = Late(entries=[entry(2)])
    events = Events(backend, QUICK)

    async def scenario() -> None:
        looking = asyncio.create_task(events.watch_changes())
        async with asyncio.timeout(20.0), events.stream(None) as first, events.stream(1) as late:
            await backend.is_requested.wait()
            backend.entries.append(entry(new := number()))
            assert await numbers_until(first, new) == [new]
            backend.opened.set()
            assert await numbers_until(late, new) == [2, new]
        looking.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("known", ["x", "-1", "9" * 400, "", "99999999999999999"])
def test_an_invalid_last_event_id_is_ignored(known: str) -> None:
    backend = FakeBackend(entries=[entry(1)])
    with serving(backend) as at, reading(at, Last_Event_ID=known) as reader:
        reader.next("status")
        backend.entries.append(entry(new := number()))
        assert reader.next("change")[0] == str(new)


def test_without_the_watcher_the_status_still_comes() -> None:
    backend = FakeBackend(is_away=True)
    with serving(backend) as at, reading(at, Last_Event_ID="0") as reader:
        reader.next("status")
        reader.next("status")
        backend.entries.append(entry(new := number()))
        backend.is_away = False
        assert reader.next("change")[0] == str(new)


def test_missed_entries_come_when_the_watcher_is_back() -> None:
    backend = FakeBackend(is_away=True, entries=[entry(1), entry(2)])
    with serving(backend) as at, reading(at, Last_Event_ID="1") as reader:
        reader.next("status")
        reader.next("status")
        backend.is_away = False
        assert reader.next("change")[0] == "2"
        assert {kind for kind, _, _ in itertools.islice(reader, 3)} == {"status"}


def test_an_internal_error_does_not_end_the_stream(capfd: pytest.CaptureFixture[str]) -> None:
    backend = FakeBackend()
    with serving(backend) as at, reading(at) as reader:
        reader.next("status")
        backend.entries = None  # type: ignore[assignment]  # causes an internal error
        eventually(lambda: "event_stream_failed" in capfd.readouterr().out)
        backend.entries = [entry(new := number())]
        assert reader.next("change")[0] == str(new)


def test_streams_over_the_limit_get_503_until_others_close(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as at:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_STREAMS):
                stack.enter_context(reading(at)).next("status")
            answer = ask(at, "/api/events")
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert answer.error.startswith(f"{MAX_STREAMS} event streams are open")
            assert ask(at, "/healthz").status == HTTPStatus.OK

        def again() -> bool:
            with reading(at) as reader:
                return reader.response.status == HTTPStatus.OK

        eventually(again)
    assert caplog.records == []


def test_head_opens_no_stream() -> None:
    with serving() as at:
        for _ in range(2 * MAX_STREAMS):
            assert ask(at, "/api/events", "HEAD").headers["Content-Type"] == "text/event-stream"


def test_only_a_client_that_does_not_read_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend()
    with serving(backend, timing=replace(QUICK, write=1.0)) as at, reading(at) as reader:
        reader.next("status")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((at.host, at.port))
            slow.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1\r\n\r\n")
            backend.entries = [entry(number(), "x" * 10_000) for _ in range(900)]
            assert len([reader.next("change") for _ in range(900)]) == 900
            # The reading client receives more events until the other one is disconnected, and after that.
            eventually(
                lambda: reader.next("status") and slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 20.0
            )
        backend.entries.append(entry(new := number()))
        assert reader.next("change")[0] == str(new)
    assert caplog.records == []


def test_stopping_ends_streams_at_once() -> None:
    with serving() as at:
        reader = Reader(at)
        reader.next("status")
        begun = time.monotonic()
    with contextlib.closing(reader):
        assert time.monotonic() - begun < 10.0  # not only when the reader goes
        assert all(kind == "status" for kind, _, _ in reader)
