"""Fixtures with real ZooKeeper servers, and the markers that tests get by themselves.

`zookeeper` by using one of these fixtures, `processes` by standing where whole servers and commands are run,
`punctual` or `alone` by standing where it is claimed how long something takes at most.
"""

import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from kazoo.client import KazooClient

from tests.support.zookeeper import Ensemble, ZooKeeperServer

# Commands that a test runs leave the machine's own control socket and resolver alone; servers of tests have
# their own.
os.environ["ZKDNS_CONTROL"] = os.environ["ZKDNS_UPSTREAM"] = "none"

# An example takes as long as the machine lets it: by itself Hypothesis calls one of 0.2 s a failure, and also
# where drawing the first ten takes a second.
settings.register_profile("zkdns", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zkdns")

_HERE = Path(__file__).parent
_RUN_PROCESSES = (
    "admin/page/test_live.py",
    "admin/page/test_page.py",
    "cli",
    "clients",
    "daemon/test_activation.py",
    "daemon/test_forwarding.py",
    "daemon/test_processes.py",
    "daemon/test_unreachable.py",
    "daemon/test_workers.py",
    "differential",
    "faults",
    "robustness/test_mutations.py",
    "robustness/test_streams.py",
    "scenarios",
    "systemd",
    "test_image.py",
    "test_readme.py",
)
_ALONE = ("clients", "faults")
_PUNCTUAL = (
    "cli/test_completion.py",
    "cli/test_wait.py",
    "daemon/test_activation.py",
    "daemon/test_forwarding.py",
    "daemon/test_processes.py",
    "forward/test_exchanges.py",
    "forward/test_faults_answers.py",
    "forward/test_faults_connections.py",
    "forward/test_faults_machine.py",
    "forward/test_forwarder_waiting.py",
    "forward/test_turns.py",
    "scenarios",
    "serverset/test_faults.py",
    "systemd",
)
# Of these: what waits nearly all of its time, so that others may run beside it.
_PATIENT = ("scenarios/test_reload_zookeeper.py",)
_NEED_ZOOKEEPER = {"zookeeper", "zk_root", "zk", "own_zookeeper", "ensemble"}


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _NEED_ZOOKEEPER.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.zookeeper)
        if _stands_in(item, _RUN_PROCESSES):
            item.add_marker(pytest.mark.processes)
        if _stands_in(item, _ALONE):
            item.add_marker(pytest.mark.alone)
        elif _stands_in(item, _PUNCTUAL) and not _stands_in(item, _PATIENT):
            item.add_marker(pytest.mark.punctual)


def _stands_in(item: pytest.Item, places: Iterable[str]) -> bool:
    return any(item.path.is_relative_to(_HERE / place) for place in places)


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
