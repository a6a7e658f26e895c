"""Counts the connections that were closed because there were too many, and logs them."""

from __future__ import annotations

import math
import socket
from collections import Counter

import structlog

from zkdns.address import HostPort

log = structlog.get_logger("zkdns.transport")

LOG_SECONDS = 60.0
"""Time from one log entry to the next one: a client can open thousands of connections in a second."""


class ReplacedConnections:
    """The connections of a server that were closed for a new one.

    Attributes:
        count: their number.
    """

    def __init__(self) -> None:
        self.count = 0
        self._logged_count = 0
        self._log_at = -math.inf

    def add(self, now: float, sock: socket.socket, per_client: Counter[str], client: str | None) -> None:
        """Count a connection, and log all since the last entry.

        Args:
            now: the time in seconds.
            sock: the listening socket.
            per_client: the number of connections by client.
            client: the client that has too many of them. None: all clients together have.
        """
        self.count += 1
        if now < self._log_at:
            return
        self._log_at = now + LOG_SECONDS
        most = max(per_client, key=per_client.__getitem__) if client is None else client
        log.warning(
            "tcp_connections_replaced",
            address=str(HostPort(*sock.getsockname()[:2])),
            count=self.count - self._logged_count,
            limit="all" if client is None else "client",
            client=most,
            connections=per_client[most],
        )
        self._logged_count = self.count
