"""Hosts with ports, as people write them: `10.0.0.1:53`, `[::1]:53`, `zk01:2181`."""

from __future__ import annotations

import ipaddress

import msgspec

from zkdns.errors import BadValueError

MAX_PORT = 65535


class HostPort(msgspec.Struct, frozen=True, order=True):
    """A host (address or name, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(text: str, *, default_port: int | None = None, lowest_port: int = 1) -> HostPort:
    """Read `host:port`; an IPv6 address with a port stands in brackets.

    Args:
        text: what was typed.
        default_port: the port where none is given; None makes the port obligatory.
        lowest_port: 0 where port 0 has a meaning (let the system choose), 1 elsewhere.

    Raises:
        BadValueError: what is missing or out of range.
    """
    stripped = text.strip()
    host, colon, port_text = stripped.rpartition(":")
    if _is_ipv6(stripped) or (not colon and stripped) or stripped.endswith("]"):
        host, port_text = stripped, ""
    if not port_text and default_port is not None and not stripped.endswith(":"):
        port = default_port
    elif port_text.isascii() and port_text.isdigit() and lowest_port <= int(port_text) <= MAX_PORT:
        port = int(port_text)
    elif not port_text:
        raise BadValueError(f"{text!r} has no port; write HOST:PORT, an IPv6 address as [ADDRESS]:PORT")
    else:
        raise BadValueError(f"{text!r} has the port {port_text!r}; a port is {lowest_port} to {MAX_PORT}")
    return HostPort(_bare_host(host, text), port)


def parse_listen(text: str, *, default_port: int) -> HostPort:
    """Read an address to listen on: an IP address, and a port of which 0 means any free one.

    Raises:
        BadValueError: a host name instead of an address, or what `parse_host_port` refuses.
    """
    address = parse_host_port(text, default_port=default_port, lowest_port=0)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise BadValueError(
            f"{text!r} is not an address to listen on; write an IP address and a port, as 127.0.0.1:53 or [::1]:53"
        ) from None
    return address


def _bare_host(host: str, text: str) -> str:
    """The host without brackets, which only IPv6 addresses may have, and must have before a port."""
    if host.startswith("[") and host.endswith("]"):
        bare = host[1:-1]
        if not _is_ipv6(bare):
            raise BadValueError(f"{text!r}: only an IPv6 address stands in brackets")
        return bare
    if not host or any(character in host for character in "[] /"):
        raise BadValueError(f"{text!r} has no usable host; write HOST:PORT")
    if ":" in host and not _is_ipv6(host):
        raise BadValueError(f"{text!r} has too many colons; write an IPv6 address as [ADDRESS]:PORT")
    if ":" in host and host != text.strip():
        raise BadValueError(f"{text!r}: an IPv6 address before a port stands in brackets, as [{host}]")
    return host


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6  # noqa: PLR2004 - IP version 6
    except ValueError:
        return False
