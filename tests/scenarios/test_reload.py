"""Reloads under load: each client gets a response, with the old configuration or the new one."""

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
from tests.support.tls import CertificateAuthority
from tests.support.waiting import PATIENCE, eventually, repeated_if_late
from zkdns.address import HostPort
from zkdns.admin.api_types import Reloaded
from zkdns.admin.client import RELOAD_SECONDS, ApiClient, RefusedError, ServerAddress, UnreachableError

pytestmark = pytest.mark.processes

QUERY = dns.message.make_query(WEB, "A").to_wire()
MAX_LATENCY = 3.0
"""Seconds; stub resolvers repeat a query after 5 s (resolv.conf(5))."""
RELOADS = int(os.environ.get("TEST_RELOADS", "12"))  # 100 reloads take half a minute


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReloadableServer]:
    with ReloadableServer(tmp_path, ttl=5) as running:
        running.wait_ready()
        yield running


def bound_by(server: ReloadableServer) -> set[tuple[str, int]]:
    """The addresses of the IPv4 UDP sockets of the supervisor."""
    own = links_to_files(server.process.pid)
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    addresses = [line[1].split(":") for line in lines if f"socket:[{line[9]}]" in own]
    return {(socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)) for host, port in addresses}


def refuses(address: tuple[str, int]) -> bool:
    """Whether TCP connections to the address are refused."""
    with socket.socket() as sock:
        return sock.connect_ex(address) == errno.ECONNREFUSED


@repeated_if_late
def test_no_query_is_lost_while_configurations_alternate(server: ReloadableServer) -> None:
    files = len(open_files(server.process.pid))
    with SteadyLoad(server.addresses[0], WEB) as load:
        for number in range(RELOADS):
            order, ttl = ("round-robin", 7) if number % 2 == 0 else ("fixed", 5)
            server.write(ttl=ttl, order=order)
            entry = server.reload()
            assert entry["settings"] == "ttl order"
            assert entry["roles"] == "worker"
            assert server.query(WEB).answer[0].ttl == ttl
    server.wait_for_processes()
    assert all_answered_with(load, {5, 7})
    load.check_latency(MAX_LATENCY)
    assert server.query(WEB).answer[0].ttl == (5 if RELOADS % 2 == 0 else 7)
    eventually(lambda: len(open_files(server.process.pid)) <= files)
    assert "Traceback" not in server.log


def test_reload_completes_when_the_old_worker_has_stopped_answering(server: ReloadableServer) -> None:
    (old,) = server.processes("worker")
    os.kill(old, signal.SIGSTOP)
    try:
        server.write(ttl=6)
        server.send_sighup()
        eventually(lambda: len(server.processes("worker")) == 2)
        eventually(lambda: server.query(WEB).answer[0].ttl == 6)
        time.sleep(0.5)  # enough time for the log entry
        assert not server.events(RELOADED)
    finally:
        os.kill(old, signal.SIGCONT)
    eventually(lambda: server.events(RELOADED))
    assert all(server.query(WEB).answer[0].ttl == 6 for _ in range(20))


def test_watcher_settings_replace_only_the_watcher(server: ReloadableServer) -> None:
    watchers, workers = server.processes("watcher"), server.processes("worker")
    with SteadyLoad(server.addresses[0], WEB) as load:
        for seconds in range(20, 25):
            server.write(ttl=5, zookeeper={"session_timeout": seconds})
            assert server.reload()["roles"] == "watcher"
            server.wait_for_processes()
    assert all_answered_with(load, {5})
    assert server.processes("worker") == workers
    assert not server.processes("watcher") & watchers
    # The workers follow the new watcher.
    server.services.write_text('[services."web.staging"]\nmembers = ["10.0.0.9:80"]\n')
    eventually(lambda: server.lookup(WEB) == {"10.0.0.9"})


