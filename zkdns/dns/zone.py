"""The zones: which names exist, what stands at them, and in whose turn's order it is told.

Services are found by their whole names, so it makes no difference to an answer which zone a name lies in. Of
zones inside one another the longest has the name: the apex is its own, and so is the SOA of what is absent.
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
"""This machine's own name for itself, which needs no address in the zone."""
_RESPONSIBLE = b"\x0ahostmaster"  # before the zone's name
_SOA_TIMES = struct.Struct("!4I")
SOA_BYTES_AFTER_SERIAL = _SOA_TIMES.size
"""How many bytes an SOA record has behind its serial."""
_REFRESH, _RETRY, _EXPIRE = 60, 10, 86400  # seconds; only secondaries would look at them

# What ANY is answered with is the first of these that there is (RFC 8482 §4.1).
_TYPES_FOR_ANY = (Type.A, Type.AAAA, Type.SRV, Type.TXT, Type.PTR)


class Policy(msgspec.Struct, frozen=True):
    """How one service is answered."""

    ttl: int
    order: Order
    max_answers: int | None


ANY_SERVICE: Labels = ()
"""What stands for all services where an answer depends on which of them there are, and on none by itself."""


class ZoneMatch(msgspec.Struct, frozen=True):
    """What stands at a name; `node` is None where there is no such name.

    `service` is the key of the service that the name belongs to, whose changes may bring it another node;
    `ABOVE` where it belongs to none.
    """

    service: Labels
    node: Node | None
    is_unread: bool = False
    """Whether nothing is known of the service but that it exists."""
    depends_on_others: bool = False
    """Whether another service's changes may bring the name another node as well."""


# Where a service's first label stands: how many more labels its name has, how many its zone, and the labels
# behind the first one. Thousands of services may have one place, and with it the same names above them.
_Location: TypeAlias = tuple[int, int, Labels]

_NO_RECORDS = RRset()
# Of so many members what is known besides the table is kept: it takes about a kilobyte for each, and is soon
# made again. What has been answered is remembered elsewhere.
_MAX_CACHED_MEMBERS = 10_000

_NO_NAME = ZoneMatch(ANY_SERVICE, None)


