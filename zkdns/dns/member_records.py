"""The items of a service's records, kept up to date member by member.

    LabeledMember                  a member in one state, with its label; a changed member gets a new one
    Uses                           the members that use a key: an address, a host and port, a shard
    Shards, OwnAddresses           the members by shard, and their names by registered address
    SharedRecords                  an item for each key that members use, in the order of the members
      └ Addresses, Targets         items of A and AAAA records, and of SRV records
    EndpointNames                  the names of additional endpoints, each with its `Targets`

Each of them has the methods `add` and `remove` for one member, so that a change costs as much as the members
that have changed. Items are immutable, and the item of a key remains until its members change, so that the
record that was rendered from it remains too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from zkdns.digest import attributes
from zkdns.dns.member_labels import endpoint_labels, hash_label, host_label
from zkdns.dns.message import Type
from zkdns.dns.ordered import Ordered
from zkdns.dns.records import Address, Target, is_of_type
from zkdns.dns.rrset import Weighting
from zkdns.dns.steps import COMPARED_AT_ONCE, COMPARISON, MEMBER, Run, Steps, chunks_of
from zkdns.names import MAX_NAME, Labels, parse_name, wire_length
from zkdns.serverset.member import Endpoint, Member, is_ip
from zkdns.table import Table

Key = TypeVar("Key")
ItemT = TypeVar("ItemT")

# Parts of a member's order: its set's precedence, its number (10 digits, perhaps negative), when it joined,
# and a number of its uses of keys in one index.
_NUMBER_OFFSET = 1 << 34
_NUMBER_SHIFT, _JOINED_SHIFT, _PRECEDENCE_SHIFT = 56, 16, 92
_MAX_JOINED = (1 << _NUMBER_SHIFT - _JOINED_SHIFT) - 1


def order_of(precedence: int, number: int, joined: int) -> int:
    """The order of a member among all members of its service; older members first.

    Members are ordered by set (`precedence`), then by `number`, then as they have joined. The last 16 bits
    are 0.
    """
    return (
        precedence << _PRECEDENCE_SHIFT | (number + _NUMBER_OFFSET) << _NUMBER_SHIFT | joined << _JOINED_SHIFT
    )


def joined_of(order: int) -> int:
    """The part of an order that says when the member has joined."""
    return order >> _JOINED_SHIFT & _MAX_JOINED


class LabeledMember(msgspec.Struct, eq=False, gc=False):
    """A member of a service in one state, with its label. It is the source of a TXT record.

    Attributes:
        member: the member.
        origin: the origin of its set.
        order: as `order_of` returns it.
        base: the label that it would have if it were alone.
        label: its label; empty until it is assigned.
        weighting: its weight, and whether it is held.
        is_served: whether it is part of answers.
        is_departed: whether it has left, so that only its own name is answered.
        hosts: hosts other than its own, by name, each with its label and first endpoint; None until needed.
        addresses: the addresses of its service endpoint; None until needed.
    """

    member: Member
    origin: str
    order: int
    base: bytes
    weighting: Weighting
    is_served: bool
    is_departed: bool
    label: bytes = b""
    hosts: Mapping[str, tuple[bytes, Endpoint]] | None = None
    addresses: tuple[str, ...] | None = None

    def with_label(self, label: bytes) -> LabeledMember:
        """The member with another label, and without anything that was computed from it."""
        return msgspec.structs.replace(self, label=label, hosts=None, addresses=None)

    @property
    def precedence(self) -> tuple[int, bool, int]:
        """A sort key for the assignment of labels: by set, then present before departed members."""
        return self.order >> _PRECEDENCE_SHIFT, self.is_departed, self.order

    @property
    def last_resort(self) -> tuple[bool, bool]:
        """A sort key: members of weight 0 and held members come last, since they are used only if need be."""
        return self.weighting.weight <= 0, self.weighting.held

    def strings(self) -> list[str]:
        """The strings of the TXT record: attributes in the form of RFC 6763 §6.3."""
        texts = attributes(self.member, is_held=self.weighting.held)
        if self.origin.startswith("/"):
            texts.append(f"znode={self.origin}/{self.member.name}")
        return texts


def is_in_order(entries: Sequence[LabeledMember]) -> Generator[int, None, bool]:
    """Whether the members are in the order in which they have joined."""
    last = 0
    for chunk in chunks_of(entries, COMPARED_AT_ONCE):
        for entry in chunk:
            joined = joined_of(entry.order)
            if joined < last:
                return False
            last = joined
        yield len(chunk) * COMPARISON
    return True


class MemberIndex(Protocol):
    """An index of the present members."""

    def add(self, entry: LabeledMember) -> None:
        """Add a member."""

    def remove(self, entry: LabeledMember) -> None:
        """Remove a member that was added."""


class Use(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The use of a key by a member. Orders are unique among all uses in an index."""

    order: int
    entry: LabeledMember
    endpoint: Endpoint | None


