"""Znodes that are changed, deleted or recreated from outside, while their members stay registered."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest

from tests.faults.checker import LAG
from tests.faults.history import ROOT
from tests.faults.interruptions import MEMBERS, PERSISTENT, scenario_with_members
from tests.serverset.sync_helpers import delete_at_once
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_DETECTION = 0.5
"""Seconds after a deletion in one transaction within which zkdns has read all of it, on a busy machine."""


def test_data_of_members_is_changed_in_place(direct_client: Any, proxy: FaultProxy) -> None:
    """Each change is in responses within the time for any other change, also that of the only member."""
    with scenario_with_members(
        proxy.address, direct_client, proxy.upstream, more_services=("only",)
    ) as scenario:
        history = scenario.history
        history.create_service(scenario.zk, "only")
        history.register(scenario.zk, "only")
        for _ in range(5):
            for service in (PERSISTENT, "only"):
                for member in history.members(service):
                    history.change_in_place(scenario.zk, member)
            for service in (PERSISTENT, "only"):
                eventually(partial(scenario.matches_history, service), LAG)
                assert scenario.matches_zookeeper(service)
        assert not scenario.server.events("members_held")


def test_znodes_of_members_are_deleted(direct_client: Any, proxy: FaultProxy) -> None:
    """One after the other. The registrations create new ones."""
    with scenario_with_members(proxy.address, direct_client, proxy.upstream) as scenario:
        history = scenario.history
        for service in MEMBERS:
            for member in history.members(service):
                (path,) = (
                    f"{ROOT}/{service}/{name}"
                    for name in scenario.zk.get_children(f"{ROOT}/{service}")
                    if f'"{member.address}"'.encode() in scenario.zk.get(f"{ROOT}/{service}/{name}")[0]
                )
                with history.absence([member]):
                    scenario.zk.delete(path)
                    scenario.wait_registered()
        scenario.wait_converged(LAG)


def test_znode_of_a_service_is_deleted(direct_client: Any, proxy: FaultProxy) -> None:
    """With all its members, in one transaction. The registrations create it again."""
    with scenario_with_members(proxy.address, direct_client, proxy.upstream) as scenario:
        history = scenario.history
        for service in MEMBERS:
            with history.absence([*history.services[service], *history.members(service)]):
                delete_at_once(scenario.zk, f"{ROOT}/{service}")
                scenario.wait_registered()
                scenario.wait_converged(LAG)


@pytest.mark.parametrize("path", ["/discovery", ROOT], ids=["root", "environment"])
def test_root_is_deleted(
    direct_client: Any, proxy: FaultProxy, member_network: FaultProxy, path: str
) -> None:
    """With everything below it, in one transaction. All members are held until they have registered again."""
    with scenario_with_members(proxy.address, direct_client, member_network.address) as scenario:
        history = scenario.history
        with scenario.fault(), history.deletion(history.lifetimes(PERSISTENT), may_be_held=True):
            member_network.stall()  # so that the members are away for a while
            now = time.monotonic()
            history.undetected.append((now, now + _DETECTION))
            delete_at_once(scenario.zk, path)
            time.sleep(LAG)  # how long the members are away
            member_network.resume()
            scenario.wait_registered()
        for service in MEMBERS:
            eventually(partial(scenario.matches_zookeeper, service), LAG)
        history.create_service(scenario.zk, PERSISTENT)
        for _ in range(4):
            history.register(scenario.zk, PERSISTENT)
        scenario.wait_converged(LAG)
        scenario.check_changes()
