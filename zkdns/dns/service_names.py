"""The names of one service, and the records at each of them.

    web.staging                 addresses and SRV of all members
    m318.web.staging            one member; `member_0000000318` too
    m318-admin.web.staging      the host of an additional endpoint, if it is not the member's own host
    s3.web.staging              the newest member of shard 3
    _admin._tcp.web.staging     SRV of the additional endpoints called admin (`_udp` too)
    _web._tcp.staging           SRV in the form of RFC 2782

A `ServiceView` is created when its service is first queried, and discarded when the service changes.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from zkdns.config import Config
from zkdns.dns.records import Node, Target, Text
from zkdns.dns.rrset import Weighting
from zkdns.names import MAX_NAME, Labels, parse_name, wire_length
from zkdns.serverset.member import MEMBER_PREFIX, Endpoint, Member, is_ip
from zkdns.table import Service, Table

PROTOCOLS = (b"_tcp", b"_udp")

# The suffix of a member's name and the name of an endpoint, if they can be part of a label unchanged. They
# are short enough for a label with both and a hyphen (RFC 1035 §2.3.4: 63 bytes). A member's part has no
# hyphen, so that the two parts can be distinguished.
_PLAIN_MEMBER = re.compile(r"[a-z0-9]{1,25}")
_PLAIN_ENDPOINT = re.compile(r"[a-z0-9-]{0,24}[a-z0-9]")
_NUMBER = re.compile(r"[0-9]{1,10}")  # ZooKeeper writes %010d
_SHARD_LABEL = re.compile(rb"s(-?[0-9]+)")


class _LabeledMember(msgspec.Struct, frozen=True):
    """A served member and its label."""

    label: bytes
    member: Member
    origin: str
    weighting: Weighting


class ServedMember(NamedTuple):
    """A served member, with its label and weighting.

    `represented_by` is the member whose records stand for this one, because it has the same endpoint. None:
    this member has records of its own.
    """

    label: bytes
    origin: str
    member: Member
    weighting: Weighting
    represented_by: Member | None


class ServiceView:
    """The names of a service in one state of the table.

    Args:
        service: the service in its present state.
        table: addresses of host names.
        config: statuses of served members.
        may_be_shadowed: whether services with names directly below this one may exist. They have precedence
            over this service's members.
    """

    def __init__(
        self, service: Service, table: Table, config: Config, *, may_be_shadowed: bool = False
    ) -> None:
        self._table = table
        self._key = service.key
        self._may_be_shadowed = may_be_shadowed
        name = service.first.name
        self._own = name.labels
        self._between = name.service_labels
        self._shared = len(self._own)
        self._entries, self._departed = _label_members(
            service, frozenset(config.statuses), self._is_other_service
        )
        self._nodes: dict[Labels, Node] = {}

    def _is_other_service(self, label: bytes) -> bool:
        """Whether this label below the service's name is another service."""
        return self._may_be_shadowed and (label, *self._key) in self._table.services

    @property
    def size(self) -> int:
        """Number of members, at least 1."""
        return 1 + len(self._entries) + len(self._departed)

    def find(self, prefix: Labels) -> Node | None:
        """The node at these labels (in lower case) before the service's own name; None: no such name."""
        node = self._nodes.get(prefix)
        if node is None:
            node = self._make(prefix)
            # Not cached: absent names, which are unlimited in number, and names of thousands of members.
            if node is not None and (not prefix or prefix[-1] in PROTOCOLS):
                self._nodes[prefix] = node
        return node

    def prefixes(self) -> Iterator[Labels]:
        """All labels at which `find` returns a node with records."""
        yield ()
        shards = (b"s" + shard for shard in self._by_shard)
        for label in dict.fromkeys((*reversed(self._by_name), *shards, *self._by_host)):
            yield (label,)
        paths = (_endpoint_labels(name) for entry in self._entries for name in entry.member.additional)
        for path in dict.fromkeys(paths):
            for protocol in PROTOCOLS:
                yield (*path, protocol)

    def served_members(self) -> Iterator[ServedMember]:
        """The members at the service's own name.

        The newest one represents all members with the same endpoint.
        """
        pairs = [(entry, entry.member.service) for entry in self._entries if entry.member.service]
        newest = {key: entry for key, (entry, _, _) in self._newest(pairs).items()}
        for entry in self._entries:
            representative = newest[_endpoint_key(entry.member.service)] if entry.member.service else entry
            represented_by = representative.member if representative is not entry else None
            yield ServedMember(entry.label, entry.origin, entry.member, entry.weighting, represented_by)

    def member_at(self, label: bytes) -> tuple[Literal["member", "shard", "host"], str, Member] | None:
        """The member with this label (in lower case) before the service's own name, and the kind of label."""
        if entry := self._by_name.get(label):
            return "member", entry.origin, entry.member
        if (match := _SHARD_LABEL.fullmatch(label)) and (entry := self._by_shard.get(match[1])):
            return "shard", entry.origin, entry.member
        if found := self._by_host.get(label):
            return "host", found[0].origin, found[0].member
        return None

    def rfc2782_node(self, before: int, protocol: bytes) -> Node | None:
        """The node at `_service._tcp.environment`; `before` is the number of labels before the protocol.

        All labels of the service's own name must be before the protocol; there is no other such name.
        """
        del protocol  # the records are the same for both protocols
        return self._rfc2782 if before == len(self._between) else None

    @functools.cached_property
    def _rfc2782(self) -> Node:
        return Node(
            targets=self._service_targets(self._entries),
            shared=self._shared - len(self._between),
            between=self._between,
        )

    @functools.cached_property
    def names_by_address(self) -> Mapping[str, Sequence[tuple[Labels, Weighting]]]:
        """The members' own names by the addresses that they have without name resolution."""
        found: dict[str, list[tuple[Labels, Weighting]]] = {}
        for entry in self._entries:
            name = entry.label, *self._own
            if wire_length(name) <= MAX_NAME:
                for address in entry.member.addresses:
                    found.setdefault(address, []).append((name, entry.weighting))
        return found

    def _make(self, prefix: Labels) -> Node | None:
        if not prefix:
            return self._service_node()
        if prefix[-1] in PROTOCOLS:
            return self._endpoint_node(prefix[:-1])
        if len(prefix) == 1:
            return self._member_node(prefix[0]) or self._host_node(prefix[0])
        return None

    def _service_node(self) -> Node:
        addresses: dict[str, Weighting] = {}
        for entry in self._entries:
            for address in self._addresses(entry.member.service) if entry.member.service else ():
                addresses[address] = entry.weighting.merged(addresses.get(address, entry.weighting))
        return Node(
            addresses=addresses,
            targets=self._service_targets(self._entries),
            texts=functools.partial(map, _text_of, self._entries),
            shared=self._shared,
            is_unresolved=not addresses and any(entry.member.service for entry in self._entries),
        )

    def _member_node(self, label: bytes) -> Node | None:
        """The node of a member, found by its label, its znode's name or its shard."""
        entry = self._by_name.get(label)
        if entry is None and (match := _SHARD_LABEL.fullmatch(label)):
            entry = self._by_shard.get(match[1])
        if entry is None:
            return None
        endpoints = entry.member.endpoints
        addresses = self._unweighted_addresses(endpoints[0]) if endpoints else {}
        return Node(
            addresses=addresses,
            targets=self._service_targets([entry]),
            texts=functools.partial(map, _text_of, (entry,)),
            shared=self._shared,
            is_unresolved=not addresses and bool(endpoints),
        )

    @functools.cached_property
    def _by_name(self) -> dict[bytes, _LabeledMember]:
        """Members by label and by the names of their znodes; present members before departed ones."""
        # In reverse order of precedence, since the last entry of a name replaces earlier ones.
        entries = (*self._entries, *self._departed)[::-1]
        by_znode = {entry.member.name.encode().lower(): entry for entry in entries}
        return by_znode | {entry.label: entry for entry in entries}

    @functools.cached_property
    def _by_shard(self) -> dict[bytes, _LabeledMember]:
        """The newest member of each shard; members of weight 0 and held members only if there is no other."""
        found: dict[bytes, _LabeledMember] = {}
        for entry in self._entries:
            if entry.member.shard is not None:
                label = b"%d" % entry.member.shard
                if _last_resort(entry) <= _last_resort(found.get(label, entry)):
                    found[label] = entry
        return found

    def _host_node(self, label: bytes) -> Node | None:
        """The node of an additional endpoint's host, if it is not the member's own host."""
        found = self._by_host.get(label)
        if found is None:
            return None
        addresses = self._unweighted_addresses(found[1])
        return Node(
            addresses=addresses,
            targets=self._targets([found]),
            shared=self._shared,
            is_unresolved=not addresses,
        )

    @functools.cached_property
    def _by_host(self) -> dict[bytes, tuple[_LabeledMember, Endpoint]]:
        """Additional endpoints on other hosts than their member's, by the label of that host.

        The first one wins.
        """
        found: dict[bytes, tuple[_LabeledMember, Endpoint]] = {}
        for entry in (*self._entries, *self._departed):
            for endpoint in entry.member.additional.values():
                label, _ = self._host(entry, endpoint)
                if label != entry.label:
                    found.setdefault(label, (entry, endpoint))
        return found

    def _endpoint_node(self, labels: Labels) -> Node | None:
        """The node at these labels, followed by `_tcp` or `_udp` and the service's name.

        An endpoint's name may have dots. The names between it and the protocol are empty non-terminals.
        """
        found: list[tuple[_LabeledMember, Endpoint]] = []
        nonterminals: set[Labels] = set()
        for entry in self._entries:
            for name, endpoint in entry.member.additional.items():
                path = _endpoint_labels(name)
                nonterminals.update(path[start:] for start in range(1, len(path) + 1))
                if path == labels:
                    found.append((entry, endpoint))
        if found:
            return Node(targets=self._targets(found), shared=self._shared)
        return Node() if labels in nonterminals else None

    # -- hosts and targets ---------------------------------------------------------------------------------

    def _service_targets(self, entries: Iterable[_LabeledMember]) -> tuple[Target, ...]:
        return self._targets((entry, entry.member.service) for entry in entries if entry.member.service)

    def _targets(self, pairs: Iterable[tuple[_LabeledMember, Endpoint]]) -> tuple[Target, ...]:
        """The SRV targets of endpoints, one for each host and port."""
        targets = (self._target(*each) for each in self._newest(pairs).values())
        return tuple(target for target in targets if wire_length(target.name) <= MAX_NAME)

    @staticmethod
    def _newest(
        pairs: Iterable[tuple[_LabeledMember, Endpoint]],
    ) -> dict[tuple[str, int], tuple[_LabeledMember, Endpoint, Weighting]]:
        """The newest member by host and port, which represents the others there, and the merged weighting.

        Members of weight 0 and held members represent others only if there is no better one.
        """
        newest: dict[tuple[str, int], tuple[_LabeledMember, Endpoint, Weighting]] = {}
        for entry, endpoint in pairs:
            key = _endpoint_key(endpoint)
            before, at, weighting = newest.get(key, (entry, endpoint, entry.weighting))
            if _last_resort(entry) <= _last_resort(before):
                before, at = entry, endpoint
            newest[key] = before, at, entry.weighting.merged(weighting)
        return newest

    def _target(self, entry: _LabeledMember, endpoint: Endpoint, weighting: Weighting) -> Target:
        """The SRV target of an endpoint.

        The target is the host if that is a name of several labels, otherwise a name of the member.
        """
        if "." in endpoint.host and not is_ip(endpoint.host):
            return Target(endpoint.port, parse_name(endpoint.host), weighting=weighting)
        label, host = self._host(entry, endpoint)
        return Target(endpoint.port, (label, *self._own), label, self._addresses(host), weighting)

    def _host(self, entry: _LabeledMember, endpoint: Endpoint) -> tuple[bytes, Endpoint]:
        """The label of an endpoint's host, and the member's first endpoint on that host.

        The member's own host has the member's label; each other host has one more label. The label has the
        addresses of that first endpoint, even if other endpoints on the host list other addresses.
        """
        first = entry.member.endpoints[0]
        if endpoint.host == first.host:
            return entry.label, first
        name, first = next(item for item in entry.member.additional.items() if item[1].host == endpoint.host)
        label = entry.label + b"-" + _label_part(_PLAIN_ENDPOINT, name)
        if self._is_other_service(label):
            label = entry.label + b"-" + _hash_label(name)
        return label, first

    def _addresses(self, endpoint: Endpoint) -> tuple[str, ...]:
        known = endpoint.addresses or self._table.addresses_of(endpoint.host)
        return tuple(dict.fromkeys(known))

    def _unweighted_addresses(self, endpoint: Endpoint) -> dict[str, Weighting]:
        """The addresses of a name that belongs to one member, so that its weight does not matter."""
        return dict.fromkeys(self._addresses(endpoint), Weighting())


