"""A server that has never reached ZooKeeper."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import dns.edns
import dns.message
import dns.rcode
import pytest

from tests.daemon.processes import children, is_running
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.processes

NAME = "web.staging.discovery"
UNREACHABLE = "zookeeper_unreachable"


@contextlib.contextmanager
def serving(hosts: str) -> Iterator[ZkdnsServer]:
    """A server that responds."""
    with ZkdnsServer("--zookeeper", hosts) as running:
        eventually(lambda: len(children(running)) == 2)
        eventually(lambda: running.query("example.com"))
        yield running


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """An address that refuses connections: it is bound, and nothing listens there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="module")
def server(refusing: str) -> Iterator[ZkdnsServer]:
    with serving(refusing) as running:
        yield running


class ClosingServer:
    """Accepts connections, and closes each at once.

    Attributes:
        connections: their number.
    """

    def __init__(self) -> None:
        self.connections = 0
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # `close` ends the wait
            while True:
                client, _ = self._sock.accept()
                self.connections += 1
                client.close()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()


def extended_errors(response: dns.message.Message) -> list[int]:
    return [int(option.code) for option in response.options if isinstance(option, dns.edns.EDEOption)]


def status_of(server: ZkdnsServer, path: str) -> int:
    connection = http.client.HTTPConnection(server.admin.removeprefix("http://"), timeout=5.0)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.parametrize("name", [NAME, "nothing.prod.discovery", "discovery", "m1.web.staging.discovery"])
def test_names_in_the_zone_are_servfail_with_extended_error_not_ready(server: ZkdnsServer, name: str) -> None:
    for tcp in (False, True):
        with_edns = server.query(name, "A", tcp=tcp, use_edns=0)
        assert with_edns.rcode() == dns.rcode.SERVFAIL
        assert extended_errors(with_edns) == [14]
        plain = server.query(name, "A", tcp=tcp)
        assert plain.rcode() == dns.rcode.SERVFAIL
        assert plain.edns == -1
        assert not plain.answer
        assert not plain.additional


def test_other_names_are_refused(server: ZkdnsServer) -> None:
    assert server.rcode("example.com") == "REFUSED"
    assert server.rcode("discovery.example.com") == "REFUSED"


def test_it_is_healthy_and_not_ready(server: ZkdnsServer) -> None:
    eventually(lambda: status_of(server, "/healthz") == 200)
    assert status_of(server, "/readyz") == 503
    assert server.events("server_ready") == []


def test_the_failure_is_logged_once_and_not_at_each_attempt() -> None:
    with contextlib.closing(ClosingServer()) as zookeeper, serving(zookeeper.address) as server:
        eventually(lambda: server.events(UNREACHABLE))
        before = zookeeper.connections
        eventually(lambda: zookeeper.connections >= before + 3)
        (entry,) = server.events(UNREACHABLE)
        assert entry["level"] == "warning"
        assert entry["zookeeper"] == zookeeper.address
        entries = map(json.loads, server.log.splitlines())
        assert [entry["event"] for entry in entries if entry["process"] == "watcher"] == [UNREACHABLE]


def test_sigterm_ends_it_without_killing_children(refusing: str) -> None:
    with serving(refusing) as server:
        pids = children(server)
        assert server.terminate() == 0
        assert not any(map(is_running, pids))
        assert server.events("process_killed") == []
        assert "Traceback" not in server.log