_order = attrgetter("order")


class Uses(Generic[Key]):
    """The uses of keys by members. Most keys are used by one member, which saves a dictionary for each."""

    def __init__(self) -> None:
        self._uses: dict[Key, Use | dict[int, Use]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._uses

    def __iter__(self) -> Iterator[Key]:
        return iter(self._uses)

    def of(self, key: Key) -> Sequence[Use]:
        """The uses of a key, in order."""
        uses = self._uses.get(key)
        if isinstance(uses, dict):
            return sorted(uses.values(), key=_order)
        return () if uses is None else (uses,)

    def add(self, key: Key, use: Use) -> None:
        """Add a use of a key."""
        uses = self._uses.setdefault(key, use)
        if uses is use:
            return
        if not isinstance(uses, dict):
            uses = self._uses[key] = {uses.order: uses}
        uses[use.order] = use

    def remove(self, key: Key, order: int) -> None:
        """Remove the use of a key that has this order."""
        uses = self._uses[key]
        if isinstance(uses, dict):
            del uses[order]
            if len(uses) == 1:
                self._uses[key] = next(iter(uses.values()))
        else:
            del self._uses[key]


class SharedRecords(Generic[Key, ItemT]):
    """The items of one name and type: one for each key that members use.

    An item has the place of the first member that uses its key.

    Args:
        run: runs the steps that make the items of changed keys.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._uses: Uses[Key] = Uses()
        self._items: Ordered[int, ItemT] = Ordered()
        self._places: dict[Key, int] = {}
        self._changed: dict[Key, None] = {}

    def uses_of(self, entry: LabeledMember) -> Iterable[tuple[Key, Use]]:
        """The keys that a member uses. They are the same each time for the same entry."""
        raise NotImplementedError

    def make(self, uses: Sequence[Use]) -> ItemT | None:
        """Make the item of a key, from its uses in order. None: it has no record."""
        raise NotImplementedError

    def add(self, entry: LabeledMember) -> None:
        """Add a member."""
        for key, use in self.uses_of(entry):
            self._uses.add(key, use)
            self._changed[key] = None

    def remove(self, entry: LabeledMember) -> None:
        """Remove a member that was added."""
        for key, use in self.uses_of(entry):
            self._uses.remove(key, use.order)
            self._changed[key] = None

    def items(self) -> list[ItemT]:
        """The items in order. The list is changed by later calls."""
        if self._changed:
            self._run(self._update())
        return self._items.values

    def _update(self) -> Steps:
        """Make the items of the keys whose members have changed."""
        changed = list(self._changed)
        # A member may have left one of the keys and taken another one, so that the places must be free.
        for keys in chunks_of(changed if self._places else ()):
            for key in keys:
                place = self._places.pop(key, None)
                if place is not None:
                    self._items.remove(place)
            yield len(keys) * MEMBER
        for keys in chunks_of(changed):
            for key in keys:
                uses = self._uses.of(key)
                item = self.make(uses) if uses else None
                if item is not None:
                    self._places[key] = uses[0].order
                    self._items.add(uses[0].order, item)
            yield len(keys) * MEMBER
        self._changed.clear()


class Shards:
    """The newest member of each shard; members of weight 0 and held members only if there is no other."""

    def __init__(self) -> None:
        self._uses: Uses[bytes] = Uses()
        self._newest: dict[bytes, LabeledMember] = {}

    def get(self, label: bytes) -> LabeledMember | None:
        """The member with this label of a shard."""
        found = self._newest.get(label)
        if found is None and label in self._uses:
            found = self._newest[label] = representative(self._uses.of(label)).entry
        return found

    def add(self, entry: LabeledMember) -> None:
        """Add a member."""
        if entry.member.shard is not None:
            label = b"s%d" % entry.member.shard
            self._newest.pop(label, None)
            self._uses.add(label, Use(entry.order, entry, None))

    def remove(self, entry: LabeledMember) -> None:
        """Remove a member that was added."""
        if entry.member.shard is not None:
            label = b"s%d" % entry.member.shard
            self._newest.pop(label, None)
            self._uses.remove(label, entry.order)


class NamedMember(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The name of a member (its label, followed by the service's name), as the target of a PTR record."""

    label: bytes
    service: Labels
    weighting: Weighting

    @property
    def name(self) -> Labels:
        """The whole name."""
        return self.label, *self.service


class OwnAddresses:
    """The names of the members by the addresses that they have without name resolution.

    Args:
        service: the service's name.
    """

    def __init__(self, service: Labels) -> None:
        self._service = service
        self._max_label = MAX_NAME - wire_length(service) - 1
        self._members: dict[str, NamedMember | Ordered[int, NamedMember]] = {}
        self._orders: dict[str, int] = {}  # of addresses with one member

    def of(self, address: str) -> Sequence[NamedMember]:
        """The members with this address, in order. Later calls of `add` and `remove` change the list."""
        found = self._members.get(address)
        if isinstance(found, Ordered):
            return found.values
        return () if found is None else (found,)

    def add(self, entry: LabeledMember) -> None:
        """Add a member."""
        if len(entry.label) > self._max_label:
            return
        named = NamedMember(entry.label, self._service, entry.weighting)
        for address in entry.member.addresses:
            found = self._members.setdefault(address, named)
            if found is named:
                self._orders[address] = entry.order
                continue
            if not isinstance(found, Ordered):
                members: Ordered[int, NamedMember] = Ordered()
                members.add(self._orders.pop(address), found)
                found = self._members[address] = members
            found.add(entry.order, named)

    def remove(self, entry: LabeledMember) -> None:
        """Remove a member that was added."""
        if len(entry.label) > self._max_label:
            return
        for address in entry.member.addresses:
            found = self._members[address]
            if isinstance(found, Ordered):
                found.remove(entry.order)
                if found:
                    continue
            else:
                del self._orders[address]
            del self._members[address]


class OtherServices:
    """Services directly below a service, which have precedence over its members.

    Attributes:
        may_exist: whether there may be any.

    Args:
        key: the key of the service.
        table: has all services.
        may_exist: as above.
    """

    def __init__(self, key: Labels, table: Table, *, may_exist: bool) -> None:
        self.may_exist = may_exist
        self._key, self._table = key, table

    def __contains__(self, label: bytes) -> bool:
        return self.may_exist and (label, *self._key) in self._table.services


class HostUsers(NamedTuple):
    """The addresses to which a host name was resolved, and the members that use it."""

    addresses: tuple[str, ...]
    entries: dict[LabeledMember, None]


def unresolved_hosts(member: Member) -> set[str]:
    """The host names of a member's endpoints, whose addresses depend on name resolution."""
    own = member.service.host if member.service else ""
    hosts = {own} if own and not is_ip(own) else set()
    for endpoint in member.additional.values():
        if endpoint.host != own and not is_ip(endpoint.host):
            hosts.add(endpoint.host)
    return hosts


class Hosts:
    """The hosts of members: their labels, addresses and SRV targets.

    Args:
        own: the service's name.
        table: addresses of host names.
        users: the host names of members. Their addresses here have precedence over those of the table, since
            the table may have changed.
        others: the services below this one.
    """

    def __init__(
        self, own: Labels, table: Table, users: Mapping[str, HostUsers], others: OtherServices
    ) -> None:
        self._table, self._users, self._others = table, users, others
        self._max_label = MAX_NAME - wire_length(own) - 1

    def _addresses_of(self, host: str) -> tuple[str, ...]:
        users = self._users.get(host)
        return self._table.addresses_of(host) if users is None else users.addresses

    def addresses(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The addresses of an endpoint's host, each once."""
        if is_ip(endpoint.host):  # nearly always
            return (endpoint.host,)
        known = endpoint.addresses or self._addresses_of(endpoint.host)
        return known if len(known) <= 1 else tuple(dict.fromkeys(known))

    def service_addresses(self, entry: LabeledMember) -> tuple[str, ...]:
        """The addresses of a member's service endpoint."""
        if entry.addresses is None:
            service = entry.member.service
            entry.addresses = self.addresses(service) if service else ()
        return entry.addresses

    def of(self, entry: LabeledMember) -> Mapping[str, tuple[bytes, Endpoint]]:
        """A member's hosts other than its own, each with its label and the first endpoint on it.

        The label has the addresses of that first endpoint, even if other endpoints list other addresses.
        """
        if entry.hosts is None:
            own = entry.member.endpoints[0].host if entry.member.endpoints else ""
            hosts: dict[str, tuple[bytes, Endpoint]] = {}
            for name, endpoint in entry.member.additional.items():
                if endpoint.host != own and endpoint.host not in hosts:
                    hosts[endpoint.host] = self._label(entry, name), endpoint
            entry.hosts = hosts
        return entry.hosts

    def target(self, entry: LabeledMember, endpoint: Endpoint, weighting: Weighting) -> Target | None:
        """The SRV target of an endpoint. None: its name would be too long.

        The target is the host if that is a name of several labels, otherwise a name of the member.
        """
        if "." in endpoint.host and not is_ip(endpoint.host):
            return Target(endpoint.port, weighting, host=parse_name(endpoint.host))
        member = entry.member
        if endpoint is member.service:
            label, addresses = entry.label, self.service_addresses(entry)
        elif endpoint.host == member.endpoints[0].host:
            label, addresses = entry.label, self.addresses(member.endpoints[0])
        else:
            label, first = self.of(entry)[endpoint.host]
            addresses = self.addresses(first)
        if len(label) > self._max_label:
            return None
        return Target(endpoint.port, weighting, label, addresses)

    def own_targets(self, entry: LabeledMember) -> list[Target]:
        """The SRV target of a member alone; none if it has no service endpoint."""
        service = entry.member.service
        target = self.target(entry, service, entry.weighting) if service else None
        return [target] if target else []

    def _label(self, entry: LabeledMember, name: str) -> bytes:
        label = host_label(entry.label, name)
        return entry.label + b"-" + hash_label(name) if label in self._others else label


class Addresses(SharedRecords[str, Address]):
    """The addresses of all members' service endpoints, for A or AAAA records."""

    def __init__(self, hosts: Hosts, run: Run, qtype: Type) -> None:
        super().__init__(run)
        self._hosts, self._qtype = hosts, qtype

    def uses_of(self, entry: LabeledMember) -> list[tuple[str, Use]]:
        """The addresses of this type."""
        return [
            (address, Use(entry.order + number, entry, entry.member.service))
            for number, address in enumerate(self._hosts.service_addresses(entry))
            if is_of_type(address, self._qtype)
        ]

    def make(self, uses: Sequence[Use]) -> Address:
        """The item of an address."""
        first = uses[0]
        address = self._hosts.service_addresses(first.entry)[first.order - first.entry.order]
        return Address(address, first.entry.weighting if len(uses) == 1 else _merged(uses))


class Targets(SharedRecords[tuple[str, int], Target]):
    """The SRV targets of all members' service endpoints, one for each host and port."""

    def __init__(self, hosts: Hosts, run: Run) -> None:
        super().__init__(run)
        self._hosts = hosts

    def uses_of(self, entry: LabeledMember) -> Iterable[tuple[tuple[str, int], Use]]:
        """The host and port of the service endpoint."""
        service = entry.member.service
        return ((endpoint_key(service), Use(entry.order, entry, service)),) if service else ()

    def make(self, uses: Sequence[Use]) -> Target | None:
        """The target of the member that represents all members at this host and port."""
        best, weighting = uses[0], uses[0].entry.weighting
        if len(uses) > 1:
            best, weighting = representative(uses), _merged(uses)
        assert best.endpoint is not None  # noqa: S101 - `uses_of` passes it
        return self._hosts.target(best.entry, best.endpoint, weighting)


class _EndpointTargets(Targets):
    """The SRV targets of the additional endpoints with these labels."""

    def __init__(self, hosts: Hosts, run: Run, labels: Labels) -> None:
        super().__init__(hosts, run)
        self._labels = labels

    def uses_of(self, entry: LabeledMember) -> list[tuple[tuple[str, int], Use]]:
        """The hosts and ports of the endpoints with these labels."""
        additional = entry.member.additional
        endpoints = [additional[name] for name in endpoint_labels(tuple(additional))[self._labels]]
        return [
            (endpoint_key(endpoint), Use(entry.order + number, entry, endpoint))
            for number, endpoint in enumerate(endpoints)
        ]


class EndpointNames:
    """The names of additional endpoints, and the SRV targets at each.

    An endpoint's name may have dots. The names between it and the protocol are empty non-terminals.
    """

    def __init__(self, hosts: Hosts, run: Run) -> None:
        self._hosts, self._run = hosts, run
        self._members: dict[Labels, Ordered[int, LabeledMember]] = {}
        self._nonterminals: Counter[Labels] = Counter()
        self._targets: dict[Labels, _EndpointTargets] = {}
        self._repeated: set[Labels] = set()
        self._ended: list[Labels] = []

    def __contains__(self, labels: object) -> bool:
        return labels in self._members

    def __iter__(self) -> Iterator[Labels]:
        return iter(self._members)

    def is_nonterminal(self, labels: Labels) -> bool:
        """Whether there are names that end with these labels (possibly none)."""
        return labels in self._nonterminals

    def add(self, entry: LabeledMember) -> None:
        """Add a member."""
        if not entry.member.additional:
            return
        for labels, names in endpoint_labels(tuple(entry.member.additional)).items():
            members = self._members.get(labels)
            if members is None:
                members = self._members[labels] = Ordered()
                self._nonterminals.update(_suffixes(labels))
            members.add(entry.order, entry)
            if len(names) > 1:
                self._repeated.add(labels)
            if labels in self._targets:
                self._targets[labels].add(entry)

    def remove(self, entry: LabeledMember) -> None:
        """Remove a member that was added."""
        if not entry.member.additional:
            return
        for labels in endpoint_labels(tuple(entry.member.additional)):
            members = self._members[labels]
            members.remove(entry.order)
            if labels in self._targets:
                self._targets[labels].remove(entry)
            if not members:
                del self._members[labels]
                self._targets.pop(labels, None)
                self._repeated.discard(labels)
                for suffix in _suffixes(labels):
                    self._nonterminals[suffix] -= 1
                    if not self._nonterminals[suffix]:
                        del self._nonterminals[suffix]
                self._ended.append(labels)

    def take_ended(self) -> list[Labels]:
        """The names that have lost their last member since the last call."""
        ended, self._ended = self._ended, []
        return [labels for labels in ended if labels not in self._members]

    def targets(self, labels: Labels) -> Sequence[Target]:
        """The SRV targets of the endpoints with these labels."""
        if labels not in self._targets:
            self._run(self._add_targets(labels))
        targets = self._targets[labels].items()
        return _with_addresses_once(targets) if labels in self._repeated else targets

    def _add_targets(self, labels: Labels) -> Steps:
        targets = _EndpointTargets(self._hosts, self._run, labels)
        for chunk in chunks_of(self._members[labels].values.copy()):
            for entry in chunk:
                targets.add(entry)
            yield len(chunk) * MEMBER
        self._targets[labels] = targets


def _suffixes(labels: Labels) -> list[Labels]:
    """The labels without the first ones, down to no labels."""
    return [labels[start:] for start in range(1, len(labels) + 1)]


def _with_addresses_once(targets: Sequence[Target]) -> list[Target]:
    """The targets; of several with the same label, only the first has addresses (RFC 2181 §5)."""
    seen: set[bytes] = set()
    found = []
    for target in targets:
        if target.label and target.label in seen:
            found.append(Target(target.port, target.weighting, target.label))
        else:
            found.append(target)
        seen.add(target.label)
    return found


def endpoint_key(endpoint: Endpoint) -> tuple[str, int]:
    """The key by which endpoints are equal; host names are case-insensitive (RFC 4343)."""
    return endpoint.host.lower(), endpoint.port


def representative(uses: Sequence[Use]) -> Use:
    """The use by the newest member, which represents the others.

    Members of weight 0 and held members represent others only if there is no better one.
    """
    best = uses[0]
    for use in uses[1:]:
        if use.entry.last_resort <= best.entry.last_resort:
            best = use
    return best


def _merged(uses: Sequence[Use]) -> Weighting:
    weighting = uses[0].entry.weighting
    for use in uses[1:]:
        weighting = weighting.merged(use.entry.weighting)
    return weighting
