"""The services of a benchmark, and their records in the file format of each server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ZONE = "discovery"
ENVIRONMENT = "staging"
TTL = 5
"""Seconds; the default of `zkdns serve`."""


@dataclass(frozen=True)
class Service:
    """A service; `members` are the addresses and ports of m0, m1 and so on."""

    name: str
    members: tuple[tuple[str, int], ...]

    @property
    def owner(self) -> str:
        """The owner name of its records."""
        return f"{self.name}.{ENVIRONMENT}.{ZONE}"


def make_services(count: int, members: int, *, name: str = "service", first: int = 0) -> list[Service]:
    """Make services; all members of all services have different addresses.

    Args:
        count: number of services.
        members: number of members of each, at most 65,536.
        name: prefix of the service names; a number follows.
        first: number of the first service; it determines the addresses.
    """
    made = []
    for number in range(first, first + count):
        start = number * members
        joined = tuple(
            (f"10.{at >> 16 & 255}.{at >> 8 & 255}.{at & 255}", 8000 + at % 1000)
            for at in range(start, start + members)
        )
        made.append(Service(f"{name}{number}", joined))
    return made


def to_static_file(services: Sequence[Service]) -> str:
    """The static file for `zkdns serve --static`."""
    return "\n".join(_static_lines(services)) + "\n"


def _static_lines(services: Sequence[Service]) -> Iterator[str]:
    for service in services:
        members = ", ".join(f'"{address}:{port}"' for address, port in service.members)
        yield f'[services."{service.name}.{ENVIRONMENT}"]'
        yield f"members = [{members}]"


def to_zone_file(services: Sequence[Service], *, ttl: int = TTL) -> str:
    """The zone file for Knot, NSD and unbound (RFC 1035 section 5)."""
    return "\n".join(_zone_lines(services, ttl)) + "\n"


def _zone_lines(services: Sequence[Service], ttl: int) -> Iterator[str]:
    yield f"$ORIGIN {ZONE}."
    yield f"$TTL {ttl}"
    yield "@ SOA ns hostmaster 1 3600 600 86400 2"
    yield "@ NS ns"
    yield "ns A 127.0.0.1"
    for service in services:
        name = f"{service.name}.{ENVIRONMENT}"
        for number, (address, port) in enumerate(service.members):
            yield f"{name} A {address}"
            yield f"{name} SRV 0 100 {port} m{number}.{name}"
            yield f"m{number}.{name} A {address}"


def to_hosts_file(services: Sequence[Service]) -> str:
    """The address records for dnsmasq, in the format of /etc/hosts."""
    lines = []
    for service in services:
        for number, (address, _) in enumerate(service.members):
            lines.append(f"{address} {service.owner} m{number}.{service.owner}")
    return "\n".join(lines) + "\n"


def to_dnsmasq_lines(services: Sequence[Service]) -> str:
    """The SRV records for dnsmasq, as lines of its configuration."""
    return "".join(
        f"srv-host={service.owner},m{number}.{service.owner},{port},0,100\n"
        for service in services
        for number, (_, port) in enumerate(service.members)
    )
