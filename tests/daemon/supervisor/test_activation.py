"""Servers started by a service manager: socket activation, sd_notify(3) notices and the watchdog."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.daemon.processes import children, links_to_files
from tests.daemon.supervisor.service_manager import Manager
from tests.support.loopback import paired_sockets
from tests.support.network import ip, new_network
from tests.support.process_guard import running
from tests.support.server import ZkdnsServer
from tests.support.udp_query import query_udp
from tests.support.waiting import PATIENCE, TooLateError, eventually, repeated_if_late
from zkdns.address import HostPort
from zkdns.transport.sockets import SocketPair, bind

pytestmark = pytest.mark.processes

NAME = "m0.web.staging.discovery"
QUERY = dns.message.make_query(NAME, "A").to_wire()
SECONDS = PATIENCE
RATE = 500
TABLE_SECONDS = 2.0
"""Seconds after its start until a worker without a table responds with SERVFAIL."""
MAX_PENDING = 250
"""Queries or responses that fit into the buffer of a socket on every system."""


@pytest.fixture
def pair() -> Iterator[SocketPair]:
    """The sockets that the service manager passes."""
    (pair,) = bind(HostPort("127.0.0.1", 0), 1)
    yield pair
    pair.close()


@pytest.fixture
def manager(short_path: Path) -> Iterator[Manager]:
    manager = Manager(short_path)
    yield manager
    manager.close()


def activated(pair: SocketPair, *arguments: str, **environment: str) -> ZkdnsServer:
    """A server with passed sockets and no setting `listen`."""
    return ZkdnsServer(
        *(arguments or ("--demo",)),
        environment={"ZKDNS_LISTEN": "", **environment},
        passed=(pair.udp, pair.tcp),
    )


# -- sockets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "3"])
def test_passed_sockets_are_served(pair: SocketPair, workers: str) -> None:
    with activated(pair, "--demo", "--workers", workers) as server:
        assert server.wait_ready().addresses == [pair.udp.getsockname()]
        for _ in range(20):
            assert server.lookup(NAME) == {"192.0.2.1"}
            assert server.lookup(NAME, tcp=True) == {"192.0.2.1"}


def test_configured_addresses_are_bound_in_addition_to_passed_sockets(pair: SocketPair) -> None:
    with ZkdnsServer(
        "--demo", environment={"ZKDNS_LISTEN": "127.0.0.2:0"}, passed=(pair.udp, pair.tcp)
    ) as server:
        server.wait_ready()
        assert [host for host, _ in server.addresses] == ["127.0.0.1", "127.0.0.2"]
        for host, port in server.addresses:
            response = query_udp(dns.message.make_query(NAME, "A"), host, port)
            assert response.answer


def test_a_configured_address_that_is_passed_is_not_bound_again(pair: SocketPair) -> None:
    host, port = pair.udp.getsockname()
    with activated(pair, "--demo", "--listen", f"{host}:{port}") as server:
        assert server.wait_ready().addresses == [(host, port)]
        assert server.lookup(NAME)


def test_a_dual_stack_socket_serves_both_families() -> None:
    """Systemd binds [::]:53 like this by default (BindIPv6Only=)."""
    udp, tcp = paired_sockets(host="::")
    with tcp, udp:
        assert not any(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) for sock in (udp, tcp))
        tcp.listen()
        with activated(SocketPair(udp, tcp)) as server:
            server.wait_ready()
            for host in ("127.0.0.1", "127.0.0.3", "::1"):
                for ask in (dns.query.udp, dns.query.tcp):
                    query = dns.message.make_query(NAME, "A")
                    assert ask(query, host, port=server.port, timeout=SECONDS).answer


def test_an_unsuitable_passed_socket_fails_the_start_with_an_error() -> None:
    one, other = socket.socketpair()
    with one, other, ZkdnsServer("--demo", passed=(one,)) as server:
        assert server.process.wait(SECONDS) == 5
        assert server.log.startswith("zkdns: LISTEN_FDS: file descriptor 3 is a socket of")
        assert "Traceback" not in server.log


def test_only_workers_inherit_sockets_and_no_child_the_managers_variables(
    pair: SocketPair, manager: Manager
) -> None:
    with activated(pair, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="60000000") as server:
        server.wait_ready()
        for pid, role in children(server).items():
            names = {item.partition("=")[0] for item in Path(f"/proc/{pid}/environ").read_text().split("\0")}
            assert not [name for name in names if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]
            inode = os.fstat(pair.udp.fileno()).st_ino
            links = links_to_files(pid)
            assert (f"socket:[{inode}]" in links) == (role == "worker")


class Client:
    """Sends queries at a steady rate in a thread, and receives the responses in another one.

    Attributes:
        sent: the number of queries.
        answered: the ids of the queries with an answer.
        failed: the ids of the queries with another response.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.sent = 0
        self.answered: set[int] = set()
        self.failed: set[int] = set()
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.connect(server)
        self._socket.settimeout(SECONDS)
        self._has_ended = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more queries, and wait for the responses."""
        self._has_ended.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    @property
    def received(self) -> int:
        """The number of responses."""
        return len(self.answered) + len(self.failed)

    def _send(self) -> None:
        due = time.monotonic()
        while not self._has_ended.is_set():
            if self.sent - self.received < MAX_PENDING:  # a restart takes longer on a busy machine
                self._socket.send(self.sent.to_bytes(2) + QUERY[2:])
                self.sent += 1
            due += 1 / RATE
            self._has_ended.wait(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        while not self._has_ended.is_set() or self.received < self.sent:
            try:
                response = self._socket.recv(2000)
            except TimeoutError:
                return
            found = self.answered if dns.message.from_wire(response).answer else self.failed
            found.add(int.from_bytes(response[:2]))


def start_seconds(server: ZkdnsServer) -> float:
    """Wait until a server is ready, and return how long its start took."""
    (ready,) = server.wait_ready().events("server_ready")
    return float(ready["seconds"])


@repeated_if_late
def test_no_query_is_lost_over_five_restarts(pair: SocketPair) -> None:
    """A client sends 500 queries a second. Those sent between two servers wait in the kernel."""
    starts: list[float] = []
    client = Client(pair.udp.getsockname())
    try:
        for _ in range(6):
            with activated(pair) as server:
                starts.append(start_seconds(server))
                before = client.received
                eventually(lambda before=before: client.received > before + RATE / 2)  # type: ignore[misc]
                with socket.create_connection(pair.tcp.getsockname(), SECONDS) as waiting:
                    assert server.terminate() == 0
                    assert waiting.recv(1) == b""
    finally:
        with activated(pair) as server:
            starts.append(start_seconds(server))
            client.stop()
    assert client.sent > 6 * RATE / 2
    assert client.received == client.sent
    if client.failed and max(starts) >= TABLE_SECONDS:
        raise TooLateError(f"a server was ready after {max(starts):g} s")
    assert not client.failed


def test_a_server_started_by_systemd_socket_activate_responds(tmp_path: Path) -> None:
    if (tool := shutil.which("systemd-socket-activate")) is None:
        pytest.skip("needs systemd-socket-activate (Debian and Ubuntu: the package systemd)")
    udp, tcp = paired_sockets()
    port = udp.getsockname()[1]
    udp.close()
    tcp.close()
    settings = {"ZKDNS_ADMIN": "none", "ZKDNS_ADMIN_SOCKET": "none", "ZKDNS_UPSTREAM": "none"}
    command = [tool, f"--listen=127.0.0.1:{port}", "--datagram"]
    command += [f"--setenv={name}={value}" for name, value in settings.items()]
    command += [f"--setenv=PYTHONPATH={os.environ.get('PYTHONPATH', '')}"]
    with running([*command, sys.executable, "-m", "zkdns", "serve", "--demo"], tmp_path / "log"):

        def responds() -> bool:  # the first query starts the server
            query = dns.message.make_query(NAME, "A")
            return bool(dns.query.udp(query, "127.0.0.1", port=port, timeout=1.0).answer)

        eventually(responds)


# -- notices and the watchdog -------------------------------------------------------------------------------


def test_it_reports_readiness_its_status_and_its_end(pair: SocketPair, manager: Manager) -> None:
    with activated(pair, NOTIFY_SOCKET=manager.path) as server:
        eventually(lambda: "READY=1" in manager.notices)
        eventually(lambda: "STATUS=live: 6 services, 13 members" in manager.notices)
        assert server.terminate() == 0
        assert manager.notices[-1] == "STOPPING=1"
        assert "WATCHDOG=1" not in manager.notices


def test_a_hanging_worker_stops_the_watchdog_notices(pair: SocketPair, manager: Manager) -> None:
    with activated(pair, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="2000000") as server:
        eventually(lambda: manager.notices.count("WATCHDOG=1") > 2)
        host, port = pair.udp.getsockname()
        worker = server.pid_of("worker")
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: f"STATUS=no response at {host}:{port}" in manager.notices)
        manager.clear()
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: "WATCHDOG=1" in manager.notices)
        eventually(lambda: "STATUS=live: 6 services, 13 members" in manager.notices)


def test_one_hanging_worker_of_two_is_detected(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000"}
    with ZkdnsServer("--demo", "--workers", "2", environment=environment) as server:
        eventually(lambda: "WATCHDOG=1" in manager.notices)
        os.kill(server.pid_of("worker"), signal.SIGSTOP)
        eventually(lambda: any(notice.startswith("STATUS=no response") for notice in manager.notices))


def test_self_checks_skip_addresses_that_the_machine_does_not_have(manager: Manager) -> None:
    """FreeBind= permits binding them in advance. ::1 is missing if IPv6 is disabled."""
    with new_network() as network, network.entered():
        Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("1")
        ip("link add there type veth peer name back")  # a route to an address that no host has
        ip("address add 10.1.0.1/16 dev there")
        for link in ("there", "back"):
            ip(f"link set {link} up")
        environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000", "ZKDNS_LISTEN": ""}
        with contextlib.ExitStack() as stack:
            passed = []
            for host in ("127.0.0.1", "10.1.2.3", "::1"):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    sock = stack.enter_context(
                        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
                    )
                    sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
                    sock.bind((host, 5300))
                    if kind == socket.SOCK_STREAM:
                        sock.listen()
                    passed.append(sock)
            stack.enter_context(ZkdnsServer("--demo", environment=environment, passed=passed))
            eventually(lambda: "READY=1" in manager.notices)
            eventually(lambda: "WATCHDOG=1" in manager.notices)
            ip("address add 10.1.2.3/32 dev lo")
            response = query_udp(dns.message.make_query(NAME, "A"), "10.1.2.3", 5300)
            assert response.answer
