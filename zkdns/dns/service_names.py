"""The names of one service, and the records at each of them.

    web.staging                 addresses and SRV of all members
    m318.web.staging            one member; `member_0000000318` too
    m318-admin.web.staging      the host of an additional endpoint, if it is not the member's own host
    s3.web.staging              the newest member of shard 3
    _admin._tcp.web.staging     SRV of the additional endpoints called admin (`_udp` too)
    _web._tcp.staging           SRV in the form of RFC 2782

A `ServiceView` is created when its service is first queried. After a change, it is updated at the next query:
it compares the members, which takes 1 ms for ten thousand (measured), and then does work only for those that
have changed. Each of its indexes is created when a query first needs it. All of this is done in steps
(`zkdns.dns.steps`).
"""

from __future__ import annotations

import functools
import heapq
import itertools
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Literal, NamedTuple, TypeVar, cast

from zkdns.config import Config
from zkdns.dns.member_labels import endpoint_labels, hash_label, label_prefix, member_label, number_of
from zkdns.dns.member_records import (
    Addresses,
    EndpointNames,
    Hosts,
    HostUsers,
    LabeledMember,
    MemberIndex,
    NamedMember,
    OtherServices,
    OwnAddresses,
    Shards,
    Targets,
    is_in_order,
    order_of,
    unresolved_hosts,
)
from zkdns.dns.message import Type
from zkdns.dns.ordered import Ordered
from zkdns.dns.records import Address, FixedNode, Node, Target, TargetNames
from zkdns.dns.rrset import EQUAL_WEIGHT, weighting_of
from zkdns.dns.steps import CHUNK, COMPARED_AT_ONCE, COMPARISON, MEMBER, Run, Steps, chunks_of
from zkdns.names import MAX_LABEL, Labels
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import MemberSet, Service, Table

PROTOCOLS = (b"_tcp", b"_udp")

_order = attrgetter("order")
_ENDPOINTS = "endpoints"  # the name of an index

IndexT = TypeVar("IndexT", bound=MemberIndex)


class MemberName(NamedTuple):
    """The member whose records are at a name directly below the service's own name.

    `host` is the additional endpoint whose host has the name. None: it is a name of the member itself.
    """

    kind: Literal["member", "shard", "host"]
    entry: LabeledMember
    host: Endpoint | None = None


class KnownSet:
    """A member set as it was when the view was last updated.

    If `is_numbered`, no two members have the same number, so that the time at which they have joined does not
    matter for their order.
    """

    __slots__ = ("entries", "held", "is_numbered", "member_set", "precedence", "prefix")

    def __init__(self, member_set: MemberSet, precedence: int, prefix: str) -> None:
        self.member_set, self.precedence, self.prefix = member_set, precedence, prefix
        self.entries: dict[str, LabeledMember] = {}
        self.held = member_set.held
        self.is_numbered = True


