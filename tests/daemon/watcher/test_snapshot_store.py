"""The snapshot in a server's life: written while the table changes, beside the changes' way."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import contents, member, put, until
from zkdns.config import Config, load_config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher import snapshot_store
from zkdns.daemon.watcher.snapshot_store import SnapshotStore
from zkdns.serverset.changes import HostResolved, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.snapshot import Header, Snapshot, SnapshotError, expected_by, read_snapshot, write_snapshot
from zkdns.table import Table

WEB = put("web", member(1), member(2, "web.example"))
NAMESPACES = ("/discovery/{environment}/{service} in the zone discovery",)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write again soon."""
    monkeypatch.setattr(snapshot_store, "SNAPSHOT_SECONDS", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


def configured(path: Path, **flags: str) -> Config:
    given = {"zookeeper": "127.0.0.1:1", "snapshot": str(path), **flags}
    return load_config(flags=given, environment={}, file=None)


def on_disk(path: Path) -> Snapshot:
    return read_snapshot(path, expected_by(configured(path), time.time()))


def holds(path: Path, publisher: Publisher) -> bool:
    """Whether the file makes the very table that the publisher has."""
    try:
        snapshot = on_disk(path)
    except SnapshotError:
        return False
    if snapshot.header.serial != publisher.table.serial:
        return False
    table = Table(departed_seconds=0)
    for change in snapshot.changes:
        table.apply(change)
    return set(map(repr, table.contents())) == set(map(repr, publisher.table.contents()))


def beside(path: Path) -> list[Path]:
    """What lies in its directory, itself among it."""
    return list(path.parent.iterdir())


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextlib.asynccontextmanager
async def keeping(path: Path, **flags: str) -> AsyncIterator[tuple[Publisher, SnapshotStore]]:
    publisher = Publisher()
    keeper = SnapshotStore(configured(path, **flags), publisher)
    publisher.add_listener(keeper)
    running = asyncio.create_task(keeper.run())
    try:
        yield publisher, keeper
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_whatever_the_table_holds_is_on_disk_soon_and_comes_back(path: Path) -> None:
    async def scenario() -> None:
        async with keeping(path) as (publisher, _):
            publisher.set_health(ready=True, stale=False)
            publisher.publish([WEB, HostResolved("web.example", ("192.0.2.1",)), put("empty")])
            await until(lambda: holds(path, publisher))
            publisher.publish([MembersHeld(WEB.origin, (member(1).name,))])
            await until(lambda: publisher.table.services[WEB.name.key].first.held)
            await until(lambda: holds(path, publisher))
            publisher.publish([SetDropped(put("empty").origin)])
            await until(lambda: len(publisher.table.services) == 1)
            await until(lambda: holds(path, publisher))

            other = Publisher()
            for change in SnapshotStore(configured(path), other).restore():
                other.table.apply(change)
            assert contents(other.table) == contents(publisher.table)
            assert other.table.addresses_of("web.example") == ("192.0.2.1",)
            assert other.table.services[WEB.name.key].first.held == {member(1).name}

    asyncio.run(scenario())


def test_only_what_zookeeper_says_now_is_written(path: Path) -> None:
    async def scenario() -> None:
        async with keeping(path) as (publisher, keeper):
            publisher.publish([WEB, SetPut("fixed:api.staging", put("api").name, (member(1),))])
            await asyncio.sleep(0.05)
            keeper.save()
            assert content(path) is None  # nothing has been read completely
            publisher.set_health(ready=True, stale=False)
            await until(lambda: content(path))
            assert [change for change in on_disk(path).changes if isinstance(change, SetPut)] == [WEB]
            before = content(path)
            publisher.set_health(ready=True, stale=True)
            publisher.publish([SetDropped(WEB.origin)])
            await asyncio.sleep(0.05)
            keeper.save()
            assert content(path) == before

    asyncio.run(scenario())


def test_a_table_that_does_not_change_is_written_again_before_it_seems_old(path: Path) -> None:
    async def scenario() -> None:
        async with keeping(path, snapshot_max_age="1") as (publisher, _):
            publisher.set_health(ready=True, stale=False)
            publisher.publish([WEB])
            await until(lambda: content(path))
            written = on_disk(path).header.written
            await until(lambda: on_disk(path).header.written > written)
            assert on_disk(path).header.written - written >= 0.2

    asyncio.run(scenario())


def test_the_event_loop_goes_on_and_each_set_is_whole_while_many_are_written(path: Path) -> None:
    sets = 2000

    async def scenario() -> None:
        async with keeping(path) as (publisher, keeper):
            publisher.set_health(ready=True, stale=False)
            publisher.publish([put(f"s{n}", *map(member, range(10))) for n in range(sets)])
            await asyncio.sleep(0)
            parts = list(keeper._parts())
            assert max(map(len, parts)) < 2 * sum(map(len, parts)) / (sets / 100)  # none takes long to encode
            turns = 0
            while content(path) is None:  # members leave and come while it is written
                some = put(f"s{turns % sets}")
                leaving, coming = (member(turns // sets * 5 + n) for n in (0, 10))
                publisher.publish([SetChanged(some.origin, (coming,), (leaving.name,))])
                turns += 1
                await asyncio.sleep(0)
            assert turns > 20
            for change in on_disk(path).changes:
                assert isinstance(change, SetPut)
                assert len(change.members) == 10
            await until(lambda: holds(path, publisher))

    asyncio.run(scenario())


def test_a_failure_is_told_once_with_its_cure_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "table"
    make_directory = path.parent.mkdir

    async def scenario() -> None:
        async with keeping(path) as (publisher, _):
            publisher.set_health(ready=True, stale=False)
            publisher.publish([WEB])
            await until(lambda: logs)
            publisher.publish([put("api", member(1))])
            await asyncio.sleep(0.1)
            assert len(logs) == 1
            make_directory()
            await until(lambda: holds(path, publisher) and len(logs) > 1)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("snapshot_write_failed", "error"),
        ("snapshot_write_recovered", "info"),
    ]
    assert logs[0]["reason"] == (
        f"{path}: cannot be written: No such file or directory; create the directory {path.parent}"
    )


def test_the_last_table_is_saved_also_amid_another_writing(path: Path) -> None:
    async def scenario() -> Publisher:
        async with keeping(path) as (publisher, keeper):
            publisher.set_health(ready=True, stale=False)
            publisher.publish([put(f"s{n}", *map(member, range(10))) for n in range(1000)])
            await until(lambda: beside(path))  # it has begun
            publisher.publish([WEB])
            await asyncio.sleep(0)
        keeper.save()
        return publisher

    publisher = asyncio.run(scenario())
    assert holds(path, publisher)
    assert beside(path) == [path]


def snapshot_of(path: Path, **others: Any) -> None:
    header = {"written": time.time(), "serial": 7, "namespaces": NAMESPACES, **others}
    write_snapshot(path, Header(**header), [[WEB]])


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"written": time.time() - 86_500}, "is 1d old; at most 1d is accepted"),
        ({"written": time.time() + 1e6}, "was written 11d 13h in the future"),
        ({"namespaces": ("/aurora/{job}",)}, "has the namespace /aurora/{job}"),
        ({"zookeeper": "zk1:2181/chroot"}, "whose chroot differs"),
    ],
)
def test_what_cannot_be_used_is_ignored_with_one_warning(
    path: Path, others: dict[str, Any], told: str
) -> None:
    snapshot_of(path, **others)
    with capture_logs() as logs:
        assert asyncio.run(restored(path)) == []
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("snapshot_ignored", "warning")
    assert told in entry["reason"]


async def restored(path: Path) -> list[Any]:
    return SnapshotStore(configured(path), Publisher()).restore()


def test_where_there_is_none_nothing_is_said(path: Path) -> None:
    with capture_logs() as logs:
        assert asyncio.run(restored(path)) == []
    assert logs == []


def test_one_that_can_be_used_is_told_with_its_age(path: Path) -> None:
    snapshot_of(path, written=time.time() - 3600, zookeeper="zk1:2181")
    with capture_logs() as logs:
        assert asyncio.run(restored(path)) == [WEB]
    (entry,) = logs
    assert 3600 <= entry["age_seconds"] <= 3610
    assert (entry["path"], entry["zookeeper"]) == (str(path), "zk1:2181")
