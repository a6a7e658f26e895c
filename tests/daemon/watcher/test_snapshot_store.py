"""The snapshot is written while the table changes, and restored at the next start."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import contents, health_of, member, put, until
from zkdns.config import Config, load_config
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.table_copies import TableCopy
from zkdns.daemon.watcher.snapshot_store import SnapshotSource, SnapshotStore, encode_parts
from zkdns.namespace import ServiceName, parse_namespace
from zkdns.serverset.changes import HostResolved, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.snapshot import (
    Header,
    NamespaceState,
    Snapshot,
    SnapshotError,
    expected_by,
    read_snapshot,
    write_snapshot,
)
from zkdns.table import Table

WEB = put("web", member(1), member(2, "web.example"))
NAMESPACE = parse_namespace("/discovery/{environment}/{service}")
SOURCE = NAMESPACE.template


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


def configured(path: Path, **flags: str) -> Config:
    given = {"zookeeper": "127.0.0.1:1", "snapshot": str(path), **flags}
    return load_config(flags=given, environment={}, file=None)


def on_disk(path: Path) -> Snapshot:
    return read_snapshot(path, expected_by(configured(path), time.time()))


def holds(path: Path, publisher: Publisher) -> bool:
    """Return True if the file has the same table as the publisher."""
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


def directory_content(path: Path) -> list[Path]:
    """Return the files in the directory of a path."""
    return list(path.parent.iterdir())


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextlib.asynccontextmanager
async def storing(path: Path, **flags: str) -> AsyncIterator[tuple[Publisher, SnapshotStore]]:
    publisher = Publisher([SOURCE])
    store = SnapshotStore(
        configured(path, **flags),
        publisher,
        lambda: list(publisher.sources.values()),
        snapshot_seconds=0.01,
    )
    publisher.add_listener(store)
    running = asyncio.create_task(store.run())
    try:
        yield publisher, store
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_every_change_of_the_table_is_written_and_restored(path: Path) -> None:
    async def scenario() -> None:
        async with storing(path) as (publisher, _):
            publisher.set_health(health_of(ready=True, stale=False, source=SOURCE))
            publisher.publish([WEB, HostResolved("web.example", ("192.0.2.1",)), put("empty")])
            await until(lambda: holds(path, publisher))
            publisher.publish([MembersHeld(WEB.origin, (member(1).name,), since=1700000000.0)])
            await until(lambda: publisher.table.services[WEB.name.key].first.held)
            await until(lambda: holds(path, publisher))
            publisher.publish([SetDropped(put("empty").origin)])
            await until(lambda: len(publisher.table.services) == 1)
            await until(lambda: holds(path, publisher))

            copy = restored(path)
            assert copy is not None
            table = Table(departed_seconds=0)
            table.serial = copy.serial
            for change in copy.changes:
                table.apply(change)
            assert contents(table) == contents(publisher.table)
            assert table.addresses_of("web.example") == ("192.0.2.1",)
            assert table.services[WEB.name.key].first.held == {member(1).name: 1700000000.0}

    asyncio.run(scenario())


def test_only_a_current_table_and_only_sets_from_zookeeper_are_written(path: Path) -> None:
    async def scenario() -> None:
        async with storing(path) as (publisher, store):
            publisher.publish([WEB, SetPut("static:api.staging", put("api").name, (member(1),))])
            await asyncio.sleep(0.05)
            store.save()
            assert content(path) is None  # the table is not ready
            publisher.set_health(health_of(ready=True, stale=False, source=SOURCE))
            await until(lambda: content(path))
            assert [change for change in on_disk(path).changes if isinstance(change, SetPut)] == [WEB]
            before = content(path)
            publisher.set_health(health_of(ready=True, stale=True, source=SOURCE))
            publisher.publish([SetDropped(WEB.origin)])
            await asyncio.sleep(0.05)
            store.save()
            assert content(path) == before

    asyncio.run(scenario())


def test_an_unchanged_table_is_written_again_before_its_maximum_age(path: Path) -> None:
    async def scenario() -> None:
        async with storing(path, snapshot_max_age="1") as (publisher, _):
            publisher.set_health(health_of(ready=True, stale=False, source=SOURCE))
            publisher.publish([WEB])
            await until(lambda: content(path))
            written = on_disk(path).header.written
            await until(lambda: on_disk(path).header.written > written)
            assert on_disk(path).header.written - written >= 0.2

    asyncio.run(scenario())


def test_changes_are_published_during_a_write_and_each_set_is_consistent(path: Path) -> None:
    sets = 2000

    async def scenario() -> None:
        async with storing(path) as (publisher, _):
            publisher.set_health(health_of(ready=True, stale=False, source=SOURCE))
            publisher.publish([put(f"s{n}", *map(member, range(10))) for n in range(sets)])
            await asyncio.sleep(0)
            parts = [len(part) for part in encode_parts(publisher.table)]
            assert max(parts) < 2 * sum(parts) / (sets / 100)  # no part takes long to encode
            rounds = 0
            while content(path) is None:  # members leave and join during the write
                empty = put(f"s{rounds % sets}")
                leaving, joining = (member(rounds // sets * 5 + n) for n in (0, 10))
                publisher.publish([SetChanged(empty.origin, (joining,), (leaving.name,))])
                rounds += 1
                await asyncio.sleep(0)
            assert rounds > 20
            for change in on_disk(path).changes:
                assert isinstance(change, SetPut)
                assert len(change.members) == 10
            await until(lambda: holds(path, publisher))

    asyncio.run(scenario())


def test_a_failed_write_is_logged_once_with_a_hint_and_retried(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "table"
    make_directory = path.parent.mkdir

    async def scenario() -> None:
        async with storing(path) as (publisher, _):
            publisher.set_health(health_of(ready=True, stale=False, source=SOURCE))
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
        f"{path}: cannot be written: no such file or directory; create the directory {path.parent}"
    )


def test_the_table_is_saved_at_exit_even_if_a_write_was_interrupted(path: Path) -> None:
    async def scenario() -> Publisher:
        async with storing(path) as (publisher, store):
            publisher.set_health(health_of(ready=True, stale=False, source=SOURCE))
            publisher.publish([put(f"s{n}", *map(member, range(10))) for n in range(1000)])
            await until(lambda: directory_content(path))  # a write has started
            publisher.publish([WEB])
            await asyncio.sleep(0)
        store.save()
        return publisher

    publisher = asyncio.run(scenario())
    assert holds(path, publisher)
    assert directory_content(path) == [path]


def write(path: Path, **fields: Any) -> None:
    """Write a snapshot with these fields of the header."""
    state = NamespaceState(str(NAMESPACE), time.time() - fields.pop("age", 0))
    header = {"written": time.time(), "serial": 7, "namespaces": (state,), **fields}
    write_snapshot(path, Header(**header), [[WEB]])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"age": 86_500}, "is 1d old; at most 1d is accepted"),
        (
            {"namespaces": (NamespaceState("/aurora/{job}", 1e9),)},
            "has the namespace /aurora/{job} instead of",
        ),
        ({"zookeeper": "zk1:2181/chroot"}, "whose chroot differs"),
    ],
)
def test_an_unusable_snapshot_is_ignored_with_a_warning(
    path: Path, fields: dict[str, Any], reason: str
) -> None:
    write(path, **fields)
    with capture_logs() as logs:
        assert restored(path) is None
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("snapshot_ignored", "warning")
    assert reason in entry["reason"]


def restored(path: Path) -> TableCopy | None:
    return SnapshotStore(configured(path), Publisher(), list).restore()


def test_a_missing_snapshot_is_not_logged(path: Path) -> None:
    with capture_logs() as logs:
        assert restored(path) is None
    assert logs == []


def test_a_restored_snapshot_is_logged_with_its_age(path: Path) -> None:
    write(path, age=3600, written=time.time() - 3600, zookeeper="zk1:2181")
    with capture_logs() as logs:
        copy = restored(path)
    assert copy is not None
    assert copy.changes == [WEB]
    since = copy.sources[SOURCE].stale_since
    assert since is not None
    assert 3600 <= time.time() - since <= 3610
    (entry,) = logs
    assert 3600 <= entry["age_seconds"] <= 3610
    assert (entry["path"], entry["zookeeper"]) == (str(path), "zk1:2181")


def test_without_zookeeper_only_accepted_namespaces_are_published(path: Path) -> None:
    resolved = HostResolved("web.example", ("192.0.2.1",))
    job = SetPut("/aurora/batch", ServiceName("batch"), ())
    states = (NamespaceState(str(NAMESPACE), time.time()), NamespaceState("/aurora/{job}", time.time() - 1e6))
    write_snapshot(path, Header(time.time(), 7, states), [[WEB, job, resolved]])
    namespaces = (NAMESPACE, parse_namespace("/aurora/{job}"))
    config = msgspec.structs.replace(configured(path), namespaces=namespaces)
    publisher = Publisher()
    asyncio.run(SnapshotSource(config, publisher).run())
    assert list(publisher.table.contents()) == [WEB, resolved]
