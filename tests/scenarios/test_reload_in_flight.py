"""Queries and connections that are in progress during a reload are finished by the old worker."""

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.message
import pytest

from tests.scenarios.reloadable import MEMBERS, RELOADED, WEB, ReloadableServer
from tests.support.upstream import UpstreamServer, is_slow
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

SECONDS = 10.0
_MAX_CLIENTS = 64
QUERY = dns.message.make_query(WEB, "A").to_wire()
FRAMED = len(QUERY).to_bytes(2) + QUERY


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReloadableServer]:
    with ReloadableServer(tmp_path, ttl=5) as running:
        running.wait_ready()
        yield running


@contextlib.contextmanager
def connection(server: ReloadableServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.addresses[0], SECONDS) as sock:
        yield sock


def read_ttl(sock: socket.socket) -> int:
    """Receive a response, and return its TTL."""
    with sock.makefile("rb") as stream:
        message = dns.message.from_wire(stream.read(int.from_bytes(stream.read(2))))
    assert sorted(str(record) for record in message.answer[0]) == MEMBERS
    return message.answer[0].ttl


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_query_that_waits_for_an_upstream_is_answered(tmp_path: Path, tcp: bool) -> None:
    with UpstreamServer() as upstream:
        upstream.set_behaviour(is_slow(1.5))
        server = ReloadableServer(tmp_path, ttl=5, forward={"upstreams": [str(upstream.address)]})
        del server.environment["ZKDNS_UPSTREAM"]
        with server:
            server.wait_ready()
            old = server.processes("worker")
            server.write(ttl=6, forward={"upstreams": [str(upstream.address)]})
            server.send_sighup()
            results = []
            # However long the reload takes, some queries are waiting when it completes.
            with ThreadPoolExecutor(_MAX_CLIENTS) as clients:
                for number in itertools.count():
                    results.append(
                        clients.submit(server.rcode, f"n{number}.example", tcp=tcp, timeout=SECONDS)
                    )
                    if server.events(RELOADED):
                        break
                    time.sleep(0.1)
                assert server.query(WEB).answer[0].ttl == 6
                assert server.processes("worker") > old
            assert {result.result() for result in results} == {"NOERROR"}
            server.wait_for_processes()


def test_connections_with_partial_or_no_queries_are_answered(
    server: ReloadableServer,
) -> None:
    with connection(server) as half, connection(server) as another:
        another.sendall(FRAMED)
        assert read_ttl(another) == 5  # so both connections are accepted
        half.sendall(FRAMED[:7])
        server.write(ttl=6)
        server.send_sighup()
        # Idle connections are closed after a second. Until the reload completes, one connection sends more
        # queries, and another one is reopened.
        with contextlib.ExitStack() as reopened:
            while not server.events(RELOADED):
                reopened.close()
                silent = reopened.enter_context(connection(server))
                another.sendall(FRAMED)
                assert read_ttl(another) == 5
                time.sleep(0.02)
            silent.sendall(FRAMED)
            another.sendall(FRAMED)
            half.sendall(FRAMED[7:])
            assert [read_ttl(sock) for sock in (another, half)] == [5, 5]
            # The new worker may have accepted this connection.
            assert read_ttl(silent) in {5, 6}
        # Idle connections are closed, and the old worker ends.
        assert [sock.recv(1) for sock in (another, half)] == [b"", b""]
        with connection(server) as new:
            new.sendall(FRAMED)
            assert read_ttl(new) == 6
    server.wait_for_processes()


def test_busy_connection_does_not_delay_the_old_worker_forever(server: ReloadableServer) -> None:
    (old,) = server.processes("worker")
    with connection(server) as busy:
        busy.sendall(FRAMED)
        assert read_ttl(busy) == 5
        server.write(ttl=6)
        server.reload()
        started_at = time.monotonic()
        with contextlib.suppress(ConnectionError):
            busy.sendall(FRAMED)
            while busy.recv(4096):
                busy.sendall(FRAMED)
        assert time.monotonic() - started_at < SECONDS
    eventually(lambda: old not in server.processes("worker"))
