"""How people and programs find out which services there are, and who their members: DNS-SD (RFC 6763).

    _services._dns-sd._udp.staging      PTR to each type of service (§9)
    b._dns-sd._udp.staging              PTR to the domain itself: one may browse here (§11); `lb` too
    _web._tcp.staging                   PTR to each member (§4); its SRV are those of RFC 2782
    m318._web._tcp.staging              SRV and TXT of one member (§5, §6)

A domain is what stands behind the services' own names, which is an environment. A service's own name is the
type, and the protocol is `_tcp`, since nobody registers which one it is. A name with dots in it cannot be a
type, which is two labels (§7); endpoints that a member has besides are none by themselves. There are no
subtypes. Services' own names go before all of these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import msgspec

from zkdns.dns.message import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.records import Node
from zkdns.dns.rrset import Record, Weighting
from zkdns.dns.service_names import ServiceView
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, to_wire, wire_length

_PROTOCOL = b"_tcp"
_ABOUT = (b"_dns-sd", b"_udp")
_TYPES = b"_services"
_DOMAINS = (b"b", b"lb")
"""Where one should browse, and where one should if one does so by itself (§11)."""


class PtrTarget(msgspec.Struct, frozen=True):
    """Where a PTR record leads: to a name of some labels before the last `shared` of the question's name.

    What stands there, if `node` says so, rides along (RFC 6763 §12.1).
    """

    labels: Labels
    shared: int
    node: Node | None = None
    weighting: Weighting = Weighting()

    def record(self, query: Query, ttl: int) -> Record:
        """The record, which is small: its data may be compressed (RFC 3597 §4)."""
        name = to_wire(self.labels)[:-1] + query.pointer_to(self.shared)
        additional: list[bytes] = []
        if self.node is not None:
            services = list(self.node.services(query, ttl, name))
            additional += (service.answer for service in services)
            additional += (text.answer for text in self.node.txt_records(ttl, name))
            additional += (address for service in services for address in service.additional)
        return Record(pack_record(QUESTION_POINTER, Type.PTR, ttl, name), tuple(additional), self.weighting)


class PtrNode(Node):
    """A node that leads to others, beside what else stands there."""

    pointers: Callable[[], Iterable[PtrTarget]] = tuple

    def _render(self, query: Query, qtype: int, ttl: int) -> Iterable[Record]:
        if qtype == Type.PTR:
            return (pointer.record(query, ttl) for pointer in self.pointers())
        return super()._render(query, qtype, ttl)


class DnsSdServiceView(ServiceView):
    """A service's names, those by which it is browsed among them."""

    def rfc2782(self, before: int, protocol: bytes) -> Node | None:
        """As it is without browsing; for a type of service with its members."""
        if protocol == _PROTOCOL and before == 1 and self._is_type:
            return self._type
        return super().rfc2782(before, protocol)

    @property
    def _is_type(self) -> bool:
        return len(self._between) == 1 and _can_be_type(self._key)

    @functools.cached_property
    def _type(self) -> Node:
        plain = self._rfc2782
        return PtrNode(
            targets=plain.targets, shared=plain.shared, between=plain.between, pointers=self._instances
        )

    def _instances(self) -> Iterator[PtrTarget]:
        for entry in self._entries:
            node = self.instance(entry.label)
            if node is not None:
                yield PtrTarget((entry.label,), len(self._own) + 1, node, entry.weighting)

    def instance(self, label: bytes) -> Node | None:
        """What stands at `m318._web._tcp.staging`; of who has just left too. None: no such name."""
        entry = self._by_name.get(label)
        if (
            entry is None
            or entry.label != label  # it is the name of a znode
            or entry.member.service is None
            or wire_length(_instance_name(label, self._own)) > MAX_NAME
        ):
            return None
        node = self._member_node(label)
        assert node is not None  # noqa: S101 - there is such an entry
        return Node(
            targets=node.targets, texts=node.texts, shared=self._rfc2782.shared, between=self._between
        )

    def instance_names(self) -> Iterator[Labels]:
        """The names of all members that have such, in lower case; those of who has left too."""
        for label, entry in self._by_name.items() if self._is_type else ():
            if entry.label == label and self.instance(label) is not None:
                yield _instance_name(label, self._key)


class DnsSdDomains:
    """Which domains there are to browse, and which services in each.

    Args:
        is_listed: whether a service with that key has a name at the moment.
    """

    def __init__(self, is_listed: Callable[[Labels], bool]) -> None:
        self._domains: dict[Labels, set[Labels]] = {}
        self._is_listed = is_listed

    def join(self, key: Labels) -> None:
        """Take in a service whose own name is one label."""
        if _can_be_type(key):
            self._domains.setdefault(key[1:], set()).add(key)

    def leave(self, key: Labels) -> bool:
        """Take a service out; whether it was the last one of its domain."""
        services = self._domains.get(key[1:])
        if services is None:
            return False
        services.discard(key)
        if services:
            return False
        del self._domains[key[1:]]
        return True

    def find(self, name: Labels) -> Node | None:
        """What stands at a name that belongs to a domain as a whole; None: it is none."""
        if name[: len(_ABOUT)] == _ABOUT and name[len(_ABOUT) :] in self._domains:
            return Node()
        domain = name[1 + len(_ABOUT) :]
        if name[1 : 1 + len(_ABOUT)] != _ABOUT or domain not in self._domains:
            return None
        if name[0] == _TYPES:
            return PtrNode(pointers=functools.partial(self._types, domain))
        if name[0] in _DOMAINS:
            return PtrNode(pointers=lambda: [PtrTarget((), len(domain))])
        return None

    def service_of(self, name: Labels) -> Labels | None:
        """The key of the service whose member's name has the form of this one; None: it has not."""
        if len(name) > len(_ABOUT) + 1 and name[1].startswith(b"_") and name[2] == _PROTOCOL:
            key = (name[1][1:], *name[3:])
            return key if key in self._domains.get(key[1:], ()) else None
        return None

    def names(self) -> Iterator[Labels]:
        """The names of whole domains that have records."""
        for domain in sorted(self._domains):
            for label in (_TYPES, *_DOMAINS):
                name = (label, *_ABOUT, *domain)
                if wire_length(name) <= MAX_NAME:
                    yield name

    def _types(self, domain: Labels) -> Iterator[PtrTarget]:
        for key in sorted(filter(self._is_listed, self._domains[domain])):
            yield PtrTarget(_type_name(key)[:2], len(domain))


def _can_be_type(service: Labels) -> bool:
    """Whether the name of the type of a service, whose own name is one label, is not too long."""
    return len(service[0]) < MAX_LABEL and wire_length(_type_name(service)) <= MAX_NAME


def _type_name(service: Labels) -> Labels:
    return (b"_" + service[0], _PROTOCOL, *service[1:])


def _instance_name(label: bytes, service: Labels) -> Labels:
    return (label, *_type_name(service))
