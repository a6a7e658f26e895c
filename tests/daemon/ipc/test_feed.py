"""The feed over a real Unix socket: copies, changes, reconnection, flushes, health and slow subscribers."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import (
    Worker,
    contents,
    health_of,
    member,
    put,
    running_publisher,
    running_worker,
    until,
)
from zkdns.daemon.ipc.feed import Publisher, PublisherListener, Rise
from zkdns.daemon.ipc.feed_messages import (
    FRAMES,
    Begin,
    Changes,
    End,
    FeedMessage,
    Health,
    Packed,
    SourceHealth,
    divide_by_work,
    pack,
    unpack,
)
from zkdns.daemon.ipc.table_copies import CopyServer, read_copy
from zkdns.namespace import ALL_SOURCES, STATIC_SOURCE, ServiceName, parse_namespace
from zkdns.serverset.changes import (
    Change,
    DirectoryUnread,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
)
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import CHANGED_AT_ONCE, Table

UNREADY = Health(ready=False, stale=False)
READY = Health(ready=True, stale=False)
READ = SourceHealth(ready=True)
STALE = Health(ready=True, stale=True)

WEB = put("web", member(1), member(2, "web.example"))
API = put("api", member(1))


@pytest.fixture
def path(short_path: Path) -> str:
    return str(short_path / "feed")


async def until_equal(worker: Worker, publisher: Publisher) -> None:
    """Wait until the worker has applied all changes, and compare the tables."""
    await asyncio.sleep(0)  # the publisher sends the changes of this round of the event loop
    await until(lambda: worker.table.serial == publisher.table.serial)
    assert contents(worker.table) == contents(publisher.table)


class Serials(PublisherListener):
    """The serials that a publisher has sent."""

    def __init__(self, publisher: Publisher) -> None:
        self.sent: list[int] = []
        self._publisher = publisher

    def after_batch(self) -> None:
        self.sent.append(self._publisher.table.serial)


class Batches(PublisherListener):
    """Counts batches."""

    def __init__(self) -> None:
        self.count = 0

    def after_batch(self) -> None:
        self.count += 1


# -- a copy, then changes ----------------------------------------------------------------------------------


def test_a_subscriber_gets_a_copy_and_then_each_change(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher, running_worker(path) as first:
            publisher.publish([WEB, HostResolved("web.example", ("192.0.2.1",)), API])
            publisher.set_health(health_of(ready=True, stale=False))
            async with running_worker(path) as second:
                for worker in (first, second):
                    await until_equal(worker, publisher)
                    assert worker.table.addresses_of("web.example") == ("192.0.2.1",)
                publisher.publish([SetChanged(WEB.origin, (member(3),), (member(1).name,))])
                publisher.publish([SetDropped(API.origin)])
                for worker in (first, second):
                    await until_equal(worker, publisher)
                    assert worker.changed[-1] == {WEB.name.key, API.name.key}
            assert publisher.table.origins == {WEB.origin}

    asyncio.run(scenario())


def test_a_copy_of_many_frames_keeps_the_order_of_members(path: str) -> None:
    many = [put(f"s{n}", *(member(m) for m in range(n % 7, 0, -1))) for n in range(1000)]

    async def scenario() -> None:
        async with running_publisher(path) as publisher:
            publisher.publish(many)
            publisher.set_health(health_of(ready=True, stale=False))
            async with running_worker(path) as worker:
                await until(lambda: worker.health == READY)
                assert contents(worker.table) == contents(publisher.table)

    asyncio.run(scenario())


def test_an_empty_copy_has_the_serial(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher:
            publisher.publish([WEB])
            publisher.set_health(health_of(ready=True, stale=False))
            publisher.publish([SetDropped(WEB.origin)])
            async with running_worker(path) as worker:
                await until(lambda: worker.health == READY)
                assert worker.table.serial == publisher.table.serial > 0

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(10))
def test_subscribing_during_changes_yields_exactly_the_publishers_table(path: str, seed: int) -> None:
    rng = random.Random(seed)

    def change() -> Change:
        some = put(f"s{rng.randrange(8)}", *(random_member(rng) for _ in range(rng.randrange(5))))
        choices: list[Change] = [
            some,
            SetChanged(some.origin, some.members, tuple(f"m{rng.randrange(9)}" for _ in range(2))),
            SetDropped(some.origin),
            HostResolved(f"h{rng.randrange(3)}.example", (f"192.0.2.{rng.randrange(9)}",)),
        ]
        return rng.choice(choices)

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            publisher = await stack.enter_async_context(running_publisher(path))
            workers: list[Worker] = []
            for step in range(1000):
                publisher.publish([change() for _ in range(rng.randrange(4))])
                if step == 100:
                    publisher.set_health(health_of(ready=True, stale=False))
                if step % 150 == 50:
                    workers.append(await stack.enter_async_context(running_worker(path)))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            for worker in workers:
                await until_equal(worker, publisher)
                assert worker.health == READY
                assert worker.table.hosts == publisher.table.hosts
            assert len(workers) == 7

    asyncio.run(scenario())


def random_member(rng: random.Random) -> Member:
    host = rng.choice(["10.0.0.1", "10.0.0.2", "h0.example", "h1.example", "h2.example"])
    return Member(f"m{rng.randrange(9)}", Endpoint(host, 80))


# -- publishers that end and start -------------------------------------------------------------------------


def test_a_restarted_publisher_drops_nothing_until_its_table_is_ready(path: str) -> None:
    async def scenario() -> None:
        async with running_worker(path) as worker:
            async with running_publisher(path) as publisher:
                publisher.publish([WEB, API])
                publisher.set_health(health_of(ready=True, stale=False))
                await until(lambda: worker.health == READY)
            await until(lambda: worker.health == STALE)
            async with running_publisher(path) as publisher:
                await until(lambda: publisher.subscriber_count)
                publisher.publish([read := put("web", member(9))])
                await until(lambda: next(iter(worker.table.contents())) == read)
                assert worker.table.origins == {WEB.origin, API.origin}
                publisher.set_health(health_of(ready=True, stale=False))
                await until(lambda: worker.health == READY)
                assert contents(worker.table) == contents(publisher.table)
                assert worker.table.origins == {WEB.origin}
            assert [health for health in worker.healths if health != UNREADY][:3] == [READY, STALE, READY]

    asyncio.run(scenario())


class ScriptedPublisher:
    """Sends the messages of a test to the last subscriber."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)

    def send(self, *messages: FeedMessage) -> None:
        self.writers[-1].write(b"".join(map(FRAMES.encode, messages)))


