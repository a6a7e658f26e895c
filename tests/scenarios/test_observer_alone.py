"""An observer that loses its only voting server: the table stays, and the server moves when it can."""

from __future__ import annotations

import time

import pytest

from tests.serverset.sync_helpers import join
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble
from tests.support.zookeeper_clients import client_of
from zkdns.admin.client import ApiClient, ServerAddress

pytestmark = pytest.mark.processes

NAME = "web.staging.discovery"
ADDRESSES = {"10.0.0.1", "10.0.0.2"}


def state_of(server: ZkdnsServer) -> tuple[str | None, str]:
    """The state of ZooKeeper, and the server that is in use."""
    zookeeper = ApiClient(ServerAddress(path=server.api)).status().zookeeper
    assert zookeeper is not None
    return zookeeper.state, zookeeper.namespaces[0].server


@pytest.mark.zookeeper
@pytest.mark.parametrize("reads", [False, True], ids=["the observer closes", "the observer serves reads"])
def test_an_observer_without_a_quorum_never_empties_an_answer(reads: bool) -> None:
    """An observer that has lost its leader closes its clients, or serves reads if that is enabled."""
    flags = ("-Dreadonlymode.enabled=true",) if reads else ()
    with Ensemble(1, observers=1, jvm_flags=flags) as ensemble:
        voter, observer = ensemble.members
        with client_of(voter.address) as client:
            join(client, "/discovery/staging/web", "10.0.0.1")
            join(client, "/discovery/staging/web", "10.0.0.2")
            both = f"{voter.address},{observer.address}"
            arguments = ("--zookeeper", both, "--zookeeper-observers", observer.address)
            with ZkdnsServer(*arguments, "--zookeeper-session-timeout", "4") as server:
                server.wait_ready()
                eventually(lambda: state_of(server) == ("live", observer.address))
                voter.kill()
                lost_at = time.monotonic()
                while state_of(server)[0] == "live" or time.monotonic() < lost_at + 3.0:
                    assert server.lookup(NAME) == ADDRESSES
                    assert time.monotonic() < lost_at + 30.0
                voter.start()
                back_at = time.monotonic()
                while state_of(server)[0] != "live":
                    assert server.lookup(NAME) == ADDRESSES
                    assert time.monotonic() < back_at + 60.0
                join(client, "/discovery/staging/web", "10.0.0.3")
                eventually(lambda: server.lookup(NAME) == {*ADDRESSES, "10.0.0.3"})
