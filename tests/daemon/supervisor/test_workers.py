"""Several workers on one port: each has the whole table, and with a lost one goes what it had in hand."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dns.message
import pytest

from tests.daemon.processes import children
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.punctual, pytest.mark.processes]

WORKERS = 3
ASKERS = 60
"""With ports of their own, by which the kernel chooses workers: hardly ever none for one of three."""
RATE = 500
SECONDS = 5.0
QUERY = dns.message.make_query("web.staging.discovery", "A").to_wire()


def write_services(path: Path, address: str) -> None:
    """A file with one service of one member."""
    new = path.with_suffix(".new")
    new.write_text(f'[services."web.staging"]\nmembers = ["{address}:80"]\n')
    new.replace(path)


@pytest.fixture
def services(tmp_path: Path) -> Path:
    path = tmp_path / "services.toml"
    write_services(path, "10.0.0.1")
    return path


@pytest.fixture
def server(services: Path) -> Iterator[ZkdnsServer]:
    with ZkdnsServer("--static", str(services), "--workers", str(WORKERS)) as running:
        yield running.wait_ready()


@contextmanager
def askers(server: ZkdnsServer, count: int = ASKERS) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(count)]
        for sock in socks:
            sock.connect(server.addresses[0])
            sock.settimeout(SECONDS)
        yield socks


def answer_over(sock: socket.socket) -> str:
    """The address that is answered over this socket."""
    sock.send(QUERY)
    return address_in(sock.recv(2000))


def address_in(response: bytes) -> str:
    (rrset,) = dns.message.from_wire(response).answer
    return str(rrset[0])


def workers_of(server: ZkdnsServer) -> set[int]:
    return {pid for pid, role in children(server).items() if role == "worker"}


def test_a_change_reaches_all_workers(server: ZkdnsServer, services: Path) -> None:
    with askers(server) as socks:
        assert {answer_over(sock) for sock in socks} == {"10.0.0.1"}
        write_services(services, "10.0.0.2")
        eventually(lambda: {answer_over(sock) for sock in socks} == {"10.0.0.2"})


class Load:
    """Asks at a steady rate, each time over another socket, while others wait for what they asked for."""

    def __init__(self, socks: list[socket.socket]) -> None:
        self.sent = self.received = 0
        self.slowest = 0.0
        """Seconds until the answer that took longest."""
        self._socks = socks
        self._due: dict[tuple[int, bytes], float] = {}
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._hear)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        begun = time.monotonic()
        while not self._ended.is_set():
            number = self.sent % len(self._socks)
            ident = (self.sent % 65536).to_bytes(2)
            self._due[number, ident] = time.monotonic()
            self._socks[number].send(ident + QUERY[2:])
            self.sent += 1
            time.sleep(max(0.0, begun + self.sent / RATE - time.monotonic()))

    def _hear(self) -> None:
        for sock in self._socks:
            sock.setblocking(False)
        while not self._ended.is_set() or self._is_awaited():
            heard = 0
            for number, sock in enumerate(self._socks):
                try:
                    response = sock.recv(2000)
                except BlockingIOError:
                    continue
                heard += 1
                self.received += 1
                self.slowest = max(self.slowest, time.monotonic() - self._due.pop((number, response[:2])))
            if not heard:
                time.sleep(0.0005)

    def _is_awaited(self) -> bool:
        return any(time.monotonic() - asked < SECONDS for asked in list(self._due.values()))

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_a_lost_worker_is_back_within_a_second_and_nothing_is_lost_but_what_it_had(
    server: ZkdnsServer,
) -> None:
    before = workers_of(server)
    lost = min(before)
    with askers(server) as socks:
        load = Load(socks)
        try:
            eventually(lambda: load.received > RATE / 2)
            os.kill(lost, signal.SIGKILL)
            eventually(lambda: len(workers_of(server) - {lost}) == WORKERS)
            told = load.received
            eventually(lambda: load.received > told + RATE)
        finally:
            load.stop()
    # What waits for the lost one's successor waits in the kernel; what had been taken from there is gone.
    assert load.sent - load.received <= 2
    assert load.slowest < 1.0
    assert before - {lost} < workers_of(server)


def test_connections_to_the_others_live_on_and_new_ones_find_somebody(server: ZkdnsServer) -> None:
    framed = len(QUERY).to_bytes(2) + QUERY
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(server.addresses[0], SECONDS)) for _ in range(30)
        ]
        for connection in connections:
            connection.sendall(framed)
            assert address_in(connection.recv(2000)[2:]) == "10.0.0.1"
        lost = min(workers_of(server))
        os.kill(lost, signal.SIGKILL)
        ended = sum(not _is_answered(connection, framed) for connection in connections)
        assert 0 < ended < len(connections)
        for _ in range(30):  # some of them wait for the successor
            with socket.create_connection(server.addresses[0], SECONDS) as connection:
                assert _is_answered(connection, framed)


def _is_answered(connection: socket.socket, framed: bytes) -> bool:
    """Whether there is still somebody; the end of a process ends its connections."""
    try:
        connection.sendall(framed)
        response = connection.recv(2000)
    except ConnectionError:
        return False
    return bool(response) and address_in(response[2:]) == "10.0.0.1"