@contextlib.asynccontextmanager
async def scripted_publisher(path: str) -> AsyncIterator[ScriptedPublisher]:
    publisher = ScriptedPublisher()
    server = await asyncio.start_unix_server(publisher.accept, path)
    try:
        yield publisher
    finally:
        server.close()
        for writer in publisher.writers:
            writer.close()


def test_sets_missing_from_a_copy_are_dropped_at_its_end(path: str) -> None:
    async def scenario() -> None:
        async with scripted_publisher(path) as watcher, running_worker(path) as worker:
            await until(lambda: watcher.writers)
            watcher.send(Begin(), Changes(1, (WEB, API)), READ, End(1))
            await until(lambda: worker.health == READY)
            for rounds in (1, 2):  # incomplete copies
                watcher.send(Begin(), Changes(rounds + 1, (put("new", member(rounds)),)))
                await until(lambda: worker.table.serial == rounds + 1)  # noqa: B023 - used at once
                assert worker.table.origins == {WEB.origin, API.origin, "/discovery/staging/new"}
                watcher.writers[-1].close()
                await until(lambda: len(watcher.writers) == rounds + 1)  # noqa: B023 - used at once
                assert worker.health == STALE
            watcher.send(Begin(), Changes(9, (API,)))
            await until(lambda: worker.table.serial == 9)
            assert WEB.origin in worker.table.origins
            watcher.send(READ, End(9))
            await until(lambda: worker.table.origins == {API.origin})
            assert worker.changed[-1] == {WEB.name.key, (b"new", b"staging", b"discovery")}
            # Origins of an earlier copy are not remembered.
            watcher.send(Begin(), End(10))
            await until(lambda: worker.table.serial == 10)
            assert worker.table.origins == set()

    asyncio.run(scenario())


