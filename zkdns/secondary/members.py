"""The members of a service, from the records of its names in a zone.

    records at                              content
    web.staging        TXT                  one member each: name, status, shard, weight, held, endpoints
    m318.web.staging   TXT                  which of these members has this name; a member of weight 0
                       SRV                  port and host of the service endpoint
                       A, AAAA              addresses of its host
    m318-admin.web…    A, AAAA              addresses of the host of an additional endpoint

The attribute `znode` of a member shows its set, and with the templates of the namespaces where the service's
name ends and its scope begins. A member without it, as of a static file, belongs to the set of the static
file with its service's name. All other records follow from these.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from zkdns.address import parse_host_port
from zkdns.dns.member_labels import host_label, member_label
from zkdns.dns.message import Type
from zkdns.errors import BadValueError
from zkdns.names import Labels, lower, to_text
from zkdns.namespace import STATIC_PREFIX, Namespace, ServiceName
from zkdns.secondary.records import Records, srv_fields, txt_strings
from zkdns.serverset.member import MAX_ADDITIONAL, Endpoint, Member, Status, canonical_host, is_ip

OWNERS_PER_STEP: Final = 1000
"""Names that are visited in one step, which takes some milliseconds."""

_ENDPOINT = "endpoint."
_DIGITS = re.compile(r"([0-9]+)")
_INT32 = 2**31
_A, _AAAA, _SRV, _TXT = int(Type.A), int(Type.AAAA), int(Type.SRV), int(Type.TXT)


class ZoneSet(msgspec.Struct, frozen=True):
    """A member set as a zone has it.

    Attributes:
        origin: its origin, as at the primary.
        name: the name of its service.
        members: its members, in order.
        held: the names of those that the primary holds.
    """

    origin: str
    name: ServiceName
    members: tuple[Member, ...]
    held: frozenset[str] = frozenset()


class ZoneService(NamedTuple):
    """The content of a service.

    Attributes:
        sets: its sets; usually one.
        hosts: addresses of its members' host names.
        skipped: members that cannot be used, and why.
    """

    sets: tuple[ZoneSet, ...]
    hosts: dict[str, tuple[str, ...]]
    skipped: dict[str, str]


class _BadTextError(Exception):
    """A TXT record is not that of a member, or the member cannot be used. The text says why."""


class _Attributes(NamedTuple):
    """The attributes of a member."""

    name: str
    znode: str
    fields: Mapping[str, str]
    endpoints: Sequence[tuple[str, str]]


def _attributes(data: bytes) -> _Attributes | None:
    """The attributes in a TXT record. None: it is not that of a member."""
    fields: dict[str, str] = {}
    endpoints: list[tuple[str, str]] = []
    for string in txt_strings(data):
        name, _, value = string.decode(errors="replace").partition("=")
        if name.startswith(
            _ENDPOINT
        ):  # the name of an endpoint may have an equals sign, its address has none
            name, _, value = string.decode(errors="replace").rpartition("=")
            endpoints.append((name.removeprefix(_ENDPOINT), value))
        else:
            fields.setdefault(name, value)
    if not fields.get("member"):
        return None
    return _Attributes(fields["member"], fields.get("znode", ""), fields, endpoints)


def set_of(attributes: _Attributes, namespaces: Collection[Namespace]) -> tuple[str, ServiceName] | None:
    """The origin and the service of a member's set. None: its znode is in none of the namespaces."""
    origin = attributes.znode.removesuffix(f"/{attributes.name}")
    if origin == attributes.znode:
        return None
    for namespace in namespaces:
        if namespace.matches_path(origin):
            return origin, namespace.service_at(origin)
    return None


def find_services(
    records: Records, apex: Labels, namespaces: Collection[Namespace]
) -> Generator[list[Any], None, set[Labels]]:
    """The keys of the services among the owner names of records, in steps.

    Both a service and its members have TXT records of members. The targets of SRV records distinguish them: a
    member's name is its own target. Without targets in the zone, the path of the znode does. Without either,
    it is a member's name if the service above has its TXT record.
    """
    by_length: dict[int, list[Labels]] = {}
    for number, (owner, found) in enumerate(records.items(), 1):
        if len(owner) > len(apex) and any(rtype == _TXT for rtype, _ in found):
            by_length.setdefault(len(owner), []).append(owner)
        if not number % OWNERS_PER_STEP:
            yield []
    services: set[Labels] = set()
    for length in sorted(by_length):  # a service comes before names below it
        for number, owner in enumerate(by_length[length], 1):
            if _is_service(owner, records, services, namespaces):
                services.add(owner)
            if not number % OWNERS_PER_STEP:
                yield []
    return services


