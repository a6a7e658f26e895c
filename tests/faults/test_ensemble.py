"""Three ZooKeepers, of which some die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.history import ROOT
from tests.faults.scene import patient_client, playing
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes, pytest.mark.alone]

_ELECTION = 30.0  # seconds; nothing is claimed of ZooKeeper's own


@pytest.fixture(scope="module")
def three() -> Iterator[Ensemble]:
    """This module's ensemble; each test leaves it complete."""
    with Ensemble() as ensemble:
        yield ensemble


@pytest.fixture
def reach_three(three: Ensemble) -> Iterator[Any]:
    with patient_client(three.hosts) as client:
        if client.exists("/discovery"):
            client.delete("/discovery", recursive=True)
        client.ensure_path(ROOT)
        yield client


def test_restarted_one_by_one(three: Ensemble, reach_three: Any) -> None:
    with playing(three.hosts, reach_three) as scene:
        for member in three.members:
            with scene.fault():
                member.kill()
                three.start()
                eventually(lambda: len(three.followers()) == 2, _ELECTION)
            scene.wait_reachable()
            scene.changes_flow()


def test_its_leader_is_killed(three: Ensemble, reach_three: Any) -> None:
    with playing(three.hosts, reach_three) as scene:
        leader = three.leader()
        with scene.fault():
            leader.kill()
            three.leader()
            eventually(three.followers, _ELECTION)
        scene.wait_reachable()
        scene.changes_flow()
        leader.start()


def test_its_quorum_is_lost_and_found(three: Ensemble, reach_three: Any) -> None:
    with playing(three.hosts, reach_three) as scene:
        leader = three.leader()
        follower = eventually(three.followers, _ELECTION)[0]
        with scene.fault() as fault:
            leader.kill()
            follower.kill()
            scene.wait_stale(fault)
            scene.goes_on(200)
            fault.repaired = time.monotonic()
            follower.launch()
            eventually(lambda: follower.running and follower.mode(timeout=0.2), _ELECTION)
        scene.wait_reachable()
        scene.changes_flow()
        leader.start()