class ServiceView:
    """The names of a service; none before the first `update`.

    Nodes refer to their view weakly, so that there are no reference cycles: a worker runs no full garbage
    collections, so that views in cycles would never be freed.

    While `update` or the creation of an index is not finished, no other method may be called.

    Attributes:
        run: as below.

    Args:
        service: the service.
        table: addresses of host names.
        config: statuses of served members, and the member prefix of each namespace.
        run: runs the steps that create or update an index. It raises `UnfinishedError` if there are many.
        may_be_shadowed: whether services with names directly below this one may exist. They have precedence
            over this service's members.
    """

    def __init__(
        self, service: Service, table: Table, config: Config, run: Run, *, may_be_shadowed: bool = False
    ) -> None:
        self._table = table
        self.run = run
        self._key = service.key
        self._statuses = frozenset(config.statuses)
        self._others = OtherServices(service.key, table, may_exist=may_be_shadowed)
        name = service.first.name
        self._own = name.labels
        self._between = name.service_labels
        self._names = TargetNames(self._own, len(self._own))
        self._host_users: dict[str, HostUsers] = {}
        self._hosts = Hosts(self._own, table, self._host_users, self._others)
        self._known = [
            KnownSet(member_set, precedence, label_prefix(member_set.origin, config))
            for precedence, member_set in enumerate(service.by_precedence())
        ]
        self._departed: dict[tuple[str, str], LabeledMember] = {}
        self._joined = 0
        # All members by the label that they would have if they were alone; those with other labels by these.
        self._claims: dict[bytes, LabeledMember | list[LabeledMember]] = {}
        self._relabeled: dict[bytes, LabeledMember] = {}
        # The members with names that may not be in lower case, by the lower-case name.
        self._folded: dict[str, dict[LabeledMember, None]] = {}
        self._present: Ordered[int, LabeledMember] = Ordered()
        self._with_service = 0
        self._indexes: dict[str, MemberIndex] = {}
        self._nodes: dict[Labels, Node] = {(): _ServiceNode(self, self._names)}
        self._ended: list[LabeledMember] = []
        self._changed_labels: dict[bytes, None] | None = None

    @property
    def size(self) -> int:
        """Number of members, at least 1."""
        return 1 + sum(len(known.entries) for known in self._known) + len(self._departed)

    # -- changes -------------------------------------------------------------------------------------------

    def update(self, service: Service) -> Generator[int, None, bool]:
        """Update after changes of the service, in steps.

        Changes of the table between the steps may be missing; then another update is necessary.

        Returns:
            False if a new view must be created instead.
        """
        sets = service.by_precedence()
        if [known.member_set for known in self._known] != sets:
            return False
        removed: dict[LabeledMember, None] = {}
        added: list[LabeledMember] = []
        if not (yield from self._compare_departed(service, removed, added)):
            return False
        for known in self._known:
            if not (yield from self._compare(known, removed, added)):
                return False
        for entry in (yield from self._resolved_differently()):
            if entry not in removed:
                removed[entry] = None
                added.append(self._relabel(entry, b""))
        if removed or added:
            yield from self._replace(removed, added)
        return True

    def shadow(self, label: bytes) -> bool:
        """Update after another service with this label below the service's name has come or gone.

        Returns:
            False if a new view must be created instead, since a member's label may change.
        """
        self._others.may_exist = True
        return label not in self._claims and b"-" not in label

    def take_changed_labels(self) -> Collection[bytes] | None:
        """The labels before the service's own name whose member may have changed since the last call.

        None: this is the first call.
        """
        changed, self._changed_labels = self._changed_labels, {}
        return changed

    def take_ended(self) -> Iterator[Labels]:
        """The names that may have ended since the last call, as labels before the service's own name."""
        ended, self._ended = self._ended, []
        paths = self._endpoints.take_ended() if _ENDPOINTS in self._indexes else ()
        below = [(*path, protocol) for path in paths for protocol in PROTOCOLS]
        for prefix in below:
            self._nodes.pop(prefix, None)
        return itertools.chain(below, self._take_labels(ended))

    def _take_labels(self, entries: list[LabeledMember]) -> Iterator[Labels]:
        """All labels of these members, which are released one by one."""
        while entries:
            for label in self.labels_of(entries.pop()):
                yield (label,)

    def _compare(
        self, known: KnownSet, removed: dict[LabeledMember, None], added: list[LabeledMember]
    ) -> Generator[int, None, bool]:
        """Collect the changed members of a set; return False if their order has changed."""
        members, entries = dict(known.member_set.members), known.entries
        changed: list[Member] = []
        for compared in chunks_of(list(members.values()), COMPARED_AT_ONCE):
            changed += [
                member
                for member in compared
                if (entry := entries.get(member.name)) is None or entry.member is not member
            ]
            yield len(compared) * COMPARISON
        if entries and len(entries) + sum(member.name not in entries for member in changed) > len(members):
            gone = [name for name in entries if name not in members]
            for names in chunks_of(gone, COMPARED_AT_ONCE):
                removed.update(dict.fromkeys(map(entries.pop, names)))
                yield len(names) * COMPARISON
        held = known.member_set.held
        if held is not known.held:
            differs = (held.keys() ^ known.held.keys()) & entries.keys() & members.keys()
            differs.difference_update(member.name for member in changed)
            changed += [members[name] for name in differs]
            known.held = held
            yield len(held) * COMPARISON
        for chunk in chunks_of(changed):
            for member in chunk:
                entry = entries.get(member.name)
                if entry is not None:
                    removed[entry] = None
                entries[member.name] = new_entry = self._make_entry(known, member, entry)
                added.append(new_entry)
            yield len(chunk) * MEMBER
        return known.is_numbered or (yield from is_in_order(list(map(entries.__getitem__, members))))

    def _compare_departed(
        self, service: Service, removed: dict[LabeledMember, None], added: list[LabeledMember]
    ) -> Generator[int, None, bool]:
        """Collect the changes among the departed members; return False if their order has changed."""
        entries = self._departed
        if not service.departed and not entries:
            return True
        departed = dict(service.departed)
        for keys in chunks_of(list(entries), COMPARED_AT_ONCE):
            for key in keys:
                if key not in departed or departed[key][0] is not entries[key].member:
                    removed[entries.pop(key)] = None
            yield len(keys) * COMPARISON
        sets = {known.member_set.origin: known for known in self._known}
        new: list[tuple[str, str]] = []
        for keys in chunks_of(list(departed), COMPARED_AT_ONCE):
            new += [key for key in keys if key not in entries and key[0] in sets]
            yield len(keys) * COMPARISON
        for chunk in chunks_of(new):
            for key in chunk:
                entry = self._make_entry(sets[key[0]], departed[key][0], None, is_departed=True)
                entries[key] = entry
                added.append(entry)
            yield len(chunk) * MEMBER
        return (yield from is_in_order([entries[key] for key in departed if key in entries]))

    def _make_entry(
        self, known: KnownSet, member: Member, before: LabeledMember | None, *, is_departed: bool = False
    ) -> LabeledMember:
        """Make the entry of a member; if it was there before, it keeps its place."""
        held = not is_departed and member.name in known.held
        if before is not None:
            order, base = before.order, before.base
        else:
            order, base = self._order_and_base(known, member, is_departed=is_departed)
        return LabeledMember(
            member,
            known.member_set.origin,
            order,
            base,
            EQUAL_WEIGHT if member.weight == 1 and not held else weighting_of(member.weight, held),
            is_served=member.is_served(self._statuses),
            is_departed=is_departed,
        )

    def _order_and_base(self, known: KnownSet, member: Member, *, is_departed: bool) -> tuple[int, bytes]:
        """The order of a member that has joined after all others, and its label if it is alone."""
        self._joined += 1
        number = number_of(member.name, known.prefix)
        if number is not None:  # the usual case, without regular expressions
            return order_of(known.precedence, 0 if is_departed else number, self._joined), b"m%d" % number
        known.is_numbered = False
        number = 0 if is_departed else member.sequence or 0
        return order_of(known.precedence, number, self._joined), member_label(member.name, known.prefix)

    def _resolved_differently(self) -> Generator[int, None, list[LabeledMember]]:
        """The members with host names that now have other addresses."""
        addresses_of = self._table.addresses_of
        changed: list[str] = []
        for chunk in chunks_of(list(self._host_users.items()), COMPARED_AT_ONCE):
            changed += [
                host
                for host, (addresses, _) in chunk
                if (now := addresses_of(host)) is not addresses and now != addresses
            ]
            yield len(chunk) * COMPARISON
        return list(dict.fromkeys(entry for host in changed for entry in self._host_users[host].entries))

    def _replace(self, removed: Iterable[LabeledMember], added: Sequence[LabeledMember]) -> Steps:
        """Replace entries, assign the labels of the new ones, and update all indexes."""
        claims: dict[bytes, None] = {}
        for chunk in chunks_of(list(removed)):
            for entry in chunk:
                self._unindex(entry)
                self._unclaim(entry)
                claims[entry.base] = None
            yield len(chunk) * MEMBER
        self._ended += removed
        runs: list[list[LabeledMember]] = []  # it is faster to add members in order
        for chunk in chunks_of(added, COMPARED_AT_ONCE):
            runs.append(sorted(chunk, key=_order))
            yield len(chunk) * COMPARISON
        merged = iter(runs[0]) if len(runs) == 1 else heapq.merge(*runs, key=_order)
        while chunk := list(itertools.islice(merged, CHUNK)):
            for entry in chunk:
                self._claim(entry)
                claims[entry.base] = None
            yield len(chunk) * MEMBER
        for bases in chunks_of(list(claims)):
            for base in bases:
                self._assign_labels(base)
            yield len(bases) * MEMBER
        for node in self._nodes.values():
            node.forget()

    # -- labels --------------------------------------------------------------------------------------------

    def _claim(self, entry: LabeledMember) -> None:
        """Let a new entry take part in the assignment of its label."""
        claims = self._claims.setdefault(entry.base, entry)
        if isinstance(claims, list):
            claims.append(entry)
        elif claims is not entry:
            self._claims[entry.base] = [claims, entry]

    def _unclaim(self, entry: LabeledMember) -> None:
        claims = self._claims[entry.base]
        if not isinstance(claims, list):
            del self._claims[entry.base]
            return
        claims.remove(entry)
        if not claims:
            del self._claims[entry.base]

    def _assign_labels(self, base: bytes) -> None:
        """Assign the labels of the members that would have the same one if they were alone.

        The first of them has it; the others have a hash of the znode's path in addition. If it is the name of
        another service, all of them have one. This does not depend on the order of registration.
        """
        claims = self._claims.get(base)
        if claims is None:
            return
        entries = sorted(claims, key=_precedence) if isinstance(claims, list) else (claims,)
        is_taken = self._others.may_exist and base in self._others
        for entry in entries:
            label = base + b"-" + hash_label(f"{entry.origin}/{entry.member.name}") if is_taken else base
            is_taken = True
            if not entry.label:
                entry.label = label
                self._index(entry)
            elif entry.label != label:
                self._unindex(entry)
                self._unclaim(entry)
                self._ended.append(entry)
                changed = self._relabel(entry, label)
                self._claim(changed)
                self._index(changed)

    def _relabel(self, entry: LabeledMember, label: bytes) -> LabeledMember:
        """Replace the entry of a member by one with another label."""
        changed = entry.with_label(label)
        if entry.is_departed:
            self._departed[entry.origin, entry.member.name] = changed
        else:
            self._known[entry.precedence[0]].entries[entry.member.name] = changed
        return changed

    def _index(self, entry: LabeledMember) -> None:
        """Add an entry with a label to all indexes."""
        if self._changed_labels is not None:
            self._note_labels(self._changed_labels, entry)
        if not entry.is_served:
            return
        if entry.label is not entry.base and entry.label != entry.base:
            self._relabeled[entry.label] = entry
        if not entry.member.name.islower():
            self._folded.setdefault(_fold(entry.member.name), {})[entry] = None
        for host in unresolved_hosts(entry.member):
            users = self._host_users.get(host)
            if users is None:
                users = self._host_users[host] = HostUsers(self._table.addresses_of(host), {})
            users.entries[entry] = None
        if entry.is_departed:
            return
        self._present.add(entry.order, entry)
        self._with_service += entry.member.service is not None
        for index in self._indexes.values():
            index.add(entry)

    def _unindex(self, entry: LabeledMember) -> None:
        """Remove an entry from all indexes."""
        if self._changed_labels is not None:
            self._note_labels(self._changed_labels, entry)
        if not entry.is_served:
            return
        if self._relabeled.get(entry.label) is entry:
            del self._relabeled[entry.label]
        if not entry.member.name.islower():
            folded = _fold(entry.member.name)
            del self._folded[folded][entry]
            if not self._folded[folded]:
                del self._folded[folded]
        for host in unresolved_hosts(entry.member):
            users = self._host_users[host].entries
            del users[entry]
            if not users:
                del self._host_users[host]
        if entry.is_departed:
            return
        self._present.remove(entry.order)
        self._with_service -= entry.member.service is not None
        for index in self._indexes.values():
            index.remove(entry)

    def _note_labels(self, changed: dict[bytes, None], entry: LabeledMember) -> None:
        changed.update(dict.fromkeys(self.labels_of(entry)))

    def _index_of(self, name: str, make: Callable[[], IndexT]) -> IndexT:
        """The index with this name, which is created in steps and then maintained."""
        if name not in self._indexes:
            self.run(self._create_index(name, make()))
        return cast("IndexT", self._indexes[name])

    def _create_index(self, name: str, index: MemberIndex) -> Steps:
        for chunk in chunks_of(self._present.values.copy()):
            for entry in chunk:
                index.add(entry)
            yield len(chunk) * MEMBER
        self._indexes[name] = index

    # -- names ---------------------------------------------------------------------------------------------

    def find(self, prefix: Labels) -> Node | None:
        """The node at these labels (in lower case) before the service's own name; None: no such name."""
        if not prefix:
            return self._nodes[()]
        if prefix[-1] in PROTOCOLS:
            return self._endpoint_node(prefix)
        if len(prefix) == 1:
            found = self.name_at(prefix[0])
            return None if found is None else self.node_of(found)
        return None

    def present(self) -> Sequence[LabeledMember]:
        """The served members in order, without departed ones."""
        return self._present.values

    def shared_prefixes(self) -> Iterator[Labels]:
        """The labels of `prefixes` at which several members may have records."""
        yield ()
        for path in self._endpoints:
            for protocol in PROTOCOLS:
                yield (*path, protocol)

    def prefixes(self) -> Iterator[Labels]:
        """All labels at which `find` returns a node with records."""
        yield ()
        entries = [*self._present, *self._served_departed()]
        names = (_fold(entry.member.name).encode() for entry in entries)
        shards = (b"s%d" % entry.member.shard for entry in self._present if entry.member.shard is not None)
        hosts = (label for entry in entries for label, _ in self._hosts.of(entry).values())
        labels = (entry.label for entry in entries)
        for label in dict.fromkeys((*labels, *names, *shards, *hosts)):
            if len(label) <= MAX_LABEL:
                yield (label,)
        paths = (path for entry in self._present for path in endpoint_labels(tuple(entry.member.additional)))
        for path in dict.fromkeys(paths):
            for protocol in PROTOCOLS:
                yield (*path, protocol)

    def _served_departed(self) -> list[LabeledMember]:
        """The departed members whose names are answered, in order."""
        entries = (entry for entry in self._departed.values() if entry.is_served)
        return sorted(entries, key=lambda entry: entry.order)

    def name_at(self, label: bytes) -> MemberName | None:
        """The member with this label (in lower case) before the service's own name."""
        if entry := self._named(label):
            return MemberName("member", entry)
        if entry := self._at_shard(label):
            return MemberName("shard", entry)
        if found := self._host_at(label):
            return MemberName("host", *found)
        return None

    def rfc2782_node(self, before: int, protocol: bytes) -> Node | None:
        """The node at `_service._tcp.environment`; `before` is the number of labels before the protocol.

        All labels of the service's own name must be before the protocol; there is no other such name.
        """
        del protocol  # the records are the same for both protocols
        return self._rfc2782_node if before == len(self._between) else None

    def members_at(self, address: str) -> Sequence[NamedMember]:
        """The members that have this address without name resolution, in order."""
        return self._index_of("addresses", lambda: OwnAddresses(self._own)).of(address)

    # -- nodes ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _rfc2782_names(self) -> TargetNames:
        return TargetNames(self._own, len(self._own) - len(self._between), self._between)

    @functools.cached_property
    def _rfc2782_node(self) -> Node:
        # In `_nodes`, the key cannot be that of another name of the service.
        node = self._nodes[(b"",)] = _Rfc2782Node(self, self._rfc2782_names)
        return node

    def node_of(self, name: MemberName) -> Node:
        """The node at the name of a member, or at that of an additional endpoint's host."""
        entry, host = name.entry, name.host
        endpoint = next(iter(entry.member.endpoints), None) if host is None else host
        addresses = list(map(Address, self._hosts.addresses(endpoint))) if endpoint else []
        target = None if host is None else self._hosts.target(entry, host, entry.weighting)
        return FixedNode(
            self._names,
            addresses=addresses,
            targets=self._hosts.own_targets(entry) if host is None else [target] if target else [],
            texts=(entry,) if host is None else (),
            is_unresolved=not addresses and endpoint is not None,
        )

    def _endpoint_node(self, prefix: Labels) -> Node | None:
        """The node at these labels, the last of which is `_tcp` or `_udp`."""
        path = prefix[:-1]
        if path not in self._endpoints:
            self._nodes.pop(prefix, None)
            return Node() if self._endpoints.is_nonterminal(path) else None
        node = self._nodes.get(prefix)
        if node is None:
            node = self._nodes[prefix] = _EndpointNode(self._endpoints, path, self._names, self.run)
        return node

    # -- indexes -------------------------------------------------------------------------------------------

    def _with_label(self, label: bytes) -> LabeledMember | None:
        """The member with this label, present or departed."""
        claims = self._claims.get(label)
        for entry in claims if isinstance(claims, list) else (claims,) if claims else ():
            if entry.label == label:
                return entry if entry.is_served else None
        return self._relabeled.get(label)

    def _named(self, label: bytes) -> LabeledMember | None:
        """The member with this label or with this znode's name; present members before departed ones."""
        entry = self._with_label(label)
        if entry is not None:
            return entry
        try:
            name = label.decode()
        except UnicodeDecodeError:
            return None
        found = list(self._folded.get(name, ()))
        for known in self._known:
            key = known.member_set.origin, name
            found += [each for each in (known.entries.get(name), self._departed.get(key)) if each]
        found = [each for each in found if each.is_served and _fold(each.member.name) == name]
        return min(found, key=lambda each: (each.is_departed, each.order), default=None)

    def _host_at(self, label: bytes) -> tuple[LabeledMember, Endpoint] | None:
        """The member with an additional endpoint on the host with this label, and the first such endpoint.

        Such a label is the member's label, a hyphen, and one more part.
        """
        found: list[tuple[LabeledMember, Endpoint]] = []
        at = label.find(b"-")
        while at >= 0:
            entry = self._with_label(label[:at])
            if entry is not None and entry.member.additional:
                hosts = self._hosts.of(entry).values()
                found += [(entry, endpoint) for each, endpoint in hosts if each == label][:1]
            at = label.find(b"-", at + 1)
        return min(found, key=lambda each: (each[0].is_departed, each[0].order), default=None)

    def _addresses(self, qtype: int) -> Addresses:
        """The addresses at the service's own name, for A or for AAAA."""
        kind = Type(qtype)
        return self._index_of(kind.name, lambda: Addresses(self._hosts, self.run, kind))

    @property
    def _targets(self) -> Targets:
        """The SRV targets at the service's own name."""
        return self._index_of("targets", lambda: Targets(self._hosts, self.run))

    @property
    def _endpoints(self) -> EndpointNames:
        return self._index_of(_ENDPOINTS, lambda: EndpointNames(self._hosts, self.run))

    def _at_shard(self, label: bytes) -> LabeledMember | None:
        """The member with this label of a shard."""
        if label[:1] != b"s" or not label[1:].lstrip(b"-").isdigit():  # most queries need no index
            return None
        return self._index_of("shards", Shards).get(label)

    def labels_of(self, entry: LabeledMember) -> Iterator[bytes]:
        """All labels of names that exist because of this member."""
        yield entry.label
        yield _fold(entry.member.name).encode()
        if entry.member.shard is not None:
            yield b"s%d" % entry.member.shard
        if entry.member.additional:
            yield from (label for label, _ in self._hosts.of(entry).values())


