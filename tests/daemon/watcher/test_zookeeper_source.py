"""The source of one namespace: clients that end, and sets that only the snapshot has."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.daemon.ipc.feed_helpers import until
from tests.serverset.sync_helpers import Locked, join
from tests.support.fault_proxy import FaultProxy
from tests.support.zookeeper import ZooKeeperServer
from zkdns.config import Config, ZooKeeperSettings
from zkdns.daemon.ipc.feed import Publisher
from zkdns.daemon.watcher.guarded_publisher import GuardedPublisher
from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
from zkdns.namespace import Namespace, ServiceName, parse_namespace
from zkdns.serverset.changes import SetPut
from zkdns.serverset.sync import SyncState

LATE = "zookeeper replied late"

pytestmark = pytest.mark.zookeeper


class RecordingPublisher(GuardedPublisher):
    """Records disturbances and their ends, instead of passing them to the guard."""

    def __init__(self, config: Config, namespace: Namespace, publisher: Publisher) -> None:
        super().__init__(config, namespace, publisher)
        self.entries: list[str] = []

    def disturb(self, reason: str) -> None:
        self.entries.append(reason)

    def settle(self) -> None:
        self.entries.append("settled")


def source_of(hosts: str, zk_root: str, publisher: Publisher) -> tuple[ZooKeeperSource, RecordingPublisher]:
    namespace = parse_namespace(f"{zk_root}/{{environment}}/{{service}}")
    config = Config(listen=(), namespaces=(namespace,), zookeeper=ZooKeeperSettings(hosts=hosts))
    guarded = RecordingPublisher(config, namespace, publisher)
    return ZooKeeperSource(config, guarded, check_seconds=0.02), guarded


def replaced(logs: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of replaced clients."""
    return sum(entry["event"] == "zookeeper_client_replaced" for entry in logs)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # the clients end by an exception
def test_clients_that_end_are_replaced_and_leave_no_threads(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    join(zk, f"{zk_root}/staging/web")

    async def scenario(proxy: FaultProxy, logs: Sequence[Mapping[str, Any]]) -> None:
        source, _ = source_of(proxy.address, zk_root, Publisher())
        source.start()
        await until(lambda: source.sync.state is SyncState.LIVE)
        threads = threading.active_count()
        for count in range(1, 6):
            proxy.send_reply(-4, -115)  # no request has this xid
            await until(lambda: replaced(logs) == count)  # noqa: B023 - used at once
            await until(lambda: source.sync.state is SyncState.LIVE)
        await until(lambda: threading.active_count() <= threads)
        await source.stop()

    with FaultProxy(zookeeper.port) as proxy, capture_logs() as logs:
        asyncio.run(scenario(proxy, logs))


def test_a_restored_set_is_dropped_when_its_environment_can_be_listed_without_it(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    existing, absent = f"{zk_root}/staging/web", f"{zk_root}/staging/old"
    join(zk, existing)
    publisher = Publisher()
    publisher.table.apply(SetPut(existing, ServiceName("web", "staging"), ()))
    publisher.table.apply(SetPut(absent, ServiceName("old", "staging"), ()))

    async def scenario() -> None:
        source, _ = source_of(zookeeper.address, zk_root, publisher)
        with Locked(zookeeper.address, f"{zk_root}/staging"):
            source.restore(publisher.table)
            source.start()
            await until(lambda: source.sync.state is SyncState.LIVE)
            assert publisher.table.origins == {existing, absent}
        await until(lambda: publisher.table.origins == {existing})
        await source.stop()

    asyncio.run(scenario())


def test_a_late_reply_is_a_disturbance_until_it_arrives(own_zookeeper: ZooKeeperServer) -> None:
    async def scenario() -> None:
        source, recorder = source_of(own_zookeeper.address, "/discovery", Publisher())
        source.start()
        await until(lambda: source.sync.state is SyncState.LIVE)
        assert recorder.entries == []
        own_zookeeper.pause()
        try:
            await until(lambda: recorder.entries)
            assert recorder.entries == [LATE]
        finally:
            own_zookeeper.resume()
        await until(lambda: len(recorder.entries) > 1)
        assert recorder.entries == [LATE, "settled"]
        assert source.stats.delays == 1
        await source.stop()

    asyncio.run(scenario())


def test_a_refused_connection_is_a_disturbance_that_the_next_read_ends(
    own_zookeeper: ZooKeeperServer,
) -> None:
    async def scenario() -> None:
        source, recorder = source_of(own_zookeeper.address, "/discovery", Publisher())
        own_zookeeper.kill()
        source.start()
        await until(lambda: recorder.entries)
        own_zookeeper.launch()
        await until(lambda: source.sync.state is SyncState.LIVE)
        assert set(recorder.entries) == {"a server was unreachable"}
        await source.stop()

    asyncio.run(scenario())
