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
from zkdns.daemon.watcher.zookeeper_source import ZooKeeperSource
from zkdns.namespace import parse_namespace
from zkdns.serverset.changes import Change, SetDropped
from zkdns.serverset.sync import SyncState

pytestmark = pytest.mark.zookeeper


def source_of(hosts: str, zk_root: str, changes: list[Change]) -> ZooKeeperSource:
    namespace = parse_namespace(f"{zk_root}/{{environment}}/{{service}}")
    config = Config(listen=(), namespaces=(namespace,), zookeeper=ZooKeeperSettings(hosts=hosts))
    return ZooKeeperSource(config, namespace, changes.extend, lambda *_: None, check_seconds=0.02)


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
        source = source_of(proxy.address, zk_root, [])
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
    changes: list[Change] = []

    async def scenario() -> None:
        source = source_of(zookeeper.address, zk_root, changes)
        with Locked(zookeeper.address, f"{zk_root}/staging"):
            source.restore([existing, absent])
            source.start()
            await until(lambda: source.sync.state is SyncState.LIVE)
            assert changes == []
        await until(lambda: SetDropped(absent) in changes)
        assert SetDropped(existing) not in changes
        await source.stop()

    asyncio.run(scenario())
