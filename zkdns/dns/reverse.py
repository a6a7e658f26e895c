"""Reverse zones: PTR records for members' addresses below in-addr.arpa and ip6.arpa.

The name of each address in the table is the apex of a zone of its own, as if it were delegated to this
server: it has SOA and NS records, and its negative responses have that SOA. DS belongs to the parent zone
(RFC 4035 §3.1.4.1). All other names below in-addr.arpa and ip6.arpa are out of zone: parent and child names,
malformed names, and addresses that no member has.

An address belongs to a member if the member registered it as its host, or in addition to a host name.
Resolved addresses of host names and additional endpoints on other hosts have no PTR records. The target is
the member's own name, such as `m318.web.staging`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from zkdns.dns.message import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.records import Node
from zkdns.dns.rrset import Record, Weighting
from zkdns.dns.zone import NAME_SERVER, Zone, ZoneMatch
from zkdns.names import Labels, to_wire
from zkdns.table import AddressIndex

_IPV4, _IPV6 = (b"in-addr", b"arpa"), (b"ip6", b"arpa")  # RFC 1035 §3.5, RFC 3596 §2.5
_OCTETS = {b"%d" % octet: str(octet) for octet in range(0x100)}
_NIBBLES = frozenset(b"%x" % nibble for nibble in range(0x10))
_IPV4_LABELS, _IPV6_LABELS = 4, 32


class AddressNode(Node):
    """The records at the name of an address: the members with this address."""

    names: tuple[tuple[Labels, Weighting], ...] = ()

    def _render(self, query: Query, qtype: int, ttl: int) -> Iterable[Record]:
        del query  # the names are in other zones, so they cannot be compressed with the question
        if qtype == Type.NS:
            return (Record(pack_record(QUESTION_POINTER, qtype, ttl, NAME_SERVER)),)
        if qtype != Type.PTR:
            return ()
        return (
            Record(pack_record(QUESTION_POINTER, qtype, ttl, to_wire(name)), weighting=weighting)
            for name, weighting in self.names
        )


class ReverseZones:
    """Looks up names of addresses.

    Args:
        zone: the members' names; it must be refreshed before this object.
        addresses: the services that use each address.
    """

    def __init__(self, zone: Zone, addresses: AddressIndex) -> None:
        self._zone = zone
        self._addresses = addresses
        # The addresses for which a match was returned, by each service that the match depends on.
        self._served: dict[Labels, set[str]] = {}

    def find(self, query: Query) -> ZoneMatch | None:
        """The match for a question; None if the name is not in a reverse zone.

        The match has the name itself as its service key, since several services may use the address.
        """
        address = address_of(query.name)
        if address is None or address not in self._addresses or query.qtype == Type.DS:
            return None
        users = sorted(self._addresses.users(address))
        names = tuple(name for key in users for name in self._zone.members_at_address(key, address))
        if not names:
            return None
        for key in users:
            self._served.setdefault(key, set()).add(address)
        return ZoneMatch(query.name, AddressNode(names=names))

    def refresh(self, services: Iterable[Labels]) -> set[Labels]:
        """Update after these services have changed.

        Returns:
            the names of the addresses for which the answers may have changed.
        """
        addresses = self._addresses.take_new()
        for key in services:
            addresses |= self._served.pop(key, set())
        names = set(map(name_of, addresses))
        for name in names:
            self._zone.reset_rotation(name)
        return names


def address_of(name: Labels) -> str | None:
    """The IP address (in canonical form) of a name in lower case. None: it is not the name of an address.

    Each address has exactly one name: all of its 4 bytes or 32 nibbles, without leading zeros.
    """
    kind, parts = name[-len(_IPV4) :], name[: -len(_IPV4)]
    if kind == _IPV4 and len(parts) == _IPV4_LABELS and all(part in _OCTETS for part in parts):
        return ".".join(_OCTETS[part] for part in reversed(parts))
    if kind == _IPV6 and len(parts) == _IPV6_LABELS and _NIBBLES.issuperset(parts):
        return str(ipaddress.IPv6Address(int(b"".join(reversed(parts)), 16)))
    return None


def name_of(address: str) -> Labels:
    """The name of an IP address in canonical form."""
    if ":" not in address:
        return (*reversed(address.encode().split(b".")), *_IPV4)
    digits = ipaddress.IPv6Address(address).packed.hex().encode()
    return (*(digits[at : at + 1] for at in range(len(digits) - 1, -1, -1)), *_IPV6)
