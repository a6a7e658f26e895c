"""Packet loss and rejected connections, by nft rules in a separate network namespace."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.faults.scenario import SESSION, fault_scenario, reconnecting_client
from tests.support.network import new_network, nft, skip_without_nft
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

_ADDRESS = "127.0.0.2"  # of ZooKeeper for the server; the test uses 127.0.0.1


@pytest.fixture
def own_network() -> Iterator[None]:
    """A network namespace for this thread and its child processes during the test."""
    with new_network() as network, network.entered():
        skip_without_nft()
        yield


@contextlib.contextmanager
def rule(port: int, template: str) -> Iterator[None]:
    """A packet filter rule for the connection of the server to ZooKeeper."""
    line = template.format(address=_ADDRESS, port=port)
    nft(f"table inet fault {{ chain input {{ type filter hook input priority 0\n{line}\n}}\n}}\n")
    try:
        yield
    finally:
        nft("delete table inet fault\n")


@pytest.mark.parametrize(
    "template",
    [
        "ip daddr {address} tcp dport {port} drop\nip saddr {address} tcp sport {port} drop",
        "ip saddr {address} tcp sport {port} drop",
        "ip daddr {address} tcp dport {port} reject with tcp reset",
    ],
    ids=["dropped", "replies dropped", "reset"],
)
def test_connections_to_zookeeper_are_blocked(template: str, own_network: None) -> None:
    del own_network
    with (
        ZooKeeperServer(settings={"clientPortAddress": "0.0.0.0"}) as zookeeper,
        reconnecting_client(zookeeper.address) as direct_client,
        fault_scenario(f"{_ADDRESS}:{zookeeper.port}", direct_client) as scenario,
    ):
        with scenario.fault() as fault, rule(zookeeper.port, template):
            scenario.history.delete(direct_client, scenario.history.members("web")[0])
            scenario.history.register(direct_client, "web")
            scenario.wait_stale(fault)
            time.sleep(SESSION)  # until its session has expired
            fault.repaired = time.monotonic()
        scenario.check_changes()
