"""ZooKeeper loses its data, or gets an older state of it back: nothing of the lost state is held."""

from __future__ import annotations

import time

import pytest

from tests.faults.history import History
from tests.faults.interruptions import MEMBERS, PERSISTENT, WATCHER_SESSION
from tests.faults.member_process import MemberProcess
from tests.faults.scenario import fault_scenario, reconnecting_client
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_ACCEPTED = WATCHER_SESSION + 15.0
"""Seconds within which clients accept that the state of ZooKeeper is older than that which they read."""


def test_data_directory_is_wiped(own_zookeeper: ZooKeeperServer) -> None:
    """The live members register again. The members and services that only the old data had are gone."""
    history, address = History(), own_zookeeper.address
    services = (*MEMBERS, "job")
    with (
        reconnecting_client(address) as old_client,
        MemberProcess(history, address, MEMBERS),
        MemberProcess(history, address, {"web": 1, "job": 2}) as dying,
        fault_scenario(
            address, old_client, history=history, services=services, session=WATCHER_SESSION
        ) as scenario,
    ):
        with scenario.fault() as fault:
            reads = scenario.reads
            own_zookeeper.kill()
            scenario.wait_stale(fault)
            gone = [*history.services["job"], *dying.members]
            with history.deletion(gone):
                dying.kill()
                own_zookeeper.lose_data()
                fault.repaired = time.monotonic()
                own_zookeeper.start()
                # The old client does not connect to a server with an older state.
                scenario.zk = scenario.enter(reconnecting_client(address))
                scenario.wait_registered()
                eventually(lambda: scenario.reads > reads, _ACCEPTED)
        added = scenario.start_members(address, {"web": 1})
        scenario.wait_converged(scenario.recovery)
        with history.deletion(added.members):
            added.leave()


def test_data_directory_is_restored_from_an_older_snapshot(own_zookeeper: ZooKeeperServer) -> None:
    """Changes since the copy are undone. Sessions of the copy end, unless their members come back."""
    history, address = History(), own_zookeeper.address
    services = (PERSISTENT, *MEMBERS)
    with (
        reconnecting_client(address) as old_client,
        MemberProcess(history, address, MEMBERS),
        MemberProcess(history, address, {"web": 1}) as leaving,
    ):
        history.create_service(old_client, PERSISTENT)
        for _ in range(4):
            history.register(old_client, PERSISTENT)
        own_zookeeper.kill()
        own_zookeeper.save_data()
        own_zookeeper.start()
        eventually(lambda: old_client.connected and old_client.exists("/discovery"), _ACCEPTED)
        with fault_scenario(
            address, old_client, history=history, services=services, session=WATCHER_SESSION
        ) as scenario:
            started_later = scenario.start_members(address, {"web": 1})
            added_later, deleted_later = (
                history.register(old_client, PERSISTENT),
                history.members(PERSISTENT)[0],
            )
            history.delete(old_client, deleted_later)
            # Its znode is back after the restoration, until its session ends.
            with history.deletion(leaving.members):
                leaving.leave()
                scenario.wait_converged(scenario.recovery)
                with scenario.fault() as fault:
                    reads = scenario.reads
                    own_zookeeper.kill()
                    scenario.wait_stale(fault)
                    # One of several members is not held: the restored state does not have its znode until it
                    # has registered again.
                    with history.deletion([added_later]), history.absence(started_later.members):
                        own_zookeeper.restore_data()
                        fault.repaired = time.monotonic()
                        own_zookeeper.start()
                        history.reappeared(deleted_later)
                        scenario.zk = scenario.enter(reconnecting_client(address))
                        scenario.wait_registered()
                        eventually(lambda: scenario.reads > reads, _ACCEPTED)
            scenario.check_changes()
