"""A client that asks for thousands of names of a dead upstream, and other clients, at a real server."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from tests.dns.helpers import encode_query
from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer, answers
from tests.support.waiting import TooLateError, eventually, in_time, repeated_if_late
from zkdns.forward.forwarder import MAX_WAITING
from zkdns.forward.resolution import LIMIT_SECONDS

pytestmark = pytest.mark.processes

HOSTILE, POLITE_CLIENTS, NAMES = "127.0.0.66", 20, 3
SECONDS = 10.0
BURST, PAUSE_SECONDS = 200, 0.05  # far more than `MAX_WAITING` in `LIMIT_SECONDS`


def queued(port: int) -> int:
    """The bytes in the receive buffers of the UDP sockets with this port."""
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(line[4].partition(":")[2], 16) for line in lines if line[1].endswith(f":{port:04X}"))


@contextlib.contextmanager
def flooding(at: tuple[str, int]) -> Iterator[None]:
    """A client that asks for new names below dead.example, and does not wait for responses.

    It waits while the server has not read its queries: a full buffer would lose those of other clients.
    """
    stopping = threading.Event()

    def flood() -> None:
        number = 0
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((HOSTILE, 0))
            while not stopping.wait(PAUSE_SECONDS):
                for _ in range(0 if queued(at[1]) else BURST):
                    number += 1
                    sock.sendto(encode_query(f"n{number}.dead.example"), at)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def waiting(server: ZkdnsServer) -> int:
    """The number of queries that wait for upstreams."""
    host, _, port = server.admin.removeprefix("http://").rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=SECONDS)) as connection:
        connection.request("GET", "/api/stats")
        (worker,) = json.loads(connection.getresponse().read())["workers"]
    return int(worker["forward"]["waiting"])


def receive(client: socket.socket) -> dns.message.Message:
    try:
        return dns.message.from_wire(client.recv(4096))
    except TimeoutError:
        raise TooLateError("no response") from None  # the kernel of a busy machine may drop a datagram


@repeated_if_late
def test_a_client_that_floods_a_dead_upstream_costs_others_no_response(tmp_path: Path) -> None:
    config = tmp_path / "zkdns.toml"
    with (
        UpstreamServer(answers) as upstream,
        socket.socket(type=socket.SOCK_DGRAM) as dead,
        contextlib.ExitStack() as stack,
    ):
        dead.bind(("127.0.0.1", 0))  # never read
        zone = f'[forward.zone."dead.example"]\nupstreams = ["127.0.0.1:{dead.getsockname()[1]}"]\n'
        config.write_text(zone)
        arguments = ("--demo", "--config", str(config), "--upstream", str(upstream.address))
        server = stack.enter_context(ZkdnsServer(*arguments, environment={"ZKDNS_WORKERS": "1"})).wait_ready()
        clients = []
        for number in range(POLITE_CLIENTS):
            clients.append(stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)))
            clients[-1].bind((f"127.0.1.{number + 1}", 0))
            clients[-1].settimeout(SECONDS)
        at = server.addresses[0]
        with flooding(at):
            eventually(lambda: waiting(server) == MAX_WAITING, 60.0)
            for name in range(NAMES):
                for number, client in enumerate(clients):
                    client.sendto(encode_query(f"n{name}-{number}.alive.example"), at)
                sent_at = time.monotonic()
                for client in clients:
                    response = receive(client)
                    in_time(sent_at, LIMIT_SECONDS)  # the upstream, which is in this process, may be slow
                    assert response.rcode() == dns.rcode.NOERROR
                    assert len(response.answer) == 1
