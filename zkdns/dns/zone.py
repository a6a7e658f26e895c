"""The zones: which names exist, their records, and their rotation counters.

`Zone` holds all zones of the server. A service is found by its whole name, independently of zones. The zone
of a name (the longest one if zones are nested) only decides the apex and the SOA of negative responses.
"""

from __future__ import annotations

import functools
import itertools
import random
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Sequence
from typing import TypeAlias

import msgspec
from cachetools import LRUCache

from zkdns.config import Config, Order
from zkdns.digest import DIGEST_LABEL
from zkdns.dns.digest_node import digest_node
from zkdns.dns.dns_sd import DnsSdDomains, DnsSdServiceView
from zkdns.dns.member_records import (
    EndpointNames,
    NamedMember,
    OwnAddresses,
    Shards,
    SharedRecords,
    Uses,
)
from zkdns.dns.message import MIN_RECORD, QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.ordered import Ordered
from zkdns.dns.overlaps import names_above_services, rfc2782_names, rivals, services_of_name
from zkdns.dns.records import Node
from zkdns.dns.reduced_service import ReducedServices
from zkdns.dns.rotation import RotationCounter
from zkdns.dns.rrset import NO_RECORDS, Record, Renderer, RRset, arrange
from zkdns.dns.service_names import PROTOCOLS, KnownSet, ServiceView, has_no_served_member
from zkdns.dns.steps import CHUNK, MEMBER, Run, StepRunner, Steps, chunks_of, run_at_once
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, to_wire, wire_length
from zkdns.namespace import ServiceName
from zkdns.table import ANY_SERVICE, MemberSet, Service, Table

NAME_SERVER_NAME: Labels = (b"localhost",)
"""The target of all NS records. `localhost` needs no address records in the zone."""
_NAME_SERVER = to_wire(NAME_SERVER_NAME)
_RNAME = b"\x0ahostmaster"  # RFC 1035 §3.3.13; followed by the zone's name
_SOA_TIMES = struct.Struct("!4I")
SOA_BYTES_AFTER_SERIAL = _SOA_TIMES.size
"""Bytes of an SOA record after its serial."""
_REFRESH, _RETRY, _EXPIRE = 60, 10, 86400  # seconds; only secondary servers use them

# A query for ANY gets the first of these types that has records (RFC 8482 §4.1).
_TYPES_FOR_ANY = (Type.A, Type.AAAA, Type.SRV, Type.TXT, Type.PTR)


class Policy(msgspec.Struct, frozen=True):
    """Answer policy of one service."""

    ttl: int
    order: Order
    max_answers: int | None


class ZoneMatch(msgspec.Struct, frozen=True):
    """The result of a lookup; `node` is None if the name does not exist.

    `service` is the key of the service that the name belongs to; the match is valid until that service
    changes. It is `ANY_SERVICE` if the name belongs to no service.
    """

    service: Labels
    node: Node | None
    is_unread: bool = False
    """Whether the service exists but could not be read."""
    depends_on_others: bool = False
    """Whether changes of services other than `service` may change the node too."""


# The key without its first label, and how it is divided: the number of labels that belong to the service's
# own name, the number of labels of the zone, and the labels themselves. Services with the same location
# (usually thousands: all of an environment) have the same empty non-terminals, so that these are counted once
# per location.
_Location: TypeAlias = tuple[int, int, Labels]

# Maximum number of members in cached views, at one to two kilobytes each (measured; it depends on the types
# that are queried). The view of a small service is quickly made again, and responses are cached separately.
_MAX_CACHED_MEMBERS = 10_000
# The same for large services, whose views are made again in 10 ms for each thousand members.
_LARGE_SERVICE = 500
_MAX_CACHED_IN_LARGE_SERVICES = 50_000

# The types whose RRsets may have a rotation counter.
_ROTATING_TYPES = (Type.A, Type.AAAA, Type.SRV, Type.TXT, Type.PTR, Type.ANY)

# The objects of a view, and of the service, that may have as many parts as the service has members.
_VIEW_CONTAINERS = (
    ServiceView,
    KnownSet,
    MemberSet,
    EndpointNames,
    OwnAddresses,
    SharedRecords,
    Shards,
    Uses,
    Ordered,
    Node,
    Renderer,
)

_NO_SUCH_NAME = ZoneMatch(ANY_SERVICE, None)


