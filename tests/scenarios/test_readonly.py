"""A read-only ZooKeeper server, which has lost its ensemble: its data is served and marked as stale."""

import re

import dns.edns
import httpx2
import pytest
from kazoo.client import KazooClient

from tests.cli import Command, run
from tests.serverset.sync_helpers import join
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble
from tests.support.zookeeper_clients import client_of
from zkdns import ServerSet, UnreachableError

pytestmark = pytest.mark.processes

NAME = "web.staging.discovery"
QUORUM = "it is read-only, because it has no quorum"


def is_stale(server: ZkdnsServer) -> bool:
    """Whether the response has Extended DNS Error 3 (stale answer)."""
    response = server.query(NAME, use_edns=0)
    return any(isinstance(option, dns.edns.EDEOption) and option.code == 3 for option in response.options)


def metrics(server: ZkdnsServer) -> str:
    return httpx2.get(f"{server.admin}/metrics").text


def explained(server: ZkdnsServer) -> str:
    """The output of `zkdns explain`."""
    return run("explain", NAME, "--server", server.api).output


def check_that_the_library_names_the_quorum(readonly: str) -> None:
    """Check a session of the library's own, which writes, and a caller's client, which reads as well."""
    web = ServerSet("staging", "web", readonly, session_timeout=4.0)
    sentence = f"ZooKeeper at {readonly} is unreachable: {QUORUM}"
    for call in (lambda: web.register("10.0.0.2", 1, timeout=1.0), lambda: web.watch(timeout=1.0)):
        with pytest.raises(UnreachableError, match=re.escape(sentence)):
            call()
    client = KazooClient(readonly, read_only=True)
    client.start(timeout=20)
    try:
        web = ServerSet("staging", "web", client=client)
        with web.register("10.0.0.2", 1, timeout=None) as registration, web.watch() as watch:
            assert [member.service and member.service.host for member in watch.members] == ["10.0.0.1"]
            eventually(lambda: f"refuses it: {QUORUM}" in str(registration.last_error))
    finally:
        client.stop()
        client.close()


def check_that_commands_read_from_it(readonly: str) -> None:
    """Check that `services` and `watch` use the server, and report that it may be out of date."""
    listed = run("services", "--direct", "--zookeeper", readonly)
    assert listed.status == 0
    assert "staging\tweb\t1" in listed.output
    assert QUORUM in listed.errors
    watched = ("watch", "web", "--environment", "staging", "--zookeeper", readonly)
    with Command(*watched, environment={}) as command:
        eventually(lambda: "+ 10.0.0.1:80" in command.output, 30.0)
        assert QUORUM in command.errors


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
            eventually(lambda: 'state="readonly"} 1.0' in metrics(server))
            assert str(httpx2.get(f"{server.admin}/api/status").json()["zookeeper"]["problem"]).endswith(
                QUORUM
            )
            assert f"problem: the ZooKeeper server may be out of date: {QUORUM}" in explained(server)
            check_that_the_library_names_the_quorum(readonly.address)
            check_that_commands_read_from_it(readonly.address)
            for member in stopped:
                member.start()
            eventually(lambda: not is_stale(server), 60)
            eventually(lambda: 'state="live"} 1.0' in metrics(server))
            assert server.lookup(NAME) == {"10.0.0.1"}
