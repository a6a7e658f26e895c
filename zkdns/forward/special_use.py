"""Answers for special-use names, which resolvers do not know or should not receive.

    localhost                           the loopback addresses (RFC 6761 §6.3)
    alt, invalid, local, onion, test    NXDOMAIN (RFC 9476, 6761 §6.4, 6762 §22.1, 7686, 6761 §6.2)
    reverse zones of private addresses  empty zones: NXDOMAIN below them (RFC 6303 §4, 7793, 6762 §22.1)
    home.arpa                           an empty zone as well (RFC 8375 §4)
    resolver.arpa                       NODATA for all its names: no designated resolver (RFC 9462 §4)

A name in a forward zone is forwarded, whether the zone is such a domain or lies above or below it; only
`localhost` never is. `example` is a name like any other (RFC 6761 §6.5), and so is `ipv4only.arpa` for a
server without address translation (RFC 8880 §7.1).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from zkdns.dns.edns import Ede
from zkdns.dns.message import CLASS_IN, QUESTION_POINTER, Query, Rcode, Response, Type, pack_record
from zkdns.names import Labels, to_wire

TTL: Final = 10800  # RFC 6303 §3

_LOCALHOST = b"localhost"
_LOOPBACK: Final[dict[int, bytes]] = {Type.A: b"\x7f\0\0\1", Type.AAAA: bytes(15) + b"\1"}
_ARPA = b"arpa"
_NXDOMAIN_TLDS = frozenset((b"alt", b"invalid", b"local", b"onion", b"test"))
_RESOLVER = (b"resolver", _ARPA)

_SOA_TIMES = struct.Struct("!5I")
_SOA_REST = to_wire((b"nobody", b"invalid")) + _SOA_TIMES.pack(1, 3600, 1200, 604800, TTL)  # RFC 6303 §3


def _zones() -> frozenset[Labels]:
    """Return the empty zones: the names below them are private to each network."""
    ipv4 = ["0", "10", "127", "254.169", "168.192", "2.0.192", "100.51.198", "113.0.203", "255.255.255.255"]
    ipv4 += [f"{second}.172" for second in range(16, 32)]
    ipv4 += [f"{second}.100" for second in range(64, 128)]  # RFC 7793
    ipv6 = [".".join("0" * 32), ".".join("1" + "0" * 31), "d.f", "8.b.d.0.1.0.0.2"]
    ipv6 += [f"{third}.e.f" for third in "89ab"]
    names = [f"{zone}.in-addr" for zone in ipv4] + [f"{zone}.ip6" for zone in ipv6] + ["home"]
    return frozenset((*name.encode().split(b"."), _ARPA) for name in names)


EMPTY_ZONES: Final = _zones()
SPECIAL_USE_DOMAINS: Final[tuple[Labels, ...]] = (
    (_LOCALHOST,),
    (_ARPA,),
    *((domain,) for domain in sorted(_NXDOMAIN_TLDS)),
)
"""Domains that contain all special-use names."""
_ZONE_LENGTHS = sorted(set(map(len, EMPTY_ZONES)))


def special_use_answer(query: Query, configured: Callable[[Labels], bool]) -> Response | None:
    """Return the response to a query that must not be forwarded; None: it may be forwarded.

    The caller sets RA.

    Args:
        query: a query; those of classes other than IN are always forwarded.
        configured: returns whether this very domain (in lower case) has upstreams of its own. Not called with
            the root: the upstreams of all names were not chosen for special-use names.
    """
    name = query.name
    if not name or query.qclass != CLASS_IN:
        return None
    if name[-1] == _LOCALHOST:
        return _localhost(query)
    zone = _zone_of(name)
    if zone is None or any(configured(name[start:]) for start in range(len(name))):
        return None
    if zone[0] in _NXDOMAIN_TLDS:
        # For the domain itself as well: nss-mdns does not use mDNS if `local` has an SOA record.
        return _denial(query, zone, Rcode.NXDOMAIN)
    if zone == _RESOLVER:
        return _denial(query, zone, Rcode.NOERROR)
    return _from_empty_zone(query, zone)


def _zone_of(name: Labels) -> Labels | None:
    """Return the special-use domain that contains the name, except `localhost`."""
    last = name[-1]
    if last in _NXDOMAIN_TLDS:
        return (last,)
    for count in _ZONE_LENGTHS if last == _ARPA else ():
        zone = name[-count:]
        if zone in EMPTY_ZONES or zone == _RESOLVER:
            return zone
    return None


def _localhost(query: Query) -> Response:
    """Return the loopback address, or NODATA for other types."""
    qtype = Type.A if query.qtype == Type.ANY else query.qtype  # for ANY, one RRset is enough (RFC 8482 §4.1)
    address = _LOOPBACK.get(qtype)
    if address is None:
        return _denial(query, (_LOCALHOST,), Rcode.NOERROR)
    response = Response(query, authoritative=True)
    response.answers = (pack_record(QUESTION_POINTER, qtype, TTL, address),)
    return response


def _from_empty_zone(query: Query, zone: Labels) -> Response | None:
    """Return the response of a zone with only an SOA and an NS record (RFC 6303 §3)."""
    if query.name != zone:
        return _denial(query, zone, Rcode.NXDOMAIN)
    if query.qtype == Type.DS:
        # The parent zone has the DS records, and proves with them that this zone is unsigned
        # (RFC 4035 §3.1.4.1, RFC 8375 §4).
        return None
    response = Response(query, authoritative=True)
    if query.qtype in (Type.SOA, Type.ANY):
        response.answers = (_soa(query, zone),)
    elif query.qtype == Type.NS:
        response.answers = (pack_record(QUESTION_POINTER, Type.NS, TTL, QUESTION_POINTER),)
    else:
        return _denial(query, zone, Rcode.NOERROR)
    return response


def _denial(query: Query, zone: Labels, rcode: Rcode) -> Response:
    """Return NXDOMAIN or NODATA, with the SOA record for negative caching (RFC 2308 §2)."""
    response = Response(query, authoritative=True)
    response.rcode, response.authority = rcode, (_soa(query, zone),)
    if rcode == Rcode.NXDOMAIN:  # a resolver of this network might know the name
        response.ede, response.ede_text = Ede.BLOCKED, "a special-use name, which is not forwarded"
    return response


def _soa(query: Query, zone: Labels) -> bytes:
    owner = query.pointer_to(len(zone))
    return pack_record(owner, Type.SOA, TTL, owner + _SOA_REST)
