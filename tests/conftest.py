"""Fixtures with real ZooKeeper servers, and settings for all tests.

A test that uses one of these fixtures gets the marker `zookeeper`. A file sets the marker `processes` in its
`pytestmark`.
"""

import gc
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

# Commands in tests must not use the server and the resolver of this machine. Servers in tests have sockets
# of their own.
os.environ["ZKDNS_ADMIN_SOCKET"] = os.environ["ZKDNS_UPSTREAM"] = "none"

# Before any process is started, including the workers of pytest-xdist.
reset_ignored_signals()

# By default Hypothesis fails if an example takes 0.2 s, or if generating the first ten takes a second. That
# is too short on a busy machine.
settings.register_profile("zkdns", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zkdns")

_TESTS = Path(__file__).parent

_SLOWEST_FILES = (
    "test_image.py",
    "bench/test_fleet.py",
    "bench/test_abuse.py",
    "faults/test_long_cut.py",
    "faults/test_cuts.py",
    "faults/test_one_server.py",
    "faults/test_slow_networks.py",
    "faults/test_pauses.py",
    "faults/test_processes.py",
    "faults/test_suspended.py",
    "daemon/supervisor/test_processes.py",
    "scenarios/test_reload.py",
    "serverset/test_sync.py",
    "faults/test_table.py",
    "admin/page/test_page.py",
    "bench/test_processes_and_load.py",
    "faults/test_held_members.py",
    "clients/test_clients.py",
    "systemd/test_booted.py",
    "scenarios/test_zookeeper.py",
    "test_readme.py",
    "serverset/test_faults.py",
    "scenarios/test_secondary.py",
    "scenarios/test_secondaries.py",
    "faults/test_changes_from_outside.py",
    "faults/test_ensemble.py",
    "scenarios/test_cli_examples.py",
    "scenarios/test_reload_zookeeper.py",
    "faults/test_protocol.py",
    "daemon/supervisor/test_activation.py",
    "serverset/test_ensemble.py",
    "faults/test_data_loss.py",
    "daemon/worker/test_forwarding.py",
    "faults/test_snapshots.py",
    "cli/test_accept.py",
    "cli/test_output_failures.py",
    "faults/test_denied_root.py",
    "scenarios/test_reload_refused.py",
    "cli/test_explain.py",
    "packaging/test_wheel.py",
    "cli/test_top.py",
    "scenarios/test_admin.py",
    "scenarios/test_setup_and_doctor.py",
    "scenarios/test_transfer_abuse.py",
    "cli/test_register_errors.py",
    "scenarios/test_access_control.py",
    "test_support.py",
    "cli/test_doctor.py",
    "cli/test_watch.py",
)
"""The files that take longest, which start first: otherwise the last one would run alone at the end."""

_NEED_ZOOKEEPER = {"zookeeper", "zk_root", "zk", "own_zookeeper", "ensemble"}


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _NEED_ZOOKEEPER.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.zookeeper)
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist; the order without it is that of the paths
        place = _start_order(items)
        items.sort(key=lambda item: place[item.path])


def _start_order(items: list[pytest.Item]) -> dict[Path, tuple[int, int]]:
    """The places of the files: slow ones in turn with those that use only the processor, then the others.

    Slow files mostly wait. If they all started first, the processor would be idle, and busy later.
    """
    waits = dict.fromkeys((item.path for item in items), False)
    for item in items:
        if any(item.get_closest_marker(name) for name in ("processes", "zookeeper")):
            waits[item.path] = True
    slow = [path for name in _SLOWEST_FILES if (path := _TESTS / name) in waits]
    others = sorted(waits.keys() - slow, key=lambda path: (waits[path], path))
    places = {path: (number, 0) for number, path in enumerate(slow)}
    return places | {path: (number, 1) for number, path in enumerate(others)}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect the tests without garbage collections, and exclude them from those of the tests.

    They are half a million objects: a full collection would take half a second, and some tests need many.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _reset_logging() -> Iterator[None]:
    """Undo the logging setup of commands that a test calls in this process."""
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
    """A directory with a short path for Unix sockets; `tmp_path` may be too long."""
    with new_short_directory() as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[ZooKeeperServer]:
    """The shared server. Do not stop it, and use only paths below `zk_root`."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def zk_root(zookeeper: ZooKeeperServer) -> Iterator[str]:
    """A unique path for the test. It is not created; it is deleted recursively after the test."""
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
    """A connected KazooClient for the shared server."""
    client = KazooClient(hosts=zookeeper.address)
    try:
        client.start()
        yield client
    finally:
        client.stop()
        client.close()


@pytest.fixture
def own_zookeeper() -> Iterator[ZooKeeperServer]:
    """A separate server for the test, which it may kill, pause and restart."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    """A separate ensemble of three servers for the test."""
    with Ensemble() as members:
        yield members
