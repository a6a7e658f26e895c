"""A network that loses or refuses packets, in a namespace of its own with rules of nft."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.faults.scene import SESSION, patient_client, playing
from tests.support.network import new_network, nft, skip_without_nft
from tests.support.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes, pytest.mark.alone]

_SERVERS_WAY = "127.0.0.2"  # to ZooKeeper; the test's own is 127.0.0.1


@pytest.fixture
def own_network() -> Iterator[None]:
    """A network namespace that this thread, and all that it starts, lives in until the end of the test."""
    with new_network() as network, network.entered():
        skip_without_nft()
        yield


@contextlib.contextmanager
def rule(port: int, words: str) -> Iterator[None]:
    """This becomes of what goes over the server's way to ZooKeeper, `words` saying which direction."""
    line = words.format(way=_SERVERS_WAY, port=port)
    nft(f"table inet fault {{ chain input {{ type filter hook input priority 0\n{line}\n}}\n}}\n")
    try:
        yield
    finally:
        nft("delete table inet fault\n")


@pytest.mark.parametrize(
    "words",
    [
        "ip daddr {way} tcp dport {port} drop\nip saddr {way} tcp sport {port} drop",
        "ip saddr {way} tcp sport {port} drop",
        "ip daddr {way} tcp dport {port} reject with tcp reset",
    ],
    ids=["dropped", "answers dropped", "reset"],
)
def test_connections_are(words: str, own_network: None) -> None:
    del own_network
    with (
        ZooKeeperServer(settings={"clientPortAddress": "0.0.0.0"}) as zookeeper,
        patient_client(zookeeper.address) as reach,
        playing(f"{_SERVERS_WAY}:{zookeeper.port}", reach) as scene,
    ):
        with scene.fault() as fault, rule(zookeeper.port, words):
            scene.history.delete(reach, scene.history.members("web")[0])
            scene.history.register(reach, "web")
            scene.wait_stale(fault)
            time.sleep(SESSION)  # until its session has ended as well
            fault.repaired = time.monotonic()
        scene.changes_flow()
