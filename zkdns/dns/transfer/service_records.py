"""`ServiceRecords`: the records of one service for zone transfers, kept up to date name by name.

    view of the service ──▶ changed labels ──▶ records of these names ───┐
                       └──▶ RRsets of all members ──▶ changed items ─────┴──▶ changed blocks

The records of a large service are in blocks that are found by a hash: those of a member's name by its label,
those of all members (such as the addresses at the service's own name) by their data. A changed member thus
costs as much as the blocks with its records, and a comparison of the items, which takes 0.1 µs for each.

The records of a small service are made again after each change, and nothing is kept but their blocks.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

from zkdns.dns.dns_sd import DnsSdServiceView
from zkdns.dns.message import QUESTION_POINTER, Type
from zkdns.dns.records import Node, TextRenderer
from zkdns.dns.rrset import EQUAL_WEIGHT, Item, Renderer, arrange_in_steps
from zkdns.dns.service_names import MemberName, ServiceView
from zkdns.dns.steps import chunks_of, run_at_once
from zkdns.dns.transfer.contents import (
    MAX_RECORD,
    Block,
    join_records,
    owner_in_zone,
    query_for,
    split_records,
    with_target,
)
from zkdns.dns.zone import Zone
from zkdns.dns.zonefile import MEMBER_NAME_TYPES
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, wire_length

TRACKED_MEMBERS: Final = 200
"""Services with more members are updated name by name. Smaller ones take some milliseconds as a whole."""
RECORDS_PER_STEP: Final = 250
"""Records between two pauses of `ServiceRecords.update`; they take about a millisecond."""
_MEMBERS_PER_BUCKET = 8  # some 8 KiB of records
_ASTERISK = b"*"

Buckets: TypeAlias = Sequence[tuple[Block, ...]]
"""The blocks of a service in one zone, by the hash of a key of each record."""
BlockChanges: TypeAlias = dict[Labels, tuple[Sequence[Block], Sequence[Block]]]
"""The blocks that are replaced, and the new ones, by the apex of their zone."""


class _Shared(NamedTuple):
    """The items of one RRset with records of several members."""

    renderer: Renderer[Any]
    ordered: Sequence[Item]
    items: frozenset[Item]
    is_plain: bool
    """Whether each item has a record, whatever the others are: none has weight 0 or is held."""


class _Edit(NamedTuple):
    """The changes of the records in one bucket."""

    removed: list[bytes]
    """Records, and owner names for all of their records."""
    added: list[bytes]


class _ZonePart:
    """The records of a service in one zone: blocks in buckets, which are found by a hash of a key."""

    __slots__ = ("buckets",)

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = list(buckets)

    def blocks(self) -> Iterator[Block]:
        """All blocks."""
        for blocks in self.buckets:
            yield from blocks

    def apply(
        self, edits: dict[int, _Edit], known: Mapping[Block, Block]
    ) -> Generator[None, None, tuple[list[Block], list[Block]]]:
        """Change buckets. Returns the blocks that are replaced, and the new ones.

        A new block that is equal to one of `known` is that one, so that it is in memory once.
        """
        removed: list[Block] = []
        added: list[Block] = []
        for number, (number_of_bucket, edit) in enumerate(edits.items(), 1):
            before = self.buckets[number_of_bucket]
            # No owner name or record is the beginning of another one.
            starts = tuple(edit.removed)
            records = [record for record in split_records(before) if not record.startswith(starts)]
            made = join_records(records + edit.added)
            after = self.buckets[number_of_bucket] = tuple(known.get(block, block) for block in made)
            if after != before:
                removed += before
                added += after
            if not number % _MEMBERS_PER_BUCKET:
                yield
        return removed, added


class _Edits:
    """The changes of a service's records in all zones.

    Attributes:
        zones: the changes by zone and number of the bucket.
        count: number of buckets in each zone.
    """

    def __init__(self, count: int) -> None:
        self.zones: dict[Labels, dict[int, _Edit]] = {}
        self.count = count

    def remove(self, apex: Labels, key: bytes, start: bytes) -> None:
        """Remove a record with this key, or all records that begin with an owner name."""
        self._edit(apex, key).removed.append(start)

    def add(self, apex: Labels, key: bytes, owner: bytes, rests: Iterable[bytes]) -> None:
        """Add records with this key: their owner name, and the rest of each."""
        self._edit(apex, key).added.extend([owner + rest for rest in rests])

    def _edit(self, apex: Labels, key: bytes) -> _Edit:
        edits = self.zones.setdefault(apex, {})
        number = crc32(key) % self.count if self.count > 1 else 0
        edit = edits.get(number)
        if edit is None:
            edit = edits[number] = _Edit([], [])
        return edit


class ServiceRecords:
    """The records of one service, in blocks. None before the first `update`.

    Args:
        tracked_members: as `TRACKED_MEMBERS`.
    """

    __slots__ = ("_count", "_shared", "_tracked_members", "_view", "_zones")

    def __init__(self, *, tracked_members: int = TRACKED_MEMBERS) -> None:
        self._tracked_members = tracked_members
        self._zones: dict[Labels, _ZonePart] = {}
        self._count = 1  # of buckets
        self._shared: dict[tuple[Labels, int], _Shared] = {}
        self._view: weakref.ref[ServiceView] | None = None  # the source of changed labels

    def buckets(self, apex: Labels) -> Buckets:
        """The blocks in a zone."""
        part = self._zones.get(apex)
        return () if part is None else tuple(part.buckets)

    def restore(self, apex: Labels, buckets: Buckets) -> None:
        """Set the blocks in a zone before the first `update`, which then replaces them."""
        self._zones[apex] = _ZonePart(buckets)
        self._count = max(len(buckets), 1)

    def update(self, zone: Zone, key: Labels, *, is_renamed: bool) -> Generator[None, None, BlockChanges]:
        """Update after changes of the service, in steps. Returns the changes of blocks.

        The table may change between the steps; another update is then necessary. Names that a zone file
        cannot contain are left out (`zkdns.dns.zonefile`), and those of departed members.

        Args:
            zone: the names.
            key: the key of the service.
            is_renamed: whether other services may have got or lost some of its names.
        """
        before: BlockChanges = {}
        view = yield from zone.steps.in_pieces(lambda: _view_of(zone, key))
        is_tracked = view is not None and view.size > self._tracked_members
        labels = view.take_changed_labels() if view is not None else None
        count = max(view.size // _MEMBERS_PER_BUCKET, 1) if view is not None and is_tracked else 1
        is_known = self._view is not None and self._view() is view and not is_renamed
        has_room = self._count // 4 <= count <= self._count * 2
        if not is_known or not is_tracked or not has_room:
            labels = None  # all records are made again
            before = {apex: (list(part.blocks()), ()) for apex, part in self._zones.items()}
            self._zones, self._shared = {}, {}
            self._count = self._count if has_room else count
        edits = _Edits(self._count)
        if view is not None:
            source = _Source(zone, key, view, edits)
            shared = yield from source.edit_shared(self._shared)
            yield from source.edit_members(labels)
            self._shared = shared if is_tracked else {}
        self._view = weakref.ref(view) if view is not None and is_tracked else None
        changes = before
        known = {block: block for blocks, _ in before.values() for block in blocks}
        for apex, edited in edits.zones.items():
            part = self._zones.get(apex)
            if part is None:
                part = self._zones[apex] = _ZonePart([()] * self._count)
            removed, added = yield from part.apply(edited, known)
            changes[apex] = [*changes.get(apex, ((), ()))[0], *removed], added
        return changes


class _Source:
    """Makes the changes of a service's records.

    Args:
        zone: the names.
        key: the key of the service.
        view: its names.
        edits: gets the changes.
    """

    def __init__(self, zone: Zone, key: Labels, view: ServiceView, edits: _Edits) -> None:
        self._zone, self._key, self._view, self._edits = zone, key, view, edits
        self._ttl = zone.policy_of(key).ttl
        self._renderers: dict[int, Renderer[Any]] = {}
        self._texts: dict[Item, bytes] = {}
        self._last: tuple[MemberName, list[bytes]] | None = None
        # The zone of the members' names, unless a zone begins below the service.
        apex = zone.apex_of(key)
        is_split = any(other != key and other[-len(key) :] == key for other in zone.apexes)
        self._apex = None if is_split else apex
        self._suffix = owner_in_zone(key, apex) if apex is not None else b""

    def edit_shared(
        self, before: dict[tuple[Labels, int], _Shared]
    ) -> Generator[None, None, dict[tuple[Labels, int], _Shared]]:
        """Add and remove records of RRsets with several members. Returns their present items."""
        after: dict[tuple[Labels, int], _Shared] = {}
        made: dict[tuple[int, int], _Shared] = {}  # by the identity of the items
        for name, qtype, node, items in (yield from self._zone.steps.in_pieces(self._shared_rrsets)):
            shared = made.get((id(items), qtype))
            if shared is None:
                renderer = node.renderer(query_for(name), qtype, self._ttl)
                shared = made[id(items), qtype] = _share(items, renderer, before.get((name, qtype)))
                if self._edits.count > 1:
                    yield
            after[name, qtype] = shared
        differences: dict[tuple[int, int], tuple[list[bytes], list[bytes]]] = {}
        for name, qtype in {**before, **after}:
            old, new = before.get((name, qtype)), after.get((name, qtype))
            found = differences.get((id(old), id(new)))
            if found is None:
                gone = yield from self._rests(old, new)
                found = differences[id(old), id(new)] = gone, (yield from self._rests(new, old))
            yield from self._edit_rrset(name, qtype, *found)
        return after

    def _shared_rrsets(self) -> list[tuple[Labels, int, Node, Sequence[Item]]]:
        """The names and types of RRsets with records of several members, with their nodes and items."""
        nodes = [(name, self._node_at(name)) for name in self._zone.shared_names(self._key)]
        return [
            (name, qtype, node, items)
            for name, node in nodes
            if node is not None
            for qtype in MEMBER_NAME_TYPES
            if (items := node.items(qtype))
        ]

    def edit_members(self, labels: Collection[bytes] | None) -> Generator[None, None, None]:
        """Replace the records at the members' names with these labels. None: all, which have none yet."""
        key, services = self._key, self._zone.services
        max_label = min(MAX_LABEL, MAX_NAME - wire_length(key) - 1)
        for number, (label, found) in enumerate(self._member_names(labels), 1):
            if not number % RECORDS_PER_STEP:
                yield
            if len(label) > max_label or label == _ASTERISK:
                continue
            name = (label, *key)
            is_own = found is not None and not found.entry.is_departed and name not in services
            rests = self._rests_of_member(found) if found is not None and is_own else ()
            if self._apex is None:
                self._replace(name, label, rests, is_new=labels is None)
            else:
                owner = bytes((len(label),)) + label + self._suffix
                if labels is not None:
                    self._edits.remove(self._apex, label, owner)
                self._edits.add(self._apex, label, owner, rests)
            if isinstance(self._view, DnsSdServiceView):
                yield from self._edit_instance(self._view, label, is_new=labels is None)

    def _member_names(self, labels: Collection[bytes] | None) -> Iterator[tuple[bytes, MemberName | None]]:
        if labels is not None:
            for label in labels:
                yield label, self._view.name_at(label)
            return
        for entry in list(self._view.present()):
            for label in dict.fromkeys(self._view.labels_of(entry)):
                found = self._view.name_at(label)
                if found is not None and found.entry is entry:  # each name once
                    yield label, found

    def _edit_instance(
        self, view: DnsSdServiceView, label: bytes, *, is_new: bool
    ) -> Generator[None, None, None]:
        """Replace the records at the DNS-SD name of the member with this label."""
        name = view.instance_name(label)
        if wire_length(name) > MAX_NAME:
            return
        node = yield from self._zone.steps.in_pieces(lambda: self._node_at(name))
        rests: list[bytes] = []
        if node is not None:
            query = query_for(name)
            for qtype in MEMBER_NAME_TYPES:
                if items := node.items(qtype):
                    renderer = node.renderer(query, qtype, self._ttl)
                    rests += filter(None, (_rest(renderer, item) for item in items))
        self._replace(name, label, rests, is_new=is_new)

    def _replace(self, name: Labels, label: bytes, rests: Sequence[bytes], *, is_new: bool) -> None:
        """Replace the records at a name."""
        apex = self._zone.apex_of(name)
        if apex is None:
            return
        owner = owner_in_zone(name, apex)
        if not is_new:
            self._edits.remove(apex, label, owner)
        self._edits.add(apex, label, owner, rests)

    def _edit_rrset(
        self, name: Labels, qtype: int, gone: Sequence[bytes], come: Sequence[bytes]
    ) -> Generator[None, None, None]:
        """Remove and add records at a name of several members."""
        apex = self._zone.apex_of(name)
        if apex is None:
            return
        owner, edits = owner_in_zone(name, apex), self._edits
        if qtype == Type.PTR:
            gone, come = ([with_target(rest, name, apex) for rest in rests] for rests in (gone, come))
        for rest in gone:
            edits.remove(apex, rest, owner + rest)
        if edits.count == 1:
            edits.add(apex, b"", owner, come)
            return
        for chunk in chunks_of(come, RECORDS_PER_STEP):
            for rest in chunk:
                edits.add(apex, rest, owner, (rest,))
            yield

    def _rests(self, of: _Shared | None, without: _Shared | None) -> Generator[None, None, list[bytes]]:
        """The records of the items that only the first RRset has, each without its owner name."""
        if of is None:
            return []
        items = of.ordered if without is None else list(of.items - without.items)
        rests: list[bytes] = []
        for chunk in chunks_of(items, RECORDS_PER_STEP):
            if rests:
                yield
            found = [_rest(of.renderer, item) for item in chunk]
            if isinstance(of.renderer, TextRenderer):
                self._texts.update(zip(chunk, found, strict=True))
            rests += found
        return list(filter(None, rests))

    def _rests_of_member(self, found: MemberName) -> list[bytes]:
        """The records at the name of a member, each without its owner name."""
        if self._last is not None and self._last[0] == found:
            return self._last[1]
        node = self._view.node_of(found)
        rests = []
        for qtype in (Type.A, Type.AAAA, Type.SRV, Type.TXT):
            for item in node.items(qtype):
                rest = self._texts.get(item) or _rest(self._renderer(node, qtype), item)
                if rest:
                    rests.append(rest)
        self._last = found, rests
        return rests

    def _renderer(self, node: Node, qtype: Type) -> Renderer[Any]:
        renderer = self._renderers.get(qtype)
        if renderer is None:
            renderer = self._renderers[qtype] = node.renderer(query_for(self._key), qtype, self._ttl)
        return renderer

    def _node_at(self, name: Labels) -> Node | None:
        """The node at a name. None: it does not belong to this service, or a zone file cannot contain it."""
        found = self._zone.find(name)
        return (
            found.node
            if found.service == self._key and not found.is_unread and _ASTERISK not in name
            else None
        )


def _view_of(zone: Zone, key: Labels) -> ServiceView | None:
    """The names of a service. None: it does not exist, is unread, or a zone file cannot contain it."""
    return zone.view(key) if zone.is_read(key) and _ASTERISK not in key else None


def _share(items: Sequence[Item], renderer: Renderer[Any], before: _Shared | None) -> _Shared:
    """The items that have records."""
    found = frozenset(items)
    new = found if before is None else found - before.items
    if (before is None or before.is_plain) and all(map(_is_plain, new)):
        return _Shared(renderer, tuple(items), found, is_plain=True)
    arranged = run_at_once(arrange_in_steps(items, renderer))
    ordered = *arranged.leading_items, *arranged.held_items
    return _Shared(renderer, ordered, frozenset(ordered), is_plain=False)


def _is_plain(item: Item) -> bool:
    weighting = item.weighting
    return weighting is EQUAL_WEIGHT or (weighting.weight > 0 and not weighting.held)


def _rest(renderer: Renderer[Any], item: Item) -> bytes:
    """The record of an item without its owner name. Empty: it is too long for a message."""
    rest = renderer.render_answer(item)[len(QUESTION_POINTER) :]
    return rest if len(rest) <= MAX_RECORD else b""
