"""TCP connections to a real server: pipelining, half-close, and responses above 65,535 bytes."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import pytest

from tests.support.server import ZkdnsServer
from tests.support.transfers import Primary, transfer
from tests.support.upstream import UpstreamServer, is_slow
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late
from zkdns.forward.resolution import LIMIT_SECONDS

pytestmark = pytest.mark.processes

LOCAL, FORWARDED = "web.staging.discovery", "www.example"
SECONDS = PATIENCE
_MAX_FILES, _OTHER_FILES = 120, 67  # of a worker with one listener; others: not connections
TRUNCATED_EVENT = "tcp_responses_truncated"
TRUNCATED_METRIC = 'zkdns_tcp_truncated_responses_total{worker="0"}'


def framed(*messages: dns.message.Message) -> bytes:
    """Messages with their length prefixes."""
    return b"".join(len(wire).to_bytes(2) + wire for wire in (message.to_wire() for message in messages))


@contextlib.contextmanager
def connected() -> Iterator[socket.socket]:
    """A connection to a server with a slow upstream."""
    with (
        UpstreamServer(is_slow(0.5)) as upstream,
        ZkdnsServer("--demo", f"--upstream={upstream.address}") as server,
        socket.create_connection(("127.0.0.1", server.wait_ready().port), SECONDS) as sock,
    ):
        yield sock


def metrics_of(server: ZkdnsServer) -> list[str]:
    """The lines of the metrics."""
    with urllib.request.urlopen(f"{server.admin}/metrics", timeout=SECONDS) as metrics:  # noqa: S310 - a local URL
        return [line.decode().rstrip("\n") for line in metrics]


def receive(sock: socket.socket) -> dns.message.Message:
    """Receive the next response."""
    message, _ = dns.query.receive_tcp(sock)
    return message


@repeated_if_late
def test_dns_27_local_responses_do_not_wait_for_forwarded_ones() -> None:
    """RFC 7766 §6.2.1.1, §7: responses to pipelined queries are sent as they become ready."""
    forwarded, local = dns.message.make_query(FORWARDED, "A"), dns.message.make_query(LOCAL, "A")
    with connected() as sock:
        sent_at = time.monotonic()
        sock.sendall(framed(forwarded, local, local))
        responses = [receive(sock) for _ in range(3)]
        in_time(sent_at, LIMIT_SECONDS)  # the upstream is in this process
        assert [response.id for response in responses] == [local.id, local.id, forwarded.id]
        assert all(response.answer for response in responses)


def test_dns_28_forwarded_responses_are_sent_after_a_half_close() -> None:
    forwarded, local = dns.message.make_query(FORWARDED, "A"), dns.message.make_query(LOCAL, "A")
    with connected() as sock:
        for byte in framed(forwarded, local):
            sock.sendall(bytes([byte]))
        sock.shutdown(socket.SHUT_WR)
        assert {receive(sock).id, receive(sock).id} == {local.id, forwarded.id}
        assert sock.recv(1) == b""


def test_dns_30_truncation_over_tcp_is_counted_and_logged(tmp_path: Path) -> None:
    """Clients do not report missing records (consul#3850)."""
    members = ", ".join(f'"10.1.{number >> 8}.{number & 255}:80"' for number in range(5000))
    services = tmp_path / "services.toml"
    services.write_text(f'[services."web.staging"]\nmembers = [{members}]\n')
    with ZkdnsServer("--static", str(services)) as server:
        server.wait_ready()
        assert server.query(LOCAL, "A").flags & dns.flags.TC  # truncation over UDP is normal, and not logged
        response = server.query(LOCAL, "A", tcp=True, timeout=SECONDS)
        assert response.flags & dns.flags.TC
        assert len(response.answer[0]) > 4000
        (entry,) = eventually(lambda: server.events(TRUNCATED_EVENT))
        assert (entry["level"], entry["count"]) == ("warning", 1)
        eventually(lambda: f"{TRUNCATED_METRIC} 1.0" in metrics_of(server))


def test_a_new_connection_replaces_the_longest_idle_one_and_gets_a_transfer(tmp_path: Path) -> None:
    """The limit on open files leaves room for few connections, as 1,024 are in a server without it."""
    beyond = 10
    server = Primary(tmp_path)
    server.command = ["prlimit", f"--nofile={_MAX_FILES}:{_MAX_FILES}", *server.command]
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        server.wait_transferable()
        room = _MAX_FILES - _OTHER_FILES
        opened = []
        for _ in range(room + beyond):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), SECONDS)))
            opened[-1].sendall(framed(dns.message.make_query(LOCAL, "A")))
            receive(opened[-1])
        assert [sock.recv(1) for sock in opened[:beyond]] == [b""] * beyond  # they were closed
        eventually(lambda: f'zkdns_tcp_connections{{worker="0"}} {room}.0' in metrics_of(server))
        assert f'zkdns_tcp_replaced_connections_total{{worker="0"}} {beyond}.0' in metrics_of(server)
        assert transfer(server).get_rdataset(f"{LOCAL}.", "A")
