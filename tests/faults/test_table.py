"""Faults in the registered data: mass deletion, very large services and members, and denied access."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import Any

import pytest
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.faults.history import ROOT, History, MemberLifetime
from tests.faults.scenario import RECOVERY, SERVICES, FaultScenario, fault_scenario, reconnecting_client
from tests.serverset.sync_helpers import delete_at_once
from tests.support.fault_proxy import FaultProxy
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_OWNERS = 6
_DENIED = [make_digest_acl("zkdns-test", "secret", all=True)]
_DETECTION = 0.5
"""Seconds after a deletion in one transaction within which zkdns has read all of it, on a busy machine."""
_MEGABYTE = 1_000_000  # ZooKeeper rejects slightly larger data (jute.maxbuffer)


def history_with_owners(owners: list[Any]) -> History:
    """A history with an ephemeral member of each service for each of these clients."""
    history = History()
    for service in SERVICES:
        history.create_service(owners[0], service)
        for owner in owners:
            history.register(owner, service, ephemeral=True)
    return history


def check_new_members_come_first(scenario: FaultScenario, direct_client: Any) -> None:
    """Check that new members come before held members in responses."""
    for service in SERVICES:
        added = scenario.history.register(direct_client, service)
        eventually(lambda name=service, member=added: scenario.addresses(name)[0] == member.address)  # type: ignore[misc]
        assert set(scenario.addresses(service)) > {added.address}


# -- mass deletion -------------------------------------------------------------------------------------------


def test_all_members_are_deregistered_at_once(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy
) -> None:
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(reconnecting_client(zookeeper_server.address)) for _ in range(_OWNERS)]
        with fault_scenario(proxy.address, direct_client, history=history_with_owners(owners)) as scenario:
            with scenario.fault(), scenario.history.deletion(scenario.history.all_members, held=True):
                ending = [threading.Thread(target=owner.stop) for owner in owners]
                for thread in ending:
                    thread.start()
                for thread in ending:
                    thread.join()
                assert not any(direct_client.get_children(f"{ROOT}/{service}") for service in SERVICES)
            scenario.wait_for_answers(200)
            check_new_members_come_first(scenario, direct_client)


def test_all_sessions_end_during_a_stall(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy
) -> None:
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(reconnecting_client(zookeeper_server.address)) for _ in range(_OWNERS)]
        with fault_scenario(proxy.address, direct_client, history=history_with_owners(owners)) as scenario:
            with (
                scenario.fault() as fault,
                scenario.history.deletion(scenario.history.all_members, held=True),
            ):
                proxy.stall()  # zkdns is disconnected too, and must hold the members
                scenario.wait_stale(fault)
                for owner in owners:
                    owner.stop()
                eventually(
                    lambda: not any(direct_client.get_children(f"{ROOT}/{service}") for service in SERVICES)
                )
                fault.repaired = time.monotonic()
                proxy.resume()
            scenario.wait_for_answers(200)
            check_new_members_come_first(scenario, direct_client)


def test_base_path_is_deleted_and_recreated(direct_client: Any, proxy: FaultProxy) -> None:
    # A short session could end on a busy machine, and a new root after an outage means another ensemble.
    with fault_scenario(proxy.address, direct_client, session=20) as scenario:
        history = scenario.history
        lifetimes = [lifetime for service in SERVICES for lifetime in history.lifetimes(service)]
        with scenario.fault(), history.deletion(lifetimes, held=True):
            # In one transaction. One by one, the deletion takes so long on a server that has just started
            # that zkdns removes the first service before it can detect the mass deletion.
            started_at = time.monotonic()
            delete_at_once(direct_client, "/discovery")
            history.undetected.append((started_at, time.monotonic() + _DETECTION))
        scenario.wait_for_answers(200)
        for service in SERVICES:
            history.create_service(direct_client, service)
        check_new_members_come_first(scenario, direct_client)


def test_only_member_of_a_service_is_replaced_repeatedly(direct_client: Any, proxy: FaultProxy) -> None:
    history = History()
    for service in SERVICES:
        history.create_service(direct_client, service)
        history.register(direct_client, service)
    with fault_scenario(proxy.address, direct_client, history=history) as scenario:
        for number in range(100):
            for service in SERVICES:
                (only,) = history.members(service)
                history.register(direct_client, service)
                history.delete(direct_client, only)
                if number % 10 == 0:  # on a busy machine, the changes must not outrun the server
                    eventually(partial(scenario.matches_history, service))
        scenario.wait_converged(RECOVERY)


# -- large data ----------------------------------------------------------------------------------------------


def register_many(history: History, zk: Any, service: str, count: int) -> list[MemberLifetime]:
    """Register members with pipelined requests."""
    members = [history.new_member(service) for _ in range(count)]
    results = [
        zk.create_async(f"{ROOT}/{service}/member_", member.data(), sequence=True) for member in members
    ]
    for member, result in zip(members, results, strict=True):
        member.path = result.get(60.0)
        member.created = time.monotonic()
    return members


def delete_many(history: History, zk: Any, members: list[MemberLifetime]) -> None:
    with history.deletion(members):
        for result in [zk.delete_async(member.path) for member in members]:
            result.get(60.0)


def answers_only(server: ZkdnsServer, name: str, address: str) -> bool:
    return server.lookup(name) == {address}


def test_a_service_has_5000_members(zookeeper_server: ZooKeeperServer, direct_client: Any) -> None:
    history = History()
    for service in SERVICES:
        history.create_service(direct_client, service)
        register_many(history, direct_client, service, 5000 if service == "web" else 3)
    try:
        with fault_scenario(
            zookeeper_server.address, direct_client, history=history, services=("api", "db"), tcp_rate=4.0
        ) as scenario:
            delete_many(history, direct_client, history.members("web")[:500])
            added = register_many(history, direct_client, "web", 500)
            for member in added:
                own = f"m{int(member.path[-10:])}.web.staging.discovery"
                eventually(partial(answers_only, scenario.server, own, member.address))
            # They do not fit into 64 KiB over TCP, and each response starts with another member.
            addresses = {address for _ in range(12) for address in scenario.addresses("web")}
            assert len(addresses) > 4000
            assert addresses <= history.present("web")
            assert scenario.server.query("web.staging.discovery").answer, (
                "a truncated response must not be empty"
            )
            scenario.check_changes()
    finally:
        delete_many(history, direct_client, history.members("web"))


def test_member_has_a_megabyte_of_data(direct_client: Any, proxy: FaultProxy) -> None:
    with fault_scenario(proxy.address, direct_client) as scenario:
        history = scenario.history
        history.register(direct_client, "web", metadata={"big": "x" * _MEGABYTE})
        for data in (b"x" * _MEGABYTE, b"{" * _MEGABYTE):
            direct_client.create(f"{ROOT}/web/member_", data, sequence=True)
        scenario.wait_converged(RECOVERY)
        eventually(lambda: len(scenario.server.events("member_skipped")) == 2)
        with scenario.fault(rereads=True):
            proxy.reset()  # zkdns lists the tree again
        scenario.check_changes()
    with fault_scenario(proxy.address, direct_client, history=history) as scenario:  # also at the start
        scenario.check_changes()


# -- denied access -------------------------------------------------------------------------------------------


def test_access_is_denied_while_it_runs(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy
) -> None:
    with (
        reconnecting_client(zookeeper_server.address) as owner,
        fault_scenario(proxy.address, direct_client) as scenario,
    ):
        owner.add_auth("digest", "zkdns-test:secret")
        with scenario.fault():
            direct_client.set_acls(f"{ROOT}/web", _DENIED)
            proxy.reset()  # zkdns lists the tree again
            eventually(lambda: scenario.server.events("znode_read_failed"))
            scenario.history.delete(owner, scenario.history.members("web")[0])
            scenario.history.register(owner, "web")
            scenario.wait_for_answers(200)
            owner.set_acls(f"{ROOT}/web", OPEN_ACL_UNSAFE)
        scenario.check_changes()


def test_access_is_denied_from_the_start(
    zookeeper_server: ZooKeeperServer, direct_client: Any, proxy: FaultProxy
) -> None:
    history = History()
    for service in SERVICES:
        history.create_service(direct_client, service)
        history.register(direct_client, service)
    direct_client.set_acls(f"{ROOT}/web", _DENIED)
    with reconnecting_client(zookeeper_server.address) as owner:
        owner.add_auth("digest", "zkdns-test:secret")
        try:
            with fault_scenario(
                proxy.address, direct_client, history=history, services=("api", "db")
            ) as scenario:
                # The service exists, but its members are unknown.
                assert scenario.server.rcode("web.staging.discovery") == "SERVFAIL"
                owner.set_acls(f"{ROOT}/web", OPEN_ACL_UNSAFE)
                eventually(lambda: scenario.matches_history("web"), RECOVERY)
                scenario.check_changes()
        finally:
            owner.set_acls(f"{ROOT}/web", OPEN_ACL_UNSAFE)