class Zone:
    """Looks names up in a table.

    Args:
        table: services and members; after each change of it `refresh` must be called.
        config: the zones' names, and how they are answered.
        rng: where turns begin, and what the order `random` is drawn from.
    """

    def __init__(self, table: Table, config: Config, rng: random.Random | None = None) -> None:
        self._table = table
        self._config = config
        self._rng = rng or random.Random()
        self._zones = sorted(config.zones, key=len, reverse=True)
        # Zones and what lies above them: where one zone lies in another, the names between must exist.
        self._soa_times = _SOA_TIMES.pack(_REFRESH, _RETRY, _EXPIRE, config.negative_ttl)
        self._permanent_names = frozenset(zone[start:] for zone in self._zones for start in range(len(zone)))
        self._default = Policy(config.ttl, config.order, config.max_answers)
        # What is of no service has no members, which are what is limited.
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
        """The zones' own names, those that lie in others before them."""
        return self._zones

    @property
    def services(self) -> Collection[Labels]:
        """The keys of all services."""
        return self._table.services.keys()

    def apex_of(self, name: Labels) -> Labels | None:
        """The zone of a name (in lower case), of several the longest; None where it is in none."""
        for zone in self._zones:
            if name[-len(zone) :] == zone:
                return zone
        return None

    def apex_for(self, query: Query) -> Labels | None:
        """The zone that answers a query; None: it is outside all of them.

        DS records are the upper zone's where one lies in another (RFC 4035 §3.1.4.1).
        """
        if query.qtype == Type.DS and query.name in self._zones:
            above = self.apex_of(query.name[1:])
            if above is not None:
                return above
        return self.apex_of(query.name)

    def find(self, name: Labels) -> ZoneMatch:
        """What stands at a name of a zone.

        A service's name may hold dots, so of several services that a name could belong to the longest wins.
        """
        services = self._table.services
        absent = _NO_NAME
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
            return found if absent is _NO_NAME else msgspec.structs.replace(found, depends_on_others=True)
        absent = found or absent
        if name in self._permanent_names or name in self._nonterminals:
            return ZoneMatch(absent.service, Node(), depends_on_others=absent is not _NO_NAME)
        return absent

    def names_of_service(self, key: Labels) -> Iterator[Labels]:
        """The names that the service with that key brings, each once; some of them may be another's.

        Those that only lie between them and a zone's apex are left out (empty non-terminals).
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
        """The names that have records and are no service's, but for the zones' own; some may be one's."""
        return self._dns_sd.names() if self._dns_sd is not None else iter(())

    def members_at_address(self, key: Labels, address: str) -> Sequence[tuple[Labels, Weighting]]:
        """The names of the members of a service that have that address, without being resolved."""
        return self.view(key).names_by_address.get(address, ())

    def _find_rfc2782(self, name: Labels) -> ZoneMatch | None:
        """The service of `_web._tcp.staging.discovery`, if it is one's name."""
        for before, label in enumerate(name):
            if label not in PROTOCOLS:
                continue
            key = (name[0][1:], *name[1:before], *name[before + 1 :])
            service = self._table.services.get(key)
            if service is not None and not self._is_hidden(key):
                if service.is_unread:
                    return ZoneMatch(key, Node(), is_unread=True)
                node = self.view(key).rfc2782(before, label)
                if node is not None:
                    return ZoneMatch(key, node)
        return None

    def _find_dns_sd(self, name: Labels, dns_sd: DnsSdDomains) -> ZoneMatch | None:
        """What stands at a name by which services and their members are found out, if it is one."""
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
        """The names of the service with that key, which there must be, as they are now."""
        view: ServiceView | None = self._views.get(key)
        if view is None:
            may_be_shadowed = key in self._nonterminals
            kind = DnsSdServiceView if self._config.dns_sd else ServiceView
            view = self._views[key] = kind(
                self._table.services[key], self._table, self._config, may_be_shadowed=may_be_shadowed
            )
        return view

    def _is_hidden(self, key: Labels) -> bool:
        """Whether the service has no members, and a setting says that it then has no name either."""
        if self._config.empty != "nxdomain":
            return False
        service = self._table.services[key]
        return not service.is_unread and has_no_served_member(service, self._config.statuses)

    # -- records -------------------------------------------------------------------------------------------

    def policy_of(self, service: Labels) -> Policy:
        """How the service with that key is answered."""
        return self._policies.get(service, self._default)

    def records(self, found: ZoneMatch, query: Query) -> RRset:
        """The records at a node that answer the query, but for a zone's SOA (`soa`); none: NODATA."""
        if query.qtype == Type.NS and query.name in self._zones:
            return arrange((Record(pack_record(QUESTION_POINTER, Type.NS, self._config.ttl, NAME_SERVER)),))
        if found.node is not None:
            for qtype in _TYPES_FOR_ANY if query.qtype == Type.ANY else (query.qtype,):
                records = found.node.records(query, qtype, self.policy_of(found.service).ttl)
                if records:
                    return records
        return _NO_RECORDS

    def soa(self, query: Query, apex: Labels) -> bytes:
        """The SOA record of that zone, as a section of an answer to this query carries it.

        Its TTL is its MINIMUM, which is how long the absence of something may be kept (RFC 2308 §4).
        """
        zone = query.pointer_to(len(apex))
        data = b"".join((NAME_SERVER, _RESPONSIBLE, zone, self.serial(), self._soa_times))
        return pack_record(zone, Type.SOA, self._config.negative_ttl, data)

    # -- turns ---------------------------------------------------------------------------------------------

    def counter(self, service: Labels, query: Query, period: int) -> RotationCounter:
        """The turns of this question, for all who ask it in whatever way.

        They go on where they are when the records become others, and begin anywhere, lest a whole fleet asks
        the same member first.
        """
        counter = self._counters.setdefault(service, {})
        # Without the service's own name, so that thousands of services have the same questions.
        own = len(query.name) - len(service)
        question = query.name[:own] if query.name[own:] == service else query.name, query.qtype
        known = counter.get(question)
        if known is None or known.period != period:
            first = self._rng.randrange(period) if known is None else next(known) % period
            known = counter[question] = RotationCounter(first, period)
        return known

    def shuffled(self, records: RRset) -> Iterator[Sequence[Record]]:
        """The records by lot, for ever."""
        while True:
            yield records.shuffled(self._rng)

    def serial(self) -> bytes:
        """The serial of the SOA record as it is now."""
        return self._table.serial.to_bytes(4)

    # -- changes -------------------------------------------------------------------------------------------

    def refresh(self, keys: Iterable[Labels]) -> set[Labels]:
        """Take notice that the services of these keys are others than before; turns go on where they are.

        Returns:
            the services (and `ABOVE`) whose answers may be others than before.
        """
        services = self._table.services
        others: set[Labels] = set()
        for key in keys:
            others.add(key)
            self._views.pop(key, None)
            service = services.get(key)
            place = _location_of(key, service.first.name) if service else None
            known = self._locations.get(key)
            if place == known:
                continue
            others |= self._affected_by(key)
            for start in range(1, len(key)):  # whose members' labels it may take or leave
                self._views.pop(key[start:], None)
            if known is not None:
                self._leave(key, known)
            if place is not None:
                self._enter(key, place)
            else:
                self.reset_rotation(key)
        if others and self._config.empty == "nxdomain":  # then it takes no more than a member to be a name
            others.add(ANY_SERVICE)
        return others

    def _affected_by(self, key: Labels) -> set[Labels]:
        """Whose names may find another owner when this service comes or goes."""
        if any(label.startswith(b"_") for label in key):  # it may look like another's name by RFC 2782
            return {ANY_SERVICE, *self._locations}
        return {
            ANY_SERVICE,
            *(above for start in range(1, len(key)) if (above := key[start:]) in self._locations),
        }

    def _enter(self, key: Labels, place: _Location) -> None:
        self._locations[key] = place
        self._count(place, +1)
        if self._dns_sd is not None and not place[0]:
            self._dns_sd.join(key)

    def _leave(self, key: Labels, place: _Location) -> None:
        del self._locations[key]
        self._count(place, -1)
        if self._dns_sd is not None and self._dns_sd.leave(key):
            self.reset_rotation(ANY_SERVICE)  # of domains that come and go there is no end

    def reset_rotation(self, key: Labels) -> None:
        """Begin the turns of what is answered under this key anew, when it is asked for again."""
        self._counters.pop(key, None)

    def _count(self, place: _Location, step: int) -> None:
        """Keep account of who is at a place: the first one brings the names above it, the last takes them."""
        before = self._services_at[place]
        self._services_at[place] += step
        if before and self._services_at[place]:
            return
        if not self._services_at[place]:
            del self._services_at[place]
        for name in _nonterminals_of(place):
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


def _nonterminals_of(place: _Location) -> Iterator[Labels]:
    """The names that exist because a service does: all that lie between its own and the zone's.

    Its own are two: `web.staging`, and `_web._tcp.staging` by RFC 2782.
    """
    more, zone, path = place
    for above in (path, *((*path[:more], protocol, *path[more:]) for protocol in PROTOCOLS)):
        yield from (above[start:] for start in range(len(above) - zone))
