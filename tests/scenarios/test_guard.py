"""The guard of a real server with a real ZooKeeper: members that a failure removes stay in responses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

pytestmark = pytest.mark.processes

SERVICES = {"web": 6, "api": 3, "db": 1}
HELD = "members_held"


def addresses(service: str) -> set[str]:
    group = list(SERVICES).index(service)
    return {f"10.0.{group}.{number}" for number in range(1, SERVICES[service] + 1)}


def name_of(service: str) -> str:
    return f"{service}.staging.discovery"


def register_all(client: Any) -> None:
    """Register persistent members in all services."""
    for service in SERVICES:
        for host in sorted(addresses(service)):
            data = f'{{"serviceEndpoint":{{"host":"{host}","port":80}},"status":"ALIVE"}}'.encode()
            path = f"/discovery/staging/{service}/member_"
            client.create(path, data, sequence=True, makepath=True)


def members(client: Any, service: str) -> list[str]:
    path = f"/discovery/staging/{service}"
    return [f"{path}/{name}" for name in client.get_children(path)]


def delete(client: Any, *services: str) -> None:
    """Delete all members of these services in one transaction, as if their sessions had ended together."""
    transaction = client.transaction()
    for service in services:
        for path in members(client, service):
            transaction.delete(path)
    transaction.commit()


def wait_for_all_members(server: ZkdnsServer, *services: str) -> None:
    """Wait until all members of these services are in responses.

    The changes of one transaction may arrive in parts. Members that are deleted before the guard detects the
    failure are missing for a moment.
    """
    for service in services:
        eventually(lambda: server.lookup(name_of(service)) == addresses(service))  # noqa: B023 - called in this iteration


@pytest.fixture
def client(hosts: str) -> Iterator[Any]:
    with client_of(hosts) as found:
        register_all(found)
        yield found


def test_members_that_are_deleted_together_are_held(hosts: str, client: Any) -> None:
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        delete(client, *SERVICES)
        eventually(lambda: len(server.events(HELD)) == len(SERVICES))
        wait_for_all_members(server, *SERVICES)
        # They register again with new znode names and the same endpoints, which releases the held members.
        register_all(client)
        eventually(lambda: len(server.events("members_released")) == len(SERVICES))
        assert len(server.lookup(name_of("web"), "SRV")) == SERVICES["web"]


def test_losses_after_an_outage_are_held_for_the_configured_time(
    own_zookeeper: ZooKeeperServer, tmp_path: Path
) -> None:
    with client_of(own_zookeeper.address) as client:
        register_all(client)
    config = tmp_path / "zkdns.toml"
    config.write_text("[guard]\nseconds = 3\n")
    with ZkdnsServer("--zookeeper", own_zookeeper.address, "--config", str(config)) as server:
        server.wait_ready()
        own_zookeeper.kill()
        eventually(lambda: server.events("zookeeper_disconnected"))
        own_zookeeper.start()
        eventually(lambda: len(server.events("zookeeper_read")) == 2, 30)
        # A new client connects immediately. The other one may wait for a request that ZooKeeper lost during
        # its start, and return after the guard has stopped treating losses as a failure.
        with client_of(own_zookeeper.address) as new_client:
            delete(new_client, "api")
        eventually(lambda: server.events(HELD))
        wait_for_all_members(server, "api")
        eventually(lambda: not server.lookup(name_of("api")))
        assert server.lookup(name_of("db")) == addresses("db")
        assert [entry["reason"] for entry in server.events("members_released")] == ["hold expired"]


def test_deleted_service_is_removed_immediately(hosts: str, client: Any) -> None:
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        client.delete("/discovery/staging/api", recursive=True)
        eventually(lambda: server.rcode(name_of("api")) == "NXDOMAIN")
        assert server.events(HELD) == []
