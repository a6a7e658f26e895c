"""Whole servers that a service manager starts: it holds their sockets, hears and watches them."""

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
from tests.support.loopback import paired_sockets
from tests.support.network import ip, new_network
from tests.support.process_guard import running
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from zkdns.address import HostPort
from zkdns.transport.sockets import SocketPair, bind

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

NAME = "m0.web.staging.discovery"
QUERY = dns.message.make_query(NAME, "A").to_wire()
SECONDS = 10.0
RATE = 500
MOST_WAITING = 250
"""Queries, or answers, that the buffer of a socket holds wherever this runs."""


@pytest.fixture
def pair() -> Iterator[SocketPair]:
    """The sockets, as systemd holds them."""
    (held,) = bind(HostPort("127.0.0.1", 0), 1)
    yield held
    held.close()


class Manager:
    """Hears what is told (sd_notify(3))."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._heard: list[str] = []

    @property
    def heard(self) -> list[str]:
        """Everything so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard.append(self._sock.recv(5000, socket.MSG_DONTWAIT).decode())
        return self._heard

    def forget(self) -> None:
        """Let `heard` begin anew."""
        self.heard.clear()

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(short_path: Path) -> Iterator[Manager]:
    hearing = Manager(short_path)
    yield hearing
    hearing.close()


def activated(pair: SocketPair, *arguments: str, **environment: str) -> ZkdnsServer:
    """A server that was passed these, and not told where to listen."""
    return ZkdnsServer(
        *(arguments or ("--demo",)),
        environment={"ZKDNS_LISTEN": "", **environment},
        passed=(pair.udp, pair.tcp),
    )


# -- sockets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "3"])
def test_what_is_passed_is_answered_at(pair: SocketPair, workers: str) -> None:
    with activated(pair, "--demo", "--workers", workers) as server:
        assert server.wait_ready().addresses == [pair.udp.getsockname()]
        for _ in range(20):
            assert server.lookup(NAME) == {"192.0.2.1"}
            assert server.lookup(NAME, tcp=True) == {"192.0.2.1"}


def test_a_configured_address_is_bound_beside_what_is_passed(pair: SocketPair) -> None:
    with ZkdnsServer(
        "--demo", environment={"ZKDNS_LISTEN": "127.0.0.2:0"}, passed=(pair.udp, pair.tcp)
    ) as server:
        server.wait_ready()
        assert [host for host, _ in server.addresses] == ["127.0.0.1", "127.0.0.2"]
        for host, port in server.addresses:
            response = dns.query.udp(dns.message.make_query(NAME, "A"), host, port=port, timeout=SECONDS)
            assert response.answer


def test_a_configured_address_that_is_passed_is_not_bound_again(pair: SocketPair) -> None:
    host, port = pair.udp.getsockname()
    with activated(pair, "--demo", "--listen", f"{host}:{port}") as server:
        assert server.wait_ready().addresses == [(host, port)]
        assert server.lookup(NAME)


def test_a_socket_for_both_families_answers_both() -> None:
    """As systemd binds [::]:53, unless BindIPv6Only= says otherwise."""
    tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with tcp, udp:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind(("::", tcp.getsockname()[1]))
        with activated(SocketPair(udp, tcp)) as server:
            server.wait_ready()
            for host in ("127.0.0.1", "127.0.0.3", "::1"):
                for ask in (dns.query.udp, dns.query.tcp):
                    query = dns.message.make_query(NAME, "A")
                    assert ask(query, host, port=server.port, timeout=SECONDS).answer


def test_a_socket_that_cannot_be_served_ends_the_start_with_a_sentence() -> None:
    one, other = socket.socketpair()
    with one, other, ZkdnsServer("--demo", passed=(one,)) as server:
        assert server.process.wait(SECONDS) == 1
        assert server.log.startswith("zkdns: cannot listen on what LISTEN_FDS passes: file 3 is a socket of")
        assert "Traceback" not in server.log


def test_children_have_what_is_theirs_alone(pair: SocketPair, manager: Manager) -> None:
    with activated(pair, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="60000000") as server:
        server.wait_ready()
        for pid, role in children(server).items():
            names = {item.partition("=")[0] for item in Path(f"/proc/{pid}/environ").read_text().split("\0")}
            assert not [name for name in names if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]
            inode = os.fstat(pair.udp.fileno()).st_ino
            links = links_to_files(pid)
            assert (f"socket:[{inode}]" in links) == (role == "worker")


