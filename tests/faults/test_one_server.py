"""One ZooKeeper, which dies, sleeps, forgets the session, or cannot be reached."""

from __future__ import annotations

import math
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.history import History
from tests.faults.scene import BACK, SERVICES, SESSION, playing
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer, expire_session

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes, pytest.mark.alone]


def _has_another_than(proxy: FaultProxy, known: int) -> bool:
    return len(proxy.sessions) > known


def _is_another(proxy: FaultProxy, session: tuple[int, bytes]) -> bool:
    return proxy.sessions[-1] != session


def test_killed_and_restarted(faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault() as fault:
            faulty.kill()
            scene.wait_stale(fault)
            scene.goes_on()
            fault.repaired = time.monotonic()
            faulty.start()
        scene.wait_reachable()
        scene.changes_flow()


def test_not_there_yet_when_it_is_started(faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy) -> None:
    history = History(unread_until=math.inf, read_by=math.inf)
    for service in SERVICES:
        history.make_service(reach, service)
        history.register(reach, service)
    faulty.kill()
    with playing(proxy.address, reach, history=history, is_away=True) as scene:
        scene.goes_on(200)
        history.unread_until = time.monotonic()
        faulty.start()
        scene.server.wait_ready(BACK)
        history.read_by = time.monotonic()
        scene.wait_reachable()
        scene.changes_flow()


def test_away_for_long_it_is_found_again_soon(faulty: ZooKeeperServer, reach: Any) -> None:
    with playing(faulty.address, reach) as scene:
        with scene.fault() as fault:
            faulty.kill()
            scene.wait_stale(fault)
            time.sleep(6.0)  # so that whoever tries to connect has become slow
            fault.repaired = time.monotonic()
            faulty.start()
        scene.wait_reachable()
        scene.changes_flow()


@pytest.mark.parametrize("sessions", [0.5, 3.0])
def test_stopped_and_continued(
    faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy, sessions: float
) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault() as fault:
            faulty.pause()
            begun = time.monotonic()
            if sessions > 1:
                scene.wait_stale(fault)
            time.sleep(max(0.0, begun + sessions * SESSION - time.monotonic()))  # its length is the case
            fault.repaired = time.monotonic()
            faulty.resume()
        scene.wait_reachable()
        scene.changes_flow()


def test_its_session_is_expired_from_outside(reach: Any, proxy: FaultProxy) -> None:
    host, _, port = proxy.upstream.partition(":")
    with playing(proxy.address, reach) as scene:
        for _ in range(2):
            with scene.fault(rereads=True):
                before = proxy.sessions[-1]
                expire_session(SimpleNamespace(client_id=before, hosts=[(host, port)]))
                scene.history.register(reach, "web")
                eventually(partial(_is_another, proxy, before))
        scene.changes_flow()


def test_its_connections_are_reset_again_and_again(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        entries = [scene.history.register(reach, "db") for _ in range(3)]
        with scene.fault():
            for turn in range(12):
                known = len(proxy.sessions)
                proxy.reset()
                if turn % 3:  # else amid what a connection begins with
                    eventually(partial(_has_another_than, proxy, known))
                if turn % 4 == 0:
                    scene.history.delete(reach, entries.pop())
                    scene.history.register(reach, "db")
        scene.changes_flow()


def test_nothing_passes_for_longer_than_its_session_lives(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        with scene.fault() as fault:
            proxy.stall()
            came = scene.history.register(reach, "web")
            scene.history.delete(reach, came)
            scene.wait_stale(fault)
            time.sleep(SESSION + 1.0)  # its length is the case
            scene.history.register(reach, "web")
            fault.repaired = time.monotonic()
            proxy.resume()
        scene.changes_flow()


def test_cut_off_while_services_and_members_come_and_go(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach, services=("api", "db", "web", "new")) as scene:
        history = scene.history
        with scene.fault() as fault:
            proxy.go_down()
            scene.wait_stale(fault)
            with history.leaving(history.lives_of("new")):
                reach.delete("/discovery/staging/new", recursive=True)
            history.make_service(reach, "new")
            history.register(reach, "new")
            for entry in history.members("web")[:1]:
                history.delete(reach, entry)
            history.register(reach, "web")
            fault.repaired = time.monotonic()
            proxy.come_up()
        scene.changes_flow()
