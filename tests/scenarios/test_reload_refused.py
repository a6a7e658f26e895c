"""Reloads that fail or are interrupted: the whole old configuration stays active."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.processes import is_running, open_files
from tests.scenarios.reloadable import REFUSED, RELOADED, WEB, ReloadableServer, all_answered_with
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReloadableServer]:
    with ReloadableServer(tmp_path, ttl=5) as running:
        running.wait_ready()
        yield running


def reasons(server: ReloadableServer) -> list[str]:
    return [entry["reason"] for entry in server.events(REFUSED)]


def test_all_errors_are_reported_and_the_old_configuration_stays(server: ReloadableServer) -> None:
    before = server.processes("worker") | server.processes("watcher")
    server.write(ttl=-1, order="upwards", workers=0)
    server.send_sighup()
    eventually(lambda: len(reasons(server)) == 3)
    assert {reason.split(": ")[1] for reason in reasons(server)} == {"ttl", "order", "workers"}
    assert server.query(WEB).answer[0].ttl == 5
    assert server.processes("worker") | server.processes("watcher") == before
    server.file.unlink()
    server.send_sighup()
    eventually(lambda: "cannot be read" in reasons(server)[-1])
    server.write(ttl=6)
    assert server.reload()["settings"] == "ttl"
    assert server.query(WEB).answer[0].ttl == 6


def test_used_address_refuses_the_whole_configuration(
    server: ReloadableServer,
) -> None:
    files = len(open_files(server.process.pid))
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        server.write(ttl=6, listen=["127.0.0.2:0", f"127.0.0.1:{port}"])
        server.send_sighup()
        eventually(lambda: reasons(server))
    (reason,) = reasons(server)
    assert reason.startswith(f"cannot listen on 127.0.0.1:{port}: another program listens there")
    assert server.query(WEB).answer[0].ttl == 5
    eventually(lambda: len(open_files(server.process.pid)) <= files)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server.write(ttl=6, admin={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        server.send_sighup()
        eventually(lambda: len(reasons(server)) == 2)
    assert "for admin requests" in reasons(server)[-1]
    assert server.query(WEB).answer[0].ttl == 5
    eventually(lambda: len(open_files(server.process.pid)) <= files)


@pytest.mark.parametrize("role", ["watcher", "worker"])
def test_new_process_that_ends_refuses_the_configuration(server: ReloadableServer, role: str) -> None:
    before = server.processes("worker") | server.processes("watcher")
    with SteadyLoad(server.addresses[0], WEB) as load:
        server.write(ttl=6, zookeeper={"session_timeout": 20}, workers=2)
        server.send_sighup()
        new = eventually(lambda: server.processes(role) - before, interval=0.001)
        os.kill(max(new), signal.SIGKILL)  # the newest, if there are two
        eventually(lambda: reasons(server))
        assert reasons(server) == [f"the new {role} ended instead of being ready"]
        eventually(lambda: server.processes("worker") | server.processes("watcher") == before)
    assert all_answered_with(load, {5})
    assert server.reload()["settings"] == "zookeeper.session_timeout workers ttl"
    server.wait_for_processes(2)
    assert server.query(WEB).answer[0].ttl == 6


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_sigterm_during_a_reload_ends_all_processes(server: ReloadableServer, count: int) -> None:
    before = len(server.events("process_started"))
    server.write(ttl=6, zookeeper={"session_timeout": 20}, workers=3)
    server.send_sighup()
    eventually(lambda: len(server.events("process_started")) - before >= count, interval=0.001)
    assert server.terminate() == 0
    assert not any(is_running(entry["pid"]) for entry in server.events("process_started"))
    assert "Traceback" not in server.log
    assert not server.events("process_exited")


def test_requests_during_a_reload_share_the_next_reload(server: ReloadableServer) -> None:
    for ttl in (6, 7, 8, 9, 10, 11, 12, 13):
        server.write(ttl=ttl)
        server.send_sighup()
    eventually(lambda: server.query(WEB).answer[0].ttl == 13)
    server.wait_for_processes()
    assert len(server.events(RELOADED)) <= 3
    server.send_sighup()
    eventually(lambda: server.events("configuration_unchanged"))


def test_sighup_after_the_terminal_is_closed_ends_the_server(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    server = ReloadableServer(tmp_path, ttl=5)
    server.command = ["sh", "-c", 'exec "$@" <"$0"', os.ttyname(terminal), *server.command]
    with server:
        server.wait_ready()
        server.send_sighup()
        eventually(lambda: server.events("configuration_unchanged"))
        os.close(terminal)
        os.close(controller)
        server.send_sighup()
        assert server.process.wait(5.0) == 0
