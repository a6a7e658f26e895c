"""Faults of a single ZooKeeper server: crash, pause, expired sessions, and lost connections."""

from __future__ import annotations

import math
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.history import History
from tests.faults.scenario import RECOVERY, SERVICES, SESSION, fault_scenario
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer, expire_session

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]


def _has_reconnected(proxy: FaultProxy, known: int) -> bool:
    return len(proxy.sessions) > known


def _has_new_session(proxy: FaultProxy, session: tuple[int, bytes]) -> bool:
    return proxy.sessions[-1] != session


def test_server_is_killed_and_restarted(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy
) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault() as fault:
            zookeeper_server.kill()
            scenario.wait_stale(fault)
            scenario.wait_for_answers()
            fault.repaired = time.monotonic()
            zookeeper_server.start()
        scenario.wait_reachable()
        scenario.check_changes()


def test_zookeeper_is_started_after_zkdns(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy
) -> None:
    history = History(unread_until=math.inf, read_by=math.inf)
    for service in SERVICES:
        history.create_service(direct_client, service)
        history.register(direct_client, service)
    zookeeper_server.kill()
    with fault_scenario(proxy.address, direct_client, history=history, is_unavailable=True) as scenario:
        scenario.wait_for_answers(200)
        history.unread_until = time.monotonic()
        zookeeper_server.start()
        scenario.server.wait_ready(RECOVERY)
        history.read_by = time.monotonic()
        scenario.wait_reachable()
        scenario.check_changes()


def test_reconnects_quickly_after_a_long_outage(
    zookeeper_server: ZooKeeperServer, direct_client: Any
) -> None:
    with fault_scenario(zookeeper_server.address, direct_client) as scenario:
        with scenario.fault() as fault:
            zookeeper_server.kill()
            scenario.wait_stale(fault)
            time.sleep(6.0)  # longer than the largest reconnect delay
            fault.repaired = time.monotonic()
            zookeeper_server.start()
        scenario.wait_reachable()
        scenario.check_changes()


@pytest.mark.parametrize("sessions", [0.5, 1.5])
def test_server_is_paused(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy, sessions: float
) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault() as fault:
            zookeeper_server.pause()
            started_at = time.monotonic()
            if sessions > 1:
                scenario.wait_stale(fault)
            time.sleep(
                max(0.0, started_at + sessions * SESSION - time.monotonic())
            )  # the parameter of the test
            fault.repaired = time.monotonic()
            zookeeper_server.resume()
        scenario.wait_reachable()
        scenario.check_changes()


def test_session_expires(direct_client: Any, proxy: FaultProxy) -> None:
    host, _, port = proxy.upstream.partition(":")
    with fault_scenario(proxy.address, direct_client) as scenario:
        for _ in range(2):
            with scenario.fault(rereads=True):
                before = proxy.sessions[-1]
                expire_session(SimpleNamespace(client_id=before, hosts=[(host, port)]))
                scenario.history.register(direct_client, "web")
                eventually(partial(_has_new_session, proxy, before))
        scenario.check_changes()


def test_connections_are_reset_repeatedly(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        members = [scenario.history.register(direct_client, "db") for _ in range(3)]
        with scenario.fault():
            for number in range(12):
                known = len(proxy.sessions)
                proxy.reset()
                if number % 3:  # otherwise the next reset comes during the handshake
                    eventually(partial(_has_reconnected, proxy, known))
                if number % 4 == 0:
                    scenario.history.delete(direct_client, members.pop())
                    scenario.history.register(direct_client, "db")
        scenario.check_changes()


def test_connection_stalls_longer_than_the_session_timeout(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        with scenario.fault() as fault:
            proxy.stall()
            added = scenario.history.register(direct_client, "web")
            scenario.history.delete(direct_client, added)
            scenario.wait_stale(fault)
            time.sleep(SESSION + 1.0)  # until the session has expired
            scenario.history.register(direct_client, "web")
            fault.repaired = time.monotonic()
            proxy.resume()
        scenario.check_changes()


def test_services_and_members_change_during_an_outage(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client, services=("api", "db", "web", "new")) as scenario:
        history = scenario.history
        with scenario.fault() as fault:
            proxy.go_down()
            scenario.wait_stale(fault)
            with history.deletion(history.lifetimes("new")):
                direct_client.delete("/discovery/staging/new", recursive=True)
            history.create_service(direct_client, "new")
            for _ in range(3):  # as many as before, so that none of those is held
                history.register(direct_client, "new")
            for member in history.members("web")[:1]:
                history.delete(direct_client, member)
            history.register(direct_client, "web")
            fault.repaired = time.monotonic()
            proxy.come_up()
        scenario.check_changes()
