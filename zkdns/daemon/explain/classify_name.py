"""Classifies a name: by which rule it is answered, or why it does not exist.

    192.0.2.1, 192.0.2.1:80     the reverse name of the address
    /discovery/staging/web      the service or the member of that znode
    web.staging                 a name with or without a zone at its end; otherwise a name outside the zones
    web.staging.discovery.      an absolute name, because of the final dot

`Zone.find` looks names up. The classifier only determines which of its rules applied. It takes as long as
some lookups; what needs the whole table is left to searches (`searches.py`).
"""

from __future__ import annotations

import msgspec

from zkdns.admin.api_types import Kind
from zkdns.config import Config
from zkdns.daemon.explain.searches import MAX_SUGGESTIONS, Findings
from zkdns.digest import DIGEST_LABEL
from zkdns.dns.freshness import Freshness
from zkdns.dns.member_labels import label_prefix, member_label
from zkdns.dns.message import CLASS_IN, Query, Type
from zkdns.dns.reverse import ReverseZones, address_of
from zkdns.dns.served_members import served_members
from zkdns.dns.service_names import PROTOCOLS
from zkdns.dns.zone import Zone, ZoneMatch
from zkdns.errors import BadValueError
from zkdns.forward.forward_zones import ForwardZones
from zkdns.forward.special_use import special_use_answer
from zkdns.names import MAX_NAME, Labels, reverse_name, short_name, to_text, to_wire, wire_length
from zkdns.serverset.member import Member
from zkdns.spelling import MemberAddress, ServiceText, ZnodePath, parse_spelling
from zkdns.table import ANY_SERVICE, AddressIndex, Table

_MAX_LENGTH_DIFFERENCE = 3  # characters, between an unknown name and a suggestion
_DNS_SD = b"_dns-sd"


class NameClass(msgspec.Struct, frozen=True, kw_only=True):
    """A name and its class. Most fields are those of `Explanation`."""

    name: str
    kind: Kind
    rule: str
    labels: Labels | None = None
    """The name to query the zones for. None: it is forwarded, or a znode's path without a name."""
    service: Labels | None = None
    """Key of its service."""
    member: tuple[str, str] | None = None
    """Origin and name of its member, if it is one member's name."""
    nearest: tuple[str, ...] = ()


