"""A read-only ZooKeeper server, which has lost its ensemble: its data is served and marked as stale."""

import dns.edns
import httpx2
import pytest

from tests.serverset.sync_helpers import join
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble
from tests.support.zookeeper_clients import client_of

pytestmark = pytest.mark.processes

NAME = "web.staging.discovery"


def is_stale(server: ZkdnsServer) -> bool:
    """Whether the response has Extended DNS Error 3 (stale answer)."""
    response = server.query(NAME, use_edns=0)
    return any(isinstance(option, dns.edns.EDEOption) and option.code == 3 for option in response.options)


def metrics(server: ZkdnsServer) -> str:
    return httpx2.get(f"{server.admin}/metrics").text


def test_data_of_a_readonly_server_is_marked_as_stale() -> None:
    settings = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
    with Ensemble(settings=settings, jvm_flags=("-Dreadonlymode.enabled=true",)) as ensemble:
        *stopped, readonly = ensemble.members
        with client_of(readonly.address) as client:  # so that this server has the member
            join(client, "/discovery/staging/web", "10.0.0.1")
        for member in stopped:
            member.kill()
        with ZkdnsServer("--zookeeper", ensemble.hosts, "--zookeeper-session-timeout", "4") as server:
            server.wait_ready(60)  # it connects to a read-only server first
            assert server.lookup(NAME) == {"10.0.0.1"}
            eventually(lambda: is_stale(server))  # set a moment after it is ready
            eventually(lambda: 'zkdns_zookeeper_state{state="readonly"} 1.0' in metrics(server))
            for member in stopped:
                member.start()
            eventually(lambda: not is_stale(server), 60)
            eventually(lambda: 'zkdns_zookeeper_state{state="live"} 1.0' in metrics(server))
            assert server.lookup(NAME) == {"10.0.0.1"}
