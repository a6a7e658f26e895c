"""Access to the root of one of two namespaces is denied. The other namespace is not affected at all."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.edns
import pytest
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.faults.history import History
from tests.faults.recording_client import RecordingClient
from tests.faults.scenario import RECOVERY, SERVICES, FaultScenario, fault_scenario, reconnecting_client
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_DENIED = [make_digest_acl("zkdns-test", "secret", all=True)]
_CONFIG = """
[[namespace]]
path = "/discovery/{environment}/{service}"
[[namespace]]
path = "/apps/{environment}/{service}"
zone = "apps"
"""
_APPS = "staging.apps"
_RETRIED = 10.0
"""Seconds within which zkdns reads a denied root again."""


@pytest.fixture
def owner(zookeeper_server: ZooKeeperServer, direct_client: Any) -> Iterator[Any]:
    """A client that may always read and change everything. Both namespaces are empty."""
    del direct_client  # it has emptied the first one
    with reconnecting_client(zookeeper_server.address) as client:
        client.add_auth("digest", "zkdns-test:secret")
        if client.exists("/apps"):
            client.delete("/apps", recursive=True)
        yield client
        if client.exists("/discovery"):
            client.set_acls("/discovery", OPEN_ACL_UNSAFE)


def _history(zk: Any, root: str) -> History:
    history = History(root=root)
    for service in SERVICES:
        history.create_service(zk, service)
        for _ in range(3):
            history.register(zk, service)
    return history


@contextlib.contextmanager
def _healthy_namespace(scenario: FaultScenario, history: History) -> Iterator[FaultScenario]:
    """The scenario of the other namespace, on the same server. It has no fault."""
    client = RecordingClient(scenario.server.addresses[0], SERVICES, domain=_APPS)
    with client:
        other = FaultScenario(scenario.server, scenario.zk, history, client, SERVICES, domain=_APPS)
        yield other
        other.check()


def _has_ede(scenario: FaultScenario, name: str) -> bool:
    response = scenario.server.query(name, use_edns=0)
    return any(isinstance(option, dns.edns.EDEOption) for option in response.options)


def test_access_is_denied_and_granted_again(owner: Any, proxy: FaultProxy, tmp_path: Path) -> None:
    """Twice, so that the second denial meets a server that has handled the first one."""
    config = tmp_path / "zkdns.toml"
    config.write_text(_CONFIG)
    apps, history = _history(owner, "/apps/staging"), _history(owner, "/discovery/staging")
    with (
        fault_scenario(
            proxy.address, owner, history=history, arguments=("--config", str(config))
        ) as scenario,
        _healthy_namespace(scenario, apps) as healthy,
    ):
        for _ in range(2):
            with scenario.fault():
                owner.set_acls("/discovery", _DENIED)
                with healthy.fault(rereads=True):
                    proxy.reset()  # zkdns reads everything again
                eventually(lambda: scenario.server.events("znode_read_failed"))
                healthy.check_changes()
                scenario.wait_for_answers(200)
                assert scenario.server.rcode("unknown.staging.discovery") == "SERVFAIL"
                assert _has_ede(scenario, "unknown.staging.discovery")
                assert healthy.server.rcode(f"unknown.{_APPS}") == "NXDOMAIN"
                owner.set_acls("/discovery", OPEN_ACL_UNSAFE)
            scenario.check_changes()
            healthy.check_changes()


def test_access_is_denied_from_the_start(owner: Any, proxy: FaultProxy, tmp_path: Path) -> None:
    """A denied root is an answer: the server is ready, and only names below that root get SERVFAIL."""
    config = tmp_path / "zkdns.toml"
    config.write_text(_CONFIG)
    apps, history = _history(owner, "/apps/staging"), _history(owner, "/discovery/staging")
    history.unread_until = history.read_by = math.inf
    owner.set_acls("/discovery", _DENIED)
    with fault_scenario(
        proxy.address, owner, history=history, arguments=("--config", str(config)), is_unavailable=True
    ) as scenario:
        scenario.server.wait_ready(RECOVERY)
        with _healthy_namespace(scenario, apps) as healthy:
            healthy.check_changes()
            scenario.wait_for_answers(200)
            assert _has_ede(scenario, "web.staging.discovery")
            history.unread_until = time.monotonic()
            owner.set_acls("/discovery", OPEN_ACL_UNSAFE)
            scenario.wait_converged(_RETRIED)
            history.read_by = time.monotonic()
            scenario.check_changes()
            healthy.check_changes()
