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
from collections.abc import Iterable, Sequence
from functools import partial

from zkdns.dns.member_records import NamedMember
from zkdns.dns.message import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.records import Node
from zkdns.dns.rrset import EQUAL_WEIGHT, Item, Renderer
from zkdns.dns.steps import Run
from zkdns.dns.zone import NAME_SERVER_NAME, Zone, ZoneMatch
from zkdns.names import IN_ADDR_ARPA, IP6_ARPA, Labels, reverse_name, to_wire
from zkdns.table import AddressIndex

_OCTETS = {b"%d" % octet: str(octet) for octet in range(0x100)}
_NIBBLES = frozenset(b"%x" % nibble for nibble in range(0x10))
_IPV4_LABELS, _IPV6_LABELS = 4, 32


_NAME_SERVER = NamedMember(NAME_SERVER_NAME[0], NAME_SERVER_NAME[1:], EQUAL_WEIGHT)


class _NameRenderer(Renderer[NamedMember]):
    """Renders PTR or NS records. The names are in other zones, so they are not compressed."""

    def __init__(self, qtype: int, ttl: int) -> None:
        super().__init__()
        self._qtype, self._ttl = qtype, ttl
        self._services: dict[Labels, bytes] = {}

    def render_answer(self, item: NamedMember) -> bytes:
        """The record of a name."""
        label, service = item.label, self._services.get(item.service)
        if service is None:
            service = self._services[item.service] = to_wire(item.service)
        return pack_record(QUESTION_POINTER, self._qtype, self._ttl, len(label).to_bytes() + label + service)


class AddressNode(Node):
    """The records at the name of an address: the members with this address."""

    def __init__(self, members: Sequence[NamedMember], run: Run) -> None:
        super().__init__(run=run)
        self._members = members

    def items(self, qtype: int) -> Sequence[Item]:
        """The members for PTR, and the name server for NS."""
        if qtype == Type.NS:
            return [_NAME_SERVER]
        return self._members if qtype == Type.PTR else ()

    def renderer(self, query: Query, qtype: int, ttl: int) -> _NameRenderer:
        """The renderer of PTR or NS records."""
        del query
        return _NameRenderer(qtype, ttl)


class ReverseZones:
    """Looks up names of addresses.

    Args:
        zone: the members' names; it must be refreshed before this object.
        addresses: the services that use each address.
    """

    def __init__(self, zone: Zone, addresses: AddressIndex) -> None:
        self._zone = zone
        self._addresses = addresses
        # The nodes of addresses, and the addresses by each service that their nodes depend on.
        self._nodes: dict[str, AddressNode] = {}
        self._served: dict[Labels, set[str]] = {}

    def find(self, query: Query) -> ZoneMatch | None:
        """The match for a question; None if the name is not in a reverse zone.

        The match has the name itself as its service key, since several services may use the address.
        """
        address = address_of(query.name)
        if address is None or address not in self._addresses or query.qtype == Type.DS:
            return None
        node = self._nodes.get(address)
        if node is None:
            users = sorted(self._addresses.users(address))
            members = [member for key in users for member in self._zone.members_at_address(key, address)]
            if not members:
                return None
            for key in users:
                self._served.setdefault(key, set()).add(address)
            node = self._nodes[address] = AddressNode(members, partial(self._zone.steps.run, users[0]))
        return ZoneMatch(query.name, node)

    def refresh(self, services: Iterable[Labels]) -> set[Labels]:
        """Update after these services have changed.

        Returns:
            the names of the addresses for which the answers may have changed.
        """
        addresses = self._addresses.take_new()
        for key in services:
            addresses |= self._served.pop(key, set())
        for address in addresses:
            self._nodes.pop(address, None)
        names = set(map(reverse_name, addresses))
        for name in names:
            self._zone.reset_rotation(name)
        return names


def address_of(name: Labels) -> str | None:
    """The IP address (in canonical form) of a name in lower case. None: it is not the name of an address.

    Each address has exactly one name: all of its 4 bytes or 32 nibbles, without leading zeros.
    """
    kind, parts = name[-len(IN_ADDR_ARPA) :], name[: -len(IN_ADDR_ARPA)]
    if kind == IN_ADDR_ARPA and len(parts) == _IPV4_LABELS and all(part in _OCTETS for part in parts):
        return ".".join(_OCTETS[part] for part in reversed(parts))
    if kind == IP6_ARPA and len(parts) == _IPV6_LABELS and _NIBBLES.issuperset(parts):
        return str(ipaddress.IPv6Address(int(b"".join(reversed(parts)), 16)))
    return None