class Zone:
    """Looks up names in a table.

    Attributes:
        steps: runs the work on views, at once unless it has a deferral.
        moves: number of calls of `refresh` in which services have come or gone.

    Args:
        table: services and members; `refresh` must be called after each change.
        config: the zones' names, and answer policies.
        rng: source of random numbers for the first index of rotations and for the order `random`.
    """

    def __init__(self, table: Table, config: Config, rng: random.Random | None = None) -> None:
        self._table = table
        self._config = config
        self._rng = rng or random.Random()
        self._zones = sorted(config.zones, key=len, reverse=True)
        self._soa_times = _SOA_TIMES.pack(_REFRESH, _RETRY, _EXPIRE, config.negative_ttl)
        # Apexes and all names above them, which must exist if they are within another, outer zone.
        self._permanent_names = frozenset(zone[start:] for zone in self._zones for start in range(len(zone)))
        self._default = Policy(config.ttl, config.order, config.max_answers)
        # `max_answers` limits members, and names of no service have none.
        self._policies = {
            ANY_SERVICE: Policy(config.ttl, config.order, None),
            **dict(_service_policies(config)),
        }
        self._reduced = ReducedServices(config)
        self.steps = StepRunner()
        self.steps.containers = _VIEW_CONTAINERS
        self._small_views: LRUCache[Labels, ServiceView] = LRUCache(_MAX_CACHED_MEMBERS, _size_of)
        self._large_views = _LargeViews(self.steps.release)
        self._changed: set[Labels] = set()
        self.moves = 0
        self._locations: dict[Labels, _Location] = {}
        self._services_at: Counter[_Location] = Counter()
        # Keys by name in wire format, without the root label: the services in a zone.
        self._wire_keys: dict[bytes, Labels] = {}
        self._nonterminals: Counter[Labels] = Counter()
        # The numbers of labels of all keys, the greatest first; usually one or two.
        self._key_lengths: Sequence[int] = ()
        self._services_by_length: Counter[int] = Counter()
        self._counters: dict[Labels, dict[tuple[Labels, int], RotationCounter]] = {}
        self._dns_sd = DnsSdDomains() if config.dns_sd else None
        self.refresh(table.services)

    # -- names ---------------------------------------------------------------------------------------------

    @property
    def apexes(self) -> Sequence[Labels]:
        """The zones' own names, nested ones first."""
        return self._zones

    @property
    def services(self) -> KeysView[Labels]:
        """The keys of all services."""
        return self._table.services.keys()

    def is_read(self, key: Labels) -> bool:
        """Whether the service with this key exists, and its members are known."""
        service = self._table.services.get(key)
        return service is not None and not service.is_unread

    @property
    def hides_empty_services(self) -> bool:
        """Whether a service without served members has no name (`empty = "nxdomain"`)."""
        return self._config.empty == "nxdomain"

    def apex_of(self, name: Labels) -> Labels | None:
        """The zone of a name (in lower case), the longest one if zones are nested; None: out of zone."""
        for zone in self._zones:
            if name[-len(zone) :] == zone:
                return zone
        return None

    def apex_for(self, query: Query) -> Labels | None:
        """The zone that answers a query; None if it is out of zone.

        DS records of a nested zone belong to the parent zone (RFC 4035 §3.1.4.1).
        """
        if query.qtype == Type.DS and query.name in self._zones:
            above = self.apex_of(query.name[1:])
            if above is not None:
                return above
        return self.apex_of(query.name)

    def find(self, name: Labels) -> ZoneMatch:
        """The match for a name in a zone.

        A service's name may have dots. If a name could belong to several services, the longest one wins.
        """
        services = self._table.services
        absent = _NO_SUCH_NAME
        # Only suffixes as long as a key, since a client may send a name of more than a hundred labels.
        for length in self._key_lengths:
            start = len(name) - length
            if start >= 0 and (service := services.get(name[start:])) is not None:
                key = service.key
                if service.is_unread:
                    return ZoneMatch(key, Node(), is_unread=True)
                view = (self._reduced_view(service, name[:start]) if start else None) or self.view(key)
                node = view.find(name[:start])
                if node is not None and not (start == 0 and self._is_hidden(key)):
                    return ZoneMatch(key, node)
                absent = ZoneMatch(key, None)
                break
        found = self._find_rfc2782(name) if name[0].startswith(b"_") else None
        if found is None and self._dns_sd is not None:
            found = self._find_dns_sd(name, self._dns_sd)
        if found is not None and found.node is not None:
            if absent is _NO_SUCH_NAME:
                return found
            return msgspec.structs.replace(found, depends_on_others=True)
        absent = found or absent
        if name[0] == DIGEST_LABEL and name[1:] in self._zones:
            node = digest_node(self._table.need_digests(self._config), name[1:], self.steps)
        elif name in self._permanent_names or name in self._nonterminals:
            node = Node()
        else:
            return absent
        depends_on_others = absent is not _NO_SUCH_NAME or name[0] == DIGEST_LABEL
        return ZoneMatch(absent.service, node, depends_on_others=depends_on_others)

    def find_member(self, name: bytes) -> tuple[Labels, bytes, Node] | None:
        """The service of a name directly below it, the name's first label, and the node.

        This is a short way for names of members. `find` decides about all other names.

        Args:
            name: the name in wire format without the root label. It need not be valid, or in lower case.

        Returns:
            None: the service does not have this name, or is not the one with the longest key, or is unread.
        """
        below = 1 + name[0] if name else 0
        key = self._wire_keys.get(name[below:])
        if key is None or name in self._wire_keys:
            return None
        service, label = self._table.services.get(key), name[1:below]
        if service is None or service.is_unread or label != label.lower():
            return None
        view = self._reduced_view(service, (label,)) or self.view(key)
        node = view.find((label,))
        return None if node is None else (key, label, node)

    def names_of_service(self, key: Labels) -> Iterator[Labels]:
        """The names of the service with this key, each once.

        Another service may have precedence at some of them. Empty non-terminals between these names and the
        apex are left out.
        """
        service = self._table.services[key]
        if service.is_unread:
            yield key
            return
        view = self.view(key)
        yield from self._with_rfc2782_names(service, view.prefixes())
        if isinstance(view, DnsSdServiceView):
            yield from view.instance_names()

    def shared_names(self, key: Labels) -> Iterator[Labels]:
        """The names of `names_of_service` at which several members may have records."""
        yield from self._with_rfc2782_names(self._table.services[key], self.view(key).shared_prefixes())

    def _with_rfc2782_names(self, service: Service, prefixes: Iterable[Labels]) -> Iterator[Labels]:
        key = service.key
        more = rfc2782_names(key, _own_labels(service)) if len(key[0]) < MAX_LABEL else ()
        names = ((*prefix, *key) for prefix in prefixes)
        yield from (name for name in (*names, *more) if wire_length(name) <= MAX_NAME)

    def dns_sd_names(self) -> Iterator[Labels]:
        """The names with records of whole domains (DNS-SD); a service may have precedence at some of them."""
        return self._dns_sd.names() if self._dns_sd is not None else iter(())

    def members_at_address(self, key: Labels, address: str) -> Sequence[NamedMember]:
        """The members of a service that have this address without name resolution."""
        return self.view(key).members_at(address)

    def _find_rfc2782(self, name: Labels) -> ZoneMatch | None:
        """The match for a name such as `_web._tcp.staging.discovery`."""
        if len(name) - 1 not in self._key_lengths:  # without the protocol
            return None
        for before in range(1, len(name)):
            if name[before] not in PROTOCOLS:
                continue
            key = (name[0][1:], *name[1:before], *name[before + 1 :])
            service = self._table.services.get(key)
            if service is None or _own_labels(service) != before or self._is_hidden(key):
                continue
            if service.is_unread:
                return ZoneMatch(key, Node(), is_unread=True)
            node = self.view(key).rfc2782_node(before, name[before])
            if node is not None:
                return ZoneMatch(key, node)
        return None

    def _find_dns_sd(self, name: Labels, dns_sd: DnsSdDomains) -> ZoneMatch | None:
        """The match for a name of DNS-SD."""
        node = dns_sd.find(name)
        if node is not None:
            return ZoneMatch(ANY_SERVICE, node)
        key = dns_sd.service_of(name)
        if key is None:
            return None
        service = self._table.services[key]
        if service.is_unread:
            return ZoneMatch(key, Node(), is_unread=True)
        view = self._reduced_view(service, name[:1]) or self.view(key)
        return ZoneMatch(key, view.instance(name[0]) if isinstance(view, DnsSdServiceView) else None)

    def view(self, key: Labels) -> ServiceView:
        """The names of the service with this key, which must exist.

        Raises:
            UnfinishedError: this takes a longer time, and `steps` has a deferral.
        """
        self.steps.check(key)
        if key in self.steps.failed:  # an internal error: the names may be incomplete
            self._drop_view(key)
        view = self._cached_view(key)
        if view is not None and key not in self._changed:
            return view
        self._changed.discard(key)
        self.steps.run(key, self._make_view(key, view))
        made = self._cached_view(key)
        assert made is not None  # noqa: S101 - the last step has stored it
        return made

    def _make_view(self, key: Labels, view: ServiceView | None) -> Steps:
        """Update the view of a service, or create a new one."""
        service = self._table.services[key]
        is_new = view is None or not (yield from view.update(service))
        if is_new or view is None:
            view = self._new_view(service, functools.partial(self.steps.run, key))
            yield from view.update(service)
        self._drop_view(key, unless=view)
        self._keep_view(key, view)  # with its new size
        if is_new:
            yield from self._drop_counters_of_absent_names(key)
        else:
            yield from self._drop_ended_counters(key, view)

    def _new_view(self, service: Service, run: Run) -> ServiceView:
        kind = DnsSdServiceView if self._config.dns_sd else ServiceView
        may_be_shadowed = service.key in self._nonterminals
        return kind(service, self._table, self._config, run, may_be_shadowed=may_be_shadowed)

    def _reduced_view(self, service: Service, prefix: Labels) -> ServiceView | None:
        """A view to find one name, if that of its service would displace other views.

        Args:
            service: the service.
            prefix: the labels of the name before the service's own name, or the first label of an instance
                of DNS-SD.
        """
        if self._cached_view(service.key) is not None:
            return None
        size = 1 + sum(len(member_set.members) for member_set in service.sets.values())
        views = self._small_views if size < _LARGE_SERVICE else self._large_views
        if views.currsize + size <= views.maxsize:
            return None
        reduced = self._reduced.reduce(service, prefix)
        if reduced is None:
            return None
        view = self._new_view(reduced, run_at_once)
        run_at_once(view.update(reduced))
        return view

    def _cached_view(self, key: Labels) -> ServiceView | None:
        view: ServiceView | None = self._small_views.get(key) or self._large_views.get(key)
        return view

    def _keep_view(self, key: Labels, view: ServiceView) -> None:
        views = self._small_views if view.size < _LARGE_SERVICE else self._large_views
        views[key] = view

    def _drop_view(self, key: Labels, *, unless: ServiceView | None = None) -> None:
        self._small_views.pop(key, None)
        view = self._large_views.pop(key, None)
        if view is not None and view is not unless:
            self.steps.release(view)

    def _is_hidden(self, key: Labels) -> bool:
        """Whether the service has no served members, and `empty = "nxdomain"` hides its name."""
        if self._config.empty != "nxdomain":
            return False
        service = self._table.services[key]
        return not service.is_unread and has_no_served_member(service, self._config.statuses)

    # -- records -------------------------------------------------------------------------------------------

    def policy_of(self, service: Labels) -> Policy:
        """The answer policy of the service with this key."""
        return self._policies.get(service, self._default)

    def records(self, found: ZoneMatch, query: Query) -> RRset:
        """The records at a node that answer the query, except the zone's SOA (`soa`); none: NODATA."""
        if query.qtype == Type.NS and query.name in self._zones:
            return arrange((Record(pack_record(QUESTION_POINTER, Type.NS, self._config.ttl, _NAME_SERVER)),))
        if found.node is not None:
            for qtype in _TYPES_FOR_ANY if query.qtype == Type.ANY else (query.qtype,):
                records = found.node.records(query, qtype, self.policy_of(found.service).ttl)
                if records:
                    return records
        return NO_RECORDS

    def single_record(
        self, service: Labels, node: Node, query: Query
    ) -> tuple[bytes, tuple[bytes, ...]] | None:
        """The record at a service's node that answers the query, with its additional records.

        None: there is not exactly one; use `records`.
        """
        items = node.items(query.qtype)
        if len(items) != 1:
            return None
        renderer = node.renderer(query, query.qtype, self.policy_of(service).ttl)
        return renderer.render_answer(items[0]), renderer.render_additional(items[0])

    def soa(self, query: Query, apex: Labels) -> bytes:
        """The zone's SOA record, for the answer or the authority section of a response to this query.

        Its TTL is its MINIMUM, the time for which negative responses may be cached (RFC 2308 §4).
        """
        zone = query.pointer_to(len(apex))
        data = b"".join((_NAME_SERVER, _RNAME, zone, self.serial(), self._soa_times))
        return pack_record(zone, Type.SOA, self._config.negative_ttl, data)

    # -- rotation ------------------------------------------------------------------------------------------

    def rotation_counter(self, service: Labels, query: Query, period: int) -> RotationCounter:
        """The rotation counter of this question, shared by all forms of the query.

        If the records change, the counter continues at its index. It starts at a random index, so that many
        hosts that start together do not all prefer the same member.
        """
        if period == 1:  # most names of members have one record; counters of all of them would take memory
            return RotationCounter(0, 1)
        counters = self._counters.setdefault(service, {})
        # Without the name of the service, so that thousands of services can share equal keys in memory.
        own = len(query.name) - len(service)
        question = query.name[:own] if query.name[own:] == service else query.name, query.qtype
        known = counters.get(question)
        if known is None or known.period != period:
            first = self._rng.randrange(period) if known is None else next(known) % period
            known = counters[question] = RotationCounter(first, period)
        return known

    def _drop_ended_counters(self, key: Labels, view: ServiceView) -> Steps:
        """Forget the rotation counters of names that have ended."""
        ended = view.take_ended()
        counters = self._counters.get(key, {})
        while chunk := list(itertools.islice(ended, CHUNK)):
            for prefix in chunk if counters else ():
                names = [prefix]
                if isinstance(view, DnsSdServiceView) and len(prefix) == 1:
                    names.append(view.instance_name(prefix[0]))
                for name in names:
                    for qtype in _ROTATING_TYPES:
                        if (name, qtype) in counters and view.find(prefix) is None:
                            del counters[name, qtype]
            yield len(chunk) * MEMBER

    def _drop_counters_of_absent_names(self, key: Labels) -> Steps:
        """Forget the rotation counters of names that have ended while the service had no view."""
        counters = self._counters.get(key, {})
        for chunk in chunks_of(list(counters)):
            for question in chunk:
                prefix, _ = question
                # As in `rotation_counter`, the service's name is left out if the name ends with it.
                found = (self.find(name) for name in ((*prefix, *key), prefix) if name)
                if not any(match.node is not None and match.service == key for match in found):
                    counters.pop(question, None)
            yield len(chunk) * MEMBER

    def shuffled(self, records: RRset, max_message: int) -> Iterator[Sequence[Record]]:
        """The records in random order, endlessly: at least as many as fit into a message of this size."""
        while True:
            yield records.shuffled(self._rng, max_message // MIN_RECORD + 1)

    def serial(self) -> bytes:
        """The present serial of the SOA record."""
        return self._table.serial.to_bytes(4)

    # -- changes -------------------------------------------------------------------------------------------

    def refresh(self, keys: Iterable[Labels]) -> set[Labels]:
        """Update after the services with these keys have changed; rotation counters continue.

        Returns:
            the services (and `ANY_SERVICE`) with answers that may have changed.
        """
        services = self._table.services
        changed: set[Labels] = set()
        moved: set[Labels] = set()
        others: set[Labels] = set()
        for key in keys:
            changed.add(key)
            self._reduced.forget(key)
            service = services.get(key)
            if service is None or service.is_unread:
                self._drop_view(key)
                self.steps.cancel(key)
            if self._cached_view(key) is not None or self.steps.is_unfinished(key):
                self._changed.add(key)
            else:
                self._changed.discard(key)
            if self._dns_sd is not None and key in self._locations and service is not None:
                self._dns_sd.set_listed(key, is_listed=not self._is_hidden(key))
            location = _location_of(key, service.first.name) if service else None
            known = self._locations.get(key)
            if location != known:
                moved.add(key)
                self._move(key, known, location)
            elif not self.hides_empty_services:  # otherwise its members decide whether it has its names
                continue
            others.update(*(rivals(key, each[0] + 1) for each in (known, location) if each is not None))
        if moved:
            self.moves += 1
            for key in moved:
                others.update(key[start:] for start in range(1, len(key)))
                others.update(services_of_name(key))
            changed |= self._services_below(moved)
            changed.add(ANY_SERVICE)
        changed |= self._locations.keys() & others
        if changed and self.hides_empty_services:  # members may decide whether names exist
            changed.add(ANY_SERVICE)
        return changed

    def _move(self, key: Labels, before: _Location | None, after: _Location | None) -> None:
        """Update after a service has come (`before` is None) or gone (`after` is None)."""
        # The label of a member of the service above may become free or taken.
        above = self._cached_view(key[1:])
        if self.steps.is_unfinished(key[1:]) or (above is not None and not above.shadow(key[0])):
            self._drop_view(key[1:])
            self.steps.cancel(key[1:])
        if before is not None:
            self._remove_location(key, before)
        if after is not None:
            self._add_location(key, after)
        else:
            self.reset_rotation(key)

    def _services_below(self, moved: Collection[Labels]) -> set[Labels]:
        """The keys of all services below the names that these keys may give them when they come or go."""
        above = {name for key in moved for name in names_above_services(key)}
        # A key may also be above the environment of other services, if namespaces differ in their depth.
        scopes = self._nonterminals.keys() & moved
        locations = {each for each in self._services_at if _is_below(each, above, scopes)}
        if not locations:
            return set()
        if len(locations) == len(self._services_at):
            return set(self._locations)  # takes the hashes over, which is ten times as fast
        return {key for key, each in self._locations.items() if each in locations}

    def _add_location(self, key: Labels, location: _Location) -> None:
        self._locations[key] = location
        if self.apex_of(key) is not None:
            self._wire_keys[to_wire(key)[:-1]] = key
        self._count_service(location, +1)
        self._count_length(len(key), +1)
        if self._dns_sd is not None and not location[0]:
            self._dns_sd.add(key)
            self._dns_sd.set_listed(key, is_listed=not self._is_hidden(key))

    def _remove_location(self, key: Labels, location: _Location) -> None:
        del self._locations[key]
        self._wire_keys.pop(to_wire(key)[:-1], None)
        self._count_service(location, -1)
        self._count_length(len(key), -1)
        if self._dns_sd is not None and self._dns_sd.remove(key):
            self.reset_rotation(ANY_SERVICE)  # counters of former domains would take unlimited memory

    def reset_rotation(self, key: Labels) -> None:
        """Forget the rotation counters of this key; new ones start at a random index."""
        self._counters.pop(key, None)

    def _count_length(self, length: int, step: int) -> None:
        self._services_by_length[length] += step
        if not self._services_by_length[length]:
            del self._services_by_length[length]
        if len(self._services_by_length) != len(self._key_lengths):
            self._key_lengths = sorted(self._services_by_length, reverse=True)

    def _count_service(self, location: _Location, step: int) -> None:
        """Add to the number of services at a location.

        The first service creates the names above it, the last one removes them.
        """
        before = self._services_at[location]
        self._services_at[location] += step
        if before and self._services_at[location]:
            return
        if not self._services_at[location]:
            del self._services_at[location]
        for name in _nonterminals_of(location):
            self._nonterminals[name] += step
            if not self._nonterminals[name]:
                del self._nonterminals[name]


class _LargeViews(LRUCache[Labels, ServiceView]):
    """Cached views of large services.

    Args:
        release: frees a view that is evicted.
    """

    def __init__(self, release: Callable[[ServiceView], None]) -> None:
        super().__init__(_MAX_CACHED_IN_LARGE_SERVICES, _size_of_large)
        self._release = release

    def popitem(self) -> tuple[Labels, ServiceView]:
        """Evict the view that was used least recently."""
        key, view = super().popitem()
        self._release(view)
        return key, view


def _size_of(view: ServiceView) -> int:
    return view.size


def _size_of_large(view: ServiceView) -> int:
    return min(view.size, _MAX_CACHED_IN_LARGE_SERVICES)


def _service_policies(config: Config) -> Iterator[tuple[Labels, Policy]]:
    for name, own in config.service.items():
        yield (
            tuple(name.encode().split(b".")),
            Policy(
                config.ttl if own.ttl is None else own.ttl,
                own.order or config.order,
                own.max_answers or config.max_answers,
            ),
        )


def _own_labels(service: Service) -> int:
    """The number of labels of a service's own name."""
    return service.first.name.service.count(".") + 1


def _is_below(location: _Location, names: Collection[Labels], scopes: Collection[Labels]) -> bool:
    """Whether the services at a location are below one of these names, or in or below one of these scopes."""
    more, _, path = location
    return any(path[start:] in names for start in range(len(path))) or any(
        path[start:] in scopes for start in range(more, len(path))
    )


def _location_of(key: Labels, name: ServiceName) -> _Location:
    return name.service.count("."), len(name.zone), key[1:]


def _nonterminals_of(location: _Location) -> Iterator[Labels]:
    """The empty non-terminals of a service: all names between its own names and the zone's apex.

    Its own names are `web.staging` and `_web._tcp.staging` (RFC 2782).
    """
    more, zone, path = location
    for above in (path, *((*path[:more], protocol, *path[more:]) for protocol in PROTOCOLS)):
        yield from (above[start:] for start in range(len(above) - zone))
