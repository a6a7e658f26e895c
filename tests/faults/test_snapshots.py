"""A restart with a snapshot that is older than what ZooKeeper has, or of another ensemble."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import Fault, History
from tests.faults.recording_client import RecordingClient
from tests.faults.scenario import SERVICES, SESSION, FaultScenario, fault_scenario, reconnecting_client
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_READ = 0.5
"""Seconds after the read within which workers have the new table, on a busy machine."""


def _history(zk: Any) -> History:
    history = History()
    for service in (*SERVICES, "job"):
        history.create_service(zk, service)
        for _ in range(3):
            history.register(zk, service)
    return history


def _write_snapshot(hosts: str, file: Path, history: History) -> None:
    """Run a server until it has a snapshot with everything in the history."""
    arguments = ("--zookeeper", hosts, "--zookeeper-session-timeout", str(SESSION), "--snapshot", str(file))
    with ZkdnsServer(*arguments) as server:
        server.wait_ready()
        for service in history.services:
            assert server.lookup(f"{service}.staging.discovery") == history.present(service)
        assert server.terminate() == 0
    assert file.exists()


@contextlib.contextmanager
def _restarted(hosts: str, zk: Any, history: History, file: Path, fault: Fault) -> Iterator[FaultScenario]:
    """A scenario of a server that starts with the snapshot. Its responses are current once it has read."""

    def wait_read(server: ZkdnsServer, _: RecordingClient) -> None:
        assert server.events("snapshot_restored")
        eventually(lambda: server.events("zookeeper_read"))
        fault.repaired = fault.end = time.monotonic() + _READ

    services = (*SERVICES, "job")
    with fault_scenario(
        hosts,
        zk,
        history=history,
        services=services,
        arguments=("--snapshot", str(file)),
        before=wait_read,
    ) as scenario:
        yield scenario
        assert not scenario.server.events("members_held")


def test_members_leave_while_the_server_is_down(
    zookeeper_server: ZooKeeperServer, direct_client: Any, tmp_path: Path
) -> None:
    """Longer than a session timeout. A member, all members of a service, and a whole service leave."""
    history, file = _history(direct_client), tmp_path / "table"
    _write_snapshot(zookeeper_server.address, file, history)
    fault = Fault(time.monotonic(), confirmed=time.monotonic())
    history.faults.append(fault)
    history.delete(direct_client, history.members("web")[0])
    history.register(direct_client, "web")
    history.change_in_place(direct_client, history.members("db")[0])
    for member in history.members("api"):
        history.delete(direct_client, member)
    with history.deletion(history.lifetimes("job")):
        direct_client.delete(f"{history.root}/job", recursive=True)
    time.sleep(SESSION + 1.0)  # until the snapshot is older than a session timeout
    with _restarted(zookeeper_server.address, direct_client, history, file, fault) as scenario:
        scenario.wait_for_answers(600)
        assert scenario.server.rcode("job.staging.discovery") == "NXDOMAIN"
        assert scenario.addresses("api") == []


@pytest.mark.parametrize("pause", [0.0, SESSION + 1.0], ids=["at once", "after a session timeout"])
def test_zookeeper_is_another_ensemble(
    zookeeper_server: ZooKeeperServer, direct_client: Any, tmp_path: Path, pause: float
) -> None:
    """The server restarts with the snapshot of one ensemble, and with the address of another one."""
    history, file = _history(direct_client), tmp_path / "table"
    _write_snapshot(zookeeper_server.address, file, history)
    fault = Fault(time.monotonic(), confirmed=time.monotonic())
    history.faults.append(fault)
    with history.deletion([each for service in history.services for each in history.lifetimes(service)]):
        pass  # from now on the server must not answer them, although they stay in the first ensemble
    with ZooKeeperServer() as other, reconnecting_client(other.address) as other_client:
        time.sleep(pause)  # the parameter of the test
        for service in SERVICES[1:]:
            history.create_service(other_client, service)
        for _ in range(3):
            history.register(other_client, "web")
        with _restarted(other.address, other_client, history, file, fault) as scenario:
            scenario.wait_for_answers(600)
            assert scenario.addresses("db") == []
            assert {scenario.server.rcode(f"{name}.staging.discovery") for name in ("api", "job")} == {
                "NXDOMAIN"
            }
