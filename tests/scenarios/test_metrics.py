"""Metrics of a real server with a real ZooKeeper, scraped and parsed as Prometheus does."""

import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

NAMESPACE = "/discovery/{environment}/{service}"

pytestmark = pytest.mark.processes


def scrape(server: ZkdnsServer) -> dict[tuple[str, ...], float]:
    """Return the samples by name and label values."""
    with urllib.request.urlopen(f"{server.admin}/metrics", timeout=20.0) as response:  # noqa: S310 - a local URL
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def members(server: ZkdnsServer) -> tuple[float, ...]:
    """Return the numbers of alive, hidden and held members."""
    samples = scrape(server)
    return tuple(samples["zkdns_members", state] for state in ("alive", "hidden", "held"))


def register(client: Any, service: str, host: str, status: str = "ALIVE") -> str:
    data = json.dumps({"serviceEndpoint": {"host": host, "port": 80}, "status": status}).encode()
    path: str = client.create(f"/discovery/staging/{service}/member_", data, sequence=True, makepath=True)
    return path


@pytest.fixture
def client(own_zookeeper: ZooKeeperServer) -> Iterator[Any]:
    with client_of(own_zookeeper.address) as found:
        yield found


def test_metrics_follow_the_table(own_zookeeper: ZooKeeperServer, client: Any) -> None:
    web = [register(client, "web", f"10.0.0.{number}") for number in range(1, 7)]
    db = register(client, "db", "10.0.1.1")
    register(client, "db", "10.0.1.2", "STARTING")
    client.create("/discovery/staging/db/member_", b"not JSON", sequence=True)
    client.create("/discovery/staging/" + "x" * 64)
    client.create("/discovery/staging/db/leader")
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        server.wait_ready()
        eventually(lambda: members(server) == (7, 1, 0))
        samples = scrape(server)
        assert (samples["zkdns_zookeeper_state", NAMESPACE, "live"], samples["zkdns_services",]) == (1, 2)
        assert (samples["zkdns_bad_members_total", "json"], samples["zkdns_bad_names_total",]) == (1, 1)
        assert samples["zkdns_znodes_passed_over",] == 1
        assert samples["zkdns_zookeeper_stale_seconds", NAMESPACE] == 0
        assert samples["zkdns_guard_holds_total", NAMESPACE] == 0
        assert (samples["zkdns_joined_members_total",], samples["zkdns_left_members_total",]) == (8, 0)
        transaction = client.transaction()
        for path in (*web, db):
            transaction.delete(path)
        transaction.commit()
        eventually(lambda: members(server) == (0, 1, 7))
        assert scrape(server)["zkdns_guard_holds_total", NAMESPACE] == 2
        own_zookeeper.kill()
        eventually(lambda: scrape(server)["zkdns_zookeeper_state", NAMESPACE, "unreachable"] == 1)
        samples = scrape(server)  # some held members may have been removed first, and joined again
        assert samples["zkdns_joined_members_total",] - samples["zkdns_left_members_total",] == 0 + 1 + 7
        before = scrape(server)["zkdns_zookeeper_stale_seconds", NAMESPACE]
        assert scrape(server)["zkdns_zookeeper_stale_seconds", NAMESPACE] > before > 0
        assert members(server) == (0, 1, 7)


def test_joining_and_leaving_members_are_counted(hosts: str) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(client_of(hosts))
        for number in range(1, 7):
            register(client, "web", f"10.0.0.{number}")
        server = stack.enter_context(ZkdnsServer("--zookeeper", hosts)).wait_ready()
        joined, left = ("zkdns_joined_members_total",), ("zkdns_left_members_total",)
        eventually(lambda: scrape(server)[joined] == 6)
        before = scrape(server)
        new = register(client, "web", "10.0.0.9")
        eventually(lambda: scrape(server)[joined] == 7)
        client.delete(new)
        eventually(lambda: scrape(server)[left] == 1)
        samples = scrape(server)
        assert samples[joined] == 7
        assert samples["zkdns_table_changes_total",] == before["zkdns_table_changes_total",] + 2


def test_metrics_return_after_the_watcher_was_killed() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        alive = eventually(lambda: members(server)[0])
        assert scrape(server)["zkdns_process_restarts_total", "watcher"] == 0
        os.kill(server.pid_of("watcher"), signal.SIGKILL)
        eventually(lambda: len(server.events("process_started")) == 3)
        eventually(lambda: members(server)[0] == alive)
        assert not any("zookeeper" in name for name, *_ in scrape(server))
        assert scrape(server)["zkdns_process_restarts_total", "watcher"] == 1
        assert scrape(server)["zkdns_process_restarts_total", "worker"] == 0
