"""Hosts with ports, as people write them: `10.0.0.1:53`, `[::1]:53`, `zk01:2181`."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from zkdns.errors import BadValueError
from zkdns.namespace import check_znode_path

MAX_PORT = 65535
DNS_PORT = 53
DNS_TLS_PORT = 853  # RFC 7858 §3.1
ZOOKEEPER_PORT = 2181
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST_NAME = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


class HostPort(msgspec.Struct, frozen=True, order=True):
    """A host (address or name, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UpstreamAddress(msgspec.Struct, frozen=True, order=True):
    """A resolver that queries are handed to.

    Attributes:
        host: an IP address (IPv6 without brackets, with a zone such as `%eth0` where it needs one).
        port: 53, or 853 for TLS, unless told otherwise.
        tls: the name that its certificate must have, for DNS over TLS (RFC 7858); where none was written it
            is the address, which the certificate must have then. None: UDP and TCP in clear.
    """

    host: str
    port: int
    tls: str | None = None

    def __str__(self) -> str:
        address = str(HostPort(self.host, self.port))
        return address if self.tls is None else f"tls://{address}#{self.tls}"


def connectable(address: HostPort) -> HostPort:
    """Where to ask who listens there: a wildcard is no address to send to."""
    return HostPort(_WILDCARDS.get(address.host, address.host), address.port)


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
    if not port_text and default_port is not None and (host == stripped or not stripped.endswith(":")):
        port = default_port
    elif _PORT.fullmatch(port_text) and lowest_port <= int(port_text) <= MAX_PORT:
        port = int(port_text)
    elif not port_text:
        raise BadValueError(f"{text!r} has no port; write HOST:PORT, an IPv6 address as [ADDRESS]:PORT")
    else:
        raise BadValueError(f"{text!r} has the port {port_text!r}; a port is {lowest_port} to {MAX_PORT}")
    return HostPort(_bare_host(host, text), port)


def parse_listen(text: str, *, default_port: int) -> HostPort:
    """Read an address to listen on: an IP address, and a port of which 0 means any free one.

    The address comes back in its canonical spelling, so that equal addresses are equal.

    Raises:
        BadValueError: a host name instead of an address, one of a link without its interface, or what
            `parse_host_port` refuses.
    """
    given = parse_host_port(text, default_port=default_port, lowest_port=0)
    try:
        address = ipaddress.ip_address(given.host)
    except ValueError:
        raise BadValueError(
            f"{text!r} is no address to listen on; write an IP address and a port, as 127.0.0.1:53, [::1]:53"
        ) from None
    _check_has_its_link(address, text)
    return HostPort(str(address), given.port)


def parse_upstream(text: str) -> UpstreamAddress:
    """Read a resolver to forward to: `ADDRESS[:PORT]`, or `tls://ADDRESS[:PORT][#NAME]`.

    A host name would have to be asked of that same resolver. The address comes back in its canonical
    spelling, so that equal addresses are equal.

    Raises:
        BadValueError: what is wrong with it, and how it is written.
    """
    stripped = text.strip()
    scheme, has_scheme, rest = stripped.partition("://")
    if has_scheme and scheme.lower() != "tls":
        raise BadValueError(
            f"{text!r} begins with {scheme}://; write ADDRESS[:PORT], or tls://ADDRESS[:PORT]#NAME for TLS"
        )
    if not has_scheme:
        if "#" in stripped:
            raise BadValueError(
                f"{text!r} has a #, which stands before a certificate's name in tls://ADDRESS#NAME alone; "
                "write a port behind a colon"
            )
        given = parse_host_port(stripped, default_port=DNS_PORT)
        return UpstreamAddress(str(_askable(given.host, text)), given.port)
    before, has_name, name = rest.partition("#")
    given = parse_host_port(before, default_port=DNS_TLS_PORT)
    address = _askable(given.host, text)
    return UpstreamAddress(
        str(address),
        given.port,
        _certificate_name(name, text) if has_name else str(address).partition("%")[0],
    )


def parse_network(text: str) -> str:
    """Read a network, `10.0.0.0/8`, or an address that stands for itself; in its canonical spelling.

    Raises:
        BadValueError: it is none, or has bits behind its prefix.
    """
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        try:
            meant = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            raise BadValueError(
                f"{text!r} is no network; write an address, or a network as 10.0.0.0/8 or fd00::/8"
            ) from None
        raise BadValueError(f"{text!r} has bits behind its prefix; the network is {meant}") from None


def parse_connect_string(text: str) -> str:
    """Check where a ZooKeeper is, `host:port,host:port/chroot`, and write every port into it.

    Raises:
        BadValueError: what is wrong with a server or with the chroot, or a server that is named twice.
    """
    hosts, _, below = text.partition("/")
    servers = [str(parse_host_port(host, default_port=ZOOKEEPER_PORT)) for host in hosts.split(",")]
    for index, server in enumerate(servers):
        if server in servers[:index]:
            raise BadValueError(f"{text!r} names {server} twice")
    if not below:
        return ",".join(servers)
    check_znode_path("/" + below)
    return ",".join(servers) + "/" + below


def _askable(host: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of one host that can be sent to, in its one spelling."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise BadValueError(
            f"{text!r} is no address to forward to; write an IP address, as 9.9.9.9, [2620:fe::fe]:53, "
            "tls://9.9.9.9#dns.quad9.net"
        ) from None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_multicast or address == _BROADCAST:
        raise BadValueError(f"{text!r} is the address of no single host; write a resolver's own, as 9.9.9.9")
    _check_has_its_link(address, text)
    return address


def _check_has_its_link(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> None:
    """The same address may be another host behind each interface (RFC 4007 §6).

    Raises:
        BadValueError: it is one of a link, and of which is not said.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local and address.scope_id is None:
        raise BadValueError(
            f"{text!r} is an address on some link; write its interface too, as {address}%eth0"
        )


def _certificate_name(name: str, text: str) -> str:
    """What a certificate is for: a host name in lower case, without a dot at its end, or an IP address."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(name) or name.rstrip(".").rpartition(".")[2].isdigit():
        raise BadValueError(
            f"{text!r} has {name!r} behind its #; write what the certificate is for, as dns.quad9.net"
        )
    return name.rstrip(".").lower()


def _bare_host(host: str, text: str) -> str:
    """The host without brackets, which only IPv6 addresses may have, and must have before a port."""
    if host.startswith("[") and host.endswith("]"):
        bare = host[1:-1]
        if not _is_ipv6(bare):
            raise BadValueError(f"{text!r}: only an IPv6 address stands in brackets")
        return bare
    if _is_ipv6(host):
        if host != text.strip():
            raise BadValueError(f"{text!r}: an IPv6 address before a port stands in brackets, as [{host}]")
        return host
    if ":" in host and "[" not in host:
        raise BadValueError(f"{text!r} has too many colons; write an IPv6 address as [ADDRESS]:PORT")
    if not _HOST_NAME.fullmatch(host):
        raise BadValueError(
            f"{text!r} has no usable host; write an IP address or a host name before the port"
        )
    if host.rstrip(".").rpartition(".")[2].isdigit() and not _is_ipv4(host):
        # No top-level domain is a number (RFC 1123 §2.1), so this was meant to be an address.
        raise BadValueError(f"{text!r} has the host {host!r}, which is not an IPv4 address")
    return host


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(host: str) -> bool:
    """Whether it is an IPv6 address, with a plain zone such as `fe80::1%eth0` or without one."""
    try:
        scope = ipaddress.IPv6Address(host).scope_id
    except ValueError:
        return False
    return scope is None or bool(_HOST_NAME.fullmatch(scope))
