"""The table that a watcher starts with: from its predecessor, from a worker, or from the snapshot."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import member, put, running_publisher, running_worker, until
from zkdns.config import Config, load_config
from zkdns.daemon.ipc.child import Task
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.table_copies import CopyServer
from zkdns.daemon.watcher.restore import Restored, restore
from zkdns.daemon.watcher.snapshot_store import SnapshotStore
from zkdns.namespace import STATIC_SOURCE, ServiceName
from zkdns.serverset.changes import DirectoryUnread, HostResolved, MembersHeld, SetPut
from zkdns.serverset.ensemble import Ensemble
from zkdns.snapshot import Header, NamespaceState, write_snapshot

WEB = put("web", member(1), member(2, "web.example"))
HELD = MembersHeld(WEB.origin, (member(1).name,), 1_700_000_000.0)
STATIC = SetPut("static:api.staging", ServiceName("api", "staging"), (member(3),))
RESOLVED = HostResolved("web.example", ("192.0.2.1",))
UNREAD = DirectoryUnread("/discovery/prod")
ENSEMBLE = Ensemble(5, 6, 7)


@pytest.fixture
def config(short_path: Path) -> Config:
    flags = {"zookeeper": "127.0.0.1:1", "snapshot": str(short_path / "snapshot")}
    return load_config(flags=flags, environment={}, file=None)


def filled(config: Config, serial: int = 7) -> Publisher:
    """A publisher with a table from ZooKeeper and a static file."""
    source = config.namespace.template
    publisher = Publisher([source, STATIC_SOURCE])
    publisher.publish([WEB, HELD, STATIC, RESOLVED, UNREAD])
    publisher.set_health(SourceHealth(True, 1_600_000_000.0, source, ENSEMBLE))
    publisher.set_health(SourceHealth(True, source=STATIC_SOURCE))
    publisher.table.serial = serial
    return publisher


def check(config: Config, restored: Restored, *, is_stale: bool = True) -> None:
    """Check that it has exactly the sets of the namespace."""
    source = config.namespace.template
    assert restored.changes == {source: [UNREAD, WEB, HELD]}
    assert restored.hosts == (RESOLVED,)
    health = restored.sources[source]
    assert (health.ready, health.ensemble) == (True, ENSEMBLE)
    assert (health.stale_since is not None) == is_stale


def write_file(config: Config, *changes: SetPut) -> None:
    state = NamespaceState(str(config.namespace), 1e12, ENSEMBLE)
    assert config.snapshot.path is not None
    write_snapshot(Path(config.snapshot.path), Header(1e12, 9, (state,)), [changes])


def store_of(config: Config) -> SnapshotStore:
    return SnapshotStore(config, Publisher(), list)


def test_a_reload_takes_the_table_of_the_previous_watcher(config: Config, short_path: Path) -> None:
    async def scenario() -> None:
        path = str(short_path / "feed1")
        async with running_publisher(path, filled(config)):
            task = Task("watcher", config, str(short_path / "feed2"), is_leader=False, predecessor_feed=path)
            successor = Publisher()
            check(config, await restore(task, store_of(config), successor))
            assert successor.table.serial == 7

    asyncio.run(scenario())


def test_a_new_watcher_takes_the_table_of_a_worker_rather_than_the_snapshot(
    config: Config, short_path: Path
) -> None:
    async def scenario() -> None:
        feed = str(short_path / "feed1")
        (short_path / "1.copy").touch()  # left by a process that was killed
        async with running_worker(feed, namespaces=config.namespaces) as worker:
            copies = CopyServer(worker.subscriber, str(short_path / "2.copy"))
            await copies.start()
            async with running_publisher(feed, filled(config)):
                await until(lambda: worker.health.ready)
            write_file(config)
            successor = Publisher()
            check(config, await restore(Task("watcher", config, feed), store_of(config), successor))
            assert successor.table.serial == 7
            copies.close()

    asyncio.run(scenario())


def test_a_worker_without_a_table_is_passed_over(config: Config, short_path: Path) -> None:
    async def scenario() -> None:
        feed = str(short_path / "feed1")
        async with running_worker(feed, namespaces=config.namespaces) as worker:
            copies = CopyServer(worker.subscriber, str(short_path / "1.copy"))
            await copies.start()
            write_file(config, WEB)
            restored = await restore(Task("watcher", config, feed), store_of(config), Publisher())
            assert restored.changes == {config.namespace.template: [WEB]}
            copies.close()

    asyncio.run(scenario())


def test_only_followed_sets_are_restored(config: Config, short_path: Path) -> None:
    async def scenario() -> None:
        write_file(config, WEB, put("api", member(1)))
        flags = {"zookeeper": "127.0.0.1:1", "snapshot": config.snapshot.path, "only": ("web.staging",)}
        narrowed = load_config(flags=flags, environment={}, file=None)
        task = Task("watcher", narrowed, str(short_path / "feed1"))
        restored = await restore(task, store_of(narrowed), Publisher())
        assert restored.changes == {config.namespace.template: [WEB]}

    asyncio.run(scenario())


def test_without_any_table_nothing_is_restored(config: Config, short_path: Path) -> None:
    async def scenario() -> None:
        feed = str(short_path / "feed1")
        assert not (await restore(Task("watcher", config, feed), store_of(config), Publisher())).sources
        gone = Task("watcher", config, feed, is_leader=False, predecessor_feed=str(short_path / "gone"))
        assert not (await restore(gone, None, Publisher())).sources

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [entry["event"] for entry in logs] == ["table_takeover_failed"]
