"""Processes of the server itself that are killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.asker import Asker
from tests.faults.checker import ANSWER_SECONDS
from tests.faults.scene import Scene, playing
from tests.support.fault_proxy import FaultProxy
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes, pytest.mark.alone]


def kill(scene: Scene, role: str, pid: int | None = None) -> float:
    """Kill the process of a role, and see it replaced; when it was killed."""
    victim, before = pid or scene.server.pid_of(role), started(scene.server, role)
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    if role == "worker":
        # What it had read it cannot answer; what it had not waits for its successor.
        scene.history.excused.append((killed - 0.1, time.monotonic()))
    scene.ended += 1
    eventually(lambda: len(started(scene.server, role)) > len(before))
    return killed


def started(server: ZkdnsServer, role: str) -> list[int]:
    """All that ever had this role, in their order."""
    return [entry["pid"] for entry in server.events("process_started") if entry["role"] == role]


def test_the_watcher(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault(rereads=True):
            kill(scene, "watcher")
            scene.history.delete(reach, scene.history.members("web")[0])
            scene.history.register(reach, "web")
        scene.changes_flow()


def test_the_watcher_while_zookeeper_is_away(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault() as fault:
            proxy.go_down()
            scene.wait_stale(fault)
            kill(scene, "watcher")
            scene.history.register(reach, "web")
            scene.goes_on(200)
            fault.repaired = time.monotonic()
            proxy.come_up()
        scene.changes_flow()


def test_the_worker(faulty: ZooKeeperServer, reach: Any) -> None:
    with playing(faulty.address, reach) as scene:
        kill(scene, "worker")
        scene.history.register(reach, "web")
        scene.goes_on(200)
        scene.changes_flow()


def test_the_worker_while_zookeeper_is_away(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault() as fault:
            proxy.go_down()
            scene.wait_stale(fault)
            kill(scene, "worker")
            scene.goes_on(200)
            fault.repaired = time.monotonic()
            proxy.come_up()
        scene.changes_flow()


def test_one_of_two_workers(faulty: ZooKeeperServer, reach: Any) -> None:
    spared: set[str] = set()

    def find_spared(server: ZkdnsServer, asker: Asker) -> None:
        """Which of the asker's sockets the kernel leads to the second worker: not those of the first."""
        first, _ = started(server, "worker")
        os.kill(first, signal.SIGSTOP)
        eventually(lambda: _state(first) == "T")
        spared.update(asker.sockets_answered())
        os.kill(first, signal.SIGCONT)
        asker.drain()

    with playing(faulty.address, reach, workers=2, before=find_spared) as scene:
        first, second = started(scene.server, "worker")
        killed = kill(scene, "worker", first)
        assert scene.server.pid_of("worker") not in {first, second}
        eventually(lambda: len(scene.server.events("process_exited")) == 1)
        scene.goes_on(400)
        scene.changes_flow()
    answers = scene.asker.answers
    others = [answer for answer in answers if answer.via in spared]
    waited = [answer for answer in answers if answer.via not in spared and answer.via != "tcp"]
    assert others
    assert waited
    assert all(answer.received and answer.received - answer.sent < ANSWER_SECONDS for answer in others)
    back = min(answer.received for answer in waited if answer.sent > killed and answer.received)
    assert any(killed < (answer.received or 0) < back for answer in others), "all waited for the successor"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