def _label_members(
    service: Service, statuses: frozenset[str], is_other_service: Callable[[bytes], bool]
) -> tuple[list[_LabeledMember], list[_LabeledMember]]:
    """Assign labels to the present and the departed members, independently of the order of registration."""
    taken: set[bytes] = set()
    present: list[_LabeledMember] = []
    departed: list[_LabeledMember] = []
    for member_set in service.by_precedence():
        gone = [
            member for (origin, _), (member, _) in service.departed.items() if origin == member_set.origin
        ]
        current = sorted(member_set.members.values(), key=_age)
        for entries, members in ((present, current), (departed, gone)):
            for member in members:
                label = _member_label(member.name)
                # Another set of the service has a member with this label, or another service has this name.
                if label in taken or is_other_service(label):
                    label += b"-" + _hash_label(f"{member_set.origin}/{member.name}")
                taken.add(label)
                if member.is_served(statuses):
                    weighting = Weighting(member.weight, member.name in member_set.held)
                    entries.append(_LabeledMember(label, member, member_set.origin, weighting))
    return present, departed


def has_no_served_member(service: Service, statuses: Collection[str]) -> bool:
    """Whether no member of the service is served."""
    members = (member for member_set in service.sets.values() for member in member_set.members.values())
    return not any(member.is_served(statuses) for member in members)


