"""Reloading while others ask: each of them gets an answer, of the old configuration or of the new one."""

import asyncio
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.message
import pytest

from tests.daemon.processes import links_to_files, open_files
from tests.scenarios.reloadable import MEMBERS, RELOADED, WEB, ReloadableServer, all_answered_with
from tests.support.loopback import free_port
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import eventually
from zkdns.daemon.ipc.control import command
from zkdns.daemon.ipc.control_messages import Explain, Explanation

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

QUERY = dns.message.make_query(WEB, "A").to_wire()
RELOADS = int(os.environ.get("TEST_RELOADS", "12"))  # a hundred take half a minute


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReloadableServer]:
    with ReloadableServer(tmp_path, ttl=5) as running:
        running.wait_ready()
        yield running


def bound_by(server: ReloadableServer) -> set[tuple[str, int]]:
    """Where the supervisor has sockets of UDP over IPv4."""
    own = links_to_files(server.process.pid)
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    at = [line[1].split(":") for line in lines if f"socket:[{line[9]}]" in own]
    return {(socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)) for host, port in at}


def refuses(address: tuple[str, int]) -> bool:
    """Whether nobody listens there over TCP."""
    with socket.socket() as sock:
        return sock.connect_ex(address) == errno.ECONNREFUSED


def test_nobody_goes_without_an_answer_while_configurations_alternate(server: ReloadableServer) -> None:
    files = len(open_files(server.process.pid))
    with SteadyLoad(server.addresses[0], WEB) as load:
        for number in range(RELOADS):
            order, ttl = ("round-robin", 7) if number % 2 == 0 else ("fixed", 5)
            server.write(ttl=ttl, order=order)
            told = server.reload()
            assert told["settings"] == "ttl order"
            assert told["roles"] == "worker"
            assert server.query(WEB).answer[0].ttl == ttl
    server.wait_for_processes()
    assert all_answered_with(load, {5, 7})
    assert load.slowest < 1.0
    assert server.query(WEB).answer[0].ttl == (5 if RELOADS % 2 == 0 else 7)
    eventually(lambda: len(open_files(server.process.pid)) <= files)
    assert "Traceback" not in server.log


def test_it_is_in_force_when_the_old_one_answers_nobody_any_more(server: ReloadableServer) -> None:
    (old,) = server.processes("worker")
    os.kill(old, signal.SIGSTOP)
    try:
        server.write(ttl=6)
        server.send_sighup()
        eventually(lambda: len(server.processes("worker")) == 2)
        eventually(lambda: server.query(WEB).answer[0].ttl == 6)
        time.sleep(0.5)  # it would have been said by then
        assert not server.events(RELOADED)
    finally:
        os.kill(old, signal.SIGCONT)
    eventually(lambda: server.events(RELOADED))
    assert all(server.query(WEB).answer[0].ttl == 6 for _ in range(20))


def test_the_watcher_is_replaced_for_what_it_alone_knows_and_workers_stay(server: ReloadableServer) -> None:
    watchers, workers = server.processes("watcher"), server.processes("worker")
    with SteadyLoad(server.addresses[0], WEB) as load:
        for seconds in range(20, 25):
            server.write(ttl=5, zookeeper={"session_timeout": seconds})
            assert server.reload()["roles"] == "watcher"
            server.wait_for_processes()
    assert all_answered_with(load, {5})
    assert server.processes("worker") == workers
    assert not server.processes("watcher") & watchers
    # It is followed: what it reads is answered.
    server.services.write_text('[services."web.staging"]\nmembers = ["10.0.0.9:80"]\n')
    eventually(lambda: server.ask(WEB) == {"10.0.0.9"})


def test_who_explains_knows_what_workers_alone_were_replaced_for(server: ReloadableServer) -> None:
    watchers = server.processes("watcher")
    server.write(ttl=9, order="round-robin")
    assert server.reload()["roles"] == "worker"
    assert server.processes("watcher") == watchers

    async def explained() -> tuple[int | None, str | None]:
        told = await command(server.control, Explain("web.staging"))
        assert isinstance(told, Explanation)
        return told.ttl, told.order

    assert eventually(lambda: asyncio.run(explained()) == (9, "round-robin"))


def test_an_worker_that_is_lost_after_the_watcher_was_replaced_finds_the_new_one(
    server: ReloadableServer,
) -> None:
    server.write(ttl=5, zookeeper={"session_timeout": 20})
    server.reload()
    server.wait_for_processes()
    (pid,) = server.processes("worker")
    os.kill(pid, signal.SIGKILL)
    assert server.ask(WEB, timeout=20.0) == set(MEMBERS)
    (watcher,) = server.processes("watcher")
    os.kill(watcher, signal.SIGKILL)
    eventually(lambda: server.processes("watcher") - {watcher})
    server.services.write_text('[services."web.staging"]\nmembers = ["10.0.0.9:80"]\n')
    eventually(lambda: server.ask(WEB) == {"10.0.0.9"})


