"""What a name is, as people write it: which rule answers it, or why there is no such name.

    192.0.2.1                   the name of that address
    /discovery/staging/web      the service or the member of that znode
    web.staging                 with a zone of ours at its end, or without; else somebody else's name
    web.staging.discovery.      as it stands, because of the dot at its end

The zones say what stands at a name (`Zone.find`); here is only told which of their rules found it.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from zkdns.config import Config
from zkdns.daemon.ipc.control_messages import Kind
from zkdns.dns.message import CLASS_IN, Query, Type
from zkdns.dns.reverse import ReverseZones, address_of, name_of
from zkdns.dns.service_names import PROTOCOLS
from zkdns.dns.zone import ANY_SERVICE, Zone, ZoneMatch
from zkdns.errors import BadValueError
from zkdns.forward.forward_zones import ForwardZones
from zkdns.forward.special_use import special_use_answer
from zkdns.names import MAX_NAME, Labels, lower, parse_name, to_text, to_wire, wire_length
from zkdns.serverset.member import Member
from zkdns.table import AddressIndex, Table

_NEAREST = 3
_COMPARED = 2_000  # names, which take 20 ms
_LONGER = 3  # characters that a name is longer or shorter than another one that was meant
_BROWSING = b"_dns-sd"


class NameClass(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and what it is; see `Explained` for most of it."""

    name: str
    kind: Kind
    rule: str
    labels: Labels | None = None
    """What is to be asked of the zones; None: nothing."""
    service: Labels | None = None
    """The key of the service that it belongs to."""
    member: tuple[str, str] | None = None
    """Origin and name of the one member that it is about."""
    nearest: tuple[str, ...] = ()


