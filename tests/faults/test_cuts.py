"""The network of ZooKeeper is cut for some time, for the server and for all members."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.interruptions import make_changes, scenario_with_members
from tests.faults.member_process import MEMBER_SESSION
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]


@pytest.mark.parametrize(
    ("seconds", "first"), [(0.5, "server first"), (5.0, "members first"), (15.0, "server first")]
)
def test_network_is_cut(
    direct_client: Any, proxy: FaultProxy, member_network: FaultProxy, seconds: float, first: str
) -> None:
    """Members lose their sessions, the server too after 10 s. Either reconnects first."""
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        with scenario.fault(rereads=True) as fault:
            started_at = time.monotonic()
            proxy.go_down()
            member_network.go_down()
            make_changes(scenario)
            scenario.wait_stale(fault)
            make_changes(scenario)
            time.sleep(max(0.0, started_at + seconds - time.monotonic()))  # the parameter of the test
            fault.repaired = time.monotonic()
            if first == "server first":
                reads = scenario.reads
                proxy.come_up()
                eventually(lambda: scenario.reads > reads, scenario.recovery)
                member_network.come_up()
                scenario.wait_registered()
            else:
                member_network.come_up()
                scenario.wait_registered()
                proxy.come_up()
        scenario.check_changes()


def test_half_of_the_members_return_before_the_server(
    direct_client: Any, proxy: FaultProxy, member_network: FaultProxy
) -> None:
    """All four members have lost their sessions; the server reads ZooKeeper when two are back."""
    with scenario_with_members(
        proxy.address, direct_client, proxy.upstream, {"api": 1}, more_services=("web",)
    ) as scenario:
        early = scenario.start_members(member_network.address, {"web": 2})
        late_network = scenario.enter(FaultProxy(int(proxy.upstream.rpartition(":")[2])))
        scenario.start_members(late_network.address, {"web": 2})
        with scenario.fault(rereads=True):
            for network in (proxy, member_network, late_network):
                network.go_down()
            eventually(lambda: not scenario.registered_ports("web"), 2 * MEMBER_SESSION)
            member_network.come_up()
            ports = {member.port for member in early.members}
            eventually(lambda: scenario.registered_ports("web") == ports)
            reads = scenario.reads
            proxy.come_up()
            eventually(lambda: scenario.reads > reads, scenario.recovery)
            scenario.wait_for_answers(200)
            late_network.come_up()
            scenario.wait_registered()
        scenario.check_changes()