def test_all_processes_log_as_they_are_told(tmp_path: Path) -> None:
    with ReloadableServer(tmp_path, log={"level": "debug"}) as server:
        server.wait_ready()
        before = server.processes("worker") | server.processes("watcher")
        server.write(log={"level": "error"})
        server.send_sighup()
        eventually(lambda: not before & (server.processes("worker") | server.processes("watcher")))
        server.wait_for_processes()
        told = len(server.log)
        server.write(ttl=7, log={"level": "error"})
        server.send_sighup()
        eventually(lambda: server.query(WEB).answer[0].ttl == 7)
        server.wait_for_processes()
        server.write(ttl=-1, log={"level": "error"})
        server.send_sighup()
        eventually(lambda: len(server.log) > told and server.log.endswith("\n"))
        (line,) = server.log[told:].splitlines()
        assert json.loads(line)["level"] == "error"


def test_one_whom_a_hang_up_reaches_by_mistake_goes_on(server: ReloadableServer) -> None:
    pids = server.processes("worker") | server.processes("watcher")
    for pid in pids:
        os.kill(pid, signal.SIGHUP)
    assert server.ask(WEB) == set(MEMBERS)
    assert server.processes("worker") | server.processes("watcher") == pids


def test_workers_come_and_go_while_others_ask(server: ReloadableServer) -> None:
    with SteadyLoad(server.addresses[0], WEB) as load:
        for workers in (3, 2, 4, 1, 3):
            server.write(ttl=5, workers=workers)
            assert server.reload()["settings"] == "workers"
            server.wait_for_processes(workers)
    assert all_answered_with(load, {5})
    assert load.slowest < 1.0


def test_what_waits_in_the_sockets_of_a_worker_that_is_removed_is_answered_first(
    server: ReloadableServer,
) -> None:
    server.write(ttl=5, workers=2)
    server.reload()
    server.wait_for_processes(2)
    removed = server.pid_of("worker")  # who was started last
    framed = len(QUERY).to_bytes(2) + QUERY
    with ExitStack() as stack:
        os.kill(removed, signal.SIGSTOP)
        askers = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(60)]
        for asker in askers:
            asker.connect(server.addresses[0])
            asker.send(QUERY)
        connections = [
            stack.enter_context(socket.create_connection(server.addresses[0], 5.0)) for _ in range(80)
        ]
        for sock in connections:
            sock.sendall(framed)
        server.write(ttl=5, workers=1)
        server.send_sighup()
        time.sleep(1.0)  # until it has been told; in force it is only when it has heard that, or is late
        os.kill(removed, signal.SIGCONT)
        for sock in (*askers, *connections):
            sock.settimeout(5.0)
            assert len(sock.recv(4096)) > len(QUERY)
    eventually(lambda: len(server.events(RELOADED)) == 2)
    server.wait_for_processes(1)


def test_where_it_listens_moves_and_nobody_who_has_asked_there_is_forgotten(server: ReloadableServer) -> None:
    (before,) = server.addresses
    assert bound_by(server) == {before}
    port = free_port()
    with SteadyLoad(before, WEB) as load:
        # What stays is asked by others meanwhile; only the second address is new.
        server.write(ttl=5, listen=["127.0.0.1:0", f"127.0.0.1:{port}"])
        server.reload()
    assert all_answered_with(load, {5})
    assert server.events("listener_opened")[-1]["address"] == f"127.0.0.1:{port}"
    server.wait_for_processes()
    server.write(ttl=5, listen=[f"127.0.0.1:{port}"])
    server.reload()
    server.wait_for_processes()
    eventually(lambda: before not in bound_by(server))
    assert server.events("listener_closed")[-1]["address"] == f"127.0.0.1:{before[1]}"


def test_the_admin_address_moves(server: ReloadableServer) -> None:
    before = server.events("admin_server_started")[0]["address"]
    server.write(ttl=5, admin={"listen": "127.0.0.2:0"})
    assert server.reload()["roles"] is None
    assert server.events("admin_server_started")[-1]["address"].startswith("127.0.0.2:")
    host, port = before.rsplit(":", 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 1.0)


def test_an_address_becomes_a_part_of_another_and_is_one_of_its_own_again(server: ReloadableServer) -> None:
    host, port = server.addresses[0]
    with SteadyLoad((host, port), WEB) as load:
        for listen in (f"0.0.0.0:{port}", f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
            server.write(ttl=5, listen=[listen], workers=2)
            assert "listen" in str(server.reload()["settings"])
            server.wait_for_processes(2)
        assert server.query(WEB).answer[0].ttl == 5
    assert all_answered_with(load, {5})


def test_the_rest_of_an_address_is_given_up(tmp_path: Path) -> None:
    with ReloadableServer(tmp_path, ttl=5, listen=["0.0.0.0:0"]) as server:
        port = server.wait_ready().port
        with SteadyLoad(("127.0.0.1", port), WEB) as load:
            server.write(ttl=5, listen=[f"127.0.0.1:{port}"])
            server.reload()
            server.wait_for_processes()
        assert all_answered_with(load, {5})
        eventually(lambda: refuses(("127.0.0.2", port)))  # it is closed when the process that had it has gone
