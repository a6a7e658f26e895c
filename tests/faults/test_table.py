"""What is registered itself is the fault: all of it gone at once, far too much of it, not to be read."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import Any

import pytest
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.faults.history import ROOT, Entry, History
from tests.faults.scene import BACK, SERVICES, Scene, patient_client, playing
from tests.serverset.sync_helpers import delete_at_once
from tests.support.fault_proxy import FaultProxy
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes, pytest.mark.alone]

_OWNERS = 6
_DENIED = [make_digest_acl("zkdns-test", "secret", all=True)]
_MEGABYTE = 1_000_000  # a little more is refused by ZooKeeper itself


def owned(owners: list[Any]) -> History:
    """A history in which each of these clients has a member of each service, for as long as it lives."""
    history = History()
    for service in SERVICES:
        history.make_service(owners[0], service)
        for owner in owners:
            history.register(owner, service, ephemeral=True)
    return history


def newcomers_lead(scene: Scene, reach: Any) -> None:
    """Who registers anew stands before those that are held, who are there still."""
    for service in SERVICES:
        came = scene.history.register(reach, service)
        eventually(lambda name=service, entry=came: scene.addresses(name)[0] == entry.address)  # type: ignore[misc]
        assert set(scene.addresses(service)) > {came.address}


# -- gone at once --------------------------------------------------------------------------------------------


def test_every_member_is_deregistered_at_once(faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy) -> None:
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(patient_client(faulty.address)) for _ in range(_OWNERS)]
        with playing(proxy.address, reach, history=owned(owners)) as scene:
            with scene.fault(), scene.history.leaving(scene.history.entries, held=True):
                ending = [threading.Thread(target=owner.stop) for owner in owners]
                for thread in ending:
                    thread.start()
                for thread in ending:
                    thread.join()
                assert not any(reach.get_children(f"{ROOT}/{service}") for service in SERVICES)
            scene.goes_on(200)
            newcomers_lead(scene, reach)


def test_every_session_expires_while_zookeeper_sleeps(
    faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy
) -> None:
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(patient_client(faulty.address)) for _ in range(_OWNERS)]
        with playing(proxy.address, reach, history=owned(owners)) as scene:
            with scene.fault() as fault, scene.history.leaving(scene.history.entries, held=True):
                proxy.stall()  # the server is away as well, and must not take the loss for the members' own
                scene.wait_stale(fault)
                for owner in owners:
                    owner.stop()
                eventually(lambda: not any(reach.get_children(f"{ROOT}/{service}") for service in SERVICES))
                fault.repaired = time.monotonic()
                proxy.resume()
            scene.goes_on(200)
            newcomers_lead(scene, reach)


def test_the_base_path_is_deleted_and_made_again(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        history = scene.history
        lives = [life for service in SERVICES for life in history.lives_of(service)]
        with scene.fault(), history.leaving(lives, held=True):
            # Not one by one: on a server that has just started it takes its time, and then the first service
            # is truly gone for a while before it can be known that all others go as well.
            delete_at_once(reach, "/discovery")
        scene.goes_on(200)
        for service in SERVICES:
            history.make_service(reach, service)
        newcomers_lead(scene, reach)
        scene.changes_flow()


def test_members_are_replaced_one_by_one_and_never_missed(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        history = scene.history
        for service in SERVICES:
            for entry in history.members(service)[1:]:
                history.delete(reach, entry)
        for _ in range(100):
            for service in SERVICES:
                (only,) = history.members(service)
                history.register(reach, service)
                history.delete(reach, only)
        scene.converges(BACK)


# -- too much ------------------------------------------------------------------------------------------------


def register_many(history: History, zk: Any, service: str, count: int) -> list[Entry]:
    """Register many at once."""
    entries = [history.new_entry(service) for _ in range(count)]
    asked = [zk.create_async(f"{ROOT}/{service}/member_", entry.data(), sequence=True) for entry in entries]
    for entry, result in zip(entries, asked, strict=True):
        entry.path = result.get(60.0)
        entry.certain = time.monotonic()
    return entries


def delete_many(history: History, zk: Any, entries: list[Entry]) -> None:
    with history.leaving(entries):
        for result in [zk.delete_async(entry.path) for entry in entries]:
            result.get(60.0)


def is_told(server: ZkdnsServer, name: str, address: str) -> bool:
    return server.ask(name) == {address}


def test_a_service_has_5000_members(faulty: ZooKeeperServer, reach: Any) -> None:
    history = History()
    for service in SERVICES:
        history.make_service(reach, service)
        register_many(history, reach, service, 5000 if service == "web" else 3)
    try:
        with playing(faulty.address, reach, history=history, services=("api", "db"), tcp_rate=4.0) as scene:
            gone = history.members("web")[:500]
            delete_many(history, reach, gone)
            came = register_many(history, reach, "web", 500)
            for entry in came:
                own = f"m{int(entry.path[-10:])}.web.staging.discovery"
                eventually(partial(is_told, scene.server, own, entry.address))
            # Not even TCP's 64 KiB hold them all, and each answer begins with another one.
            told = {address for _ in range(12) for address in scene.addresses("web")}
            assert len(told) > 4000
            assert told <= history.present("web")
            assert scene.server.query("web.staging.discovery").answer, "cut, yet not empty"
            scene.changes_flow()
    finally:
        delete_many(history, reach, history.members("web"))


def test_a_member_has_a_megabyte_of_data(reach: Any, proxy: FaultProxy) -> None:
    with playing(proxy.address, reach) as scene:
        history = scene.history
        history.register(reach, "web", metadata={"big": "x" * _MEGABYTE})
        for data in (b"x" * _MEGABYTE, b"{" * _MEGABYTE):
            reach.create(f"{ROOT}/web/member_", data, sequence=True)
        scene.converges(BACK)
        eventually(lambda: len(scene.server.events("member_skipped")) == 2)
        with scene.fault(rereads=True):
            proxy.reset()  # so that all is listed again
        scene.changes_flow()
    with playing(proxy.address, reach, history=history) as scene:  # and at a start
        scene.changes_flow()


# -- not to be read ------------------------------------------------------------------------------------------


def test_access_is_denied_while_it_runs(faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy) -> None:
    with (
        patient_client(faulty.address) as master,
        playing(proxy.address, reach) as scene,
    ):
        master.add_auth("digest", "zkdns-test:secret")
        with scene.fault():
            reach.set_acls(f"{ROOT}/web", _DENIED)
            proxy.reset()  # so that all is listed again
            told = "znode_read_failed"
            eventually(lambda: scene.server.events(told))
            scene.history.delete(master, scene.history.members("web")[0])
            scene.history.register(master, "web")
            scene.goes_on(200)
            master.set_acls(f"{ROOT}/web", OPEN_ACL_UNSAFE)
        scene.changes_flow()


def test_access_is_denied_from_the_start(faulty: ZooKeeperServer, reach: Any, proxy: FaultProxy) -> None:
    history = History()
    for service in SERVICES:
        history.make_service(reach, service)
        history.register(reach, service)
    reach.set_acls(f"{ROOT}/web", _DENIED)
    with patient_client(faulty.address) as master:
        master.add_auth("digest", "zkdns-test:secret")
        try:
            with playing(proxy.address, reach, history=history, services=("api", "db")) as scene:
                # It exists, and nobody knows its members.
                assert scene.server.rcode("web.staging.discovery") == "SERVFAIL"
                master.set_acls(f"{ROOT}/web", OPEN_ACL_UNSAFE)
                eventually(lambda: scene.is_answered("web"), BACK)
                scene.changes_flow()
        finally:
            master.set_acls(f"{ROOT}/web", OPEN_ACL_UNSAFE)
