"""The services that are asked for, and the same records in the words of each server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ZONE = "discovery"
ENVIRONMENT = "staging"
TTL = 5
"""Seconds; that of `zkdns serve`."""


@dataclass(frozen=True)
class Service:
    """A service, whose members are called m0, m1, … and have an address and a port each."""

    name: str
    members: tuple[tuple[str, int], ...]

    @property
    def owner(self) -> str:
        """The name that is asked for."""
        return f"{self.name}.{ENVIRONMENT}.{ZONE}"


def make_services(count: int, members: int, *, name: str = "service", first: int = 0) -> list[Service]:
    """That many services with that many members each, all of which have addresses of their own.

    Args:
        count: how many.
        members: of each; at most 65,536.
        name: what they are called, a number behind it.
        first: that of the first of them; others with other numbers have other addresses.
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


def to_fixed_file(services: Sequence[Service]) -> str:
    """For `zkdns serve --static`."""
    return "\n".join(_fixed_lines(services)) + "\n"


def _fixed_lines(services: Sequence[Service]) -> Iterator[str]:
    for service in services:
        members = ", ".join(f'"{address}:{port}"' for address, port in service.members)
        yield f'[services."{service.name}.{ENVIRONMENT}"]'
        yield f"members = [{members}]"


def to_zone_file(services: Sequence[Service], *, ttl: int = TTL) -> str:
    """For Knot, NSD and unbound (RFC 1035 section 5)."""
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
    """The address records for dnsmasq, as in /etc/hosts; SRV stand in its configuration."""
    lines = []
    for service in services:
        for number, (address, _) in enumerate(service.members):
            lines.append(f"{address} {service.owner} m{number}.{service.owner}")
    return "\n".join(lines) + "\n"


def to_dnsmasq_lines(services: Sequence[Service]) -> str:
    """The SRV records for dnsmasq."""
    return "".join(
        f"srv-host={service.owner},m{number}.{service.owner},{port},0,100\n"
        for service in services
        for number, (_, port) in enumerate(service.members)
    )