def _is_service(
    owner: Labels, records: Records, services: Collection[Labels], namespaces: Collection[Namespace]
) -> bool:
    """Whether a name with TXT records is that of a service; `services` has those with fewer labels."""
    for rtype, data in records[owner]:
        if rtype == _SRV:
            above = lower(srv_fields(data)[3])[1:]
            if above in (owner, owner[1:]):
                return above == owner
    texts = [data for rtype, data in records[owner] if rtype == _TXT]
    attributes = next(filter(None, map(_attributes, texts)), None)
    if attributes is None:
        return False
    found = set_of(attributes, namespaces)
    if found is not None:
        return found[1].key == owner
    return owner[1:] not in services or (_TXT, texts[0]) not in records[owner[1:]]


def read_service(key: Labels, records: Records, namespaces: Sequence[Namespace]) -> ZoneService:
    """Build the sets of a service.

    Args:
        key: its key.
        records: the records of its names.
        namespaces: all namespaces.
    """
    return _Reader(key, records, namespaces).read()


class _Reader:
    """Builds the sets of one service."""

    def __init__(self, key: Labels, records: Records, namespaces: Sequence[Namespace]) -> None:
        self._key, self._records, self._namespaces = key, records, namespaces
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._labels: dict[bytes, list[bytes]] = {}  # of the members' names, by TXT data
        for owner, found in records.items():
            if owner[1:] == key:
                for rtype, data in found:
                    if rtype == _TXT:
                        self._labels.setdefault(data, []).append(owner[0])

    def read(self) -> ZoneService:
        """Build the sets."""
        members: dict[str, list[Member]] = {}
        names: dict[str, ServiceName] = {}
        held: dict[str, set[str]] = {}
        skipped: dict[str, str] = {}
        for data in self._texts():
            attributes = _attributes(data)
            if attributes is None:
                continue
            try:
                origin, name = self._set_of(attributes)
                member = self._member(attributes, data)
            except (_BadTextError, BadValueError, ValueError) as error:
                skipped[attributes.name] = str(error)
                continue
            names[origin] = name
            members.setdefault(origin, []).append(member)
            if attributes.fields.get("held") == "1":
                held.setdefault(origin, set()).add(member.name)
        sets = (
            ZoneSet(origin, names[origin], tuple(sorted(found, key=_order)), frozenset(held.get(origin, ())))
            for origin, found in sorted(members.items())
        )
        return ZoneService(tuple(sets), self._hosts, skipped)

    def _texts(self) -> Iterator[bytes]:
        """The TXT data of all members.

        Members of weight 0 have none at the service's name if there are others. Other names without one
        there are those of members that have departed.
        """
        texts = {data for rtype, data in self._records.get(self._key, ()) if rtype == _TXT}
        yield from texts
        for data in self._labels:
            if data not in texts and (found := _attributes(data)) and found.fields.get("weight") == "0":
                yield data

    def _set_of(self, attributes: _Attributes) -> tuple[str, ServiceName]:
        """The origin and the name of a member's set."""
        found = set_of(attributes, self._namespaces)
        if found is not None and found[1].key == self._key:
            return found
        spelled = self._spelled()
        for namespace in sorted(self._namespaces, key=lambda one: -len(one.zone)):
            parts = [label.decode() for label in spelled[: -len(namespace.zone)]]
            cut = len(parts) - namespace.scope_depth
            if self._key[-len(namespace.zone) :] != namespace.zone or cut <= 0:
                continue
            name = ServiceName(".".join(parts[:cut]), ".".join(parts[cut:]), namespace.zone)
            if name.key == self._key:  # a label with a dot is that of no service
                return f"{STATIC_PREFIX}{name.absolute}", name
        raise _BadTextError("its service's name does not fit any namespace of this server")

    def _spelled(self) -> Labels:
        """The name of the service, spelled as in SRV targets: owner names are in lower case."""
        for rtype, data in self._records.get(self._key, ()):
            if rtype == _SRV:
                target = srv_fields(data)[3]
                if lower(target[1:]) == self._key:
                    return target[1:]
        return self._key

    def _member(self, attributes: _Attributes, data: bytes) -> Member:
        label = self._label(attributes, data)
        own = self._records[label, *self._key]
        addresses = _addresses(own)
        fields = attributes.fields
        service = self._service_endpoint(label, own, addresses, fields.get("host", ""))
        additional = {name: _endpoint(text) for name, text in attributes.endpoints[:MAX_ADDITIONAL]}
        if service is None and not additional:
            raise _BadTextError("it has no endpoint")
        additional = dict(self._in_order(label, service, addresses, additional))
        own_host = (service or next(iter(additional.values()))).host
        if addresses and not is_ip(own_host):
            self._hosts[own_host] = addresses
        for name, endpoint in additional.items():
            at_host = self._records.get((host_label(label, name), *self._key))
            if at_host and not is_ip(endpoint.host) and endpoint.host != own_host:
                self._hosts[endpoint.host] = _addresses(at_host)
        return Member(
            attributes.name,
            service,
            additional or Member("", None).additional,
            Status(fields.get("status", Status.ALIVE.value)),
            _shard(fields.get("shard")),
            weight=_weight(fields.get("weight")),
        )

    def _label(self, attributes: _Attributes, data: bytes) -> bytes:
        """The label of a member's own name, of the labels with its TXT record."""
        labels = self._labels.get(data)
        if not labels:
            raise _BadTextError("it has no name of its own")
        for label in labels:
            owner = (label, *self._key)
            if any(
                rtype == _SRV and lower(srv_fields(rdata)[3]) == owner
                for rtype, rdata in self._records[owner]
            ):
                return label
        # Its host is a name. Other labels are the znode's name, and its shard.
        prefixes = [one.member_prefix for one in self._namespaces] if attributes.znode else [""]
        wanted = {member_label(attributes.name, prefix) for prefix in prefixes}
        usual = [label for label in labels if label in wanted or label.rpartition(b"-")[0] in wanted]
        return min(usual or labels, key=len)

    def _service_endpoint(
        self, label: bytes, own: Sequence[tuple[int, bytes]], addresses: tuple[str, ...], host: str
    ) -> Endpoint | None:
        """The service endpoint of the member with this label; None: it has none."""
        found = next((data for rtype, data in own if rtype == _SRV), None)
        if found is None:
            return None
        _, _, port, target = srv_fields(found)
        if not port:
            raise _BadTextError("its port is 0")
        if lower(target) != (label, *self._key):
            host = to_text(target)
        elif not host:
            if len(addresses) != 1:
                raise _BadTextError(f"it has {len(addresses)} addresses and no host name")
            host = addresses[0]
        return Endpoint(canonical_host(host), port)

    def _in_order(
        self,
        label: bytes,
        service: Endpoint | None,
        addresses: tuple[str, ...],
        additional: Mapping[str, Endpoint],
    ) -> Iterator[tuple[str, Endpoint]]:
        """The additional endpoints, the one first that a host has its name from, as at the primary."""
        with_name = {
            endpoint.host
            for name, endpoint in additional.items()
            if (host_label(label, name), *self._key) in self._records
        }

        def sort_key(item: tuple[str, Endpoint]) -> tuple[int, bool]:
            name, endpoint = item
            has_name = (host_label(label, name), *self._key) in self._records
            is_other = service is not None or endpoint.host in with_name
            return 0 if endpoint.host in addresses else 2 if is_other else 1, not has_name

        yield from sorted(additional.items(), key=sort_key)


def _addresses(records: Sequence[tuple[int, bytes]]) -> tuple[str, ...]:
    """The addresses of A and AAAA records, sorted.

    Raises:
        BadValueError: an address that no client can connect to.
    """
    found = [ipaddress.ip_address(data) for rtype, data in records if rtype in (_A, _AAAA)]
    return tuple(sorted(canonical_host(str(address)) for address in found))


def _endpoint(text: str) -> Endpoint:
    address = parse_host_port(text)
    return Endpoint(canonical_host(address.host), address.port)


def _shard(text: str | None) -> int | None:
    if text is None:
        return None
    shard = int(text)
    if not -_INT32 <= shard < _INT32:
        raise _BadTextError(f"its shard {shard} is no 32-bit integer")
    return shard


def _weight(text: str | None) -> float:
    weight = 1.0 if text is None else float(text)
    if not (math.isfinite(weight) and weight >= 0):
        raise _BadTextError(f"its weight is {text}")
    return weight


def _order(member: Member) -> list[tuple[int, str]]:
    """Sort key: names in the order of their numbers."""
    parts = _DIGITS.split(member.name)
    return [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts]
