"""Fixtures for the tests of commands."""

from collections.abc import Iterator

import pytest

from tests.support.server import ZkdnsServer
from tests.support.zookeeper import ZooKeeperServer


@pytest.fixture(scope="module")
def demo() -> Iterator[ZkdnsServer]:
    """A server of the built-in example."""
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        server.wait_api()
        yield server


@pytest.fixture
def environment(zookeeper: ZooKeeperServer, zk_root: str) -> dict[str, str]:
    """The variables with which a command uses ZooKeeper with the root of this test."""
    return {"ZKDNS_ZOOKEEPER": zookeeper.address, "ZKDNS_NAMESPACE": f"{zk_root}/{{environment}}/{{service}}"}