def test_a_worker_waits_for_a_socket_that_does_not_exist_yet(path: str) -> None:
    async def scenario() -> None:
        async with running_worker(path) as worker:
            await asyncio.sleep(0.02)  # several attempts
            async with running_publisher(path) as publisher:
                publisher.publish([WEB])
                publisher.set_health(health_of(ready=True, stale=False))
                await until_equal(worker, publisher)

    asyncio.run(scenario())


# -- flushes -----------------------------------------------------------------------------------------------


def test_a_flush_reaches_all_connected_workers_and_no_later_ones(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher:
            assert publisher.flush_caches(None) == 0
            async with running_worker(path) as one, running_worker(path) as other:
                await until(lambda: publisher.subscriber_count == 2)
                publisher.publish([WEB])
                publisher.set_health(health_of(ready=True, stale=False))
                assert publisher.flush_caches(b"\x07example\0") == 2
                assert publisher.flush_caches(None) == 2
                for worker in (one, other):
                    await until(lambda: len(worker.flushed) == 2)  # noqa: B023 - used at once
                    assert worker.flushed == [b"\x07example\0", None]
                    await until_equal(worker, publisher)
            async with running_worker(path) as later:
                await until(lambda: later.health == READY)
                assert later.flushed == []

    asyncio.run(scenario())


def test_a_failed_flush_is_logged_and_loses_no_change(path: str) -> None:
    def fail(_: bytes | None) -> None:
        raise ValueError

    async def scenario() -> None:
        async with running_publisher(path) as publisher, running_worker(path, on_flush=fail) as worker:
            await until(lambda: publisher.subscriber_count)
            with capture_logs() as logs:
                assert publisher.flush_caches(None) == 1
                publisher.publish([WEB])
                publisher.set_health(health_of(ready=True, stale=False))
                await until_equal(worker, publisher)
            assert [entry["event"] for entry in logs] == ["cache_flush_failed"]

    asyncio.run(scenario())


# -- health ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([(False, False), (True, False)], [UNREADY, READY]),
        ([(True, True), (True, False)], [UNREADY, STALE, READY]),  # a snapshot, then ZooKeeper
        ([(True, False), (True, True), (True, False)], [UNREADY, READY, STALE, READY]),
        ([(True, False), (True, False), (True, False)], [UNREADY, READY]),
        # A publisher that is not ready any more makes the table stale.
        ([(True, False), (False, False), (True, False)], [UNREADY, READY, STALE, READY]),
        ([(True, False), (False, True)], [UNREADY, READY, STALE]),
    ],
)
def test_health_arrives_as_it_changes(
    path: str, sent: list[tuple[bool, bool]], received: list[Health]
) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher, running_worker(path) as worker:
            await until(lambda: publisher.subscriber_count)
            await until(lambda: worker.healths)
            for ready, stale in sent:
                publisher.set_health(health_of(ready=ready, stale=stale))
            await until(lambda: worker.healths == received)

    asyncio.run(scenario())


