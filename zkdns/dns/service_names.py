"""The names that one service brings, and what stands at each of them.

    web.staging                 addresses and SRV of all its members
    m318.web.staging            one member; `member_0000000318` is accepted too
    m318-admin.web.staging      the host of an additional endpoint that lies elsewhere than the member's own
    s3.web.staging              the newest member of shard 3
    _admin._tcp.web.staging     SRV of the additional endpoints called admin (`_udp` too)
    _web._tcp.staging           SRV in the form of RFC 2782

A view is made when its service is first asked for, and thrown away when the service changes.
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

# Parts of a label, short enough for two of them and a mark between (RFC 1035 §2.3.4: 63 bytes). A member's
# has no hyphen, so that what stands behind the first one is never taken for a part of it.
_PLAIN_MEMBER = re.compile(r"[a-z0-9]{1,25}")
_PLAIN_ENDPOINT = re.compile(r"[a-z0-9-]{0,24}[a-z0-9]")
_NUMBER = re.compile(r"[0-9]{1,10}")  # ZooKeeper writes %010d
_SHARD_LABEL = re.compile(rb"s(-?[0-9]+)")


class _Entry(msgspec.Struct, frozen=True):
    """A member that is answered with, under its label."""

    label: bytes
    member: Member
    origin: str
    weighting: Weighting


class ServedMember(NamedTuple):
    """A member that is answered with: under which label, how it stands, and who else stands for it."""

    label: bytes
    origin: str
    member: Member
    weighting: Weighting
    represented_by: Member | None


class ServiceView:
    """A service's names, as one state of the table has them.

    Args:
        service: the service as it is now.
        table: tells the addresses of host names.
        config: tells which statuses are answered with.
        is_crowded: whether other services may have names right below this one's, which go before its own.
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
        """Whether another service has the name of that label before this one's."""
        return self._may_be_shadowed and (label, *self._key) in self._table.services

    @property
    def size(self) -> int:
        """How many members it knows, at least 1."""
        return 1 + len(self._entries) + len(self._departed)

    def find(self, prefix: Labels) -> Node | None:
        """What stands at these labels (in lower case) before the service's own; None: no such name."""
        node = self._nodes.get(prefix)
        if node is None:
            node = self._make(prefix)
            # There is no end of names that do not exist, and thousands may be one member's.
            if node is not None and (not prefix or prefix[-1] in PROTOCOLS):
                self._nodes[prefix] = node
        return node

    def prefixes(self) -> Iterator[Labels]:
        """All labels at which `find` has something of its own, and not only what lies below."""
        yield ()
        shards = (b"s" + shard for shard in self._by_shard)
        for label in dict.fromkeys((*reversed(self._by_name), *shards, *self._by_host)):
            yield (label,)
        paths = (_endpoint_labels(name) for entry in self._entries for name in entry.member.additional)
        for path in dict.fromkeys(paths):
            for protocol in PROTOCOLS:
                yield (*path, protocol)

    def served_members(self) -> Iterator[ServedMember]:
        """Those of the service's own name; of equal endpoints one stands for all."""
        pairs = [(entry, entry.member.service) for entry in self._entries if entry.member.service]
        chosen = {where: entry for where, (entry, _, _) in self._newest(pairs).items()}
        for entry in self._entries:
            other = chosen[_endpoint_key(entry.member.service)] if entry.member.service else entry
            represented_by = other.member if other is not entry else None
            yield ServedMember(entry.label, entry.origin, entry.member, entry.weighting, represented_by)

    def member_at(self, label: bytes) -> tuple[Literal["member", "shard", "host"], str, Member] | None:
        """Whose name that label (in lower case) before the service's own is, and in which way."""
        if entry := self._by_name.get(label):
            return "member", entry.origin, entry.member
        if (match := _SHARD_LABEL.fullmatch(label)) and (entry := self._by_shard.get(match[1])):
            return "shard", entry.origin, entry.member
        if found := self._by_host.get(label):
            return "host", found[0].origin, found[0].member
        return None

    def rfc2782(self, before: int, protocol: bytes) -> Node | None:
        """What stands at `_service._tcp.environment`; `before` is how many labels the protocol has before it.

        The name may be written so in one way: with all labels of the service's own name there.
        """
        del protocol  # one service's records are the same for all of them
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
        """The members' own names by the addresses that they have without being resolved."""
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
        """A member by its label, by its znode's name or by its shard."""
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
    def _by_name(self) -> dict[bytes, _Entry]:
        """Members by label, and by the names of their znodes; those that have left come last."""
        others_first = (*self._entries, *self._departed)[::-1]
        by_znode = {entry.member.name.encode().lower(): entry for entry in others_first}
        return by_znode | {entry.label: entry for entry in others_first}

    @functools.cached_property
    def _by_shard(self) -> dict[bytes, _Entry]:
        """Of each shard the newest of those that are answered with gladly."""
        found: dict[bytes, _Entry] = {}
        for entry in self._entries:
            if entry.member.shard is not None:
                label = b"%d" % entry.member.shard
                if _last_resort(entry) <= _last_resort(found.get(label, entry)):
                    found[label] = entry
        return found

    def _host_node(self, label: bytes) -> Node | None:
        """The host of an additional endpoint that lies elsewhere than its member."""
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
    def _by_host(self) -> dict[bytes, tuple[_Entry, Endpoint]]:
        """Such endpoints by label; of a host with several, and of several such hosts, the first."""
        found: dict[bytes, tuple[_Entry, Endpoint]] = {}
        for entry in (*self._entries, *self._departed):
            for endpoint in entry.member.additional.values():
                label, _ = self._host(entry, endpoint)
                if label != entry.label:
                    found.setdefault(label, (entry, endpoint))
        return found

    def _endpoint_node(self, labels: Labels) -> Node | None:
        """What stands before `_tcp`: an endpoint's name may hold dots; its end alone is a non-terminal."""
        found: list[tuple[_Entry, Endpoint]] = []
        above: set[Labels] = set()
        for entry in self._entries:
            for name, endpoint in entry.member.additional.items():
                path = _endpoint_labels(name)
                above.update(path[start:] for start in range(1, len(path) + 1))
                if path == labels:
                    found.append((entry, endpoint))
        if found:
            return Node(targets=self._targets(found), shared=self._shared)
        return Node() if labels in above else None

    # -- hosts and targets ---------------------------------------------------------------------------------

    def _service_targets(self, entries: Iterable[_Entry]) -> tuple[Target, ...]:
        return self._targets((entry, entry.member.service) for entry in entries if entry.member.service)

    def _targets(self, pairs: Iterable[tuple[_Entry, Endpoint]]) -> tuple[Target, ...]:
        """Targets for endpoints; of those with one host and port the newest stands for all."""
        targets = (self._target(*each) for each in self._newest(pairs).values())
        return tuple(target for target in targets if wire_length(target.name) <= MAX_NAME)

    @staticmethod
    def _newest(
        pairs: Iterable[tuple[_Entry, Endpoint]],
    ) -> dict[tuple[str, int], tuple[_Entry, Endpoint, Weighting]]:
        """Who stands for all with one host and port, and how they stand together."""
        newest: dict[tuple[str, int], tuple[_Entry, Endpoint, Weighting]] = {}
        for entry, endpoint in pairs:
            key = _endpoint_key(endpoint)
            before, at, weighting = newest.get(key, (entry, endpoint, entry.weighting))
            if _last_resort(entry) <= _last_resort(before):
                before, at = entry, endpoint
            newest[key] = before, at, entry.weighting.merged(weighting)
        return newest

    def _target(self, entry: _Entry, endpoint: Endpoint, weighting: Weighting) -> Target:
        """A host name of several labels stands for itself; any other host has the name of its member."""
        if "." in endpoint.host and not is_ip(endpoint.host):
            return Target(endpoint.port, parse_name(endpoint.host), weighting=weighting)
        label, host = self._host(entry, endpoint)
        return Target(endpoint.port, (label, *self._own), label, self._addresses(host), weighting)

    def _host(self, entry: _Entry, endpoint: Endpoint) -> tuple[bytes, Endpoint]:
        """One label for one host: the member's own, and another for each endpoint that lies elsewhere.

        The endpoint is the one whose addresses the label has; others on that host may know others.
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
        """The addresses of what stands at a name of its own, where all are of one member."""
        return dict.fromkeys(self._addresses(endpoint), Weighting())


def _label_members(
    service: Service, statuses: frozenset[str], is_other_service: Callable[[bytes], bool]
) -> tuple[list[_Entry], list[_Entry]]:
    """Label present and departed members, in an order that does not depend on who came first."""
    taken: set[bytes] = set()
    present: list[_Entry] = []
    departed: list[_Entry] = []
    for owner in service.by_precedence():
        left = [member for (origin, _), (member, _) in service.departed.items() if origin == owner.origin]
        stayed = sorted(owner.members.values(), key=_age)
        for entries, members in ((present, stayed), (departed, left)):
            for member in members:
                label = _member_label(member.name)
                # Two znodes of one name, each with a member of this number; or a service that is called so.
                if label in taken or is_other_service(label):
                    label += b"-" + _hash_label(f"{owner.origin}/{member.name}")
                taken.add(label)
                if member.is_served(statuses):
                    weighting = Weighting(member.weight, member.name in owner.held)
                    entries.append(_Entry(label, member, owner.origin, weighting))
    return present, departed


def has_no_served_member(service: Service, statuses: Collection[str]) -> bool:
    """Whether no member of the service is answered with."""
    members = (member for owner in service.sets.values() for member in owner.members.values())
    return not any(member.is_served(statuses) for member in members)


def _age(member: Member) -> int:
    """What sorts older members before newer ones; without a number they stay as they are."""
    return member.sequence or 0


def _member_label(name: str) -> bytes:
    """A short legal host name for a member: `m318`; a fixed member's name is one already."""
    if not name.startswith(MEMBER_PREFIX):
        return name.encode()
    suffix = name.removeprefix(MEMBER_PREFIX)
    if _NUMBER.fullmatch(suffix):
        return b"m%d" % int(suffix)
    return b"m-" + _label_part(_PLAIN_MEMBER, suffix)


def _label_part(plain: re.Pattern[str], name: str) -> bytes:
    """Part of a label that stands for the name: itself where it can, else a number made from it."""
    return name.encode() if plain.fullmatch(name) else _hash_label(name)


def _hash_label(name: str) -> bytes:
    """A number made from a name."""
    return b"%08x" % zlib.crc32(name.encode())


def _endpoint_labels(name: str) -> Labels:
    """The labels that ask for an endpoint of this name: `_admin`."""
    first, *rest = name.encode().lower().split(b".")  # as bytes: only ASCII is folded (RFC 4343)
    return (b"_" + first, *rest)


def _endpoint_key(endpoint: Endpoint) -> tuple[str, int]:
    """What equal endpoints have in common; names are equal in any case (RFC 4343), so would records be."""
    return endpoint.host.lower(), endpoint.port


def _last_resort(entry: _Entry) -> tuple[bool, bool]:
    """What sorts those that are answered with gladly before those that are in need only."""
    return entry.weighting.weight <= 0, entry.weighting.held


def _text_of(entry: _Entry) -> Text:
    """What TXT tells of a member, as RFC 6763 §6.3 writes attributes."""
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