def test_no_query_is_lost_over_five_restarts(pair: SocketPair) -> None:
    """Somebody asks 500 times a second; what is asked between two servers waits for the next one."""
    sent: dict[int, float] = {}
    heard: dict[int, float] = {}
    ended = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        asker.connect(pair.udp.getsockname())
        asker.settimeout(SECONDS)

        def ask() -> None:
            begun, number = time.monotonic(), 0
            while not ended.is_set():
                if number - len(heard) >= MOST_WAITING:  # a busy machine takes its time for a restart
                    ended.wait(0.01)
                    continue
                sent[number] = time.monotonic()
                asker.send(number.to_bytes(2) + QUERY[2:])
                number += 1
                ended.wait(max(0.0, begun + number / RATE - time.monotonic()))

        def hear() -> None:
            while not ended.is_set() or len(heard) < len(sent):
                try:
                    response = asker.recv(2000)
                except TimeoutError:
                    return
                assert dns.message.from_wire(response).answer
                heard[int.from_bytes(response[:2])] = time.monotonic()

        threads = [threading.Thread(target=work) for work in (ask, hear)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(6):
                with activated(pair) as server:
                    server.wait_ready()
                    before = len(heard)
                    eventually(lambda before=before: len(heard) > before + RATE / 2)  # type: ignore[misc]
                    with socket.create_connection(pair.tcp.getsockname(), SECONDS) as waiting:
                        assert server.terminate() == 0
                        assert waiting.recv(1) == b""
        finally:
            with activated(pair) as server:
                server.wait_ready()
                ended.set()
                for thread in threads:
                    thread.join()
    assert len(sent) > 6 * RATE / 2
    assert sent.keys() == heard.keys()


def test_systemd_socket_activate_is_answered_through(tmp_path: Path) -> None:
    if (tool := shutil.which("systemd-socket-activate")) is None:
        pytest.skip("needs systemd-socket-activate (Debian and Ubuntu: the package systemd)")
    udp, tcp = paired_sockets()
    port = udp.getsockname()[1]
    udp.close()
    tcp.close()
    settings = {"ZKDNS_ADMIN": "none", "ZKDNS_CONTROL": "none", "ZKDNS_UPSTREAM": "none"}
    command = [tool, f"--listen=127.0.0.1:{port}", "--datagram"]
    command += [f"--setenv={name}={value}" for name, value in settings.items()]
    command += [f"--setenv=PYTHONPATH={os.environ.get('PYTHONPATH', '')}"]
    with running([*command, sys.executable, "-m", "zkdns", "serve", "--demo"], tmp_path / "log"):

        def answer() -> bool:  # the first one starts the server
            query = dns.message.make_query(NAME, "A")
            return bool(dns.query.udp(query, "127.0.0.1", port=port, timeout=5.0).answer)

        eventually(answer)


# -- what is told -------------------------------------------------------------------------------------------


def test_it_tells_when_it_is_ready_what_it_does_and_that_it_ends(pair: SocketPair, manager: Manager) -> None:
    with activated(pair, NOTIFY_SOCKET=manager.path) as server:
        eventually(lambda: "READY=1" in manager.heard)
        eventually(lambda: "STATUS=live: 6 services, 13 members" in manager.heard)
        assert server.terminate() == 0
        assert manager.heard[-1] == "STOPPING=1"
        assert "WATCHDOG=1" not in manager.heard


def test_a_start_without_zookeeper_is_one_too(pair: SocketPair, manager: Manager) -> None:
    udp, tcp = paired_sockets()  # where nobody accepts
    nowhere = f"127.0.0.1:{tcp.getsockname()[1]}"
    with udp, tcp, activated(pair, "--zookeeper", nowhere, NOTIFY_SOCKET=manager.path) as server:
        eventually(lambda: manager.heard)
        assert server.rcode(NAME) == "SERVFAIL"
        assert "READY=1" not in manager.heard
        eventually(lambda: "READY=1" in manager.heard, timeout=20.0)
        assert manager.heard[0] == "STATUS=loading the table; names in the zones get SERVFAIL until then"


def test_who_hangs_does_not_feed_the_watchdog(pair: SocketPair, manager: Manager) -> None:
    with activated(pair, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="2000000") as server:
        eventually(lambda: manager.heard.count("WATCHDOG=1") > 2)
        host, port = pair.udp.getsockname()
        worker = server.pid_of("worker")
        os.kill(worker, signal.SIGSTOP)
        eventually(lambda: f"STATUS=no answer at {host}:{port}" in manager.heard)
        manager.forget()
        pause = time.monotonic() + 3.0
        eventually(lambda: time.monotonic() > pause)
        assert "WATCHDOG=1" not in manager.heard
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: "WATCHDOG=1" in manager.heard)
        eventually(lambda: "STATUS=live: 6 services, 13 members" in manager.heard)


def test_a_worker_that_hangs_is_noticed_among_others(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000"}
    with ZkdnsServer("--demo", "--workers", "2", environment=environment) as server:
        eventually(lambda: "WATCHDOG=1" in manager.heard)
        os.kill(server.pid_of("worker"), signal.SIGSTOP)
        eventually(lambda: any(told.startswith("STATUS=no answer") for told in manager.heard))


def test_an_address_that_the_machine_does_not_have_is_not_asked(manager: Manager) -> None:
    """FreeBind= binds it before it is there; a loopback address of IPv6 is not there where that is off."""
    with new_network() as network, network.entered():
        Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("1")
        ip("link add there type veth peer name back")  # so that a way leads to the address, which nobody has
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
            eventually(lambda: "READY=1" in manager.heard)
            eventually(lambda: "WATCHDOG=1" in manager.heard)
            ip("address add 10.1.2.3/32 dev lo")
            response = dns.query.udp(
                dns.message.make_query(NAME, "A"), "10.1.2.3", port=5300, timeout=SECONDS
            )
            assert response.answer
