"""A network that loses or refuses packets, in a namespace of its own with rules of nft."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.faults.scene import SESSION, patient_client, playing
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_SERVERS_WAY = "127.0.0.2"  # to ZooKeeper; the test's own is 127.0.0.1

_libc = ctypes.CDLL(None, use_errno=True)


def _nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)


@pytest.fixture
def own_network() -> Iterator[None]:
    """A network namespace that this thread, and all that it starts, lives in until the end of the test."""
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    if missing or not hasattr(_libc, "unshare"):
        pytest.skip(f"needs {' and '.join(missing) or 'Linux'}")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
        try:
            try:
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True)
                _nft("add table inet probe\n")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"nft does not work here: {error.stderr!r}")
            yield
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)


@contextlib.contextmanager
def rule(port: int, words: str) -> Iterator[None]:
    """This becomes of what goes over the server's way to ZooKeeper, `words` saying which direction."""
    line = words.format(way=_SERVERS_WAY, port=port)
    _nft(f"table inet fault {{ chain input {{ type filter hook input priority 0\n{line}\n}}\n}}\n")
    try:
        yield
    finally:
        _nft("delete table inet fault\n")


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
