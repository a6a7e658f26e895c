"""Go and Python programs find each other's members in a real ZooKeeper, and pick the same servers for keys.

The Go program exists twice, and both pass the same tests:

- `packages` is a program of this project on the packages that go.serversets is built on: samuel/go-zookeeper
  and groupcache's consistenthash. Its hash function is of another author, as Debian has no package of mmh3.
- `original` is go.serversets itself, from a checkout that the environment variable GO_SERVERSETS names. It is
  skipped otherwise, since no package registry that the tests may use has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.go import PROGRAMS, build, checkout_is_missing, encoded, packages_are_missing
from tests.interop.keys import ADDRESSES, KEYS
from tests.support.process_guard import running_guarded
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns import FixedSet, ServerSet
from zkdns.mcset import MCSet

pytestmark = pytest.mark.processes

Sets = Callable[..., ServerSet]

_MISSING = {"packages": packages_are_missing, "original": checkout_is_missing}


class Program:
    """The Go program, for the service `web` in the environment `test` below a path of ZooKeeper."""

    def __init__(self, program: Path, *place: str) -> None:
        self._program, self._place = program, (*place, "test", "web")

    @contextlib.contextmanager
    def registered(self, host: str, port: int) -> Iterator[subprocess.Popen[str]]:
        """Register a member during the block."""
        command = [str(self._program), "register", *self._place, host, str(port)]
        with running_guarded(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "registered\n"
            yield process

    @contextlib.contextmanager
    def watching(self) -> Iterator[Callable[[], list[str]]]:
        """Watch during the block. Its value is a function that returns the latest endpoints."""
        lists: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        command = [str(self._program), "watch", *self._place]
        with running_guarded(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = process.stdout
            latest = json.loads(lines.readline())

            def read() -> None:
                for line in lines:
                    lists.put(json.loads(line))

            reader = threading.Thread(target=read, daemon=True)
            reader.start()

            def endpoints() -> list[str]:
                nonlocal latest
                with contextlib.suppress(queue.Empty):
                    while True:
                        latest = lists.get_nowait()
                return list(latest)

            yield endpoints
            os.killpg(process.pid, signal.SIGKILL)  # with its guard, which has the same output
            reader.join(20.0)

    def pick(self, endpoints: list[str]) -> list[str]:
        """The servers of `KEYS`."""
        request = {"Endpoints": endpoints, "Keys": [encoded(key.encode()) for key in KEYS]}
        command = [str(self._program), "pick"]
        done = subprocess.run(
            command, input=json.dumps(request), check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        picked: list[str] = json.loads(done.stdout)
        return picked


@pytest.fixture(scope="module", params=list(_MISSING))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := _MISSING[request.param]():
        pytest.skip(reason)
    files = [PROGRAMS / "exchange" / name for name in ("main.go", f"{request.param}.go")]
    return build(tmp_path_factory.mktemp(request.param), files)


@pytest.fixture
def program(built: Path, zookeeper: ZooKeeperServer, zk_root: str) -> Program:
    return Program(built, zookeeper.address, zk_root)


@pytest.fixture
def web(zookeeper: ZooKeeperServer, zk_root: str) -> ServerSet:
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    return ServerSet("test", "web", [zookeeper.address], namespace=namespace, session_timeout=2.0)


def test_go_finds_members_of_python(program: Program, web: ServerSet) -> None:
    with program.watching() as endpoints:
        assert endpoints() == []
        with web.register("10.0.0.2", 8080), web.register("2001:db8::1", 8080, shard=3, metadata={"<": "é"}):
            with web.register("10.0.0.10", 8080, additional={"admin": 9990}):
                eventually(lambda: len(endpoints()) == 3)
                assert endpoints() == ["10.0.0.10:8080", "10.0.0.2:8080", "[2001:db8::1]:8080"]
                with web.watch() as watch:
                    assert list(watch.endpoints) == endpoints()
            eventually(lambda: endpoints() == ["10.0.0.2:8080", "[2001:db8::1]:8080"])
        eventually(lambda: endpoints() == [])


def test_python_finds_members_of_go(program: Program, web: ServerSet) -> None:
    with web.watch() as watch:
        eventually(lambda: not watch.endpoints)
        with program.registered("10.0.0.2", 8080), program.registered("2001:DB8::1", 8080) as second:
            eventually(lambda: len(watch.endpoints) == 2)
            assert watch.endpoints == ("10.0.0.2:8080", "[2001:db8::1]:8080")
            with program.watching() as endpoints:
                assert endpoints() == ["10.0.0.2:8080", "[2001:DB8::1]:8080"]
            os.kill(second.pid, signal.SIGTERM)  # it unregisters
            eventually(lambda: watch.endpoints == ("10.0.0.2:8080",))
        eventually(lambda: not watch.endpoints)  # it was killed, so its session expires


def test_both_write_the_same_bytes(program: Program, web: ServerSet, zk: Any) -> None:
    with program.registered("myhost", 8080), web.register("myhost", 8080):
        paths = [f"{web.path}/{name}" for name in sorted(zk.get_children(web.path))]
        assert [path[-17:] for path in paths] == ["member_0000000000", "member_0000000001"]
        of_go, of_python = ((zk.get(path)[0], zk.get_acls(path)[0]) for path in paths)
        assert of_go == of_python
        assert of_go[0].startswith(b'{"serviceEndpoint":{"host":"myhost","port":8080},')


def test_keys_are_on_the_same_servers(program: Program) -> None:
    for addresses in (ADDRESSES, dict(list(ADDRESSES.items())[2:5])):
        caches = MCSet(FixedSet(addresses))
        picked = [addresses.get(text, text) for text in program.pick(list(addresses))]
        assert picked == [caches.pick(key) for key in KEYS]
        assert set(picked) == set(addresses.values())


def test_the_ring_of_a_watch_is_that_of_go(program: Program, web: ServerSet, zk: Any) -> None:
    """Hosts in znodes in spellings that the library changes. Both hash the znode's own spelling."""
    hosts = ["10.0.0.1", "2001:DB8::1", "2001:db8:0:0::2", "::ffff:10.0.0.3", "10.0.0.4"]
    zk.ensure_path(web.path)
    for host in hosts:
        data = {"serviceEndpoint": {"host": host, "port": 80}, "additionalEndpoints": {}, "status": "ALIVE"}
        zk.create(f"{web.path}/member_", json.dumps(data).encode(), ephemeral=True, sequence=True)
    with web.watch() as watch, program.watching() as endpoints:
        caches = MCSet(watch)
        canonical = {text: FixedSet([text]).endpoints[0] for text in endpoints()}
        assert sorted(canonical.values()) == list(watch.endpoints)
        picked = [canonical.get(text, text) for text in program.pick(endpoints())]
        assert picked == [caches.pick(key) for key in KEYS]
        assert set(picked) == set(watch.endpoints)
