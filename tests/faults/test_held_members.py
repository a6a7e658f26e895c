"""Members that expire near a disturbance are held, also by a new watcher, until their time is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import LAG
from tests.faults.interruptions import scenario_with_members
from tests.faults.member_process import MEMBER_SESSION, MemberProcess
from tests.faults.processes import kill
from tests.faults.scenario import FaultScenario
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_GUARD_SECONDS = 45.0
_SUSPICION = 40.0
"""Seconds after the end of a disturbance within which losses are suspicious."""


def _crash(scenario: FaultScenario, process: MemberProcess) -> None:
    """Kill a process with members, and wait until their sessions have expired."""
    ports = {member.port for member in process.members}
    service = process.members[0].service
    with scenario.history.deletion(process.members, held=True):
        process.kill()
        eventually(lambda: not ports & scenario.registered_ports(service), 2 * MEMBER_SESSION)


def test_members_are_held_until_their_time_is_over(
    direct_client: Any, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Services of two and of one die after a disturbance; then the watcher is killed."""
    config = tmp_path / "zkdns.toml"
    config.write_text(f"[guard]\nseconds = {_GUARD_SECONDS:g}\n")
    with scenario_with_members(
        proxy.address,
        direct_client,
        proxy.upstream,
        {"web": 4},
        arguments=("--config", str(config)),
        more_services=("pair", "single"),
    ) as scenario:
        pair = scenario.start_members(proxy.upstream, {"pair": 2})
        single = scenario.start_members(proxy.upstream, {"single": 1})
        scenario.wait_converged(LAG)
        with scenario.fault(rereads=True) as fault:
            proxy.reset()
        _crash(scenario, pair)
        scenario.wait_for_answers(400)
        scenario.check_changes()
        with scenario.fault(rereads=True) as second:
            kill(scenario, "watcher")
        for member in pair.members:
            member.held_until = fault.begin + _GUARD_SECONDS
            # A member is held at least until losses are not suspicious any more, since it may still return.
            member.released = max(member.deleted + _GUARD_SECONDS, second.end + _SUSPICION)
        scenario.wait_for_answers(400)
        scenario.check_changes()
        single_dies_at = fault.end + _SUSPICION - 2 * MEMBER_SESSION
        time.sleep(max(0.0, single_dies_at - time.monotonic()))  # until just before the end of the suspicion
        _crash(scenario, single)
        scenario.wait_for_answers(400)
        end = max(member.released for member in pair.members)
        time.sleep(max(0.0, end - time.monotonic()))
        eventually(lambda: scenario.addresses("pair") == [], LAG)
        assert set(scenario.addresses("single")) == {member.address for member in single.members}
