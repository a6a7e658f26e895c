"""Whether the server answers: it is asked as any program would ask it, over its own UDP sockets.

Any response counts, SERVFAIL too: whether it *can* answer is another question than whether it has a table.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Sequence

from zkdns.address import HostPort, connectable
from zkdns.forward.resolv import is_local
from zkdns.names import Labels, to_wire
from zkdns.transport.sockets import socket_address

_SOA, _IN = 6, 1  # RFC 1035 §3.2.2, §3.2.4
_HEADER = struct.Struct("!6H")
_IS_RESPONSE = 0x80  # QR, in the header's third byte
_LONGEST = 512  # bytes that are read of a response: its header is what counts
# Under load a datagram may be dropped, which must not pass for silence.
_AGAIN_SECONDS = 0.5
_ASKED_PER_WORKER = 4  # one that hangs is missed by e^-4
_MOST_ASKED = 64  # at a time of each address, since each takes a file
ANSWER_SECONDS = 2.0
"""How long a server that is well may take, where the machine is busy too."""


async def asks_itself(address: HostPort, zone: Labels, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether who listens at this address answers a query for the zone's SOA over UDP.

    It is asked from a port of its own each time, and again every half second, since datagrams may be lost. Of
    several workers with sockets of their own one is asked, which the kernel chooses by the asker's port.

    Args:
        address: as bound; a wildcard is asked over loopback.
        zone: one that the server answers for, so that nobody else is asked in turn.
        seconds: how long an answer is waited for.
    """
    try:
        asked = connectable(address)
        family, at = socket_address(asked.host, asked.port)
        with socket.socket(family, socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            asker.connect(at)
            async with asyncio.timeout(seconds):
                return await _is_answered(asker, _query(zone))
    except OSError:  # TimeoutError is one; nobody listens there, or the way there is closed
        return False


async def silent_addresses(
    addresses: Sequence[HostPort], zone: Labels, workers: int, seconds: float = ANSWER_SECONDS
) -> list[HostPort]:
    """Those of the server's addresses where nobody answers.

    One that the machine does not have (yet) is none. Of several workers with sockets of their own the kernel
    chooses one by the asker's port, so it is asked from several.

    Args:
        addresses: as bound.
        zone: one that the server answers for.
        workers: how many answer.
        seconds: how long an answer is waited for.
    """
    times = min(_MOST_ASKED, _ASKED_PER_WORKER * workers) if workers > 1 else 1
    asked = [address for address in addresses if _is_here(connectable(address))] * times
    answers = await asyncio.gather(*(asks_itself(address, zone, seconds) for address in asked))
    silent = (address for address, answer in zip(asked, answers, strict=True) if not answer)
    return list(dict.fromkeys(silent))


def _is_here(address: HostPort) -> bool:
    """Whether the machine has the address now: sockets may be bound to one that it has not, or no more."""
    try:
        family, at = socket_address(address.host, address.port)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(at)  # sends nothing, and fails for ::1 too where IPv6 is switched off
    except OSError:
        return False
    return is_local(address.host)


async def _is_answered(asker: socket.socket, query: bytes) -> bool:
    loop = asyncio.get_running_loop()
    while True:
        await loop.sock_sendall(asker, query)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN_SECONDS):
                while True:
                    response = await loop.sock_recv(asker, _LONGEST)
                    if (
                        response[:2] == query[:2]
                        and len(response) >= _HEADER.size
                        and response[2] & _IS_RESPONSE
                    ):
                        return True


def _query(zone: Labels) -> bytes:
    ident = secrets.randbits(16)
    return _HEADER.pack(ident, 0, 1, 0, 0, 0) + to_wire(zone) + struct.pack("!2H", _SOA, _IN)
