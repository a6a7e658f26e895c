"""The IP addresses of this machine, which is exempt from access control.

They are read again every second, since they may change while the server runs. That takes two system calls and
some 25 µs (measured) and needs no permission, unlike netlink, which systemd's unit does not allow.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
"""The first bytes of an IPv4 address that is mapped to IPv6 (RFC 4291 §2.5.5.2)."""

_SIOCGIFCONF = 0x8912  # <linux/sockios.h>
_IFCONF = struct.Struct("@iP")  # <linux/if.h>: bytes of the buffer, and its address
_IFREQ_SIZE = 40  # bytes: name of the interface (16), sockaddr (16 of them used here)
_SIN_ADDR = slice(16 + 4, 16 + 8)
_MIN_ROOM = 32  # addresses
_MAX_ROOM = 1 << 16
_IF_INET6 = Path("/proc/self/net/if_inet6")  # proc(5); exists if /proc shows processes only
_HEX_DIGITS = 32


class LocalAddresses:
    """The present addresses of this machine, in 4 or 16 bytes each. Without Linux: none.

    Attributes:
        current: the addresses at the last `refresh`, without loopback, which `is_loopback` recognizes.
    """

    def __init__(self) -> None:
        self.current: frozenset[bytes] = frozenset()

    def refresh(self) -> bool:
        """Read the addresses; return whether they have changed."""
        before = self.current
        self.current = frozenset(_read_addresses())
        return self.current != before

    def __contains__(self, address: bytes) -> bool:
        """Whether this is an address of this machine, loopback included."""
        address = unmapped(address)
        return address in self.current or is_loopback(address)


def is_loopback(address: bytes) -> bool:
    """Whether this is a loopback address: 127.0.0.0/8 or ::1. Another host's packets never have one."""
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"  # noqa: PLR2004 - RFC 1122


def unmapped(address: bytes) -> bytes:
    """The IPv4 address of an IPv4-mapped IPv6 address; otherwise the address itself."""
    return address.removeprefix(MAPPED_PREFIX) if len(address) > len(MAPPED_PREFIX) else address


def _read_addresses() -> Iterator[bytes]:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            yield from _read_ipv4()
        with contextlib.suppress(OSError):  # IPv6 is disabled
            for line in _IF_INET6.read_text(encoding="ascii").splitlines():
                yield bytes.fromhex(line[:_HEX_DIGITS])


def _read_ipv4() -> Iterator[bytes]:
    """Yield the IPv4 addresses of all interfaces.

    Raises:
        OSError: they cannot be read.
    """
    room = _MIN_ROOM
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while True:
            memory = array.array("B", bytes(room * _IFREQ_SIZE))
            start, size = memory.buffer_info()
            used, _ = _IFCONF.unpack(fcntl.ioctl(sock, _SIOCGIFCONF, _IFCONF.pack(size, start)))
            if used < size or room >= _MAX_ROOM:  # otherwise there may be more
                break
            room *= 2
    for at in range(0, used, _IFREQ_SIZE):
        yield bytes(memory[at : at + _IFREQ_SIZE][_SIN_ADDR])
