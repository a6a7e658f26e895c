"""A ZooKeeper server, a client for it, and a proxy with either watch strategy (recursive or one-shot)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.history import ROOT
from tests.faults.scenario import reconnecting_client
from tests.support.fault_proxy import ADD_WATCH, FaultProxy
from tests.support.zookeeper import ZooKeeperServer

RECURSIVE, ONE_SHOT = "recursive", "one-shot"


@pytest.fixture(scope="module")
def zookeeper_server() -> Iterator[ZooKeeperServer]:
    """The server of this module. Tests pause and kill it; each test leaves it running."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def direct_client(zookeeper_server: ZooKeeperServer) -> Iterator[Any]:
    """A client that does not use the proxy. The tree is empty."""
    with reconnecting_client(zookeeper_server.address) as client:
        if client.exists("/discovery"):
            client.delete("/discovery", recursive=True)
        client.ensure_path(ROOT)
        yield client


@pytest.fixture(params=[RECURSIVE, ONE_SHOT])
def proxy(request: pytest.FixtureRequest, zookeeper_server: ZooKeeperServer) -> Iterator[FaultProxy]:
    """The connection of zkdns to ZooKeeper. With ONE_SHOT it refuses recursive watches, as before 3.6."""
    with FaultProxy(zookeeper_server.port) as started:
        if request.param == ONE_SHOT:
            started.refused = frozenset({ADD_WATCH})
        yield started


@pytest.fixture
def member_network(zookeeper_server: ZooKeeperServer) -> Iterator[FaultProxy]:
    """The connection of members to ZooKeeper."""
    with FaultProxy(zookeeper_server.port) as started:
        yield started
