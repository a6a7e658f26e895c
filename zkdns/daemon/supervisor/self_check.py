"""Self-checks: whether the server responds to a query at its own UDP sockets, as a client would send it.

Any response passes, SERVFAIL too: whether the server responds is a different question from whether it has a
table.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Sequence

from zkdns.address import HostPort, connectable
from zkdns.dns.client_messages import build_query, is_response_to
from zkdns.dns.message import Type
from zkdns.forward.system_upstreams import is_local
from zkdns.names import Labels
from zkdns.transport.sockets import socket_address

_MAX_READ = 512  # bytes of a response; its header and question are enough
# Datagrams may be dropped under load, so the query is sent again.
_RESEND_SECONDS = 0.5
_QUERIES_PER_WORKER = 4  # the chance to miss a hanging worker is e^-4
_MAX_QUERIES = 64  # in parallel for each address; each needs a file descriptor
ANSWER_SECONDS = 2.0
"""The longest time in which a healthy server responds, also on a busy machine."""


async def answers_query(address: HostPort, zone: Labels, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether the server at this address responds to a query for the zone's SOA over UDP.

    Each check uses a new source port, and sends the query again every half second, because datagrams may be
    lost. If several workers have sockets of their own, the kernel selects one by the source port.

    Args:
        address: as bound; for a wildcard address the query goes to the loopback address.
        zone: a zone of this server, so that the query is not forwarded.
        seconds: the time-out.
    """
    try:
        target = connectable(address)
        family, at = socket_address(target.host, target.port)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(at)
            query = build_query(zone, Type.SOA, ident=secrets.randbits(16), rd=False)
            async with asyncio.timeout(seconds):
                await _receive_response(sock, query)
    except OSError:  # a time-out, a closed port, or no route
        return False
    return True


async def unresponsive_addresses(
    addresses: Sequence[HostPort], zone: Labels, workers: int, seconds: float = ANSWER_SECONDS
) -> list[HostPort]:
    """Return those of the server's addresses at which it does not respond.

    Addresses that the machine does not have at the moment are left out. With several workers, each address
    is checked several times, because the kernel selects the worker by the source port.

    Args:
        addresses: as bound.
        zone: a zone of this server.
        workers: the number of workers.
        seconds: the time-out.
    """
    count = min(_MAX_QUERIES, _QUERIES_PER_WORKER * workers) if workers > 1 else 1
    targets = [address for address in addresses if _is_assigned(connectable(address))] * count
    results = await asyncio.gather(*(answers_query(address, zone, seconds) for address in targets))
    silent = (address for address, responds in zip(targets, results, strict=True) if not responds)
    return list(dict.fromkeys(silent))


def _is_assigned(address: HostPort) -> bool:
    """Whether the machine has the address now: sockets can stay bound to an address that was removed."""
    try:
        family, at = socket_address(address.host, address.port)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(at)  # sends nothing; fails for ::1 if IPv6 is disabled
    except OSError:
        return False
    return is_local(address.host)


async def _receive_response(sock: socket.socket, query: bytes) -> None:
    """Send the query until a response arrives."""
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(sock, query)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RESEND_SECONDS):
                while not is_response_to(query, await loop.sock_recv(sock, _MAX_READ)):
                    pass
                return
