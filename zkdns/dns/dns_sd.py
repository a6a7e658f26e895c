"""DNS-SD (RFC 6763): PTR records to browse services and their members.

    _services._dns-sd._udp.staging      PTR to each service type (§9)
    b._dns-sd._udp.staging              PTR to the domain itself: it can be browsed (§11); `lb` too
    _web._tcp.staging                   PTR to each member (§4); SRV as in RFC 2782
    m318._web._tcp.staging              SRV and TXT of one member (§5, §6)

A domain is an environment: the labels after a service's own name. The service type is made of the service's
own name and `_tcp`, because registrations do not include a protocol. A service name with dots has no type,
since a type has exactly two labels (§7). Additional endpoints have no types either. There are no subtypes.
A service whose name is equal to one of these names has precedence.
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
_DNS_SD = (b"_dns-sd", b"_udp")
_TYPES_LABEL = b"_services"
_DOMAIN_LABELS = (b"b", b"lb")
"""The domain to browse, and the domain to browse automatically (§11)."""


class PtrTarget(msgspec.Struct, frozen=True):
    """The target of a PTR record: `labels`, followed by the last `shared` labels of the question's name.

    `node` has the records at the target, which are added to the response (RFC 6763 §12.1).
    """

    labels: Labels
    shared: int
    node: Node | None = None
    weighting: Weighting = Weighting()

    def record(self, query: Query, ttl: int) -> Record:
        """Make the PTR record. Its data may be compressed (RFC 3597 §4)."""
        name = to_wire(self.labels)[:-1] + query.pointer_to(self.shared)
        additional: list[bytes] = []
        if self.node is not None:
            services = list(self.node.srv_records(query, ttl, name))
            additional += (service.answer for service in services)
            additional += (text.answer for text in self.node.txt_records(ttl, name))
            additional += (address for service in services for address in service.additional)
        return Record(pack_record(QUESTION_POINTER, Type.PTR, ttl, name), tuple(additional), self.weighting)


class PtrNode(Node):
    """A node with PTR records in addition to its other records. `pointers` returns their targets."""

    pointers: Callable[[], Iterable[PtrTarget]] = tuple

    def _render(self, query: Query, qtype: int, ttl: int) -> Iterable[Record]:
        if qtype == Type.PTR:
            return (pointer.record(query, ttl) for pointer in self.pointers())
        return super()._render(query, qtype, ttl)


class DnsSdServiceView(ServiceView):
    """A service's names including those of DNS-SD."""

    def rfc2782_node(self, before: int, protocol: bytes) -> Node | None:
        """As in the base class, with PTR records to all members if the name is a service type."""
        if protocol == _PROTOCOL and before == 1 and self._is_type:
            return self._type
        return super().rfc2782_node(before, protocol)

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
        """The node of a member's DNS-SD name `m318._web._tcp.staging`; None if there is no such name.

        Departed members keep their names, as in `ServiceView`.
        """
        entry = self._by_name.get(label)
        if (
            entry is None
            or entry.label != label  # `member_0000000318`: only the short label is a DNS-SD name
            or entry.member.service is None
            or wire_length(_instance_name(label, self._own)) > MAX_NAME
        ):
            return None
        node = self._member_node(label)
        assert node is not None  # noqa: S101 - the entry exists
        return Node(
            targets=node.targets, texts=node.texts, shared=self._rfc2782.shared, between=self._between
        )

    def instance_names(self) -> Iterator[Labels]:
        """The DNS-SD names of all members in lower case, also of departed ones."""
        for label, entry in self._by_name.items() if self._is_type else ():
            if entry.label == label and self.instance(label) is not None:
                yield _instance_name(label, self._key)


class DnsSdDomains:
    """The domains that can be browsed, and the services in each.

    Args:
        is_listed: whether the service with this key exists as a name (`empty = "nxdomain"` may hide it).
    """

    def __init__(self, is_listed: Callable[[Labels], bool]) -> None:
        self._domains: dict[Labels, set[Labels]] = {}
        self._is_listed = is_listed

    def add(self, key: Labels) -> None:
        """Add a service whose own name has one label."""
        if _can_be_type(key):
            self._domains.setdefault(key[1:], set()).add(key)

    def remove(self, key: Labels) -> bool:
        """Remove a service; return whether it was the last one of its domain."""
        services = self._domains.get(key[1:])
        if services is None:
            return False
        services.discard(key)
        if services:
            return False
        del self._domains[key[1:]]
        return True

    def find(self, name: Labels) -> Node | None:
        """The node at a domain's own name, such as `b._dns-sd._udp.staging`; None if there is none."""
        if name[: len(_DNS_SD)] == _DNS_SD and name[len(_DNS_SD) :] in self._domains:
            return Node()
        domain = name[1 + len(_DNS_SD) :]
        if name[1 : 1 + len(_DNS_SD)] != _DNS_SD or domain not in self._domains:
            return None
        if name[0] == _TYPES_LABEL:
            return PtrNode(pointers=functools.partial(self._types, domain))
        if name[0] in _DOMAIN_LABELS:
            return PtrNode(pointers=lambda: [PtrTarget((), len(domain))])
        return None

    def service_of(self, name: Labels) -> Labels | None:
        """The key of the service of a member's DNS-SD name; None if the name has another form."""
        if len(name) > len(_DNS_SD) + 1 and name[1].startswith(b"_") and name[2] == _PROTOCOL:
            key = (name[1][1:], *name[3:])
            return key if key in self._domains.get(key[1:], ()) else None
        return None

    def names(self) -> Iterator[Labels]:
        """The names that belong to domains and have records."""
        for domain in sorted(self._domains):
            for label in (_TYPES_LABEL, *_DOMAIN_LABELS):
                name = (label, *_DNS_SD, *domain)
                if wire_length(name) <= MAX_NAME:
                    yield name

    def _types(self, domain: Labels) -> Iterator[PtrTarget]:
        for key in sorted(filter(self._is_listed, self._domains[domain])):
            yield PtrTarget(_type_name(key)[:2], len(domain))


def _can_be_type(service: Labels) -> bool:
    """Whether the type name of a service (whose own name has one label) is short enough for DNS."""
    return len(service[0]) < MAX_LABEL and wire_length(_type_name(service)) <= MAX_NAME


def _type_name(service: Labels) -> Labels:
    return (b"_" + service[0], _PROTOCOL, *service[1:])


def _instance_name(label: bytes, service: Labels) -> Labels:
    return (label, *_type_name(service))
