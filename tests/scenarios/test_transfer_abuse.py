"""Hostile clients of zone transfers: floods, wrong keys, and clients that never read. Others go on."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import dns.tsig
import pytest

from tests.support.transfers import ALLOWED, KEY_NAME, KEYS, ZONE, Primary, transfer
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.processes

AXFR = dns.message.make_query(ZONE, "AXFR").to_wire()
LARGE = {"web.staging": [f"10.0.{number // 250}.{number % 250 + 1}:80" for number in range(3000)]}


def framed(message: bytes) -> bytes:
    return struct.pack(">H", len(message)) + message


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Primary]:
    with Primary(tmp_path, f"{ALLOWED}max_transfers = 4\n{KEYS}") as server:
        server.write(LARGE)
        server.wait_transferable()
        eventually(lambda: len(server.query("web.staging.discovery", tcp=True).answer[0]) == 3000, PATIENCE)
        yield server


def connect(server: Primary) -> socket.socket:
    """A connection of a client that takes little."""
    sock = socket.create_connection(server.addresses[0], timeout=10.0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return sock


def test_clients_that_never_read_end_and_others_are_answered(server: Primary) -> None:
    """They take all places for full transfers; queries, and differences, do not need one."""
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            sock = stack.enter_context(connect(server))
            sock.sendall(framed(AXFR) * 3)
        assert server.query(ZONE, "SOA").answer
        eventually(lambda: server.query(ZONE, "AXFR", tcp=True).rcode() == dns.rcode.SERVFAIL, PATIENCE)
        # The server closes their connections after 10 s without progress.
        eventually(lambda: transfer(server), PATIENCE)


def test_floods_of_strangers_and_wrong_keys_are_refused_and_logged_once(server: Primary) -> None:
    wrong = dns.tsig.Key(KEY_NAME, b"not the secret", "hmac-sha256")
    query = dns.message.make_query(ZONE, "AXFR")
    query.use_tsig(wrong)
    with connect(server) as sock:
        sock.sendall(framed(query.to_wire()) * 20)
        data = b""
        while data.count(b"\x0bhmac-sha256\0") < 20:
            data += sock.recv(65536)
    assert len(server.events("transfer_refused")) == 1
    assert transfer(server).get_rdataset(ZONE, "SOA")


def test_a_client_that_leaves_in_the_middle_frees_its_place(server: Primary) -> None:
    for _ in range(20):
        with connect(server) as sock:
            sock.sendall(framed(AXFR))
            sock.recv(1000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: transfer(server), PATIENCE)


def test_half_closed_connections_get_the_whole_zone(server: Primary) -> None:
    with socket.create_connection(server.addresses[0], timeout=10.0) as sock:
        sock.sendall(framed(AXFR))
        sock.shutdown(socket.SHUT_WR)
        size = 0
        while data := sock.recv(65536):
            size += len(data)
    assert size > 500_000


def test_a_damaged_stream_of_transfer_queries_does_no_harm(server: Primary) -> None:
    for cut in range(1, len(AXFR), 3):
        with connect(server) as sock, contextlib.suppress(OSError):
            sock.sendall(framed(AXFR)[:cut])
            sock.sendall(framed(AXFR[:cut]))
    assert server.query(ZONE, "SOA").answer
    assert not server.events("process_exited")
