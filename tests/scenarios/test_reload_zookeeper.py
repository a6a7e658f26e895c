"""Reloads of ZooKeeper settings: the new watcher takes over the state of the old one."""

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import run
from tests.scenarios.reloadable import REFUSED, ReloadableServer, distinct_answers
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

pytestmark = pytest.mark.processes

WEB = "web.staging.discovery"
HOSTS = {f"10.0.0.{number}" for number in range(1, 7)}
OTHERS = {"10.1.0.1", "10.1.0.2"}
HELD = "members_held"


def register(client: Any, hosts: set[str], service: str = "web") -> None:
    """Register persistent members."""
    for host in sorted(hosts):
        data = f'{{"serviceEndpoint":{{"host":"{host}","port":80}},"status":"ALIVE"}}'.encode()
        client.create(f"/discovery/staging/{service}/member_", data, sequence=True, makepath=True)


@pytest.fixture
def client(hosts: str) -> Iterator[Any]:
    with client_of(hosts) as found:
        yield found


@contextlib.contextmanager
def serving(hosts: str, directory: Path) -> Iterator[ReloadableServer]:
    """Register members, and run a server with them."""
    with client_of(hosts) as client:
        register(client, HOSTS)
        register(client, {"10.2.0.1"}, "db")
    with ReloadableServer(directory, static=None, zookeeper={"hosts": hosts}) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def server(hosts: str, tmp_path: Path) -> Iterator[ReloadableServer]:
    with serving(hosts, tmp_path) as running:
        yield running


@pytest.fixture
def server_of_own(own_zookeeper: ZooKeeperServer, tmp_path: Path) -> Iterator[ReloadableServer]:
    """A server of `own_zookeeper`."""
    with serving(own_zookeeper.address, tmp_path) as running:
        yield running


def addresses_of(load: SteadyLoad) -> set[frozenset[str]]:
    """Check that no query was lost, and return the different sets of addresses in responses."""
    return {frozenset(addresses) for _, addresses in distinct_answers(load)}


def test_new_zookeeper_is_read_before_its_members_are_served(
    server_of_own: ReloadableServer, own_zookeeper: ZooKeeperServer
) -> None:
    server = server_of_own
    with ZooKeeperServer() as other, client_of(other.address) as client:
        register(client, OTHERS)
        with SteadyLoad(server.addresses[0], WEB) as load:
            server.write(static=None, zookeeper={"hosts": other.address})
            assert server.reload()["settings"] == "zookeeper.hosts"
            eventually(lambda: server.lookup(WEB) == OTHERS)
            server.wait_for_processes()
        assert addresses_of(load) == {frozenset(HOSTS), frozenset(OTHERS)}
        register(client, {"10.1.0.3"})
        eventually(lambda: server.lookup(WEB) == {*OTHERS, "10.1.0.3"})
    eventually(lambda: own_zookeeper.count_watches() == 0)


def test_held_members_stay_held(server: ReloadableServer, hosts: str, client: Any) -> None:
    deletion = client.transaction()
    for service in ("web", "db"):
        path = f"/discovery/staging/{service}"
        for name in client.get_children(path):
            deletion.delete(f"{path}/{name}")
    deletion.commit()
    eventually(lambda: len(server.events(HELD)) == 2)
    # Members that were removed before the guard detected the loss are restored, by one worker after another.
    eventually(lambda: all(server.lookup(WEB) == HOSTS for _ in range(20)))
    with SteadyLoad(server.addresses[0], WEB) as load:
        server.write(static=None, zookeeper={"hosts": hosts, "session_timeout": 12}, ttl=6)
        server.reload()
        server.wait_for_processes()
        eventually(lambda: len(server.events("zookeeper_read")) == 2)
    assert addresses_of(load) == {frozenset(HOSTS)}
    # `zkdns accept` reaches the new watcher, which has the held members.
    environment = {"ZKDNS_ADMIN_SOCKET": server.api}
    eventually(lambda: run("accept", "web.staging", environment=environment).status == 0)
    eventually(lambda: server.lookup(WEB) == set())


def stale_seconds(server: ReloadableServer) -> float:
    with urllib.request.urlopen(f"{server.admin}/api/status", timeout=5.0) as response:  # noqa: S310 - a local URL
        return float(json.load(response)["zookeeper"]["stale_seconds"])


def test_settings_change_while_zookeeper_is_unavailable(
    server_of_own: ReloadableServer, own_zookeeper: ZooKeeperServer
) -> None:
    server = server_of_own
    own_zookeeper.kill()
    eventually(lambda: server.events("zookeeper_disconnected"))
    eventually(lambda: stale_seconds(server) > 0)
    started_at = time.monotonic()
    with SteadyLoad(server.addresses[0], WEB) as load:
        server.write(static=None, zookeeper={"hosts": own_zookeeper.address, "session_timeout": 12}, ttl=6)
        server.reload()
        server.wait_for_processes()
    assert addresses_of(load) == {frozenset(HOSTS)}
    elapsed = time.monotonic() - started_at
    assert eventually(lambda: stale_seconds(server)) > elapsed  # not reset by the new watcher
    assert server.query(WEB).answer[0].ttl == 6
    own_zookeeper.start()
    eventually(lambda: len(server.events("zookeeper_read")) == 2, 30.0)
    assert server.lookup(WEB) == HOSTS


def test_unreachable_zookeeper_refuses_the_reload(
    server: ReloadableServer,
) -> None:
    with SteadyLoad(server.addresses[0], WEB) as load:
        server.write(static=None, zookeeper={"hosts": "127.0.0.1:1"}, ttl=6)
        server.send_sighup()
        eventually(lambda: server.events(REFUSED), 45.0)
        server.wait_for_processes()
    assert addresses_of(load) == {frozenset(HOSTS)}
    (refused,) = server.events(REFUSED)
    assert refused["reason"] == (
        "the new watcher is not ready after 30 s: ZooKeeper at 127.0.0.1:1 has not been read"
    )
    assert server.query(WEB).answer[0].ttl == 5


def test_members_with_another_prefix_are_served_after_a_reload(
    server: ReloadableServer, hosts: str, client: Any
) -> None:
    others = sorted(OTHERS)
    for host in others:
        member = f'{{"serviceEndpoint":{{"host":"{host}","port":80}},"status":"ALIVE"}}'.encode()
        client.create("/discovery/staging/web/node-", member, sequence=True)
    assert server.lookup(WEB) == HOSTS
    source = {"static": None, "zookeeper": {"hosts": hosts}}
    with SteadyLoad(server.addresses[0], WEB) as load:
        server.write(member_prefix="node-", **source)
        assert server.reload()["settings"] == "namespaces"
        eventually(lambda: server.lookup(WEB) == OTHERS)
        server.wait_for_processes()
    assert addresses_of(load) == {frozenset(HOSTS), frozenset(OTHERS)}
    assert server.events(HELD) == []
    first = client.get_children("/discovery/staging/web")
    name = min(child for child in first if child.startswith("node-"))
    assert server.lookup(f"m{int(name[-10:])}.{WEB}") == server.lookup(f"{name}.{WEB}") == {others[0]}
    server.write(**source)
    server.reload()
    eventually(lambda: server.lookup(WEB) == HOSTS)
