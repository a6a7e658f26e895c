"""The zones: which names exist, their records, and their rotation counters.

`Zone` holds all zones of the server. A service is found by its whole name, independently of zones. The zone
of a name (the longest one if zones are nested) only decides the apex and the SOA of negative responses.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from cachetools import LRUCache

from zkdns.config import Config, Order
from zkdns.dns.dns_sd import DnsSdDomains, DnsSdServiceView
from zkdns.dns.message import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.records import Node
from zkdns.dns.rotation import RotationCounter
from zkdns.dns.rrset import Record, RRset, Weighting, arrange
from zkdns.dns.service_names import PROTOCOLS, ServiceView, has_no_served_member
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, to_wire, wire_length
from zkdns.namespace import ServiceName
from zkdns.table import Table

NAME_SERVER = to_wire((b"localhost",))
"""The target of all NS records. `localhost` needs no address records in the zone."""
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


ANY_SERVICE: Labels = ()
"""The service key of answers that depend on the set of all services instead of a single one."""


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

_NO_RECORDS = RRset()
# Maximum number of members in cached views, at about a kilobyte each. A view is quickly made again, and
# responses are cached separately.
_MAX_CACHED_MEMBERS = 10_000

_NO_SUCH_NAME = ZoneMatch(ANY_SERVICE, None)


class Zone:
    """Looks up names in a table.

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
        self._views: LRUCache[Labels, ServiceView] = LRUCache(_MAX_CACHED_MEMBERS, getsizeof=_size_of)
        self._locations: dict[Labels, _Location] = {}
        self._services_at: Counter[_Location] = Counter()
        self._nonterminals: Counter[Labels] = Counter()
        self._counters: dict[Labels, dict[tuple[Labels, int], RotationCounter]] = {}
        self._dns_sd = DnsSdDomains(lambda key: not self._is_hidden(key)) if config.dns_sd else None
        self.refresh(table.services)

    # -- names ---------------------------------------------------------------------------------------------

    @property
    def apexes(self) -> Sequence[Labels]:
        """The zones' own names, nested ones first."""
        return self._zones

    @property
    def services(self) -> Collection[Labels]:
        """The keys of all services."""
        return self._table.services.keys()

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
        for start in range(len(name)):
            key = name[start:]
            if (service := services.get(key)) is not None:
                key = service.key
                if service.is_unread:
                    return ZoneMatch(key, Node(), is_unread=True)
                node = self.view(key).find(name[:start])
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
        if name in self._permanent_names or name in self._nonterminals:
            return ZoneMatch(absent.service, Node(), depends_on_others=absent is not _NO_SUCH_NAME)
        return absent

    def names_of_service(self, key: Labels) -> Iterator[Labels]:
        """The names of the service with this key, each once.

        Another service may have precedence at some of them. Empty non-terminals between these names and the
        apex are left out.
        """
        service = self._table.services[key]
        if service.is_unread:
            yield key
            return
        own = self._locations[key][0] + 1
        more = (
            (b"_" + key[0], *key[1:own], protocol, *key[own:])
            for protocol in PROTOCOLS
            if len(key[0]) < MAX_LABEL
        )
        view = self.view(key)
        names = ((*prefix, *key) for prefix in view.prefixes())
        yield from (name for name in (*names, *more) if wire_length(name) <= MAX_NAME)
        if isinstance(view, DnsSdServiceView):
            yield from view.instance_names()

    def dns_sd_names(self) -> Iterator[Labels]:
        """The names with records of whole domains (DNS-SD); a service may have precedence at some of them."""
        return self._dns_sd.names() if self._dns_sd is not None else iter(())

    def members_at_address(self, key: Labels, address: str) -> Sequence[tuple[Labels, Weighting]]:
        """The names of the members of a service that have this address without name resolution."""
        return self.view(key).names_by_address.get(address, ())

    def _find_rfc2782(self, name: Labels) -> ZoneMatch | None:
        """The match for a name such as `_web._tcp.staging.discovery`."""
        for before, label in enumerate(name):
            if label not in PROTOCOLS:
                continue
            key = (name[0][1:], *name[1:before], *name[before + 1 :])
            service = self._table.services.get(key)
            if service is not None and not self._is_hidden(key):
                if service.is_unread:
                    return ZoneMatch(key, Node(), is_unread=True)
                node = self.view(key).rfc2782_node(before, label)
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
        if self._table.services[key].is_unread:
            return ZoneMatch(key, Node(), is_unread=True)
        view = self.view(key)
        return ZoneMatch(key, view.instance(name[0]) if isinstance(view, DnsSdServiceView) else None)

    def view(self, key: Labels) -> ServiceView:
        """The names of the service with this key, which must exist."""
        view: ServiceView | None = self._views.get(key)
        if view is None:
            may_be_shadowed = key in self._nonterminals
            kind = DnsSdServiceView if self._config.dns_sd else ServiceView
            view = self._views[key] = kind(
                self._table.services[key], self._table, self._config, may_be_shadowed=may_be_shadowed
            )
        return view

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
            return arrange((Record(pack_record(QUESTION_POINTER, Type.NS, self._config.ttl, NAME_SERVER)),))
        if found.node is not None:
            for qtype in _TYPES_FOR_ANY if query.qtype == Type.ANY else (query.qtype,):
                records = found.node.records(query, qtype, self.policy_of(found.service).ttl)
                if records:
                    return records
        return _NO_RECORDS

    def soa(self, query: Query, apex: Labels) -> bytes:
        """The zone's SOA record, for the answer or the authority section of a response to this query.

        Its TTL is its MINIMUM, the time for which negative responses may be cached (RFC 2308 §4).
        """
        zone = query.pointer_to(len(apex))
        data = b"".join((NAME_SERVER, _RNAME, zone, self.serial(), self._soa_times))
        return pack_record(zone, Type.SOA, self._config.negative_ttl, data)

    # -- rotation ------------------------------------------------------------------------------------------

    def rotation_counter(self, service: Labels, query: Query, period: int) -> RotationCounter:
        """The rotation counter of this question, shared by all forms of the query.

        If the records change, the counter continues at its index. It starts at a random index, so that many
        hosts that start together do not all prefer the same member.
        """
        counters = self._counters.setdefault(service, {})
        # Without the name of the service, so that thousands of services can share equal keys in memory.
        own = len(query.name) - len(service)
        question = query.name[:own] if query.name[own:] == service else query.name, query.qtype
        known = counters.get(question)
        if known is None or known.period != period:
            first = self._rng.randrange(period) if known is None else next(known) % period
            known = counters[question] = RotationCounter(first, period)
        return known

    def shuffled(self, records: RRset) -> Iterator[Sequence[Record]]:
        """The records in random order, endlessly."""
        while True:
            yield records.shuffled(self._rng)

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
        for key in keys:
            changed.add(key)
            self._views.pop(key, None)
            service = services.get(key)
            location = _location_of(key, service.first.name) if service else None
            known = self._locations.get(key)
            if location == known:
                continue
            changed |= self._affected_by(key)
            # The labels of members of the services above may become free or taken.
            for start in range(1, len(key)):
                self._views.pop(key[start:], None)
            if known is not None:
                self._remove_location(key, known)
            if location is not None:
                self._add_location(key, location)
            else:
                self.reset_rotation(key)
        if changed and self._config.empty == "nxdomain":  # members may decide whether names exist
            changed.add(ANY_SERVICE)
        return changed

    def _affected_by(self, key: Labels) -> set[Labels]:
        """The services (and `ANY_SERVICE`) that may gain or lose a name when this service comes or goes."""
        # It may look like an RFC 2782 name of another service.
        if any(label.startswith(b"_") for label in key):
            return {ANY_SERVICE, *self._locations}
        return {
            ANY_SERVICE,
            *(above for start in range(1, len(key)) if (above := key[start:]) in self._locations),
        }

    def _add_location(self, key: Labels, location: _Location) -> None:
        self._locations[key] = location
        self._count_service(location, +1)
        if self._dns_sd is not None and not location[0]:
            self._dns_sd.add(key)

    def _remove_location(self, key: Labels, location: _Location) -> None:
        del self._locations[key]
        self._count_service(location, -1)
        if self._dns_sd is not None and self._dns_sd.remove(key):
            self.reset_rotation(ANY_SERVICE)  # counters of former domains would take unlimited memory

    def reset_rotation(self, key: Labels) -> None:
        """Forget the rotation counters of this key; new ones start at a random index."""
        self._counters.pop(key, None)

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


def _size_of(view: ServiceView) -> int:
    return min(view.size, _MAX_CACHED_MEMBERS)


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


def _location_of(key: Labels, name: ServiceName) -> _Location:
    return name.service.count("."), len(name.zone), key[1:]


def _nonterminals_of(location: _Location) -> Iterator[Labels]:
    """The empty non-terminals of a service: all names between its own names and the zone's apex.

    Its own names are `web.staging` and `_web._tcp.staging` (RFC 2782).
    """
    more, zone, path = location
    for above in (path, *((*path[:more], protocol, *path[more:]) for protocol in PROTOCOLS)):
        yield from (above[start:] for start in range(len(above) - zone))
