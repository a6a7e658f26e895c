"""Killed processes of zkdns."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import ANSWER_SECONDS
from tests.faults.history import History
from tests.faults.interruptions import expire_members, scenario_with_members
from tests.faults.member_process import MEMBER_SESSION
from tests.faults.processes import kill, started
from tests.faults.recording_client import RecordingClient
from tests.faults.scenario import RECOVERY, SERVICES, fault_scenario
from tests.support.fault_proxy import FaultProxy
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]


def test_watcher_is_killed(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault(rereads=True):
            kill(scenario, "watcher")
            scenario.history.delete(direct_client, scenario.history.members("web")[0])
            scenario.history.register(direct_client, "web")
        scenario.check_changes()


def test_watcher_is_killed_while_zookeeper_is_unavailable(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault() as fault:
            proxy.go_down()
            scenario.wait_stale(fault)
            kill(scenario, "watcher")
            scenario.history.register(direct_client, "web")
            scenario.wait_for_answers(200)
            fault.repaired = time.monotonic()
            proxy.come_up()
        scenario.check_changes()


def test_watcher_is_killed_while_members_lose_their_sessions(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy, member_network: FaultProxy
) -> None:
    """There is no snapshot. The new watcher reads a tree without members, which register again only later."""
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        with scenario.fault(rereads=True):
            proxy.go_down()
            kill(scenario, "watcher")
            expire_members(scenario, zookeeper_server, member_network, MEMBER_SESSION + 0.6)
            reads = scenario.reads
            proxy.come_up()
            eventually(lambda: scenario.reads > reads, scenario.recovery)
            member_network.resume()
            scenario.wait_registered()
        scenario.wait_reachable()
        scenario.check_changes()


def test_watcher_is_killed_during_the_first_read(direct_client: Any, proxy: FaultProxy) -> None:
    """Nothing was read before, so all responses are SERVFAIL until the new watcher has read everything."""
    history = History(unread_until=math.inf, read_by=math.inf)
    for service in SERVICES:
        history.create_service(direct_client, service)
        history.register(direct_client, service)
    proxy.latency = 1.0  # so that the first read takes seconds
    with fault_scenario(proxy.address, direct_client, history=history, is_unavailable=True) as scenario:
        eventually(lambda: proxy.sessions)
        assert not scenario.reads
        kill(scenario, "watcher")
        scenario.wait_for_answers(200)
        assert not scenario.reads
        history.unread_until = time.monotonic()
        proxy.latency = 0.0
        scenario.server.wait_ready(RECOVERY)
        history.read_by = time.monotonic()
        scenario.check_changes()


def test_worker_is_killed(zookeeper_server: ZooKeeperServer, direct_client: Any) -> None:
    with fault_scenario(zookeeper_server.address, direct_client) as scenario:
        kill(scenario, "worker")
        scenario.history.register(direct_client, "web")
        scenario.wait_for_answers(200)
        scenario.check_changes()


def test_worker_is_killed_while_zookeeper_is_unavailable(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault() as fault:
            proxy.go_down()
            scenario.wait_stale(fault)
            kill(scenario, "worker")
            scenario.wait_for_answers(200)
            fault.repaired = time.monotonic()
            proxy.come_up()
        scenario.check_changes()


def test_one_of_two_workers_is_killed(zookeeper_server: ZooKeeperServer, direct_client: Any) -> None:
    unaffected: set[str] = set()

    def find_unaffected(server: ZkdnsServer, client: RecordingClient) -> None:
        """Find the client sockets that the kernel assigns to the second worker."""
        first, _ = started(server, "worker")
        os.kill(first, signal.SIGSTOP)
        eventually(lambda: _state(first) == "T")
        unaffected.update(client.probe_sockets())
        os.kill(first, signal.SIGCONT)
        client.drain()

    with fault_scenario(
        zookeeper_server.address, direct_client, workers=2, before=find_unaffected
    ) as scenario:
        first, second = started(scenario.server, "worker")
        killed = kill(scenario, "worker", first)
        assert scenario.server.pid_of("worker") not in {first, second}
        eventually(lambda: len(scenario.server.events("process_exited")) == 1)
        scenario.wait_for_answers(400)
        scenario.check_changes()
    answers = scenario.client.answers
    others = [answer for answer in answers if answer.via in unaffected]
    waited = [answer for answer in answers if answer.via not in unaffected and answer.via != "tcp"]
    assert others
    assert waited
    assert all(answer.received and answer.received - answer.sent < ANSWER_SECONDS for answer in others)
    first_after = min(answer.received for answer in waited if answer.sent > killed and answer.received)
    assert any(killed < (answer.received or 0) < first_after for answer in others), (
        "the queries to the other worker waited too"
    )


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
