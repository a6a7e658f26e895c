"""A server that has lost the others of its ensemble: what it knows is answered, and marked."""

import dns.edns
import httpx2
import pytest

from tests.serverset.sync_helpers import join
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble
from tests.support.zookeeper_clients import client_of

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

NAME = "web.staging.discovery"


def is_stale(server: ZkdnsServer) -> bool:
    """Whether the answer says that it may be out of date."""
    response = server.query(NAME, use_edns=0)
    return any(isinstance(option, dns.edns.EDEOption) and option.code == 3 for option in response.options)


def figures(server: ZkdnsServer) -> str:
    return httpx2.get(f"{server.admin}/metrics").text


def test_a_server_cut_off_from_the_others_is_read_and_its_answers_are_marked() -> None:
    settings = {"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}
    with Ensemble(settings=settings, jvm_flags=("-Dreadonlymode.enabled=true",)) as ensemble:
        *lost, alone = ensemble.members
        with client_of(alone.address) as client:  # which knows of it, then; the others may be ahead of it
            join(client, "/discovery/staging/web", "10.0.0.1")
        for member in lost:
            member.kill()
        with ZkdnsServer("--zookeeper", ensemble.hosts, "--zookeeper-session-timeout", "4") as server:
            server.wait_ready(60)  # it begins with a server that is alone
            assert server.ask(NAME) == {"10.0.0.1"}
            eventually(lambda: is_stale(server))  # which is told a moment after it is ready
            eventually(lambda: 'zkdns_zookeeper_state{state="readonly"} 1.0' in figures(server))
            for member in lost:
                member.start()
            eventually(lambda: not is_stale(server), 60)
            eventually(lambda: 'zkdns_zookeeper_state{state="live"} 1.0' in figures(server))
            assert server.ask(NAME) == {"10.0.0.1"}