def test_explain_uses_settings_that_replaced_only_workers(server: ReloadableServer) -> None:
    watchers = server.processes("watcher")
    server.write(ttl=9, order="round-robin")
    assert server.reload()["roles"] == "worker"
    assert server.processes("watcher") == watchers

    client = ApiClient(ServerAddress(path=server.api))

    def explained() -> tuple[int | None, str | None]:
        response = client.explain("web.staging")
        return response.ttl, response.order

    assert eventually(lambda: explained() == (9, "round-robin"))


def test_new_worker_connects_to_the_replaced_watcher(
    server: ReloadableServer,
) -> None:
    server.write(ttl=5, zookeeper={"session_timeout": 20})
    server.reload()
    server.wait_for_processes()
    (pid,) = server.processes("worker")
    os.kill(pid, signal.SIGKILL)
    assert server.lookup(WEB, timeout=20.0) == set(MEMBERS)
    (watcher,) = server.processes("watcher")
    os.kill(watcher, signal.SIGKILL)
    eventually(lambda: server.processes("watcher") - {watcher})
    server.services.write_text('[services."web.staging"]\nmembers = ["10.0.0.9:80"]\n')
    eventually(lambda: server.lookup(WEB) == {"10.0.0.9"})


def test_log_level_applies_to_all_processes(tmp_path: Path) -> None:
    with ReloadableServer(tmp_path, log={"level": "debug"}) as server:
        server.wait_ready()
        before = server.processes("worker") | server.processes("watcher")
        server.write(log={"level": "error"})
        server.send_sighup()
        eventually(lambda: not before & (server.processes("worker") | server.processes("watcher")))
        server.wait_for_processes()
        length = len(server.log)
        server.write(ttl=7, log={"level": "error"})
        server.send_sighup()
        eventually(lambda: server.query(WEB).answer[0].ttl == 7)
        server.wait_for_processes()
        server.write(ttl=-1, log={"level": "error"})
        server.send_sighup()
        eventually(lambda: len(server.log) > length and server.log.endswith("\n"))
        (line,) = server.log[length:].splitlines()
        assert json.loads(line)["level"] == "error"


def test_sighup_to_a_child_process_is_ignored(server: ReloadableServer) -> None:
    pids = server.processes("worker") | server.processes("watcher")
    for pid in pids:
        os.kill(pid, signal.SIGHUP)
    assert server.lookup(WEB) == set(MEMBERS)
    assert server.processes("worker") | server.processes("watcher") == pids


@repeated_if_late
def test_number_of_workers_changes_under_load(server: ReloadableServer) -> None:
    with SteadyLoad(server.addresses[0], WEB) as load:
        for workers in (3, 2, 4, 3, 1):
            server.write(ttl=5, workers=workers)
            assert server.reload()["settings"] == "workers"
            server.wait_for_processes(workers)
    assert all_answered_with(load, {5})
    load.check_latency(MAX_LATENCY)


def test_removed_worker_answers_the_queries_in_its_sockets(
    server: ReloadableServer,
) -> None:
    server.write(ttl=5, workers=2)
    server.reload()
    server.wait_for_processes(2)
    removed = server.pid_of("worker")  # the worker that was started last
    framed = len(QUERY).to_bytes(2) + QUERY
    with ExitStack() as stack:
        os.kill(removed, signal.SIGSTOP)
        clients = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(60)]
        for client in clients:
            client.connect(server.addresses[0])
            client.send(QUERY)
        connections = [
            stack.enter_context(socket.create_connection(server.addresses[0], PATIENCE)) for _ in range(80)
        ]
        for sock in connections:
            sock.sendall(framed)
        server.write(ttl=5, workers=1)
        server.send_sighup()
        # Long enough for the request to drain. The reload completes after the confirmation of the worker.
        time.sleep(1.0)
        os.kill(removed, signal.SIGCONT)
        for sock in (*clients, *connections):
            sock.settimeout(PATIENCE)
            assert len(sock.recv(4096)) > len(QUERY)
    eventually(lambda: len(server.events(RELOADED)) == 2)
    server.wait_for_processes(1)