class NameClassifier:
    """Tells what names are, for one state of the table.

    Args:
        zone: of that state.
        table: the same.
        config: how names are answered.
        routes: who is asked for other names; None: nobody.
        ready: whether the table has been read.
    """

    def __init__(
        self, zone: Zone, table: Table, config: Config, routes: ForwardZones | None, *, ready: bool
    ) -> None:
        self.reverse: ReverseZones | None = None
        """What stands at the name of the address that was asked for, if that is one of ours."""
        self._zone = zone
        self._table = table
        self._config = config
        self._routes = routes
        self._ready = ready

    def of(self, text: str) -> NameClass:
        """What a name or a znode's path is.

        Raises:
            BadValueError: it is neither.
        """
        if text.startswith("/"):
            return self._of_path(text)
        labels = _of_address(text) or lower(parse_name(text))
        if not text.endswith("."):
            labels = self._completed(labels)
        if self._zone.apex_of(labels) is None:
            return self._of_other(labels)
        return self._of_name(labels)

    # -- which name is meant -------------------------------------------------------------------------------

    def _completed(self, labels: Labels) -> Labels:
        """The name with the zone that was left out, if one was."""
        ours = self._zone.apex_of(labels) is not None
        with_zones = [(*labels, *zone) for zone in self._config.zones]
        fitting = [name for name in with_zones if wire_length(name) <= MAX_NAME]
        for name in (labels, *fitting) if ours else fitting:
            if self._zone.find(name).node is not None:
                return name
        if not ours and address_of(labels) is None:
            for name in fitting:
                if (
                    not self._ready
                    or self._zone.find(name).service != ANY_SERVICE
                    or self._above(name)
                    or self._nearest(name)
                ):
                    return name
        return labels

    def _above(self, name: Labels) -> Labels | None:
        """The longest name above that exists and is no zone's own; None: there is none."""
        apex = self._zone.apex_of(name) or ()
        for start in range(1, len(name) - len(apex)):
            if self._zone.find(name[start:]).node is not None:
                return name[start:]
        return None

    def _of_path(self, path: str) -> NameClass:
        path = path.rstrip("/")
        parent, _, last = path.rpartition("/")
        for origin, name in ((path, None), (parent, last)):
            owner = self._table.set_of(origin)
            if owner is None:
                continue
            if name is None:
                return self._of_name(owner.name.key)
            return self._of_member(owner.name.key, origin, name)
        for namespace in self._config.namespaces:
            if namespace.matches_path(path):
                elements = path[len(namespace.root.rstrip("/")) + 1 :].split("/")
                try:
                    namespace.name_of(elements).check()
                except BadValueError as error:
                    return NameClass(
                        name=path, kind="absent", rule=f"DNS cannot carry that znode's name: {error}"
                    )
        nearest = _close(path, islice(sorted(self._table.origins), _COMPARED))
        why = f"no service's znode is at {path}"
        return NameClass(name=path, kind="absent", rule=why, nearest=nearest)

    def _of_member(self, key: Labels, origin: str, name: str) -> NameClass:
        """A member's znode: its own name, if it is answered with."""
        for seat in self._zone.view(key).served_members():
            if (seat.origin, seat.member.name) == (origin, name):
                return self._of_name((seat.label, *key))
        service = to_text(key)
        return NameClass(
            name=f"{origin}/{name}",
            kind="absent",
            rule=f"it has no name, since {service} is not answered with it",
            service=key,
            member=(origin, name),
        )

    # -- names of others -----------------------------------------------------------------------------------

    def _of_other(self, labels: Labels) -> NameClass:
        name, query = to_text(labels) or ".", _query(labels)
        address = address_of(labels)
        if address is not None and self._config.reverse and self._ready:
            self.reverse = ReverseZones(self._zone, _users_of(address, self._table))
            if self.reverse.find(query) is not None:
                rule = f"the name of the address {address}, which members have (reverse)"
                return NameClass(name=name, kind="address", rule=rule, labels=labels)
        zones = ", ".join(map(to_text, self._config.zones))
        routes = self._routes
        if routes is None:
            rule = (
                f"it is outside our zones ({zones}), and refused: "
                'nobody is asked (forward.upstreams = "none")'
            )
            return NameClass(name=name, kind="refused", rule=rule, labels=labels)
        if special_use_answer(query, routes.is_configured) is not None:
            rule = "it is a special name that nobody out there knows: answered here, never forwarded"
            return NameClass(name=name, kind="special", rule=rule, labels=labels)
        route = routes.find(labels)
        setting = f'[forward.zone."{route.domain}"]' if route.domain is not None else "forward.upstreams"
        if not route.servers:
            rule = f"it is outside our zones ({zones}), and refused: {setting} names nobody to ask"
            return NameClass(name=name, kind="refused", rule=rule, labels=labels)
        whom = ", ".join(map(str, route.servers))
        rule = f"it is outside our zones ({zones}), and forwarded to {whom} ({setting})"
        return NameClass(name=name, kind="forwarded", rule=rule)

    # -- names of ours -------------------------------------------------------------------------------------

    def _of_name(self, labels: Labels) -> NameClass:
        name, found = to_text(labels), self._zone.find(labels)
        key = found.service if found.service != ANY_SERVICE else None
        if not self._ready:
            rule = "the table has not been read yet, so every name of our zones is SERVFAIL"
            return NameClass(name=name, kind="unread", rule=rule, labels=labels)
        if found.is_unread:
            rule = "it is a service whose members ZooKeeper's ACL does not permit to read"
            return NameClass(name=name, kind="unread", rule=rule, labels=labels, service=key)
        if labels in self._zone.apexes:
            return NameClass(name=name, kind="apex", rule="it is a zone: SOA and NS", labels=labels)
        if found.node is None:
            return self._absent(labels, found)
        if key is None:
            kind, rule = self._of_no_service(labels)
            return NameClass(name=name, kind=kind, rule=rule, labels=labels)
        kind, rule, member = self._of_service(labels, key)
        return NameClass(name=name, kind=kind, rule=rule, labels=labels, service=key, member=member)

    def _of_no_service(self, labels: Labels) -> tuple[Kind, str]:
        if _BROWSING in labels[:2]:
            return "dns-sd", "it is for finding services out (DNS-SD)"
        below = sum(key[-len(labels) :] == labels for key in self._zone.services)
        what = f"{below} service{'s' if below != 1 else ''}" if below else "names"
        return "environment", f"it exists since {what} lie{'s' if below == 1 else ''} below it: no records"

    def _of_service(self, labels: Labels, key: Labels) -> tuple[Kind, str, tuple[str, str] | None]:
        """Kind, rule, and the one member that a name of a service is about."""
        service = self.short(key)
        prefix = labels[: -len(key)]
        if labels[-len(key) :] != key:
            if labels[0].startswith(b"_"):
                return "rfc2782", f"it is the service {service} as RFC 2782 names it: SRV", None
            owner = self._zone.view(key).member_at(labels[0])
            member = (owner[1], owner[2].name) if owner else None
            return "dns-sd", f"it is a member of {service}, to be found out (DNS-SD)", member
        if not prefix:
            return "service", f"it is the service {service}", None
        if prefix[-1] in PROTOCOLS:
            if len(prefix) == 1:
                return "environment", f"the names of additional endpoints of {service} lie below it", None
            endpoint = to_text(prefix[:-1]).removeprefix("_")
            return "endpoint", f"it is the additional endpoint {endpoint} of {service}: SRV", None
        owner = self._zone.view(key).member_at(prefix[0])
        assert owner is not None  # noqa: S101 - nothing else has a node there
        kind, origin, member_found = owner
        name = member_found.name
        rules = {
            "member": f"it is the member {name} of {service}",
            "shard": f"it is shard {member_found.shard} of {service}: the member {name}",
            "host": f"it is the host of an additional endpoint of {service}'s member {name}",
        }
        return kind, rules[kind], (origin, name)

    # -- names that there are not --------------------------------------------------------------------------

    def _absent(self, labels: Labels, found: ZoneMatch) -> NameClass:
        name, key = to_text(labels), found.service
        if key == ANY_SERVICE:
            rule = f"there is no service {self.short(labels)}"
            above, nearest = self._above(labels), self._nearest(labels)
            if above is not None and not nearest:
                nearest = tuple(map(self.short, islice(self._below(above), _NEAREST)))
            return NameClass(name=name, kind="absent", rule=rule, labels=labels, nearest=nearest)
        service, prefix = self.short(key), labels[: -len(key)]
        if not prefix:
            rule = f'{service} has no members, and is no name then (empty = "nxdomain")'
            return NameClass(name=name, kind="absent", rule=rule, labels=labels, service=key)
        what = self._what_lacks(labels, key)
        hidden = self._not_answered(prefix[0], key) if len(prefix) == 1 else None
        if hidden is not None:
            rule = f"{service} is not answered with its member {hidden[1]}"
            return NameClass(name=name, kind="absent", rule=rule, labels=labels, service=key, member=hidden)
        own = [(*before, *key) for before in islice(self._zone.view(key).prefixes(), _COMPARED) if before]
        nearest = _close(self.short(labels), map(self.short, own)) or tuple(map(self.short, own[:_NEAREST]))
        rule = f"{service} has no {what}"
        return NameClass(name=name, kind="absent", rule=rule, labels=labels, service=key, nearest=nearest)

    def _what_lacks(self, labels: Labels, key: Labels) -> str:
        prefix = labels[: -len(key)]
        if prefix[-1] in PROTOCOLS:
            return f"additional endpoint {to_text(prefix[:-1]).removeprefix('_')}"
        return f"member, and no shard, called {to_text(prefix)}"

    def _not_answered(self, label: bytes, key: Labels) -> tuple[str, str] | None:
        """The member that would have that label, were it answered with."""
        for owner in self._table.services[key].by_precedence():
            for member in owner.members.values():
                if label in _labels_of(member):
                    return owner.origin, member.name
        return None

    def _below(self, above: Labels) -> Iterator[Labels]:
        """The services below a name, in order."""
        return iter(sorted(key for key in self._zone.services if key[-len(above) :] == above))

    def _nearest(self, labels: Labels) -> tuple[str, ...]:
        """Services whose names are nearly the same: of the same scope, or else of another."""
        above = self._above(labels)
        apex = self._zone.apex_of(labels) or ()
        text = self.short(labels)
        if above is not None:
            near = self._below(above)
        else:
            near = (key for key in self._zone.services if key[-len(apex) :] == apex)
        fitting = (name for key in near if abs(len(name := self.short(key)) - len(text)) <= _LONGER)
        return _close(text, islice(fitting, _COMPARED))

    def short(self, labels: Labels) -> str:
        """The name as text, without its zone where that is the first namespace's."""
        zone = self._config.zone
        is_first = self._zone.apex_of(labels) == zone and labels != zone
        return to_text(labels[: -len(zone)] if is_first else labels)


def _of_address(text: str) -> Labels | None:
    try:
        return name_of(str(ipaddress.ip_address(text)))
    except ValueError:
        return None


def _labels_of(member: Member) -> Sequence[bytes]:
    number = member.sequence
    return member.name.encode().lower(), b"m%d" % number if number is not None else b""


def _users_of(address: str, table: Table) -> AddressIndex:
    """Which services have members of that address."""
    users = AddressIndex()
    for service in table.services.values():
        for owner in service.sets.values():
            for member in owner.members.values():
                if address in member.addresses:
                    users.count(member, service.key, +1)
    return users


def _query(labels: Labels) -> Query:
    return Query(0, True, labels, Type.A, CLASS_IN, to_wire(labels) + b"\0\1\0\1", None)


def _close(text: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(text, list(names), _NEAREST))
