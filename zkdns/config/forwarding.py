"""What settings of forwarding must not say together: who would be asked in vain, and for whose names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zkdns.address import HostPort, UpstreamAddress
from zkdns.config.model import ForwardSettings
from zkdns.config.values import Place
from zkdns.errors import BadValueError
from zkdns.names import lower, parse_name, to_text

if TYPE_CHECKING:
    from zkdns.names import Labels

_Listen = Sequence[HostPort | None] | None


def check_upstreams(values: Mapping[str, Any], places: Mapping[str, Place]) -> None:
    """Check what is told of upstreams and of the cache; None stands for what was wrong already."""
    upstream = values.get("upstream")
    if isinstance(upstream, tuple):
        _refuse_own(upstream, values["listen"], places["upstream"])
    least, most = values.get("cache_min_ttl"), values.get("cache_max_ttl")
    if least and most and least > most:
        places["cache_min_ttl"].refuse(
            f"{least} is more than {places['cache_max_ttl'].name}, which is {most}"
        )


def by_domain(
    given: Mapping[str, ForwardSettings], zones: Sequence[Labels], listen: _Listen, place: Place
) -> dict[str, ForwardSettings]:
    """The domains' tables by their names in lower case; each domain is one that can be forwarded."""
    named: dict[str, ForwardSettings] = {}
    for key, settings in given.items():
        here = place.inside(key)
        try:
            name = to_text(_domain(key, zones))
        except BadValueError as mistake:
            here.refuse(str(mistake))
            continue
        if name in named:
            here.refuse(
                "is one domain with another table; names that differ only in case are equal (RFC 4343)"
            )
        _refuse_own(settings.upstreams or (), listen, here.inside("upstreams"))
        named[name] = settings
    return named


def _domain(written: str, zones: Sequence[Labels]) -> Labels:
    domain = lower(parse_name(written))
    if not domain:
        raise BadValueError("is the root, and where all names go is what upstream says")
    for zone in zones:
        if domain[-len(zone) :] == zone:
            raise BadValueError(
                f"lies in the zone {to_text(zone)}, whose names are never forwarded; leave this table out"
            )
    return domain


def _refuse_own(upstreams: Iterable[UpstreamAddress | None], listen: _Listen, place: Place) -> None:
    """Refuse addresses that are evidently our own; a server that listens everywhere finds others later."""
    for upstream in upstreams:
        if upstream and any(one and _is_met(one, upstream) for one in listen or ()):
            place.refuse(
                f"{upstream} is where this server itself listens; name another one, or none to refuse names"
            )


def _is_met(listen: HostPort, upstream: UpstreamAddress) -> bool:
    if listen.port != upstream.port:
        return False
    own, other = ipaddress.ip_address(listen.host), ipaddress.ip_address(upstream.host)
    return own == other or (own.is_unspecified and own.version == other.version and other.is_loopback)
