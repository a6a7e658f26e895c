"""Listening sockets of this machine and limits of processes, from proc(5).

Only root can see the processes of other users.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from zkdns.address import HostPort

PROC = Path("/proc")

_LISTENING = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; TCP_CLOSE, the state of a UDP socket without a peer
_CAP_NET_BIND_SERVICE = 10  # <linux/capability.h>


class Listener(msgspec.Struct, frozen=True):
    """A listening socket and its process."""

    protocol: Literal["udp", "tcp"]
    at: HostPort
    pid: int | None = None
    """None: it belongs to another user, and is hidden."""
    name: str = ""
    """The program's name."""
    is_zkdns: bool = False

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid is not None else "another user's program"


class BindRights(msgspec.Struct, frozen=True):
    """Which ports this process may bind."""

    is_privileged: bool
    """Whether it may bind any port (root, CAP_NET_BIND_SERVICE)."""
    first_free_port: int = 1024
    """The first port for unprivileged users (net.ipv4.ip_unprivileged_port_start)."""


def listeners(proc: Path = PROC) -> list[Listener]:
    """All listening sockets in this process's network namespace."""
    sockets = [
        (protocol, at, inode)
        for protocol in ("udp", "tcp")
        for table in (protocol, f"{protocol}6")
        for at, inode in parse_sockets(_text(proc / "self" / "net" / table), _LISTENING[protocol])
    ]
    owners = _owners(proc, {inode for _, _, inode in sockets})
    found = []
    for protocol, at, inode in sockets:
        # Of several processes with the same socket, such as systemd and its service, zkdns is preferred, then
        # the youngest.
        programs = [(pid, *_program(proc, pid)) for pid in owners.get(inode, ())]
        pid, name, is_zkdns = min(programs, key=lambda one: (not one[2], -one[0]), default=(None, "", False))
        found.append(Listener("udp" if protocol == "udp" else "tcp", at, pid, name, is_zkdns))
    return found


def parse_sockets(text: str, state: str) -> Iterator[tuple[HostPort, str]]:
    """Parse a table of /proc/net, and return addresses and inodes of the sockets in that state."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == state:  # noqa: PLR2004 - proc(5)
            host, _, port = fields[1].partition(":")
            # Words of four bytes, each in the machine's byte order.
            packed = b"".join(bytes.fromhex(host[at : at + 8])[::_ORDER] for at in range(0, len(host), 8))
            address = ipaddress.ip_address(packed)
            address = getattr(address, "ipv4_mapped", None) or address
            yield HostPort(str(address), int(port, 16)), fields[9]


_ORDER = -1 if socket.htons(1) != 1 else 1


def _owners(proc: Path, wanted: set[str]) -> dict[str, list[int]]:
    """The processes with these sockets open, by inode."""
    owners: dict[str, list[int]] = {}
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            for number in (proc / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    link = os.readlink(number)  # noqa: PTH115 - socket:[…] is not a path
                    inode = link.removeprefix("socket:[").removesuffix("]")
                    if link != inode and inode in wanted:
                        owners.setdefault(inode, []).append(pid)
    return owners


def _program(proc: Path, pid: int) -> tuple[str, bool]:
    """The name of a process, and whether it is zkdns."""
    words = _text(proc / str(pid) / "cmdline").split("\0")
    is_zkdns = any(Path(word).name == "zkdns" or word.startswith("zkdns.") for word in words[:8])
    name = "zkdns" if is_zkdns else _text(proc / str(pid) / "comm").strip()
    return name or "an unnamed program", is_zkdns


def own_rights(proc: Path = PROC) -> BindRights:
    """The rights of this process."""
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", _text(proc / "self" / "status"), re.MULTILINE)
    capabilities = int(effective[1], 16) if effective else 0
    may_bind = bool(capabilities >> _CAP_NET_BIND_SERVICE & 1) or (not effective and os.geteuid() == 0)
    start = _text(proc / "sys" / "net" / "ipv4" / "ip_unprivileged_port_start").strip()
    return BindRights(may_bind, int(start) if start.isdigit() else 1024)


def open_files_of(pid: int | str, proc: Path = PROC) -> tuple[int, int] | None:
    """The soft and hard limit of open files of a process; None: unknown."""
    limits = _text(proc / str(pid) / "limits")
    line = re.search(r"^Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)", limits, re.MULTILINE)
    if line is None:
        return None
    soft, hard = (1 << 30 if limit == "unlimited" else int(limit) for limit in line.groups())
    return soft, hard


def largest_receive_buffer(proc: Path = PROC) -> int | None:
    """net.core.rmem_max in bytes; None: unknown, for example in a separate network namespace."""
    text = _text(proc / "sys" / "net" / "core" / "rmem_max").strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
