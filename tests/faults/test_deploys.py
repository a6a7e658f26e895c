"""A rolling deploy, followed by the expiry of all sessions: replaced members never come back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.checker import LAG
from tests.faults.interruptions import expire_members, scenario_with_members
from tests.faults.member_process import MEMBER_SESSION
from tests.support.fault_proxy import FaultProxy
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_COUNT = 4


@pytest.mark.parametrize("return_", [True, False], ids=["new members return", "new members die"])
def test_sessions_expire_after_a_rolling_deploy(
    zookeeper_server: ZooKeeperServer, direct_client: Any, member_network: FaultProxy, return_: bool
) -> None:
    """If the new members die with their sessions, they are held, and the replaced ones are not."""
    address = member_network.address
    with scenario_with_members(
        zookeeper_server.address, direct_client, address, {"api": 2}, more_services=("web",)
    ) as scenario:
        history = scenario.history
        old = [scenario.start_members(address, {"web": 1}) for _ in range(_COUNT)]
        new = []
        for replaced in old:
            new.append(scenario.start_members(address, {"web": 1}))
            with history.deletion(replaced.members):
                replaced.leave()
        # Until responses must not contain them any more. The session timeout of the server is longer.
        time.sleep(LAG)
        dying = [] if return_ else [member for process in new for member in process.members]
        with scenario.fault(), history.deletion(dying, held=True):
            for process in new if dying else []:
                process.kill()
            expire_members(scenario, zookeeper_server, member_network, MEMBER_SESSION + 0.6)
            member_network.resume()
            scenario.wait_registered()
        scenario.wait_for_answers(600)
        assert set(scenario.addresses("web")) == {
            member.address for process in new for member in process.members
        }
        scenario.check_changes()