def test_changes_published_before_readiness_arrive_before_it(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher, running_worker(path) as worker:
            await until(lambda: publisher.subscriber_count)
            publisher.publish([WEB])
            publisher.set_health(health_of(ready=True, stale=False))
            publisher.publish([API])
            publisher.set_health(health_of(ready=True, stale=True))
            await until(lambda: worker.health == STALE)
            assert dict(zip(worker.healths, worker.sizes, strict=True))[READY] == 1
            assert worker.sizes[-1] == 2

    asyncio.run(scenario())


# -- serials -----------------------------------------------------------------------------------------------


def test_dns_15_the_serial_rises_with_each_batch(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher, running_worker(path) as worker:
            publisher.set_health(health_of(ready=True, stale=False))
            await until(lambda: worker.health == READY)
            serials = []
            for number in range(5):
                publisher.publish([put("web", member(number))])
                publisher.publish([put("api", member(number))])
                await until_equal(worker, publisher)
                serials.append(worker.table.serial)
            assert serials == [1, 2, 3, 4, 5]
            assert [len(changed) for changed in worker.changed[-5:]] == [2] * 5

    asyncio.run(scenario())


def test_dns_15_serials_continue_from_a_restored_one() -> None:
    async def scenario() -> list[int]:
        publisher = Publisher()
        serials = []
        for serial in (0xF0000000, 0xFFFFFFFF):
            publisher.restore_serial(serial)
            publisher.publish([put("web", member(serial))])
            await asyncio.sleep(0)
            serials.append(publisher.table.serial)
        return serials

    assert asyncio.run(scenario()) == [0xF0000001, 0]


async def read_serials(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, int]]:
    """The serial and the number of changes of each message about the table."""
    while (message := await FRAMES.read(reader)) is not None:
        if isinstance(message, Changes):
            yield message.serial, len(message.changes)


def test_dns_15_changes_are_sent_at_once_and_their_serial_with_the_version(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path, Publisher(version_seconds=60)) as publisher:
            reader, writer = await asyncio.open_unix_connection(path)
            serials = read_serials(reader)
            await until(lambda: publisher.subscriber_count)
            publisher.publish([WEB], Rise.NEVER)
            publisher.set_version(ALL_SOURCES, 100)
            assert await anext(serials) == (100, 1)
            for number in (1, 2):
                publisher.publish([put("api", member(number))], Rise.WITH_VERSION)
                assert await anext(serials) == (100, 1)
            publisher.set_version(ALL_SOURCES, 105)
            assert await anext(serials) == (105, 0)
            publisher.publish([put("api", member(3))], Rise.WITH_VERSION)
            publisher.set_version(ALL_SOURCES, 105)  # the version of another change was the same
            assert await anext(serials) == (106, 1)
            publisher.set_version(ALL_SOURCES, 106)
            publisher.publish([put("api", member(4))])
            assert await anext(serials) == (107, 1)
            writer.close()

    asyncio.run(scenario())


def test_dns_15_the_serial_rises_without_a_version_after_some_time(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path, Publisher(version_seconds=0.01)) as publisher:
            publisher.set_version(ALL_SOURCES, 100)
            publisher.publish([WEB], Rise.WITH_VERSION)
            publisher.publish([API], Rise.WITH_VERSION)
            await until(lambda: publisher.table.serial == 101)
            publisher.set_version(ALL_SOURCES, 102)
            await until(lambda: publisher.table.serial == 102)

    asyncio.run(scenario())


def test_dns_15_a_detour_ends_by_itself(path: str) -> None:
    async def scenario() -> None:
        async with (
            running_publisher(path, Publisher(detour_seconds=0.01)) as publisher,
            running_worker(path) as worker,
        ):
            serials = Serials(publisher)
            publisher.add_listener(serials)
            publisher.restore_serial(2**31)
            publisher.set_version(ALL_SOURCES, 100)
            await until(lambda: publisher.table.serial == worker.table.serial == 100)
            assert serials.sent == [2**31 + 2**30 + 50, 100]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "change",
    [
        WEB,
        SetDropped("/discovery/staging/unknown"),
        SetChanged("/discovery/staging/unknown", (member(1),), ()),
        SetChanged(WEB.origin, (), ("member_0000000099",)),
        HostResolved("nobodys.example", ("192.0.2.1",)),
        HostResolved("web.example", ("192.0.2.7",)),
    ],
)
def test_a_change_without_effect_is_not_sent_and_keeps_the_serial(path: str, change: Change) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher:
            publisher.publish([WEB, HostResolved("web.example", ("192.0.2.7",))])
            publisher.set_health(health_of(ready=True, stale=False))
            reader, writer = await asyncio.open_unix_connection(path)
            while not isinstance(await FRAMES.read(reader), End):
                pass
            serial = publisher.table.serial
            batches = Batches()
            publisher.add_listener(batches)
            publisher.publish([change])
            publisher.set_health(health_of(ready=True, stale=True))
            assert await FRAMES.read(reader) == health_of(ready=True, stale=True)
            assert publisher.table.serial == serial
            assert batches.count == 0
            writer.close()

    asyncio.run(scenario())