class _ServiceNode(Node):
    """The node at the service's own name."""

    def __init__(self, view: ServiceView, names: TargetNames) -> None:
        super().__init__(names, view.run)
        self._view: ServiceView = weakref.proxy(view)

    @property
    def is_unresolved(self) -> bool:
        """Whether there are members, and no address of any of them is known."""
        view = self._view
        return view._with_service > 0 and not (self.addresses(Type.A) or self.addresses(Type.AAAA))  # noqa: SLF001 - the view's own node

    def addresses(self, qtype: int) -> Sequence[Address]:
        """The addresses of all members."""
        return self._view._addresses(qtype).items()  # noqa: SLF001 - as above

    def targets(self) -> Sequence[Target]:
        """The targets of all members."""
        return self._view._targets.items()  # noqa: SLF001 - as above

    def texts(self) -> Sequence[LabeledMember]:
        """All members."""
        return self._view._present.values  # noqa: SLF001 - as above


class _Rfc2782Node(Node):
    """The node at the service's name in the form of RFC 2782."""

    def __init__(self, view: ServiceView, names: TargetNames) -> None:
        super().__init__(names, view.run)
        self._view: ServiceView = weakref.proxy(view)

    def targets(self) -> Sequence[Target]:
        """The targets of all members."""
        return self._view._targets.items()  # noqa: SLF001 - the view's own node


class _EndpointNode(Node):
    """The node at the name of an additional endpoint."""

    def __init__(self, endpoints: EndpointNames, path: Labels, names: TargetNames, run: Run) -> None:
        super().__init__(names, run)
        self._endpoints, self._path = endpoints, path

    def targets(self) -> Sequence[Target]:
        """The targets of all endpoints with this name."""
        return self._endpoints.targets(self._path)


def has_no_served_member(service: Service, statuses: Collection[str]) -> bool:
    """Whether no member of the service is served."""
    members = (member for member_set in service.sets.values() for member in member_set.members.values())
    return not any(member.is_served(statuses) for member in members)


def _fold(name: str) -> str:
    """The name with ASCII letters in lower case (RFC 4343)."""
    return name.lower() if name.isascii() else name.encode().lower().decode()


def _precedence(entry: LabeledMember) -> tuple[int, bool, int]:
    return entry.precedence
