"""The network of ZooKeeper is cut for a minute, for the server and for all members."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.conftest import RECURSIVE
from tests.faults.interruptions import make_changes, scenario_with_members
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_SECONDS = 60.0


@pytest.mark.parametrize("proxy", [RECURSIVE], indirect=True)  # test_cuts.py has both strategies
def test_network_is_cut_for_a_minute(
    direct_client: Any, proxy: FaultProxy, member_network: FaultProxy
) -> None:
    """All sessions end. Members leave, join and change meanwhile; the server returns before the members."""
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        history = scenario.history
        leaving = scenario.start_members(proxy.upstream, {"web": 2})
        with scenario.fault(rereads=True) as fault, history.deletion(leaving.members, may_be_held=True):
            started_at, reads = time.monotonic(), scenario.reads
            proxy.go_down()
            member_network.go_down()
            scenario.wait_stale(fault)
            scenario.start_members(proxy.upstream, {"web": 2})
            leaving.leave()
            for _ in range(3):
                make_changes(scenario)
                time.sleep(5.0)  # so that the changes are spread over the cut
            time.sleep(max(0.0, started_at + _SECONDS - time.monotonic()))
            fault.repaired = time.monotonic()
            proxy.come_up()
            eventually(lambda: scenario.reads > reads, scenario.recovery)
            member_network.come_up()
            scenario.wait_registered()
        scenario.check_changes()
