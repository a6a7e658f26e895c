"""The zone: which names exist, what stands at them, and in whose turn's order it is told."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from zkdns.config import Config, Order
from zkdns.dns.records import Node
from zkdns.dns.service import PROTOCOLS, ServiceView
from zkdns.dns.turns import Record, RRset, arranged
from zkdns.dns.wire import QUESTION_POINTER, Query, Type, pack_record
from zkdns.names import Labels, to_wire
from zkdns.namespace import ServiceName
from zkdns.table import Table

# The name server is this machine's own name for itself, which needs no address in the zone.
_NAME_SERVER = to_wire((b"localhost",))
_RESPONSIBLE = b"\x0ahostmaster"  # before the zone's name
_SOA_TIMES = struct.Struct("!5I")
_REFRESH, _RETRY, _EXPIRE = 60, 10, 86400  # seconds; only secondaries would look at them

# What ANY is answered with is the first of these that there is (RFC 8482 §4.1).
_TYPES_FOR_ANY = (Type.SOA, Type.A, Type.AAAA, Type.SRV, Type.TXT)


class Policy(msgspec.Struct, frozen=True):
    """How one service is answered."""

    ttl: int
    order: Order
    max_answers: int | None


class Found(msgspec.Struct, frozen=True):
    """A node, and the key of the service that it belongs to: empty for what stands above all services."""

    service: Labels
    node: Node


class Zone:
    """Looks names up in a table.

    Args:
        table: services and members; after each change of it `refresh` must be called.
        config: the zone's name, and how it is answered.
        rng: where turns begin, and what the order `random` is drawn from.
    """

    def __init__(self, table: Table, config: Config, rng: random.Random | None = None) -> None:
        self._table = table
        self._config = config
        self._rng = rng or random.Random()
        self._apex = Found((), Node())
        self._default = Policy(config.ttl, config.order, config.max_answers)
        self._policies = dict(_overridden(config))
        self._views: dict[Labels, ServiceView] = {}
        self._names: dict[Labels, ServiceName] = {}
        self._aliases: dict[Labels, Labels] = {}
        self._nonterminals: Counter[Labels] = Counter()
        self._turns: dict[Labels, dict[tuple[Labels, int], int]] = {}
        self.refresh(table.services)

    # -- names ---------------------------------------------------------------------------------------------

    def relative(self, name: Labels) -> Labels | None:
        """The labels of a name (in lower case) below the zone's; None where it is not in the zone."""
        cut = len(name) - len(self._config.zone)
        if cut < 0 or name[cut:] != self._config.zone:
            return None
        return name[:cut]

    def find(self, name: Labels) -> Found | None:
        """What stands at a relative name; None: there is no such name (NXDOMAIN).

        A service's name may hold dots, so of several services that a name could belong to the longest wins.
        """
        if not name:
            return self._apex
        for start in range(len(name)):
            key = name[start:]
            if key in self._table.services:
                node = self._view(key).find(name[:start])
                if node is not None and not (start == 0 and self._is_hidden(key)):
                    return Found(key, node)
                break
        key = self._aliases.get(name, ())
        if key and not self._is_hidden(key):
            return Found(key, self._view(key).rfc2782)
        return Found((), Node()) if name in self._nonterminals else None

    def _view(self, key: Labels) -> ServiceView:
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = ServiceView(self._table.services[key], self._table, self._config)
        return view

    def _is_hidden(self, key: Labels) -> bool:
        """Whether the service has no members, and a setting says that it then has no name either."""
        return self._config.empty == "nxdomain" and self._view(key).is_empty

    # -- records -------------------------------------------------------------------------------------------

    def records(self, found: Found, query: Query) -> Sequence[Record]:
        """The records that answer the query, the one whose turn it is first; none: NODATA."""
        policy = self._policies.get(found.service, self._default)
        for qtype in _TYPES_FOR_ANY if query.qtype == Type.ANY else (query.qtype,):
            if found is self._apex:
                records = arranged(self._apex_records(query, qtype))
            else:
                records = found.node.records(query, qtype, policy.ttl)
            if records:
                return self._arrange(records, policy, found.service, query)
        return ()

    def soa(self, query: Query) -> bytes:
        """The zone's SOA record, as the authority section of an answer to this query carries it.

        Its TTL is its MINIMUM, which is how long the absence of something may be kept (RFC 2308 §4).
        """
        zone = query.pointer_to(len(self._config.zone))
        return pack_record(zone, Type.SOA, self._config.negative_ttl, self._soa_data(zone))

    def _soa_data(self, zone: bytes) -> bytes:
        times = _SOA_TIMES.pack(self._table.serial, _REFRESH, _RETRY, _EXPIRE, self._config.negative_ttl)
        return _NAME_SERVER + _RESPONSIBLE + zone + times

    def _apex_records(self, query: Query, qtype: int) -> list[Record]:
        if qtype == Type.SOA:
            return [Record(self.soa(query))]
        if qtype == Type.NS:
            return [Record(pack_record(QUESTION_POINTER, Type.NS, self._config.ttl, _NAME_SERVER))]
        return []

    # -- turns ---------------------------------------------------------------------------------------------

    def _arrange(self, records: RRset, policy: Policy, service: Labels, query: Query) -> Sequence[Record]:
        """The records in the service's order, and no more of them than it allows."""
        if policy.order == "round-robin":
            several = len(records.leading) > 1 or len(records.held) > 1
            ordered: Sequence[Record] = records.in_turn(self._next_turn(service, query) if several else 0)
        elif policy.order == "random":
            ordered = records.shuffled(self._rng)
        else:
            ordered = records.in_order()
        return ordered[: policy.max_answers]

    def _next_turn(self, service: Labels, query: Query) -> int:
        """Count the answers to this question; it begins anywhere, lest a fleet asks the same member first."""
        turns = self._turns.setdefault(service, {})
        question = query.name, query.qtype
        turn = turns.get(question)
        turns[question] = self._rng.getrandbits(16) if turn is None else turn + 1
        return turns[question]

    # -- changes -------------------------------------------------------------------------------------------

    def refresh(self, keys: Iterable[Labels]) -> None:
        """Take notice that the services of these keys are others than before; turns go on where they are."""
        for key in keys:
            self._views.pop(key, None)
            service = self._table.services.get(key)
            name = service.first.name if service else None
            known = self._names.get(key)
            if known is not None and name is None:
                self._name_gone(key, known)
            elif known is None and name is not None:
                self._name_came(key, name)

    def _name_came(self, key: Labels, name: ServiceName) -> None:
        self._names[key] = name
        aliases = _rfc2782_names(key, name)
        self._nonterminals.update(_names_above(key, aliases))
        for alias in aliases:
            self._aliases[alias] = key

    def _name_gone(self, key: Labels, name: ServiceName) -> None:
        del self._names[key]
        self._turns.pop(key, None)
        aliases = _rfc2782_names(key, name)
        for above in _names_above(key, aliases):
            self._nonterminals[above] -= 1
            if not self._nonterminals[above]:
                del self._nonterminals[above]
        for alias in aliases:
            self._aliases.pop(alias, None)


def _overridden(config: Config) -> Iterator[tuple[Labels, Policy]]:
    for name, own in config.service.items():
        yield (
            tuple(name.encode().split(b".")),
            Policy(
                config.ttl if own.ttl is None else own.ttl,
                own.order or config.order,
                own.max_answers or config.max_answers,
            ),
        )


def _rfc2782_names(key: Labels, name: ServiceName) -> list[Labels]:
    """`_web._tcp.staging` for `web` in `staging`, in lower case as the service's key."""
    cut = len(key) - (name.scope.count(".") + 1 if name.scope else 0)
    first, rest, scope = b"_" + key[0], key[1:cut], key[cut:]
    return [(first, *rest, protocol, *scope) for protocol in PROTOCOLS]


def _names_above(key: Labels, aliases: list[Labels]) -> list[Labels]:
    """The names that exist because the service does: all that lie between its own and the zone's."""
    return [path[start:] for path in (key, *aliases) for start in range(1, len(path))]
