"""Failures of servers in a ZooKeeper ensemble of three."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.history import ROOT
from tests.faults.interruptions import WATCHER_SESSION, scenario_with_members
from tests.faults.scenario import fault_scenario, reconnecting_client
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_ELECTION = 30.0  # seconds for an election by ZooKeeper


@pytest.fixture(scope="module")
def shared_ensemble() -> Iterator[Ensemble]:
    """The ensemble of this module. Each test leaves all servers running."""
    with Ensemble() as ensemble:
        yield ensemble


@pytest.fixture
def ensemble_client(shared_ensemble: Ensemble) -> Iterator[Any]:
    with reconnecting_client(shared_ensemble.hosts) as client:
        if client.exists("/discovery"):
            client.delete("/discovery", recursive=True)
        client.ensure_path(ROOT)
        yield client


def test_rolling_restart(shared_ensemble: Ensemble, ensemble_client: Any) -> None:
    with fault_scenario(shared_ensemble.hosts, ensemble_client) as scenario:
        for member in shared_ensemble.members:
            with scenario.fault():
                member.kill()
                shared_ensemble.start()
                eventually(lambda: len(shared_ensemble.followers()) == 2, _ELECTION)
            scenario.wait_reachable()
            scenario.check_changes()


def test_leader_is_killed_and_members_keep_their_sessions(
    shared_ensemble: Ensemble, ensemble_client: Any
) -> None:
    hosts = shared_ensemble.hosts
    with scenario_with_members(hosts, ensemble_client, hosts) as scenario:
        leader = shared_ensemble.leader()
        with scenario.fault():
            leader.kill()
            shared_ensemble.leader()
            eventually(shared_ensemble.followers, _ELECTION)
        scenario.wait_reachable()
        scenario.wait_registered()
        scenario.check_changes()
        leader.start()


def test_quorum_is_lost_for_longer_than_sessions_of_members(
    shared_ensemble: Ensemble, ensemble_client: Any
) -> None:
    hosts = shared_ensemble.hosts
    with scenario_with_members(hosts, ensemble_client, hosts) as scenario:
        leader = shared_ensemble.leader()
        follower = eventually(shared_ensemble.followers, _ELECTION)[0]
        with scenario.fault(rereads=True) as fault:
            leader.kill()
            follower.kill()
            scenario.wait_stale(fault)
            time.sleep(max(0.0, fault.begin + WATCHER_SESSION + 2.0 - time.monotonic()))
            fault.repaired = time.monotonic()
            follower.launch()
            leader.launch()
            eventually(lambda: len(shared_ensemble.followers()) == 2, _ELECTION)
            scenario.wait_reachable()
            scenario.wait_registered()
        scenario.check_changes()


def test_leader_is_killed(shared_ensemble: Ensemble, ensemble_client: Any) -> None:
    with fault_scenario(shared_ensemble.hosts, ensemble_client) as scenario:
        leader = shared_ensemble.leader()
        with scenario.fault():
            leader.kill()
            shared_ensemble.leader()
            eventually(shared_ensemble.followers, _ELECTION)
        scenario.wait_reachable()
        scenario.check_changes()
        leader.start()


def test_quorum_is_lost_and_restored(shared_ensemble: Ensemble, ensemble_client: Any) -> None:
    with fault_scenario(shared_ensemble.hosts, ensemble_client) as scenario:
        leader = shared_ensemble.leader()
        follower = eventually(shared_ensemble.followers, _ELECTION)[0]
        with scenario.fault() as fault:
            leader.kill()
            follower.kill()
            scenario.wait_stale(fault)
            scenario.wait_for_answers(200)
            fault.repaired = time.monotonic()
            follower.launch()
            eventually(lambda: follower.running and follower.mode(timeout=0.2), _ELECTION)
        scenario.wait_reachable()
        scenario.check_changes()
        leader.start()
