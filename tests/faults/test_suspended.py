"""The machine of the server is suspended: all its processes are stopped together."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from tests.faults.interruptions import WATCHER_SESSION, make_changes, scenario_with_members
from tests.faults.scenario import FaultScenario
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]


def _signal(scenario: FaultScenario, number: signal.Signals) -> None:
    """Send a signal to all processes of the server, as a suspend stops all of them together."""
    for pid in (scenario.server.process.pid, *map(scenario.server.pid_of, ("watcher", "worker"))):
        os.kill(pid, number)


@pytest.mark.parametrize("seconds", [3.0, WATCHER_SESSION + 5.0], ids=["short", "session ends"])
def test_machine_is_suspended(direct_client: Any, proxy: FaultProxy, seconds: float) -> None:
    with scenario_with_members(proxy.address, direct_client, proxy.upstream) as scenario:
        history = scenario.history
        leaving = scenario.start_members(proxy.upstream, {"web": 1})
        scenario.wait_converged(scenario.recovery)
        with scenario.fault() as fault:
            _signal(scenario, signal.SIGSTOP)
            try:
                make_changes(scenario)
                scenario.start_members(proxy.upstream, {"web": 1})
                with history.deletion(leaving.members):
                    leaving.leave()
                time.sleep(max(0.0, fault.begin + seconds - time.monotonic()))  # the parameter of the test
            finally:
                _signal(scenario, signal.SIGCONT)
            eventually(lambda: scenario.server.rcode("web.staging.discovery", timeout=1.0) == "NOERROR")
            history.excused.append((fault.begin - 0.1, time.monotonic()))
        scenario.check_changes()
        assert not scenario.server.events("members_held")
