"""Replaced connections: one log entry per minute, which names the client."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter

import pytest
from structlog.testing import capture_logs

from tests.transport.helpers import echo, serving
from tests.transport.tcp_client import TcpClient
from zkdns.transport.replaced_connections import LOG_SECONDS, ReplacedConnections


def test_one_entry_per_minute_has_the_number_since_the_last_one() -> None:
    connections = Counter({"10.0.0.1": 3, "10.0.0.2": 900, "10.0.0.3": 121})
    with capture_logs() as logs, socket.create_server(("127.0.0.1", 0)) as sock:
        replaced = ReplacedConnections()
        for now in (5.0, 5.0, 6.0, 5.0 + LOG_SECONDS - 1, 5.0 + LOG_SECONDS):
            replaced.add(now, sock, connections, None)
        address = "{}:{}".format(*sock.getsockname())
    assert replaced.count == 5
    assert [entry["count"] for entry in logs] == [1, 4]
    assert logs[0] == {
        "event": "tcp_connections_replaced",
        "log_level": "warning",
        "address": address,
        "count": 1,
        "limit": "all",
        "client": "10.0.0.2",
        "connections": 900,
    }


@pytest.mark.parametrize("limit", ["client", "all"])
def test_a_server_logs_the_client_with_too_many_connections(limit: str) -> None:
    most, of_client = (2, 9) if limit == "all" else (9, 2)
    with (
        capture_logs() as logs,
        serving(echo, max_connections=most, max_per_client=of_client) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(5):
            client = stack.enter_context(TcpClient(server))
            client.send(b"question")
            assert client.answer() == b"question:tcp"
    found = [entry for entry in logs if entry["event"] == "tcp_connections_replaced"]
    assert [(entry["limit"], entry["client"], entry["connections"]) for entry in found] == [
        (limit, "127.0.0.1", 3)
    ]
