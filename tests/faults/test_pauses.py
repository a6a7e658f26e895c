"""ZooKeeper is paused, so that members with sessions of 5 s expire, for services and tables of any size."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.checker import LAG
from tests.faults.history import History
from tests.faults.interruptions import WATCHER_SESSION, expire_members
from tests.faults.member_process import MemberProcess
from tests.faults.scenario import fault_scenario
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_TABLES = [{"web": 4, "api": 2, "db": 1}, {"web": 3, "db": 1}]  # the second one has fewer than five members


@pytest.mark.parametrize("counts", _TABLES, ids=["seven members", "four members"])
@pytest.mark.parametrize("seconds", [5.6, 20.0])
def test_zookeeper_is_paused(
    zookeeper_server: ZooKeeperServer,
    direct_client: Any,
    member_network: FaultProxy,
    counts: dict[str, int],
    seconds: float,
) -> None:
    """After 5.6 s all members have lost their sessions, while that of the server goes on.

    After 20 s that of the server has ended too, and it reads everything before the members return.
    """
    history, address = History(), zookeeper_server.address
    with (
        MemberProcess(history, member_network.address, counts),
        fault_scenario(
            address, direct_client, history=history, services=tuple(counts), session=WATCHER_SESSION
        ) as scenario,
    ):
        with scenario.fault(rereads=seconds > WATCHER_SESSION):
            reads = scenario.reads
            expire_members(scenario, zookeeper_server, member_network, seconds)
            if seconds > WATCHER_SESSION:
                eventually(lambda: scenario.reads > reads, scenario.recovery)
            member_network.resume()
            scenario.wait_registered()
        scenario.wait_reachable()
        added = scenario.start_members(address, {"web": 1})
        scenario.wait_converged(LAG)
        with history.deletion(added.members):
            added.leave()
