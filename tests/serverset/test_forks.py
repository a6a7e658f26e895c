"""Forked child processes: watches follow the set there, and registrations stay the parent's.

Each test is a program of its own, because a fork of the test process would copy the threads of other tests.
"""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.process_guard import running_guarded
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

_BEGINNING = """
import multiprocessing, os, subprocess, sys, threading, time
from tests.support.forks import in_child, sockets, until
from zkdns import FixedSet, ServerSet
from zkdns.errors import ZooKeeperError
from zkdns.serverset import session

session.UNREACHABLE_SECONDS = 60.0  # no searches for a cause, which open sessions too
hosts, namespace = sys.argv[1:]

def server_set(service="web", **options):
    return ServerSet("test", service, hosts, namespace=namespace, **{"session_timeout": 30.0, **options})

web = server_set()
"""


def run(hosts: str, zk_root: str, program: str) -> str:
    """Run a program to its end. Returns what it and its children have logged."""
    result = subprocess.run(
        [sys.executable, "-c", _BEGINNING + program, hosts, f"{zk_root}/{{environment}}/{{service}}"],
        capture_output=True,
        text=True,
        timeout=150.0,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture
def proxy(zookeeper: ZooKeeperServer) -> Iterator[FaultProxy]:
    with FaultProxy(zookeeper.port) as started:
        yield started


def test_a_watch_follows_the_set_in_a_child(proxy: FaultProxy, zk_root: str, zk: Any) -> None:
    zk.ensure_path(zk_root)
    logged = run(
        proxy.address,
        zk_root,
        """
watch, calls = web.watch(), []
watch.subscribe(lambda: calls.append(watch.endpoints))
of_parent = sockets()
assert of_parent

def work():
    assert not sockets() & of_parent
    assert watch.endpoints == ()  # the last known members, until it has read the set
    with web.register("c", 3):
        assert watch.wait(20.0, after=1)
        until(lambda: calls == [("c:3",)])
    until(lambda: watch.endpoints == ())
    watch.close()

in_child(work)
until(lambda: watch.event_count == 3 and watch.endpoints == ())  # the parent sees the child's member
with web.register("p", 1):
    until(lambda: watch.endpoints == ("p:1",))
""",
    )
    assert logged == ""
    assert len(proxy.sessions) == 2


def test_each_watch_joins_the_one_session_of_the_child(zookeeper: ZooKeeperServer, zk_root: str) -> None:
    run(
        zookeeper.address,
        zk_root,
        """
watches = [server_set(name).watch() for name in "abc"]

def work():
    for name, watch in zip("abc", watches):
        with server_set(name).register("x", 1):
            until(lambda: watch.endpoints == ("x:1",))
    assert [one.name for one in threading.enumerate()].count("zkdns session") == 1

in_child(work)
""",
    )


@pytest.mark.parametrize("closes", [True, False])
def test_a_child_leaves_the_parents_member(
    zookeeper: ZooKeeperServer, zk_root: str, zk: Any, closes: bool
) -> None:
    zk.ensure_path(zk_root)
    logged = run(
        zookeeper.address,
        zk_root,
        f"""
pings = []
registration = web.register("a", 1, ping=lambda: pings.append(os.getpid()), ping_interval=0.01)
path = registration.path

def work():
    assert registration.is_closed and registration.path is None and not registration.is_registered
    assert "parent" in str(registration.last_error)
    assert not registration.wait(5.0)
    began = time.monotonic()
    if {closes}:
        registration.close()
    assert time.monotonic() - began < 5.0
    del pings[:]
    time.sleep(0.3)  # until the warning is logged
    assert not pings

in_child(work)
with server_set(own_session=True).watch() as watch:
    assert [member.name for member in watch.members] == [path.rpartition("/")[2]]
assert registration.is_registered and registration.path == path
del pings[:]
until(lambda: pings)
registration.close()
""",
    )
    assert logged.count("registration_closed_by_fork") == 1
    assert zk.get_children(f"{zk_root}/test/web") == []


def test_a_child_of_a_child_follows_the_set(zookeeper: ZooKeeperServer, zk_root: str) -> None:
    run(
        zookeeper.address,
        zk_root,
        """
watch = web.watch()

def work():
    with web.register("g", 1):
        until(lambda: watch.endpoints == ("g:1",))

in_child(lambda: in_child(work))  # at once, as a daemon does
""",
    )


def test_a_child_that_executes_another_program_opens_no_session(
    proxy: FaultProxy, zk_root: str, zk: Any
) -> None:
    zk.ensure_path(zk_root)
    run(
        proxy.address,
        zk_root,
        """
with web.watch(), web.register("a", 1):
    for _ in range(3):
        subprocess.run(["sleep", "0.5"], check=True, preexec_fn=lambda: None)  # so that Python's hooks run
""",
    )
    assert len(proxy.sessions) == 1


def test_locks_that_other_threads_hold_at_the_fork_do_no_harm(
    zookeeper: ZooKeeperServer, zk_root: str
) -> None:
    run(
        zookeeper.address,
        zk_root,
        """
fixed, watch, registration = FixedSet(), web.watch(), web.register("a", 1)
sets = [[f"10.0.{i % 200}.{i % 250}:{turn + 1}" for i in range(3000)] for turn in range(2)]
stopped = threading.Event()

def keep(*work):
    while not stopped.is_set():
        for one in work:
            one()

busy = [threading.Thread(target=keep, args=work, daemon=True) for work in (
    (lambda: fixed.set_endpoints(sets[0]), lambda: fixed.set_endpoints(sets[1])),
    (lambda: watch.subscribe(print)(), lambda: registration.wait(0.0)),
    (lambda: server_set("other").watch().close(),),
)]
for one in busy:
    one.start()

def work():
    fixed.set_endpoints(["a:1"])
    assert fixed.endpoints == ("a:1",)
    registration.close()
    with server_set("other").register("o", 1), server_set("other").watch() as other:
        assert other.endpoints == ("o:1",)
    watch.close()

for _ in range(5):
    in_child(work)
stopped.set()
""",
    )


def test_with_the_callers_client_a_watch_is_closed_with_a_warning(
    zookeeper: ZooKeeperServer, zk_root: str
) -> None:
    logged = run(
        zookeeper.address,
        zk_root,
        """
from kazoo.client import KazooClient

client = KazooClient(hosts)
client.start()
theirs = ServerSet("test", "web", client=client, namespace=namespace)
watch, registration = theirs.watch(), theirs.register("a", 1)

def work():
    assert not watch.wait(20.0)  # it ends the wait
    assert watch.is_closed and "parent" in str(watch.last_error)
    for begin in (theirs.watch, lambda: theirs.register("b", 2)):
        try:
            begin()
        except ZooKeeperError as error:
            assert "parent" in str(error)
        else:
            sys.exit("it begins")

in_child(work)
assert watch.endpoints == ("a:1",)
client.stop()
""",
    )
    assert "watch_closed_by_fork" in logged


def test_a_client_that_is_started_after_the_fork_works(zookeeper: ZooKeeperServer, zk_root: str) -> None:
    run(
        zookeeper.address,
        zk_root,
        """
from kazoo.client import KazooClient

client = KazooClient(hosts)
theirs = ServerSet("test", "web", client=client, namespace=namespace)

def work():
    client.start()
    with theirs.register("a", 1), theirs.watch() as watch:
        assert watch.endpoints == ("a:1",)
    client.stop()

in_child(work)
""",
    )


def test_processes_of_multiprocessing(zookeeper: ZooKeeperServer, zk_root: str, zk: Any) -> None:
    zk.ensure_path(zk_root)
    run(
        zookeeper.address,
        zk_root,
        """
watch, registration = web.watch(), web.register("p", 1)
until(lambda: watch.endpoints == ("p:1",))

def work(number):
    with web.register("c", number + 1):
        until(lambda: f"c:{number + 1}" in watch.endpoints)
    return registration.is_closed, watch.is_closed

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(4)) == [(True, False)] * 4
until(lambda: watch.endpoints == ("p:1",))
assert registration.is_registered
""",
    )


_APPLICATION = """
import os
from zkdns import ServerSet

web = ServerSet(
    "test", "web", os.environ["ZOOKEEPER"], namespace=os.environ["NAMESPACE"], session_timeout=30.0
)
registration = web.register("master", 1)
watch = web.watch()

def application(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.getpid()} {registration.is_closed} {' '.join(watch.endpoints)}".encode()]
"""


def test_workers_of_gunicorn_with_preload(
    zookeeper: ZooKeeperServer, zk_root: str, zk: Any, tmp_path: Path
) -> None:
    (tmp_path / "application.py").write_text(_APPLICATION)
    environment = {
        **os.environ,
        "ZOOKEEPER": zookeeper.address,
        "NAMESPACE": f"{zk_root}/{{environment}}/{{service}}",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--chdir", str(tmp_path)]
        command += ["--bind", f"fd://{listener.fileno()}", "application"]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with running_guarded(
            command, env=environment, pass_fds=(listener.fileno(),), stdout=log, stderr=log
        ) as master:
            seen: dict[int, str] = {}

            def warnings() -> int:
                return (tmp_path / "log").read_text().count("registration_closed_by_fork")

            def all_see(text: str) -> None:
                def both_do() -> bool:
                    with urllib.request.urlopen(url, timeout=5.0) as response:
                        pid, _, found = response.read().decode().partition(" ")
                    seen[int(pid)] = found
                    return len(seen) == 2 and set(seen.values()) == {text}

                seen.clear()
                eventually(both_do, interval=0.02)

            all_see("True master:1")
            late = zk.create(
                f"{zk_root}/test/web/member_",
                b'{"serviceEndpoint":{"host":"late","port":2},"additionalEndpoints":{},"status":"ALIVE"}',
                sequence=True,
            )
            all_see("True late:2 master:1")
            members = zk.get_children(f"{zk_root}/test/web")
            os.kill(min(seen), signal.SIGTERM)  # gunicorn replaces the worker
            eventually(lambda: warnings() == 3)  # one in each worker
            all_see("True late:2 master:1")
            assert zk.get_children(f"{zk_root}/test/web") == members
            os.kill(master.pid, signal.SIGTERM)
            assert master.wait(30.0) == 0
            assert zk.get_children(f"{zk_root}/test/web") == [late.rpartition("/")[2]]