class NameClassifier:
    """Classifies names in one state of the table.

    Attributes:
        reverse: the records of the last classified name, if that is a reverse name of a member's address.

    Args:
        zone: of the table.
        table: the table.
        config: zones, namespaces and the settings of reverse names.
        forward_zones: None: the server forwards nothing.
        freshness: which parts of the table have been read.
        findings: the results of searches.
    """

    def __init__(
        self,
        zone: Zone,
        table: Table,
        config: Config,
        *,
        forward_zones: ForwardZones | None,
        freshness: Freshness,
        findings: Findings,
    ) -> None:
        self.reverse: ReverseZones | None = None
        self._zone = zone
        self._table = table
        self._config = config
        self._forward_zones = forward_zones
        self._freshness = freshness
        self._findings = findings

    def classify(self, text: str) -> NameClass:
        """Classify a domain name, an IP address or a znode's path.

        Raises:
            BadValueError: it is none of these.
            SearchNeeded: the result of a search is missing in `findings`.
        """
        match parse_spelling(text):
            case ZnodePath(path):
                return self._classify_path(path)
            case MemberAddress(address):
                labels = reverse_name(address)
            case ServiceText(labels, is_absolute):
                labels = labels if is_absolute else self._with_zone(labels)
                found = self._classify_name(labels)
                if not is_absolute and found.kind in {"forwarded", "refused"}:
                    return msgspec.structs.replace(found, rule=f"no service has this name; {found.rule}")
                return found
        return self._classify_name(labels)

    def possible_services(self, text: str) -> set[Labels]:
        """Return the keys of the services that a text may be a name of.

        Raises:
            BadValueError: it is neither a domain name, an IP address nor a znode's path.
        """
        match parse_spelling(text):
            case ZnodePath(path):
                owners = map(self._table.set_of, (path, path.rpartition("/")[0]))
                return {owner.name.key for owner in owners if owner is not None}
            case MemberAddress():
                return set()
            case ServiceText() as spelled:
                names = spelled.keys(self._config.zones)
        keys: set[Labels] = set()
        for name in names:
            for start in range(len(name)):
                keys.add(name[start:])
                if name[start].startswith(b"_"):  # RFC 2782 and DNS-SD: _web._tcp.staging
                    keys |= {
                        (name[start][1:], *name[start + 1 : at], *name[at + 1 :])
                        for at in range(start + 1, len(name))
                        if name[at] in PROTOCOLS
                    }
        return {key for key in keys if key in self._zone.services}

    def short_name(self, labels: Labels) -> str:
        """Return a name as text, without the zone of the first namespace."""
        return short_name(labels, self._config.zone)

    def _classify_name(self, labels: Labels) -> NameClass:
        if self._zone.apex_of(labels) is None:
            return self._classify_outside(labels)
        return self._classify_in_zone(labels)

    # -- from the text to a name ---------------------------------------------------------------------------

    def _with_zone(self, labels: Labels) -> Labels:
        """Complete a relative name with its zone, if that name exists or is probably meant."""
        is_in_zone = self._zone.apex_of(labels) is not None
        with_zones = [(*labels, *zone) for zone in self._config.zones]
        legal = [name for name in with_zones if wire_length(name) <= MAX_NAME]
        for name in (labels, *legal) if is_in_zone else legal:
            if self._zone.find(name).node is not None:
                return name
        if not is_in_zone and address_of(labels) is None:
            for name in legal:
                if (
                    not self._freshness.is_ready
                    or self._zone.find(name).service != ANY_SERVICE
                    or self._closest_encloser(name)
                    or self._similar_services(name)
                ):
                    return name
        return labels

    def _closest_encloser(self, name: Labels) -> Labels | None:
        """Return the longest existing name above a name. None: only its zone exists."""
        apex = self._zone.apex_of(name) or ()
        for start in range(1, len(name) - len(apex)):
            if self._zone.find(name[start:]).node is not None:
                return name[start:]
        return None

    def _classify_path(self, path: str) -> NameClass:
        parent, _, last = path.rpartition("/")
        for origin, name in ((path, None), (parent, last)):
            owner = self._table.set_of(origin)
            if owner is None:
                continue
            if name is None:
                return self._classify_in_zone(owner.name.key)
            return self._classify_member(owner.name.key, origin, name)
        for namespace in self._config.namespaces:
            if namespace.matches_path(path):
                name_there = namespace.service_at(path)
                try:
                    name_there.check()
                except BadValueError as error:
                    return NameClass(
                        name=path, kind="absent", rule=f"DNS cannot carry that znode's name: {error}"
                    )
                if name_there.key in self._zone.services:  # from a static file
                    return self._classify_in_zone(name_there.key)
                if not namespace.follows_path(path):
                    return NameClass(name=path, kind="absent", rule=_not_followed(namespace.only_as_text))
        nearest = self._findings.similar(path, self._table.origins, str)
        rule = f"no service's znode is at {path}"
        return NameClass(name=path, kind="absent", rule=rule, nearest=nearest)

    def _classify_member(self, key: Labels, origin: str, name: str) -> NameClass:
        """Classify the own name of a member, given by its znode. It has none if it is not answered."""
        for served in served_members(self._zone.view(key)):
            if (served.origin, served.member.name) == (origin, name):
                return self._classify_in_zone((served.label, *key))
        service = to_text(key)
        return NameClass(
            name=f"{origin}/{name}",
            kind="absent",
            rule=f"it has no name, since {service} is not answered with it",
            service=key,
            member=(origin, name),
        )

    # -- names outside the zones ---------------------------------------------------------------------------

    def _classify_outside(self, labels: Labels) -> NameClass:
        name, query = to_text(labels) or ".", _query(labels)
        address = address_of(labels)
        if address is not None and self._config.reverse and self._freshness.is_ready:
            self.reverse = ReverseZones(self._zone, self._users_of(address))
            if self.reverse.find(query) is not None:
                rule = f"the name of the address {address}, which members have (reverse)"
                return NameClass(name=name, kind="address", rule=rule, labels=labels)
        zones = ", ".join(map(to_text, self._config.zones))
        forward_zones = self._forward_zones
        if forward_zones is None:
            rule = f'it is outside the zones ({zones}), and refused: forward.upstreams is "none"'
            return NameClass(name=name, kind="refused", rule=rule, labels=labels)
        if special_use_answer(query, forward_zones.is_configured) is not None:
            rule = "it is a special-use name (RFC 6761): answered by zkdns, never forwarded"
            return NameClass(name=name, kind="special", rule=rule, labels=labels)
        match = forward_zones.find(labels)
        setting = f'[forward.zone."{match.domain}"]' if match.domain is not None else "forward.upstreams"
        if not match.servers:
            rule = f"it is outside the zones ({zones}), and refused: {setting} has no upstreams"
            return NameClass(name=name, kind="refused", rule=rule, labels=labels)
        upstreams = ", ".join(map(str, match.servers))
        rule = f"it is outside the zones ({zones}), and forwarded to {upstreams} ({setting})"
        return NameClass(name=name, kind="forwarded", rule=rule)

    # -- names in the zones --------------------------------------------------------------------------------

    def _classify_in_zone(self, labels: Labels) -> NameClass:
        name, found = to_text(labels), self._zone.find(labels)
        key = found.service if found.service != ANY_SERVICE else None
        if rule := self._why_unknown(labels, found):
            return NameClass(name=name, kind="unread", rule=rule, labels=labels)
        if found.is_unread:
            rule = "ZooKeeper's ACL does not permit reading the members of this service"
            return NameClass(name=name, kind="unread", rule=rule, labels=labels, service=key)
        if labels in self._zone.apexes:
            return NameClass(name=name, kind="apex", rule="it is a zone: SOA and NS", labels=labels)
        if found.node is None:
            return self._classify_absent(labels, found)
        if key is None:
            kind, rule = self._rule_above_services(labels)
            return NameClass(name=name, kind=kind, rule=rule, labels=labels)
        kind, rule, member = self._rule_of_service(labels, key)
        return NameClass(name=name, kind=kind, rule=rule, labels=labels, service=key, member=member)

    def _why_unknown(self, labels: Labels, found: ZoneMatch) -> str:
        """Return why it is unknown whether a name exists. Empty: it is known."""
        apex = self._zone.apex_of(labels) or ()
        exists = found.node is not None
        if not self._freshness.is_unknown(apex, labels, found.service, exists=exists):
            return ""
        directory = self._freshness.unread_directory(apex, labels)
        if directory is None:
            return "this part of the table has not been read yet, so the name is SERVFAIL"
        return (
            f"ZooKeeper does not permit listing {directory}, so it is unknown whether this name exists: "
            "SERVFAIL"
        )

    def _rule_above_services(self, labels: Labels) -> tuple[Kind, str]:
        """Return kind and rule of an existing name that is not a service's and not below one."""
        if labels[0] == DIGEST_LABEL and labels[1:] in self._zone.apexes:
            return "digest", f"it is the digest of the zone {to_text(labels[1:])}: TXT"
        if _DNS_SD in labels[:2]:
            return "dns-sd", "it is a DNS-SD name, which lists services or their types"
        count, _ = self._findings.below(labels, list(self._zone.services))
        if count == 1:
            return "environment", "it has no records; it exists because 1 service is below it"
        below = f"{count} services" if count else "names"
        return "environment", f"it has no records; it exists because {below} are below it"

    def _rule_of_service(self, labels: Labels, key: Labels) -> tuple[Kind, str, tuple[str, str] | None]:
        """Return kind, rule and (for the name of one member) the member of an existing name of a service."""
        service = self.short_name(key)
        prefix = labels[: -len(key)]
        if labels[-len(key) :] != key:
            if labels[0].startswith(b"_"):
                return "rfc2782", f"it is the service {service} in RFC 2782's form: SRV", None
            owner = self._zone.view(key).name_at(labels[0])
            rule = f"it is the DNS-SD instance name of a member of {service}"
            return "dns-sd", rule, (owner.entry.origin, owner.entry.member.name) if owner else None
        if not prefix:
            return "service", f"it is the service {service}", None
        if prefix[-1] in PROTOCOLS:
            if len(prefix) == 1:
                return "environment", f"the names of additional endpoints of {service} are below it", None
            endpoint = to_text(prefix[:-1]).removeprefix("_")
            return "endpoint", f"it is the additional endpoint {endpoint} of {service}: SRV", None
        owner = self._zone.view(key).name_at(prefix[0])
        assert owner is not None  # noqa: S101 - all other names below a service are handled above
        member = owner.entry.member
        name = member.name
        rules = {
            "member": f"it is the member {name} of {service}",
            "shard": f"it is shard {member.shard} of {service}: the member {name}",
            "host": f"it is the host of an additional endpoint of {service}'s member {name}",
        }
        return owner.kind, rules[owner.kind], (owner.entry.origin, name)

    # -- names in the zones that do not exist --------------------------------------------------------------

    def _classify_absent(self, labels: Labels, found: ZoneMatch) -> NameClass:
        name, key = to_text(labels), found.service
        if key == ANY_SERVICE and (patterns := self._patterns_against(labels)):
            return NameClass(name=name, kind="absent", rule=_not_followed(patterns), labels=labels)
        if key == ANY_SERVICE:
            rule = f"there is no service {self.short_name(labels)}"
            encloser, nearest = self._closest_encloser(labels), self._similar_services(labels)
            if encloser is not None and not nearest:
                _, first = self._findings.below(encloser, list(self._zone.services))
                nearest = tuple(map(self.short_name, first))
            return NameClass(name=name, kind="absent", rule=rule, labels=labels, nearest=nearest)
        service, prefix = self.short_name(key), labels[: -len(key)]
        if not prefix:
            rule = f'{service} has no members, so its name does not exist (empty = "nxdomain")'
            return NameClass(name=name, kind="absent", rule=rule, labels=labels, service=key)
        hidden = self._hidden_member(prefix[0], key) if len(prefix) == 1 else None
        if hidden is not None:
            rule = f"{service} is not answered with its member {hidden[1]}"
            return NameClass(name=name, kind="absent", rule=rule, labels=labels, service=key, member=hidden)
        if prefix[-1] in PROTOCOLS:
            rule = f"{service} has no additional endpoint {to_text(prefix[:-1]).removeprefix('_')}"
        else:
            rule = f"{service} has no member or shard {to_text(prefix)}"
        prefixes = [other for other in self._zone.view(key).prefixes() if other]

        def name_of(other: Labels) -> str:
            return self.short_name((*other, *key))

        nearest = self._findings.similar(self.short_name(labels), prefixes, name_of)
        nearest = nearest or tuple(map(name_of, prefixes[:MAX_SUGGESTIONS]))
        return NameClass(name=name, kind="absent", rule=rule, labels=labels, service=key, nearest=nearest)

    def _patterns_against(self, labels: Labels) -> str:
        """The patterns of `only` because of which no service can have a name. Empty: it could exist."""
        apex = self._zone.apex_of(labels) or ()
        namespaces = [namespace for namespace in self._config.namespaces if namespace.zone == apex]
        below = labels[: len(labels) - len(apex)]
        if not namespaces or any(namespace.follows_name(below) for namespace in namespaces):
            return ""
        return ", ".join(namespace.only_as_text for namespace in namespaces)

    def _hidden_member(self, label: bytes, key: Labels) -> tuple[str, str] | None:
        """Return origin and name of the member that would have this label if it were answered."""
        for owner in self._table.services[key].by_precedence():
            prefix = label_prefix(owner.origin, self._config)
            for member in owner.members.values():
                name = member.name
                if label in (name.encode().lower(), member_label(name, prefix)):
                    return owner.origin, member.name
        return None

    def _similar_services(self, labels: Labels) -> tuple[str, ...]:
        """Return services with a similar name: below the closest encloser, or of the whole zone."""
        encloser = self._closest_encloser(labels) or self._zone.apex_of(labels) or ()
        text = self.short_name(labels)

        def name_of(key: Labels) -> str | None:
            if key[-len(encloser) :] != encloser:
                return None
            name = self.short_name(key)
            return name if abs(len(name) - len(text)) <= _MAX_LENGTH_DIFFERENCE else None

        return self._findings.similar(text, list(self._zone.services), name_of)

    def members_at(self, address: str) -> list[tuple[Labels, Member]]:
        """Return the members with this address, with the keys of their services.

        Raises:
            SearchNeeded: the result of a search is missing in `findings`.
        """
        return self._findings.users(address, list(self._table.services.values()))

    def _users_of(self, address: str) -> AddressIndex:
        """Return the services with members that have this address."""
        addresses = AddressIndex()
        for key, member in self.members_at(address):
            if key in self._zone.services:  # it may have gone during the search
                addresses.count(member, key, +1)
        return addresses


def _not_followed(patterns: str) -> str:
    return f"it is not followed (only = [{patterns}])"


def _query(labels: Labels) -> Query:
    return Query(0, True, labels, Type.A, CLASS_IN, to_wire(labels) + b"\0\1\0\1", None)
