"""Fixtures with real ZooKeeper servers, and what holds for every test.

A test that uses one of these fixtures gets the marker `zookeeper` here. Each file sets the other markers of
pyproject.toml in its `pytestmark`.
"""

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from kazoo.client import KazooClient

from tests.support.files import new_short_directory
from tests.support.signals import reset_ignored_signals
from tests.support.zookeeper import Ensemble, ZooKeeperServer

# Commands that a test runs leave the machine's own control socket and resolver alone; servers of tests have
# their own.
os.environ["ZKDNS_CONTROL"] = os.environ["ZKDNS_UPSTREAM"] = "none"

# Before anything is started, and before pytest-xdist starts its workers.
reset_ignored_signals()

# An example takes as long as the machine lets it: by itself Hypothesis calls one of 0.2 s a failure, and also
# where drawing the first ten takes a second.
settings.register_profile("zkdns", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zkdns")

_NEED_ZOOKEEPER = {"zookeeper", "zk_root", "zk", "own_zookeeper", "ensemble"}


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _NEED_ZOOKEEPER.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.zookeeper)


@pytest.fixture(autouse=True)
def _logs_are_not_set_up() -> Iterator[None]:
    """A command that a test calls sets the logs of its process up, which is the tests' own here."""
    root = logging.getLogger()
    level = root.level
    yield
    structlog.reset_defaults()
    root.setLevel(level)
    for handler in list(root.handlers):
        if type(handler).__module__.startswith("zkdns."):
            root.removeHandler(handler)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for Unix sockets, whose paths are limited; that of `tmp_path` may be too long."""
    with new_short_directory() as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[ZooKeeperServer]:
    """The server that all tests share: leave it running, and work below `zk_root`."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def zk_root(zookeeper: ZooKeeperServer) -> Iterator[str]:
    """A path of the test's own, not created, and deleted with all below it afterwards."""
    root = f"/t-{uuid.uuid4().hex[:12]}"
    yield root
    client = KazooClient(hosts=zookeeper.address)
    client.start()
    try:
        if client.exists(root):
            client.delete(root, recursive=True)
    finally:
        client.stop()
        client.close()


@pytest.fixture
def zk(zookeeper: ZooKeeperServer) -> Iterator[Any]:
    """A plain connected KazooClient on the shared server."""
    client = KazooClient(hosts=zookeeper.address)
    try:
        client.start()
        yield client
    finally:
        client.stop()
        client.close()


@pytest.fixture
def own_zookeeper() -> Iterator[ZooKeeperServer]:
    """A started server of the test's own, to kill, pause and restart."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    """A started ensemble of three of the test's own."""
    with Ensemble() as members:
        yield members