def _age(member: Member) -> int:
    """A sort key: older members first; members without a number keep their order."""
    return member.sequence or 0


def _member_label(name: str) -> bytes:
    """A short host name for a member: `m318`. The name of a member of a static file is used as it is."""
    if not name.startswith(MEMBER_PREFIX):
        return name.encode()
    suffix = name.removeprefix(MEMBER_PREFIX)
    if _NUMBER.fullmatch(suffix):
        return b"m%d" % int(suffix)
    return b"m-" + _label_part(_PLAIN_MEMBER, suffix)


def _label_part(plain: re.Pattern[str], name: str) -> bytes:
    """A part of a label for this name: the name itself if it is allowed, otherwise a hash."""
    return name.encode() if plain.fullmatch(name) else _hash_label(name)


def _hash_label(name: str) -> bytes:
    """A hash of a name in 8 hexadecimal digits."""
    return b"%08x" % zlib.crc32(name.encode())


def _endpoint_labels(name: str) -> Labels:
    """The labels of an endpoint's name: `_admin`."""
    first, *rest = name.encode().lower().split(b".")  # as bytes: only ASCII letters are folded (RFC 4343)
    return (b"_" + first, *rest)


def _endpoint_key(endpoint: Endpoint) -> tuple[str, int]:
    """The key by which endpoints are equal; host names are case-insensitive (RFC 4343)."""
    return endpoint.host.lower(), endpoint.port


def _last_resort(entry: _LabeledMember) -> tuple[bool, bool]:
    """A sort key: members of weight 0 and held members come last, since they are used only if need be."""
    return entry.weighting.weight <= 0, entry.weighting.held


def _text_of(entry: _LabeledMember) -> Text:
    """The TXT strings of a member: attributes in the form of RFC 6763 §6.3."""
    member = entry.member
    texts = [f"member={member.name}", f"status={member.status.value}"]
    if member.shard is not None:
        texts.append(f"shard={member.shard}")
    if member.weight != 1:
        texts.append(f"weight={member.weight:g}")
    if entry.weighting.held:
        texts.append("held=1")
    if entry.origin.startswith("/"):
        texts.append(f"znode={entry.origin}/{member.name}")
    return Text(tuple(texts), entry.weighting)
