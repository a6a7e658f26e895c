"""Drains a retiring worker: every query that it has received gets a response.

Retire ──▶ stop receiving ──▶ upstreams answer, connections become idle ──▶ exit
              └ sockets that no other process reads: only after the queries that wait in them were read
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from zkdns.daemon.ipc.child import RETIRE_SECONDS
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

# Clients no longer send to a socket that only this worker reads. But the handshakes of the last TCP
# connections may take another round trip.
_LAST_QUERIES_SECONDS = 0.5
_POLL_SECONDS = 0.05


class HasWaiting(Protocol):
    """Defers responses: the forwarder, or `DeferredAnswers`."""

    @property
    def waiting(self) -> int:
        """Number of queries that wait."""


async def drain(
    unshared: Collection[int],
    udp: Sequence[UdpServer],
    tcp: Sequence[TcpServer],
    deferring: Sequence[HasWaiting | None],
    on_stopped_receiving: Callable[[], None],
) -> None:
    """Stop receiving, and return when all responses are sent, or after `RETIRE_SECONDS`.

    Args:
        unshared: file descriptors of the sockets that no other process reads.
        udp: the servers.
        tcp: the servers.
        deferring: have the number of queries whose responses are deferred.
        on_stopped_receiving: called when this worker has stopped receiving from the shared sockets.
    """
    end = time.monotonic() + RETIRE_SECONDS
    servers: list[UdpServer | TcpServer] = [*udp, *tcp]
    for server in servers:
        if server.file not in unshared:
            server.stop_accepting()
    on_stopped_receiving()
    if unshared:
        await asyncio.sleep(_LAST_QUERIES_SECONDS)
        for server in servers:
            server.stop_accepting()
    while time.monotonic() < end:
        # A list, not a generator: each call closes idle connections of its server.
        are_idle = [listener.close_inactive(time.monotonic()) for listener in tcp]
        if all(are_idle) and not any(each is not None and each.waiting for each in deferring):
            return
        await asyncio.sleep(_POLL_SECONDS)
