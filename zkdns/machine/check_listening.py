"""Whether zkdns can listen where it is to, with what it needs. Functions of what was found out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from zkdns.address import HostPort
from zkdns.machine.findings import Finding, ok, warning, wrong
from zkdns.machine.processes import Holder, Rights

WANTED_BUFFER = 1 << 20
"""Bytes that zkdns asks the kernel to hold of queries that arrive while it is busy."""
_OTHER_FILES = 1024  # beside those that wait for upstreams: connections of askers, listeners, feeds


def check_port(own: HostPort, holders: Iterable[Holder], rights: Rights) -> Iterator[Finding]:
    """Who has the port where zkdns is to listen, or whether it can be had.

    Args:
        own: an address of `listen`.
        holders: everybody who listens on this machine.
        rights: of whoever asks; the server may be started with others.
    """
    met = [holder for holder in holders if _meet(own, holder.at)]
    for protocol in ("udp", "tcp"):
        about = f"port {own}/{protocol}"
        others = [holder for holder in met if holder.protocol == protocol]
        strangers = [holder for holder in others if not holder.is_zkdns]
        if strangers and strangers[0].pid == 1:
            yield warning(
                about,
                f"{strangers[0].name} has it for a socket unit, and nobody answers there now",
                "see whose that is: systemctl list-sockets",
            )
        elif strangers:
            first = strangers[0]
            yield wrong(
                about,
                f"is taken by {first}, which listens at {first.at}",
                f'stop {first.name or "it"}, or let zkdns listen elsewhere (listen = ["127.0.0.2:53"])',
            )
        elif others:
            yield ok(about, f"zkdns has it (pid {others[0].pid})")
        elif not rights.is_privileged and own.port < rights.first_free_port:
            yield warning(
                about,
                f"is free, but this user may not bind ports below {rights.first_free_port}",
                "let systemd bind it (zkdns.socket), start zkdns as root, or lower "
                "net.ipv4.ip_unprivileged_port_start",
            )
        else:
            yield warning(about, "is free: no zkdns listens there", "start it: zkdns serve")


def _meet(own: HostPort, other: HostPort) -> bool:
    """Whether who listens there leaves no room for us."""
    if own.port != other.port:
        return False
    mine, theirs = (ipaddress.ip_address(one.host.partition("%")[0]) for one in (own, other))
    if mine.version != theirs.version:  # [::] takes IPv4 as well, unless it was told not to
        return theirs.is_unspecified and theirs.version == 6  # noqa: PLR2004 - IP version 6
    return mine == theirs or mine.is_unspecified or theirs.is_unspecified


def check_open_files(limits: tuple[int, int] | None, max_waiting: int) -> Iterator[Finding]:
    """Whether enough files may be open; each worker has the limit for itself.

    Args:
        limits: soft and hard; zkdns raises the soft one as far as the hard one lets it.
        max_waiting: most queries that wait for upstreams, each of which may hold a socket.
    """
    if limits is None:
        return
    wanted = max_waiting + _OTHER_FILES
    if limits[1] < wanted:
        yield warning(
            "open files",
            f"a process may have {limits[1]} open, and {wanted} may be wanted at a time",
            f"say LimitNOFILE={wanted} in the unit",
        )
    else:
        yield ok("open files", f"a process may have {limits[1]} open")


def check_receive_buffer(largest: int | None) -> Iterator[Finding]:
    """Whether a burst of queries finds room.

    Args:
        largest: net.core.rmem_max in bytes; None: it is not known here.
    """
    if largest is None:
        return
    if largest < WANTED_BUFFER:
        yield warning(
            "bursts",
            f"net.core.rmem_max is {largest} bytes, so that of a burst of queries some get lost",
            f"sysctl -w net.core.rmem_max={WANTED_BUFFER}",
        )
    else:
        yield ok("bursts", f"net.core.rmem_max is {largest} bytes")
