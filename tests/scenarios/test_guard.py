"""When ZooKeeper fails, the answers stay: the guard in a whole server, over a real ZooKeeper."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

SERVICES = {"web": 6, "api": 3, "db": 1}
HELD = "members_held"


def addresses(service: str) -> set[str]:
    group = list(SERVICES).index(service)
    return {f"10.0.{group}.{number}" for number in range(1, SERVICES[service] + 1)}


def name_of(service: str) -> str:
    return f"{service}.staging.discovery"


def register_all(client: Any) -> None:
    """Members that outlive their client's session, in each service."""
    for service in SERVICES:
        for host in sorted(addresses(service)):
            data = f'{{"serviceEndpoint":{{"host":"{host}","port":80}},"status":"ALIVE"}}'.encode()
            path = f"/discovery/staging/{service}/member_"
            client.create(path, data, sequence=True, makepath=True)


def members(client: Any, service: str) -> list[str]:
    path = f"/discovery/staging/{service}"
    return [f"{path}/{name}" for name in client.get_children(path)]


def delete(client: Any, *services: str) -> None:
    """All members of these services in one transaction, as when sessions are closed together."""
    transaction = client.transaction()
    for service in services:
        for path in members(client, service):
            transaction.delete(path)
    transaction.commit()


def is_answered(server: ZkdnsServer, *services: str) -> None:
    """All who are held are answered, a moment after that is said.

    News of one transaction may come in parts: who leaves before it looks like a failure is gone for a moment.
    """
    for service in services:
        eventually(lambda: server.ask(name_of(service)) == addresses(service), 2.0)  # noqa: B023 - used at once


@pytest.fixture
def client(own_zookeeper: ZooKeeperServer) -> Iterator[Any]:
    with client_of(own_zookeeper.address) as found:
        register_all(found)
        yield found


def test_when_all_members_vanish_at_once_all_are_answered_on(
    own_zookeeper: ZooKeeperServer, client: Any
) -> None:
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        server.wait_ready()
        delete(client, *SERVICES)
        eventually(lambda: len(server.events(HELD)) == len(SERVICES))
        is_answered(server, *SERVICES)
        # They register again, each under a new name at its old place: nobody is answered twice, or held.
        register_all(client)
        eventually(lambda: len(server.events("members_released")) == len(SERVICES))
        assert len(server.ask(name_of("web"), "SRV")) == SERVICES["web"]


def test_what_is_gone_after_zookeeper_was_away_is_held_for_its_time_and_then_let_go(
    own_zookeeper: ZooKeeperServer, client: Any, tmp_path: Path
) -> None:
    del client  # by which members were registered
    config = tmp_path / "zkdns.toml"
    config.write_text("[guard]\nseconds = 3\n")
    with ZkdnsServer("--zookeeper", own_zookeeper.address, "--config", str(config)) as server:
        server.wait_ready()
        own_zookeeper.kill()
        eventually(lambda: server.events("zookeeper_disconnected"))
        own_zookeeper.start()
        eventually(lambda: len(server.events("zookeeper_read")) == 2, 30)
        # By a client that is there at once: the other may still wait for what it asked of a ZooKeeper amid
        # its start, and be back when nothing is suspicious any more.
        with client_of(own_zookeeper.address) as another:
            delete(another, "api")
        eventually(lambda: server.events(HELD))
        is_answered(server, "api")
        eventually(lambda: not server.ask(name_of("api")))
        assert server.ask(name_of("db")) == addresses("db")
        assert [entry["reason"] for entry in server.events("members_released")] == ["hold expired"]


def test_a_service_that_is_shut_down_in_good_order_is_gone_at_once(
    own_zookeeper: ZooKeeperServer, client: Any
) -> None:
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        server.wait_ready()
        client.delete("/discovery/staging/api", recursive=True)
        eventually(lambda: server.rcode(name_of("api")) == "NXDOMAIN", 1.0)
        assert server.events(HELD) == []
