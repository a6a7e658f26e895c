"""The names of addresses that members have: PTR of `4.3.2.1.in-addr.arpa` and of `….ip6.arpa`.

Each name of an address in the table is a zone of its own, as though it were delegated to this server: SOA and
NS stand there too, and what does not (an address, say) is denied with an SOA that has no more than this name
for its own. DS is the upper zone's (RFC 4035 §3.1.4.1). All other names are somebody else's: what lies above
and below, what is malformed, addresses that no member is answered with.

A member's address is one that its own name has (`m318.web.staging`) without being resolved: that of its host,
or what it registered beside a host name. Endpoints that lie elsewhere than their member have none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from zkdns.dns.records import Node
from zkdns.dns.turns import Record, Standing
from zkdns.dns.wire import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.zone import NAME_SERVER, Found, Zone
from zkdns.names import Labels, to_wire
from zkdns.table import AddressIndex

_IPV4, _IPV6 = (b"in-addr", b"arpa"), (b"ip6", b"arpa")  # RFC 1035 §3.5, RFC 3596 §2.5
_OCTETS = {b"%d" % octet: str(octet) for octet in range(0x100)}
_NIBBLES = frozenset(b"%x" % nibble for nibble in range(0x10))
_IPV4_LABELS, _IPV6_LABELS = 4, 32


class NamedAddress(Node):
    """What stands at the name of an address: who has it."""

    names: tuple[tuple[Labels, Standing], ...] = ()

    def _render(self, query: Query, qtype: int, ttl: int) -> Iterable[Record]:
        del query  # names in another zone than their own cannot be shortened by it
        if qtype == Type.NS:
            return (Record(pack_record(QUESTION_POINTER, qtype, ttl, NAME_SERVER)),)
        if qtype != Type.PTR:
            return ()
        return (
            Record(pack_record(QUESTION_POINTER, qtype, ttl, to_wire(name)), standing=standing)
            for name, standing in self.names
        )


class Reverse:
    """Looks names of addresses up.

    Args:
        zone: tells members' names; it is refreshed before this is.
        addresses: who uses which address.
    """

    def __init__(self, zone: Zone, addresses: AddressIndex) -> None:
        self._zone = zone
        self._addresses = addresses
        # By service the addresses whose answers depend on it, and were given.
        self._given: dict[Labels, set[str]] = {}

    def find(self, query: Query) -> Found | None:
        """What stands at the name of a question; None: the name is not ours.

        What is found is told under the name itself, which is no service's.
        """
        address = address_of(query.name)
        if address is None or address not in self._addresses or query.qtype == Type.DS:
            return None
        users = sorted(self._addresses.users(address))
        names = tuple(name for key in users for name in self._zone.at_address(key, address))
        if not names:
            return None
        for key in users:
            self._given.setdefault(key, set()).add(address)
        return Found(query.name, NamedAddress(names=names))

    def refresh(self, others: Iterable[Labels]) -> set[Labels]:
        """Take notice that the answers of these services are others than before.

        Returns:
            the names of addresses whose answers may be others too.
        """
        addresses = self._addresses.take_new()
        for key in others:
            addresses |= self._given.pop(key, set())
        names = set(map(name_of, addresses))
        for name in names:
            self._zone.forget_turns(name)
        return names


def address_of(name: Labels) -> str | None:
    """The IP address in canonical form that a name (in lower case) is the name of; None: it is none.

    An address has one name: without leading zeros, and with all of its 4 bytes or 32 nibbles.
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
