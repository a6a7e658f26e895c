"""Several workers on one port: all follow the feed, and the end of one costs only its own queries."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dns.message
import pytest

from tests.daemon.processes import children
from tests.support.server import ZkdnsServer
from tests.support.steady_load import SteadyLoad
from tests.support.waiting import PATIENCE, eventually, repeated_if_late

pytestmark = pytest.mark.processes

WORKERS = 3
CLIENTS = 60
"""Client sockets. The kernel selects a worker by their ports, so nearly certainly each worker has some."""
RATE = 500
SECONDS = PATIENCE
QUERY = dns.message.make_query("web.staging.discovery", "A").to_wire()


def write_services(path: Path, address: str) -> None:
    """Write a static file with one service of one member."""
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
def clients(server: ZkdnsServer, count: int = CLIENTS) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(count)]
        for sock in socks:
            sock.connect(server.addresses[0])
            sock.settimeout(SECONDS)
        yield socks


def query_address(sock: socket.socket) -> str:
    """Send a query over this socket, and return the address in the response."""
    sock.send(QUERY)
    return address_in(sock.recv(2000))


def address_in(response: bytes) -> str:
    (rrset,) = dns.message.from_wire(response).answer
    return str(rrset[0])


def workers_of(server: ZkdnsServer) -> set[int]:
    return {pid for pid, role in children(server).items() if role == "worker"}


def test_a_change_reaches_all_workers(server: ZkdnsServer, services: Path) -> None:
    with clients(server) as socks:
        assert {query_address(sock) for sock in socks} == {"10.0.0.1"}
        write_services(services, "10.0.0.2")
        eventually(lambda: {query_address(sock) for sock in socks} == {"10.0.0.2"})


@repeated_if_late
def test_a_killed_worker_is_replaced_and_loses_only_its_own_queries(server: ZkdnsServer) -> None:
    before = workers_of(server)
    killed = min(before)
    with SteadyLoad(server.addresses[0], "web.staging.discovery", RATE) as load:
        eventually(lambda: load.received > RATE / 2)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: len(workers_of(server) - {killed}) == WORKERS)
        count = load.received
        eventually(lambda: load.received > count + RATE)
    # Queries wait in the kernel for the next process; only those that the killed one had read are lost.
    assert load.lost <= 2
    load.check_latency(3.0)  # stub resolvers repeat a query after 5 s
    assert before - {killed} < workers_of(server)


def test_connections_to_other_workers_survive_and_new_ones_are_served(server: ZkdnsServer) -> None:
    framed = len(QUERY).to_bytes(2) + QUERY
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(server.addresses[0], SECONDS)) for _ in range(30)
        ]
        for connection in connections:
            connection.sendall(framed)
            assert address_in(connection.recv(2000)[2:]) == "10.0.0.1"
        killed = min(workers_of(server))
        os.kill(killed, signal.SIGKILL)
        ended = sum(not _is_answered(connection, framed) for connection in connections)
        assert 0 < ended < len(connections)
        for _ in range(30):  # some of them wait for the new worker
            with socket.create_connection(server.addresses[0], SECONDS) as connection:
                assert _is_answered(connection, framed)


def _is_answered(connection: socket.socket, framed: bytes) -> bool:
    """True if the server responds over this connection; the end of a worker closes its connections."""
    try:
        connection.sendall(framed)
        response = connection.recv(2000)
    except ConnectionError:
        return False
    return bool(response) and address_in(response[2:]) == "10.0.0.1"
