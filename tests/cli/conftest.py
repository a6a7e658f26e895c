"""What the tests of all commands over server sets share."""

import pytest

from tests.support.zookeeper import ZooKeeperServer


@pytest.fixture
def environment(zookeeper: ZooKeeperServer, zk_root: str) -> dict[str, str]:
    """The variables that lead a command to the test's own root."""
    return {"ZKDNS_ZOOKEEPER": zookeeper.address, "ZKDNS_NAMESPACE": f"{zk_root}/{{environment}}/{{service}}"}
