"""How a worker that another one replaces ends: nobody who asked it goes without an answer.

Retire ──▶ take nothing more ──▶ answers of upstreams arrive, connections fall silent ──▶ the end
              └ from sockets that nobody else takes from only when what waits in them has been taken
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from zkdns.daemon.ipc.child import RETIRE_SECONDS
from zkdns.transport.tcp import TcpServer
from zkdns.transport.udp import UdpServer

if TYPE_CHECKING:
    from zkdns.forward.forwarder import Forwarder

# To a socket that nobody else takes from nothing more is sent by now; but the last connections to it may be
# half open still, for as long as a way there and back takes.
_ALONE_SECONDS = 0.5
_LOOK_SECONDS = 0.05


async def drain(
    alone: Collection[int],
    udp: Sequence[UdpServer],
    tcp: Sequence[TcpServer],
    forwarder: Forwarder | None,
    left: Callable[[], None],
) -> None:
    """Take no more queries, and return when those that were taken are answered, or it takes too long.

    Args:
        alone: the sockets that nobody else takes from.
        udp: what answers datagrams.
        tcp: what answers connections.
        forwarder: who knows which answers are awaited.
        left: called when nothing more is taken where others do.
    """
    end = time.monotonic() + RETIRE_SECONDS
    servers: list[UdpServer | TcpServer] = [*udp, *tcp]
    for server in servers:
        if server.file not in alone:
            server.stop_accepting()
    left()
    if alone:
        await asyncio.sleep(_ALONE_SECONDS)
        for server in servers:
            server.stop_accepting()
    while time.monotonic() < end:
        # Each of them, whatever the others say: those that are quiet are closed.
        are_quiet = [listener.close_inactive(time.monotonic()) for listener in tcp]
        if all(are_quiet) and not (forwarder is not None and forwarder.waiting):
            return
        await asyncio.sleep(_LOOK_SECONDS)
