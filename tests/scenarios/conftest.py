"""A path of the shared ZooKeeper server as an empty ZooKeeper."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.zookeeper import ZooKeeperServer


@pytest.fixture
def hosts(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> str:
    """The addresses of a ZooKeeper that a test does not stop: of the shared one, with a path for the test.

    A server of its own would take two seconds of processor time to start.
    """
    zk.create(zk_root)
    return f"{zookeeper.address}{zk_root}"