# -- bounded pieces of work ---------------------------------------------------------------------------------


def test_changes_are_divided_by_the_work_that_they_are_for_a_worker() -> None:
    drops = [SetDropped(f"/discovery/staging/s{number}") for number in range(10_000)]
    parts = list(divide_by_work(drops))
    assert [change for part in parts for change in part] == drops
    assert max(map(len, parts)) == 25
    held = [MembersHeld(f"/discovery/staging/s{at}", tuple(map(str, range(30)))) for at in range(1000)]
    assert max(map(len, divide_by_work(held))) == 20
    puts = [put(f"s{number}", *map(member, range(10))) for number in range(1000)]
    assert max(len(part) for part in divide_by_work(puts)) <= 34
    large = put("large", *map(member, range(5000)))
    assert list(divide_by_work([large, WEB, API])) == [(large,), (WEB, API)]
    assert list(divide_by_work([])) == []


def test_successive_changes_of_one_set_are_not_divided() -> None:
    """A worker would otherwise answer a held member as a live one for a moment."""
    large = put("large", *map(member, range(5000)))
    held = MembersHeld(large.origin, (member(1).name,), 0.0)
    assert list(divide_by_work([large, held, WEB])) == [(large, held), (WEB,)]


@pytest.mark.parametrize("is_put", [False, True])
@pytest.mark.parametrize("is_copy", [False, True])
def test_a_large_set_is_exchanged_in_small_pieces(path: str, is_put: bool, is_copy: bool) -> None:
    """In between the worker does other things, and its set has the old members until it has all new ones."""
    old, new = [[member(number) for number in numbers] for numbers in (range(3000), range(3000, 6000))]
    before, after = put("web", *old), put("web", *new)
    change = after if is_put else SetChanged(before.origin, after.members, tuple(each.name for each in old))
    seen: list[set[str]] = []

    async def observe(table: Table) -> None:
        while True:
            await asyncio.sleep(0)
            if (found := table.set_of(before.origin)) is not None:
                seen.append(set(found.members))

    async def scenario() -> None:
        first, second = (Publisher() for _ in range(2))
        async with running_worker(path) as worker:
            async with running_publisher(path, first):
                first.publish([before])
                first.set_health(health_of(ready=True, stale=False))
                await until_equal(worker, first)
                observer = asyncio.create_task(observe(worker.table))
                if not is_copy:
                    first.publish([change])
                    await until_equal(worker, first)
            if is_copy:
                second.publish([before, change])
                second.set_health(health_of(ready=True, stale=False))
                async with running_publisher(path, second):
                    await until(lambda: contents(worker.table) == contents(second.table))
            observer.cancel()

    asyncio.run(scenario())
    olds, news = ({each.name for each in members} for members in (old, new))
    assert seen[0] == olds
    assert seen[-1] == news
    assert all(found >= olds or found >= news for found in seen)
    assert max(len(one ^ other) for one, other in itertools.pairwise(seen)) <= CHANGED_AT_ONCE
    assert seen.count(olds) > 6  # as many parts were decoded


