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
import weakref
from collections.abc import Iterator, Sequence

import msgspec

from zkdns.dns.member_records import Hosts, LabeledMember
from zkdns.dns.message import CLASS_IN, QUESTION_POINTER, TYPE_CLASS, Query, Type, pack_record
from zkdns.dns.ordered import Ordered
from zkdns.dns.records import FixedNode, Node, SrvRenderer, Target, TargetNames, TextRenderer
from zkdns.dns.rrset import EQUAL_WEIGHT, Item, Renderer, Weighting
from zkdns.dns.service_names import ServiceView
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, to_wire, wire_length

_PROTOCOL = b"_tcp"
_DNS_SD = (b"_dns-sd", b"_udp")
_TYPES_LABEL = b"_services"
_DOMAIN_LABELS = (b"b", b"lb")
"""The domain to browse, and the domain to browse automatically (§11)."""


class PtrTarget(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The target of a PTR record: `labels`, followed by the last labels of the question's name."""

    labels: Labels = ()
    weighting: Weighting = EQUAL_WEIGHT


class PtrRenderer(Renderer[PtrTarget]):
    """Renders PTR records. Their data may be compressed (RFC 3597 §4).

    Args:
        query: a query for the name.
        ttl: TTL of the records.
        shared: number of last labels of the question's name at the end of each target.
    """

    def __init__(self, query: Query, ttl: int, shared: int) -> None:
        super().__init__()
        self._ttl, self._suffix = ttl, query.pointer_to(shared)

    def render_answer(self, item: PtrTarget) -> bytes:
        """The PTR record of a target."""
        return pack_record(QUESTION_POINTER, Type.PTR, self._ttl, to_wire(item.labels)[:-1] + self._suffix)


class _InstanceRenderer(Renderer[LabeledMember]):
    """Renders the PTR records of a service type.

    The records at each target are additional records (RFC 6763 §12.1).
    """

    has_additional = True

    def __init__(self, hosts: Hosts, names: TargetNames, query: Query, ttl: int) -> None:
        super().__init__()
        self._hosts, self._names, self._query, self._ttl = hosts, names, query, ttl
        self._start = QUESTION_POINTER + TYPE_CLASS.pack(Type.PTR, CLASS_IN) + ttl.to_bytes(4)

    def render_answer(self, item: LabeledMember) -> bytes:
        """The PTR record of a member."""
        label = item.label
        size = len(label)
        return b"%b%b%c%b%b" % (self._start, (size + 3).to_bytes(2), size, label, QUESTION_POINTER)

    def render_additional(self, item: LabeledMember) -> tuple[bytes, ...]:
        """The records at the member's DNS-SD name, and the addresses of its SRV target."""
        name = bytes((len(item.label),)) + item.label + QUESTION_POINTER
        targets = self._hosts.own_targets(item)
        services = SrvRenderer(self._names, self._query, self._ttl, name)
        return (
            *map(services.render_answer, targets),
            TextRenderer(self._ttl, name).render_answer(item),
            *(address for target in targets for address in services.render_additional(target)),
        )


class PtrNode(Node):
    """A node with PTR records to these targets only.

    Args:
        targets: the targets.
        shared: as in `PtrRenderer`.
    """

    def __init__(self, targets: Ordered[Labels, PtrTarget], shared: int) -> None:
        super().__init__()
        self._targets, self._shared = targets, shared

    def items(self, qtype: int) -> Sequence[Item]:
        """The targets of PTR records."""
        return self._targets.values if qtype == Type.PTR else ()

    def renderer(self, query: Query, qtype: int, ttl: int) -> PtrRenderer:
        """The renderer of PTR records."""
        del qtype
        return PtrRenderer(query, ttl, self._shared)


class _TypeNode(Node):
    """The node of a service type: PTR records in addition to the SRV records of RFC 2782."""

    def __init__(self, view: DnsSdServiceView, plain: Node) -> None:
        super().__init__(plain.names, view.run)
        self._view: DnsSdServiceView = weakref.proxy(view)
        self._plain = plain

    def targets(self) -> Sequence[Target]:
        """The SRV targets, as without DNS-SD."""
        return self._plain.targets()

    def items(self, qtype: int) -> Sequence[Item]:
        """The members with DNS-SD names for PTR; other types as without DNS-SD."""
        return self._view.instances().members.values if qtype == Type.PTR else super().items(qtype)

    def renderer(self, query: Query, qtype: int, ttl: int) -> Renderer[LabeledMember] | Renderer[Target]:
        """The renderer of PTR or SRV records."""
        if qtype == Type.PTR:
            return self._view.instance_renderer(query, ttl)
        return super().renderer(query, qtype, ttl)


class _Instances:
    """The present members with DNS-SD names.

    Attributes:
        members: the members in order.

    Args:
        max_label: maximum bytes of the label of a member with such a name.
    """

    def __init__(self, max_label: int) -> None:
        self.members: Ordered[int, LabeledMember] = Ordered()
        self._max_label = max_label

    def add(self, entry: LabeledMember) -> None:
        """Add a member."""
        if _is_instance(entry, self._max_label):
            self.members.add(entry.order, entry)

    def remove(self, entry: LabeledMember) -> None:
        """Remove a member that was added."""
        self.members.remove(entry.order)


def _is_instance(entry: LabeledMember, max_label: int) -> bool:
    """Whether a member has a DNS-SD name."""
    return entry.member.service is not None and len(entry.label) <= max_label


class DnsSdServiceView(ServiceView):
    """A service's names including those of DNS-SD."""

    def rfc2782_node(self, before: int, protocol: bytes) -> Node | None:
        """As in the base class, with PTR records to all members if the name is a service type."""
        if protocol == _PROTOCOL and before == 1 and self._is_type:
            return self._type_node
        return super().rfc2782_node(before, protocol)

    @functools.cached_property
    def _is_type(self) -> bool:
        return len(self._between) == 1 and _can_be_type(self._key)

    @functools.cached_property
    def _max_label(self) -> int:
        """Maximum bytes of the label of a member whose DNS-SD name is short enough."""
        return MAX_NAME - wire_length(_type_name(self._own)) - 1

    @functools.cached_property
    def _type_node(self) -> Node:
        # In `_nodes`, the key cannot be that of another name of the service.
        node = self._nodes[(b"", _PROTOCOL)] = _TypeNode(self, self._rfc2782_node)
        return node

    def instances(self) -> _Instances:
        """The present members with DNS-SD names."""
        return self._index_of("instances", lambda: _Instances(self._max_label))

    def instance_renderer(self, query: Query, ttl: int) -> _InstanceRenderer:
        """The renderer of PTR records to members."""
        return _InstanceRenderer(self._hosts, self._instance_names, query, ttl)

    def instance_node(self, entry: LabeledMember) -> Node:
        """The node of a member's DNS-SD name."""
        return FixedNode(self._instance_names, targets=self._hosts.own_targets(entry), texts=(entry,))

    @functools.cached_property
    def _instance_names(self) -> TargetNames:
        return TargetNames(self._own, self._rfc2782_names.shared, self._between)

    def instance(self, label: bytes) -> Node | None:
        """The node of a member's DNS-SD name `m318._web._tcp.staging`; None if there is no such name.

        Departed members keep their names, as in `ServiceView`. Only the short label is a DNS-SD name, not
        `member_0000000318`.
        """
        entry = self._with_label(label)
        return (
            self.instance_node(entry) if entry is not None and _is_instance(entry, self._max_label) else None
        )

    def instance_name(self, label: bytes) -> Labels:
        """The DNS-SD name of the member with this label, in lower case."""
        return _instance_name(label, self._key)

    def instance_names(self) -> Iterator[Labels]:
        """The DNS-SD names of all members in lower case, also of departed ones."""
        if self._is_type:
            for entry in (*self._present, *self._served_departed()):
                if _is_instance(entry, self._max_label):
                    yield _instance_name(entry.label, self._key)


class _Domain:
    """The services of a domain that can be browsed.

    Attributes:
        services: the keys of all services.
        types: the types of the services that exist as names, by key.
        node: the node with the types.
    """

    __slots__ = ("node", "services", "types")

    def __init__(self, domain: Labels) -> None:
        self.services: set[Labels] = set()
        self.types: Ordered[Labels, PtrTarget] = Ordered()
        self.node = PtrNode(self.types, len(domain))


class DnsSdDomains:
    """The domains that can be browsed, and the services in each."""

    def __init__(self) -> None:
        self._domains: dict[Labels, _Domain] = {}

    def add(self, key: Labels) -> None:
        """Add a service whose own name has one label."""
        if _can_be_type(key):
            domain = self._domains.get(key[1:])
            if domain is None:
                domain = self._domains[key[1:]] = _Domain(key[1:])
            domain.services.add(key)

    def remove(self, key: Labels) -> bool:
        """Remove a service; return whether it was the last one of its domain."""
        domain = self._domains.get(key[1:])
        if domain is None:
            return False
        self.set_listed(key, is_listed=False)
        domain.services.discard(key)
        if domain.services:
            return False
        del self._domains[key[1:]]
        return True

    def set_listed(self, key: Labels, *, is_listed: bool) -> None:
        """Set whether a service exists as a name (`empty = "nxdomain"` may hide it)."""
        domain = self._domains.get(key[1:])
        if domain is None or key not in domain.services or (key in domain.types) == is_listed:
            return
        if is_listed:
            domain.types.add(key, PtrTarget(_type_name(key)[:2]))
        else:
            domain.types.remove(key)
        domain.node.forget()

    def find(self, name: Labels) -> Node | None:
        """The node at a domain's own name, such as `b._dns-sd._udp.staging`; None if there is none."""
        if name[: len(_DNS_SD)] == _DNS_SD and name[len(_DNS_SD) :] in self._domains:
            return Node()
        domain = name[1 + len(_DNS_SD) :]
        if name[1 : 1 + len(_DNS_SD)] != _DNS_SD or domain not in self._domains:
            return None
        if name[0] == _TYPES_LABEL:
            return self._domains[domain].node
        if name[0] in _DOMAIN_LABELS:
            targets: Ordered[Labels, PtrTarget] = Ordered()
            targets.add((), PtrTarget())
            return PtrNode(targets, len(domain))
        return None

    def service_of(self, name: Labels) -> Labels | None:
        """The key of the service of a member's DNS-SD name; None if the name has another form."""
        if len(name) > len(_DNS_SD) + 1 and name[1].startswith(b"_") and name[2] == _PROTOCOL:
            key = (name[1][1:], *name[3:])
            domain = self._domains.get(key[1:])
            return key if domain is not None and key in domain.services else None
        return None

    def names(self) -> Iterator[Labels]:
        """The names that belong to domains and have records."""
        for domain in sorted(self._domains):
            for label in (_TYPES_LABEL, *_DOMAIN_LABELS):
                name = (label, *_DNS_SD, *domain)
                if wire_length(name) <= MAX_NAME:
                    yield name


def _can_be_type(service: Labels) -> bool:
    """Whether the type name of a service (whose own name has one label) is short enough for DNS."""
    return len(service[0]) < MAX_LABEL and wire_length(_type_name(service)) <= MAX_NAME


def _type_name(service: Labels) -> Labels:
    return (b"_" + service[0], _PROTOCOL, *service[1:])


def _instance_name(label: bytes, service: Labels) -> Labels:
    return (label, *_type_name(service))
