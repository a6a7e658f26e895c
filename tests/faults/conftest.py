"""Ways to a ZooKeeper, by which a server follows it: by a recursive watch, and as an old one makes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.history import ROOT
from tests.faults.scene import patient_client
from tests.support.fault_proxy import ADD_WATCH, FaultProxy
from tests.support.zookeeper import ZooKeeperServer

RECURSIVE, ONE_SHOT = "recursive", "one-shot"


@pytest.fixture(scope="module")
def faulty() -> Iterator[ZooKeeperServer]:
    """This module's server, which its tests pause and kill; each leaves it serving."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def reach(faulty: ZooKeeperServer) -> Iterator[Any]:
    """A client that no proxy's fault hits; nothing is registered yet."""
    with patient_client(faulty.address) as client:
        if client.exists("/discovery"):
            client.delete("/discovery", recursive=True)
        client.ensure_path(ROOT)
        yield client


@pytest.fixture(params=[RECURSIVE, ONE_SHOT])
def proxy(request: pytest.FixtureRequest, faulty: ZooKeeperServer) -> Iterator[FaultProxy]:
    """The server's way to ZooKeeper; once it refuses recursive watches, as ZooKeeper before 3.6 does."""
    with FaultProxy(faulty.port) as started:
        if request.param == ONE_SHOT:
            started.refused = frozenset({ADD_WATCH})
        yield started