@pytest.mark.parametrize("size", [0, 1, 499, 500, 501, 1750])
def test_packed_changes_are_equal_when_they_are_unpacked(size: int) -> None:
    members = tuple(map(member, range(size)))
    gone = tuple(f"m{number}" for number in range(size // 2))
    changes: list[Change] = [
        WEB,
        put("large", *members),
        SetChanged(API.origin, members, gone),
        SetDropped(API.origin),
    ]
    packed = Changes(1, tuple(map(pack, changes)))
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(packed), type=Changes)
    assert asyncio.run(unpack(received.changes)) == changes
    assert sum(isinstance(change, Packed) for change in packed.changes) == (
        2 if size > 500 else 1 if size + len(gone) > 500 else 0
    )


def test_a_worker_drops_many_services_in_small_pieces(path: str) -> None:
    """The services that a new publisher does not have, and those that are dropped together."""
    puts = [put(f"s{number}") for number in range(1000)]

    async def scenario() -> None:
        async with running_worker(path) as worker:
            async with running_publisher(path) as publisher:
                publisher.publish(puts)
                publisher.set_health(health_of(ready=True, stale=False))
                await until(lambda: worker.table.origins == publisher.table.origins)
                publisher.publish([SetDropped(change.origin) for change in puts[500:]])
                await until(lambda: worker.table.origins == publisher.table.origins)
            async with running_publisher(path) as publisher:
                publisher.publish([WEB])
                publisher.set_health(health_of(ready=True, stale=False))
                await until(lambda: worker.table.origins == publisher.table.origins)
            assert max(map(len, worker.changed)) <= 50

    asyncio.run(scenario())


def test_changes_during_a_copy_follow_it(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher:
            publisher.publish([put(f"s{number}", *map(member, range(10))) for number in range(2000)])
            publisher.set_health(health_of(ready=True, stale=False))
            async with running_worker(path) as worker:
                await until(lambda: worker.table.services)
                assert len(worker.table.services) < 1000  # the copy has not been sent
                publisher.publish([put("s1999"), SetDropped("/discovery/staging/s0"), WEB])
                await until(lambda: contents(worker.table) == contents(publisher.table))
                assert worker.health == READY

    asyncio.run(scenario())


# -- slow subscribers --------------------------------------------------------------------------------------


def test_a_subscriber_that_does_not_read_is_disconnected_alone(path: str) -> None:
    async def scenario() -> None:
        async with (
            running_publisher(path, Publisher(max_backlog=100_000)) as publisher,
            running_worker(path) as worker,
        ):
            publisher.publish([put("big", *map(member, range(5_000)))])
            publisher.set_health(health_of(ready=True, stale=False))
            await until_equal(worker, publisher)
            reader, writer = await asyncio.open_unix_connection(path)  # reads no more than its buffer holds
            await until(lambda: publisher.subscriber_count == 2)
            count = 0
            while publisher.subscriber_count == 2:  # a long copy alone does not disconnect it
                count += 1
                publisher.publish([put("web", *(member(n, f"h{count}.example") for n in range(100)))])
                await until_equal(worker, publisher)
            assert 5 < count < 1000
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            publisher.publish([API])
            await until_equal(worker, publisher)
            assert STALE not in worker.healths

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [entry["event"] for entry in logs] == ["worker_feed_lagging"]


def test_a_disconnected_subscriber_reconnects_and_gets_every_change(path: str) -> None:
    async def scenario() -> None:
        async with (
            running_publisher(path, Publisher(max_backlog=1000)) as publisher,
            running_worker(path) as worker,
        ):
            publisher.set_health(health_of(ready=True, stale=False))
            await until(lambda: worker.health == READY)
            publisher.publish([put("big", *map(member, range(20_000)))])  # one frame exceeds the backlog
            await until(lambda: STALE in worker.healths)
            await until_equal(worker, publisher)
            await until(lambda: worker.health == READY)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert len(logs) == 1


def test_publishing_without_subscribers() -> None:
    async def scenario() -> Table:
        publisher = Publisher()
        publisher.publish([WEB])
        publisher.set_health(health_of(ready=True, stale=False))
        publisher.publish([API])
        publisher.close()
        return publisher.table

    assert asyncio.run(scenario()).origins == {WEB.origin, API.origin}


def test_a_repeated_end_of_a_copy_keeps_the_table(path: str) -> None:
    async def scenario() -> None:
        async with running_publisher(path) as publisher, running_worker(path) as worker:
            await until(lambda: publisher.subscriber_count)
            publisher.publish([WEB])
            for ready in (True, False, True):
                publisher.set_health(health_of(ready=ready, stale=False))
            publisher.publish([API])
            await until_equal(worker, publisher)
            assert worker.table.origins == {WEB.origin, API.origin}

    asyncio.run(scenario())


# -- several sources ---------------------------------------------------------------------------------------

DISCOVERY = parse_namespace("/discovery/{environment}/{service}")
AURORA = parse_namespace("/aurora/{job}")
JOB = SetPut("/aurora/job", ServiceName("job"), (member(1),))
STATIC = SetPut("static:api.staging", ServiceName("api", "staging"), (member(2),))
SOURCES = (DISCOVERY.template, AURORA.template, STATIC_SOURCE)


def ready(source: str) -> SourceHealth:
    return SourceHealth(ready=True, source=source)


def unready(source: str) -> SourceHealth:
    return SourceHealth(ready=False, source=source)


def test_only_the_sets_of_a_source_that_was_read_are_dropped(path: str) -> None:
    async def scenario() -> None:
        async with (
            scripted_publisher(path) as watcher,
            running_worker(path, namespaces=(DISCOVERY, AURORA)) as worker,
        ):
            await until(lambda: watcher.writers)
            watcher.send(
                Begin(),
                Changes(1, (WEB, JOB, STATIC, DirectoryUnread("/discovery/prod"))),
                *map(ready, SOURCES),
                End(1),
            )
            await until(lambda: worker.health == READY)
            watcher.writers[-1].close()
            await until(lambda: len(watcher.writers) == 2)
            # The next publisher has read one namespace, which has other sets now.
            watcher.send(
                Begin(),
                Changes(2, (API,)),
                ready(SOURCES[0]),
                unready(SOURCES[1]),
                unready(STATIC_SOURCE),
                End(2),
            )
            await until(lambda: worker.table.origins == {API.origin, JOB.origin, STATIC.origin})
            assert not worker.table.unread_directories
            assert worker.health == STALE
            states = worker.subscriber.sources
            assert [states[source].stale_since is None for source in SOURCES] == [True, False, False]
            watcher.send(Changes(3, (JOB,)), ready(SOURCES[1]), ready(STATIC_SOURCE))
            await until(lambda: worker.table.origins == {API.origin, JOB.origin})
            await until(lambda: worker.health == READY)

    asyncio.run(scenario())


def test_a_source_that_the_next_publisher_does_not_have_is_forgotten(path: str) -> None:
    async def scenario() -> None:
        async with (
            scripted_publisher(path) as watcher,
            running_worker(path, namespaces=(DISCOVERY,)) as worker,
        ):
            await until(lambda: watcher.writers)
            watcher.send(Begin(), Changes(1, (WEB, STATIC)), ready(SOURCES[0]), ready(STATIC_SOURCE), End(1))
            await until(lambda: worker.health == READY)
            watcher.writers[-1].close()
            await until(lambda: len(watcher.writers) == 2)
            watcher.send(Begin(), Changes(2, (WEB,)), ready(SOURCES[0]), End(2))
            await until(lambda: worker.health == READY)
            assert worker.table.origins == {WEB.origin}

    asyncio.run(scenario())


def test_a_worker_serves_copies_of_its_table(path: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        copies = str(tmp_path / "1.copy")
        held = MembersHeld(WEB.origin, (member(1).name,), 1_700_000_000.0)
        async with running_worker(path) as worker:
            server = CopyServer(worker.subscriber, copies)
            await server.start()
            copy = await read_copy(copies)
            assert copy is not None
            assert (copy.changes, copy.sources) == ([], {})
            async with running_publisher(path) as publisher:
                publisher.publish([WEB, held])
                publisher.set_health(health_of(ready=True, stale=False))
                await until_equal(worker, publisher)
                serial = publisher.table.serial
            await until(lambda: worker.health == STALE)
            before = time.time()
            copy = await read_copy(copies)
            assert copy is not None
            assert copy.serial == serial
            assert copy.changes[:2] == [WEB, held]
            since = copy.sources[""].stale_since
            assert since is not None
            assert 0 <= before - since < 60
            server.close()
            with pytest.raises(OSError, match=r"refused|No such file"):
                await read_copy(copies)

    asyncio.run(scenario())
