"""Events, read from the stream as a browser reads them."""

import asyncio
import contextlib
import itertools
import re
import socket
import time
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec
import pytest

from tests.observe.admin_helpers import STATUS, Reader, Told, ask, entry, reading, serving
from tests.support.waiting import eventually
from zkdns.daemon.inquiries import HistoryRead
from zkdns.observe.events import MOST_STREAMS, Events, Stream


def number() -> int:
    """What an entry of this moment has."""
    return time.time_ns() // 1000


def test_the_status_comes_at_once_again_in_time_and_when_it_changes() -> None:
    told = Told()
    with serving(told) as at, reading(at) as reader:
        assert reader.response.getheader("Content-Type") == "text/event-stream"
        assert reader.next("status")[1]["workers"] == [{"pid": 7, "ready": True}]
        took = []
        for ready in (False, True, False):
            begun = time.monotonic()
            told.current = msgspec.structs.replace(STATUS, ready=ready)
            while reader.next("status")[1]["ready"] != ready:
                pass
            took.append(time.monotonic() - begun)
        assert min(took) < 1.5  # sooner than it comes again in any case
        assert not reader.next("status")[1]["ready"]


def test_each_change_comes_once_with_its_number() -> None:
    told = Told(entries=[entry(1)])
    with serving(told) as at, reading(at) as reader:
        reader.next("status")
        first, second = number(), number() + 1
        told.entries += [entry(first), entry(second, "db.prod")]
        ident, data = reader.next("change")
        assert (ident, data["number"], data["service"]) == (str(first), first, "web.staging")
        assert reader.next("change")[1]["service"] == "db.prod"
        told.entries.append(entry(third := number()))
        assert reader.next("change")[0] == str(third)


def test_who_comes_again_is_told_what_was_missed_and_nothing_twice() -> None:
    told = Told(entries=[entry(one) for one in range(1, 2501)])
    with serving(told) as at, reading(at, Last_Event_ID="400") as reader:
        assert [int(reader.next("change")[0]) for _ in range(2100)] == list(range(401, 2501))
        told.entries.append(entry(new := number()))
        assert reader.next("change")[0] == str(new)


@dataclass
class Slow(Told):
    """Tells who asks after entry 1 nothing until it is opened."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def history(self, service: str | None, after: int, most: int) -> HistoryRead:
        if after == 1:
            await self.opened.wait()
        return await super().history(service, after, most)


async def numbers_until(stream: Stream, last: int) -> list[int]:
    """The numbers of all changes that a stream is told, up to this one."""
    found: list[int] = []
    async for piece in stream:
        found += map(int, re.findall(rb"^id: (\d+)$", piece, re.MULTILINE))
        if last in found:
            return found
    return found


def test_who_catches_up_while_more_happens_is_told_all_in_order_and_once() -> None:
    told = Slow()
    events = Events(told)

    async def scenario() -> None:
        looking = asyncio.create_task(events.look_for_changes())
        async with events.stream(None) as first, events.stream(1) as late:
            told.entries = [entry(2), entry(new := number())]
            assert await numbers_until(first, new) == [new]
            told.opened.set()
            assert await numbers_until(late, new) == [2, new]
            told.entries.append(entry(newer := number()))  # which the next one learns while it catches up
            async with events.stream(1) as last:
                assert await numbers_until(last, newer) == [2, new, newer]
                assert await numbers_until(first, newer) == [newer]
                told.entries.append(entry(newest := number()))
                assert await numbers_until(last, newest) == [newest]
                assert await numbers_until(late, newest) == [newer, newest]
        looking.cancel()

    async def within(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(within(20.0))


@dataclass
class Late(Told):
    """Answers who asks after entry 1 with what was known then, when it is opened."""

    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def history(self, service: str | None, after: int, most: int) -> HistoryRead:
        read = await super().history(service, after, most)
        if after == 1:
            self.is_asked.set()
            await self.opened.wait()
        return read


def test_what_others_are_told_while_a_history_is_on_its_way_is_told_after_it() -> None:
    told = Late(entries=[entry(2)])
    events = Events(told)

    async def scenario() -> None:
        looking = asyncio.create_task(events.look_for_changes())
        async with asyncio.timeout(20.0), events.stream(None) as first, events.stream(1) as late:
            await told.is_asked.wait()
            told.entries.append(entry(new := number()))
            assert await numbers_until(first, new) == [new]
            told.opened.set()
            assert await numbers_until(late, new) == [2, new]
        looking.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("known", ["x", "-1", "9" * 400, "", "99999999999999999"])
def test_a_number_that_there_cannot_be_is_as_good_as_none(known: str) -> None:
    told = Told(entries=[entry(1)])
    with serving(told) as at, reading(at, Last_Event_ID=known) as reader:
        reader.next("status")
        told.entries.append(entry(new := number()))
        assert reader.next("change")[0] == str(new)


def test_while_the_watcher_is_away_the_status_goes_on_and_later_changes_come() -> None:
    told = Told(is_away=True)
    with serving(told) as at, reading(at, Last_Event_ID="0") as reader:
        reader.next("status")
        reader.next("status")
        told.entries.append(entry(new := number()))
        told.is_away = False
        assert reader.next("change")[0] == str(new)


def test_what_was_missed_is_told_when_the_watcher_is_there_again() -> None:
    told = Told(is_away=True, entries=[entry(1), entry(2)])
    with serving(told) as at, reading(at, Last_Event_ID="1") as reader:
        reader.next("status")
        reader.next("status")
        told.is_away = False
        next_events = itertools.islice(reader, 5)  # a status comes each 2 s in any case
        assert [ident for kind, ident, _ in next_events if kind == "change"] == ["2"]


def test_a_mistake_of_ours_is_no_end(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    with serving(told) as at, reading(at) as reader:
        reader.next("status")
        told.entries = None  # type: ignore[assignment]  # as no server is
        eventually(lambda: "event_stream_failed" in capfd.readouterr().out)
        told.entries = [entry(new := number())]
        assert reader.next("change")[0] == str(new)


def test_there_are_only_so_many_streams_and_then_again_some(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as at:
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_STREAMS):
                stack.enter_context(reading(at)).next("status")
            answer = ask(at, "/api/events")
            assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert answer.error.startswith(f"{MOST_STREAMS} streams of events are open")
            assert ask(at, "/healthz").status == HTTPStatus.OK

        def again() -> bool:
            with reading(at) as reader:
                return reader.response.status == HTTPStatus.OK

        eventually(again)
    assert caplog.records == []


def test_head_opens_no_stream() -> None:
    with serving() as at:
        for _ in range(2 * MOST_STREAMS):
            assert ask(at, "/api/events", "HEAD").headers["Content-Type"] == "text/event-stream"


def test_who_does_not_read_is_dropped_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    with serving(told) as at, reading(at) as reader:
        reader.next("status")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((at.host, at.port))
            slow.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1\r\n\r\n")
            told.entries = [entry(number(), "x" * 10_000) for _ in range(900)]
            assert len([reader.next("change") for _ in range(900)]) == 900
            # Whoever goes on reading is told more, until the other one is cut off and long after.
            eventually(
                lambda: reader.next("status") and slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 20.0
            )
        told.entries.append(entry(new := number()))
        assert reader.next("change")[0] == str(new)
    assert caplog.records == []


def test_stopping_ends_streams_at_once() -> None:
    with serving() as at:
        reader = Reader(at)
        reader.next("status")
        begun = time.monotonic()
    with contextlib.closing(reader):
        assert time.monotonic() - begun < 1.0
        assert all(kind == "status" for kind, _, _ in reader)
