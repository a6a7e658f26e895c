"""What was begun before a reload is finished, by whom it was begun."""

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

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

SECONDS = 10.0
_MOST_ASKERS = 64
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


def answered(sock: socket.socket) -> int:
    """The TTL of the answer that arrives."""
    with sock.makefile("rb") as stream:
        message = dns.message.from_wire(stream.read(int.from_bytes(stream.read(2))))
    assert sorted(str(record) for record in message.answer[0]) == MEMBERS
    return message.answer[0].ttl


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_who_waits_for_an_upstream_gets_its_answer(tmp_path: Path, tcp: bool) -> None:
    with UpstreamServer() as upstream:
        upstream.set_behaviour(is_slow(1.5))
        server = ReloadableServer(tmp_path, ttl=5, forward={"upstreams": [str(upstream.address)]})
        del server.environment["ZKDNS_UPSTREAM"]
        with server:
            server.wait_ready()
            old = server.processes("worker")
            server.write(ttl=6, forward={"upstreams": [str(upstream.address)]})
            server.send_sighup()
            asked = []
            # However long the reload takes, some wait when it is in force.
            with ThreadPoolExecutor(_MOST_ASKERS) as askers:
                for number in itertools.count():
                    asked.append(askers.submit(server.rcode, f"n{number}.example", tcp=tcp, timeout=SECONDS))
                    if server.events(RELOADED):
                        break
                    time.sleep(0.1)
                assert server.query(WEB).answer[0].ttl == 6
                assert server.processes("worker") > old
            assert {one.result() for one in asked} == {"NOERROR"}
            server.wait_for_processes()


def test_a_connection_that_has_just_been_made_or_has_asked_in_part_is_answered(
    server: ReloadableServer,
) -> None:
    with connection(server) as half, connection(server) as another:
        another.sendall(FRAMED)
        assert answered(another) == 5  # so both have been accepted
        half.sendall(FRAMED[:7])
        server.write(ttl=6)
        server.send_sighup()
        # Who is silent for a second is closed: so until it is in force others connect, and ask again.
        with contextlib.ExitStack() as made_before:
            while not server.events(RELOADED):
                made_before.close()
                silent = made_before.enter_context(connection(server))
                another.sendall(FRAMED)
                assert answered(another) == 5
                time.sleep(0.02)
            silent.sendall(FRAMED)
            another.sendall(FRAMED)
            half.sendall(FRAMED[7:])
            assert [answered(sock) for sock in (another, half)] == [5, 5]
            # It may have been made when the new one alone took any.
            assert answered(silent) in {5, 6}
        # Those that stay silent are closed, and their process ends.
        assert [sock.recv(1) for sock in (another, half)] == [b"", b""]
        with connection(server) as new:
            new.sendall(FRAMED)
            assert answered(new) == 6
    server.wait_for_processes()


def test_who_never_falls_silent_holds_nobody_up_for_ever(server: ReloadableServer) -> None:
    (old,) = server.processes("worker")
    with connection(server) as busy:
        busy.sendall(FRAMED)
        assert answered(busy) == 5
        server.write(ttl=6)
        server.reload()
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            busy.sendall(FRAMED)
            while busy.recv(4096):
                busy.sendall(FRAMED)
        assert time.monotonic() - begun < SECONDS
    eventually(lambda: old not in server.processes("worker"))