def test_listen_address_changes_without_lost_queries(server: ReloadableServer) -> None:
    (before,) = server.addresses
    assert bound_by(server) == {before}
    port = free_port()
    with SteadyLoad(before, WEB) as load:
        # The first address stays, and is queried; only the second address is new.
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


def test_admin_address_changes(server: ReloadableServer) -> None:
    before = server.events("admin_server_started")[0]["address"]
    server.write(ttl=5, admin={"listen": "127.0.0.2:0"})
    assert server.reload()["roles"] is None
    assert server.events("admin_server_started")[-1]["address"].startswith("127.0.0.2:")
    host, port = before.rsplit(":", 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 1.0)


def test_the_socket_of_the_api_changes(tmp_path: Path, short_path: Path) -> None:
    """The response to the reload arrives over the old socket."""
    old, new = (str(short_path / name) for name in ("old", "new"))
    server = ReloadableServer(tmp_path, admin={"listen": "none", "socket": old})
    del server.environment["ZKDNS_ADMIN_SOCKET"]
    with server:
        server.wait_ready()
        server.write(admin={"listen": "none", "socket": new})
        reloaded = ApiClient(ServerAddress(path=old)).post("reload", Reloaded, seconds=RELOAD_SECONDS)
        assert reloaded.changed == ("admin.socket",)
        assert ApiClient(ServerAddress(path=new)).status().ready
        eventually(lambda: not Path(old).exists())
        assert server.terminate() == 0
        assert not Path(new).exists()


def test_the_admin_address_changes_to_https_and_back(
    server: ReloadableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port stays open. A certificate that cannot be used is refused."""
    authority = CertificateAuthority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    certificate = str(authority.sign("127.0.0.1"))
    at = HostPort("127.0.0.1", free_port())
    plain, tls = (ApiClient(ServerAddress(at=at, tls=is_tls)) for is_tls in (False, True))
    admin = {"listen": str(at)}
    server.write(ttl=5, admin=admin)
    server.reload()
    assert plain.status().ready
    server.write(ttl=5, admin={**admin, "certificate": certificate})
    assert server.reload()["settings"] == "admin.certificate"
    assert tls.status().ready
    with pytest.raises(UnreachableError):
        plain.status()
    server.write(ttl=5, admin={**admin, "certificate": str(authority.file)})
    refused = pytest.raises(RefusedError, match="cannot be used with its key")
    with refused as caught:
        ApiClient(ServerAddress(path=server.api)).post("reload", Reloaded, seconds=RELOAD_SECONDS)
    assert caught.value.status == 409
    assert tls.status().ready
    server.write(ttl=5, admin=admin)
    server.reload()
    assert plain.status().ready


def test_listen_address_changes_to_a_wildcard_and_back(server: ReloadableServer) -> None:
    host, port = server.addresses[0]
    with SteadyLoad((host, port), WEB) as load:
        for listen in (f"0.0.0.0:{port}", f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
            server.write(ttl=5, listen=[listen], workers=2)
            assert "listen" in str(server.reload()["settings"])
            server.wait_for_processes(2)
        assert server.query(WEB).answer[0].ttl == 5
    assert all_answered_with(load, {5})


def test_wildcard_changes_to_one_of_its_addresses(tmp_path: Path) -> None:
    with ReloadableServer(tmp_path, ttl=5, listen=["0.0.0.0:0"]) as server:
        port = server.wait_ready().port
        with SteadyLoad(("127.0.0.1", port), WEB) as load:
            server.write(ttl=5, listen=[f"127.0.0.1:{port}"])
            server.reload()
            server.wait_for_processes()
        assert all_answered_with(load, {5})
        eventually(lambda: refuses(("127.0.0.2", port)))  # closed when the old worker has ended
