"""Checks of the forwarding settings that need other settings: own addresses and own zones."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from zkdns.address import HostPort, UpstreamAddress
from zkdns.config.model import ForwardZoneSettings
from zkdns.config.parsers import Location
from zkdns.errors import BadValueError
from zkdns.names import lower, parse_name, to_text

if TYPE_CHECKING:
    from zkdns.names import Labels

_Listen: TypeAlias = Sequence[HostPort | None] | None


def by_domain(
    given: Mapping[str, ForwardZoneSettings], zones: Sequence[Labels], listen: _Listen, location: Location
) -> dict[str, ForwardZoneSettings]:
    """Return the forward zones by their names in lower case, and report each that cannot be forwarded."""
    named: dict[str, ForwardZoneSettings] = {}
    for key, settings in given.items():
        here = location.child(key)
        try:
            name = to_text(_domain(key, zones))
        except BadValueError as error:
            here.add_error(str(error))
            continue
        if name in named:
            here.add_error("names the same domain as another table; names are case-insensitive (RFC 4343)")
        check_not_own(settings.upstreams or (), listen, here.child("upstreams"))
        named[name] = settings
    return named


def _domain(written: str, zones: Sequence[Labels]) -> Labels:
    domain = lower(parse_name(written))
    if not domain:
        raise BadValueError("is the root; use forward.upstreams for all other names")
    for zone in zones:
        if domain[-len(zone) :] == zone:
            raise BadValueError(
                f"is in the zone {to_text(zone)}, and names there are never forwarded; remove this table"
            )
    return domain


def check_not_own(upstreams: Iterable[UpstreamAddress | None], listen: _Listen, location: Location) -> None:
    """Report upstreams that are an address of this server; the forwarder detects less obvious loops later.

    Args:
        upstreams: None stands for one with an error that is reported already.
        listen: the addresses of this server, likewise.
        location: where the upstreams were written.
    """
    for upstream in upstreams:
        if upstream and any(one and _matches(one, upstream) for one in listen or ()):
            location.add_error(
                f"{upstream} is an address of this server; write another one, or none to refuse names"
            )


def _matches(listen: HostPort, upstream: UpstreamAddress) -> bool:
    if listen.port != upstream.port:
        return False
    own, other = ipaddress.ip_address(listen.host), ipaddress.ip_address(upstream.host)
    return own == other or (own.is_unspecified and own.version == other.version and other.is_loopback)
