"""A scenario with members of their own sessions, and the changes of a test during an interruption."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.faults.history import History
from tests.faults.member_process import MemberProcess
from tests.faults.scenario import FaultScenario, fault_scenario
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

WATCHER_SESSION = 10
"""The session timeout of the server in seconds: its default."""
MEMBERS = {"web": 4, "api": 2, "db": 1}
PERSISTENT = "conf"
"""A service whose members are persistent znodes, which the test changes."""


@contextlib.contextmanager
def scenario_with_members(
    hosts: str,
    zk: Any,
    member_hosts: str,
    counts: Mapping[str, int] = MEMBERS,
    *,
    more_services: Sequence[str] = (),
    **options: Any,
) -> Iterator[FaultScenario]:
    """A scenario with members that register through `member_hosts`, and with a service for `make_changes`.

    The services in `more_services` are queried too; the test creates them.
    """
    history = History()
    history.create_service(zk, PERSISTENT)
    for _ in range(4):
        history.register(zk, PERSISTENT)
    services = (PERSISTENT, *counts, *more_services)
    with (
        MemberProcess(history, member_hosts, counts),
        fault_scenario(
            hosts, zk, history=history, services=services, session=WATCHER_SESSION, **options
        ) as scenario,
    ):
        yield scenario


def expire_members(
    scenario: FaultScenario, zookeeper: ZooKeeperServer, network: FaultProxy, seconds: float
) -> None:
    """Pause ZooKeeper, and wait until the sessions of all members that use this network have expired.

    The network of the members stays stalled, so that no request of theirs keeps a session alive. They return
    when the caller resumes it.
    """
    persistent = {
        member.path.rpartition(f"{scenario.history.root}/")[2]
        for member in scenario.history.members(PERSISTENT)
    }
    started_at = time.monotonic()
    network.stall()
    zookeeper.pause()
    time.sleep(max(0.0, started_at + seconds - time.monotonic()))  # the duration of the pause
    zookeeper.resume()
    eventually(lambda: scenario.znodes() <= persistent)


def make_changes(scenario: FaultScenario) -> None:
    """Let a persistent member join, another one leave, and change the data of a third one."""
    first, second, *_ = scenario.history.members(PERSISTENT)
    scenario.history.register(scenario.zk, PERSISTENT)
    scenario.history.delete(scenario.zk, first)
    scenario.history.change_in_place(scenario.zk, second)
