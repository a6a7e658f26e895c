"""A network without replies, with half-open connections, or with slow replies."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.interruptions import WATCHER_SESSION, make_changes, scenario_with_members
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]


def test_network_is_a_black_hole(direct_client: Any, proxy: FaultProxy, member_network: FaultProxy) -> None:
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        with scenario.fault(rereads=True) as fault:
            started_at = time.monotonic()
            proxy.stall()
            member_network.stall()
            make_changes(scenario)
            scenario.wait_stale(fault)
            make_changes(scenario)
            # Until the session of the server has ended too.
            time.sleep(max(0.0, started_at + WATCHER_SESSION + 1.0 - time.monotonic()))
            fault.repaired = time.monotonic()
            reads = scenario.reads
            proxy.resume()
            eventually(lambda: scenario.reads > reads, scenario.recovery)
            member_network.resume()
            scenario.wait_registered()
        scenario.check_changes()


def test_connection_is_half_open(direct_client: Any, proxy: FaultProxy, member_network: FaultProxy) -> None:
    """The server must detect within its session timeout that its connection is dead, and open another one."""
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        with scenario.fault(rereads=True):
            sessions = len(proxy.sessions)
            proxy.mute()
            member_network.mute()
            make_changes(scenario)
            eventually(lambda: len(proxy.sessions) > sessions, WATCHER_SESSION)
            scenario.wait_registered()
        scenario.check_changes()


def test_replies_are_slow(direct_client: Any, proxy: FaultProxy, member_network: FaultProxy) -> None:
    """No session ends, and no connection either."""
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        with scenario.fault():
            proxy.latency = member_network.latency = 2.0
            for _ in range(3):
                make_changes(scenario)
                time.sleep(3.0)  # longer than the latency
            proxy.latency = member_network.latency = 0.0
        assert not scenario.server.events("zookeeper_disconnected")
        assert not scenario.server.events("members_held")
        scenario.check_changes()
