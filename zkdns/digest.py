"""Digests of the table, which are equal if the answers have the same content.

The digest of a member is a 64-bit hash of everything that a zone has about it; the digest of a set, a zone or
a namespace is the sum of those of its members, modulo 2**64. A sum does not depend on the order of the
members, and a change of one member costs one subtraction and one addition.

    hashed        from which record of the zone
    service       the owner name
    endpoint      SRV at the member's own name; a host without a dot: its attribute `host`
    attributes    TXT at the member's own name, without `znode`: name, status, shard, weight, held, endpoints

So a secondary, which only has the zone, computes the same digest. For this reason the attributes of the TXT
record are made here too. Members that are not answered have no records, and do not count.

Nothing is computed before a digest is first needed: a start must not take longer for it. The members are then
counted in steps. Meanwhile, changes of sets that are already counted are added at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from zkdns.config import Config
from zkdns.names import Labels, to_text
from zkdns.namespace import ServiceName, source_of
from zkdns.serverset.member import Endpoint, Member, is_ip

DIGEST_LABEL: Final = b"_digest"
"""The first label of the name below a zone whose TXT record has the zone's digest."""
MEMBERS_PER_STEP: Final = 32

_SIZE = 8
_new_hash = blake2b(digest_size=_SIZE).copy  # takes a third of the time of `blake2b`
_from_bytes = int.from_bytes
_MASK = (1 << 8 * _SIZE) - 1
_MAX_ATTRIBUTE = 255  # bytes: RFC 1035 §3.3, a longer string would be cut


class Digest(msgspec.Struct, frozen=True):
    """The digest of some members, and their number."""

    members: int = 0
    value: int = 0

    def __str__(self) -> str:
        """16 hexadecimal digits."""
        return f"{self.value:0{2 * _SIZE}x}"

    @property
    def strings(self) -> tuple[str, str, str]:
        """The strings of the TXT record, in the form of RFC 6763 §6.3."""
        return "v=1", f"members={self.members}", f"digest={self}"


def attributes(member: Member, *, is_held: bool) -> list[str]:
    """The attributes of a member for its TXT record, in the form of RFC 6763 §6.3, without its znode."""
    texts = [f"member={member.name}", f"status={member.status}"]
    if member.shard is not None:
        texts.append(f"shard={member.shard}")
    if member.weight != 1:
        texts.append(f"weight={member.weight:g}")
    if is_held:
        texts.append("held=1")
    if member.service is not None and _needs_attribute(member.service.host):
        texts.append(f"host={member.service.host}")
    if member.additional:
        texts += _endpoint_attributes(member.additional)
    return texts


def _needs_attribute(host: str) -> bool:
    """Whether no record has this host: the SRV target of a name without a dot is a name of the member."""
    return "." not in host and not is_ip(host)


def _endpoint_attributes(additional: Mapping[str, Endpoint]) -> list[str]:
    """The additional endpoints by name.

    SRV records have them too, but not which member an endpoint belongs to, if several members share it.
    """
    texts = []
    for name, endpoint in sorted(additional.items()) if len(additional) > 1 else additional.items():
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        text = f"endpoint.{name}={host}:{endpoint.port}"
        if len(text) <= _MAX_ATTRIBUTE and (text.isascii() or len(text.encode()) <= _MAX_ATTRIBUTE):
            texts.append(text)
    return texts


def member_digest(service: str, member: Member, *, is_held: bool) -> int:
    """The digest of a member of the service with this DNS name in lower case.

    It takes 1 µs, and 0.5 µs for each additional endpoint: a start counts every member of the table. `join`
    takes the status as it is, while an f-string would convert it.
    """
    endpoint = member.service
    host, port = (endpoint.host.lower(), endpoint.port) if endpoint is not None else ("", 0)
    text = "\0".join((service, member.name, member.status, f"{host}\0{port}\0{member.shard}"))
    if is_held or member.weight != 1.0:  # with 1, the comparison would take twice the time
        text += f"\0{member.weight:g}\0{is_held:d}"
    if member.additional:
        text = "\0".join((text, *_endpoint_attributes(member.additional)))
    digest = _new_hash()
    digest.update(text.encode())
    return _from_bytes(digest.digest())


class _Total:
    """The number of some members, and the sum of their digests."""

    __slots__ = ("members", "value")

    def __init__(self) -> None:
        self.members = self.value = 0

    @property
    def digest(self) -> Digest:
        """The digest now."""
        return Digest(self.members, self.value & _MASK)


class SetDigest(_Total):
    """The digest of one set: of the members that were added and not removed.

    Args:
        service: the DNS name of its service.
        statuses: the statuses of members that are answered.
        totals: the sums that these members are part of too, until `end`.
    """

    __slots__ = ("_service", "_statuses", "_totals")

    def __init__(self, service: str, statuses: Collection[str], totals: Iterable[_Total]) -> None:
        super().__init__()
        self._service, self._statuses = service, statuses
        self._totals = tuple(totals)

    def count(self, member: Member, step: int, *, is_held: bool) -> None:
        """Count a member: `step` is 1 if it has joined, -1 if it has left."""
        if member.is_served(self._statuses):
            value = step * member_digest(self._service, member, is_held=is_held)
            self.members += step
            self.value += value
            for total in self._totals:
                total.members += step
                total.value += value

    def replace(self, before: Member, after: Member, *, is_held: bool) -> None:
        """Count a member instead of the one before it with the same name."""
        statuses, service = self._statuses, self._service
        if not (before.is_served(statuses) and after.is_served(statuses)):
            self.count(before, -1, is_held=is_held)
            self.count(after, +1, is_held=is_held)
            return
        old = member_digest(service, before, is_held=is_held)
        difference = member_digest(service, after, is_held=is_held) - old
        self.value += difference
        for total in self._totals:
            total.value += difference

    def end(self) -> None:
        """Remove all members of this set from the totals."""
        for total in self._totals:
            total.members -= self.members
            total.value -= self.value
        self._totals = ()


class CountedSet(Protocol):
    """A set of the table (`zkdns.table.MemberSet`)."""

    name: ServiceName
    origin: str
    members: dict[str, Member]
    held: Mapping[str, float]
    digest: SetDigest | None
    """None: it is not counted yet, so that its changes need not be either."""


class TableDigests:
    """The digests of all sets, zones and namespaces of a table.

    Args:
        sets: the sets of the table.
        config: zones, namespaces, and the statuses of members that are answered.
    """

    def __init__(self, sets: Iterable[CountedSet], config: Config) -> None:
        self._statuses = frozenset(config.statuses)
        self._namespaces = config.namespaces
        self._zones = {zone: _Total() for zone in sorted(config.zones, key=len, reverse=True)}
        self._sources: dict[str, _Total] = defaultdict(_Total)
        self._uncounted = {each.origin: each for each in sets}
        # The set that is being counted: its remaining members, and which of them were held at first.
        self._members: list[Member] = []
        self._held: Mapping[str, float] = {}
        self._current: SetDigest | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every set is counted."""
        return not self._uncounted and not self._members

    def count_some(self) -> int:
        """Count members of one set, and return how many. Nothing is left to count if `is_complete`."""
        if not self._members and self._uncounted:
            self._begin(self._uncounted.pop(next(iter(self._uncounted))))
        counted = self._members[-MEMBERS_PER_STEP:]
        del self._members[-MEMBERS_PER_STEP:]
        for member in counted:
            assert self._current is not None  # noqa: S101 - `_begin` has set it
            self._current.count(member, +1, is_held=member.name in self._held)
        return len(counted)

    def is_right(self, member_set: CountedSet) -> bool:
        """Whether the digest of a counted set is the one that its members have."""
        computed = SetDigest(to_text(member_set.name.key), self._statuses, ())
        for member in member_set.members.values():
            computed.count(member, +1, is_held=member.name in member_set.held)
        return member_set.digest is not None and member_set.digest.digest == computed.digest

    def recount(self, member_set: CountedSet) -> None:
        """Count the members of a set again, later."""
        self.drop(member_set)
        member_set.digest = None
        self.add(member_set)

    def add(self, member_set: CountedSet) -> None:
        """Add a set of the table, whose members are counted later."""
        self._uncounted[member_set.origin] = member_set

    def drop(self, member_set: CountedSet) -> None:
        """Remove a set."""
        self._uncounted.pop(member_set.origin, None)
        if member_set.digest is not None:
            if member_set.digest is self._current:
                self._members.clear()
            member_set.digest.end()

    def of_zone(self, apex: Labels) -> Digest:
        """The digest of the services in a zone. Of nested zones, a service is in the longest one."""
        return self._zones[apex].digest

    @property
    def of_zones(self) -> Mapping[Labels, Digest]:
        """The digest of each zone, the longest names first."""
        return {apex: total.digest for apex, total in self._zones.items()}

    def of_source(self, source: str) -> Digest:
        """The digest of the sets of a source (`zkdns.namespace.source_of`)."""
        total = self._sources.get(source)
        return total.digest if total is not None else Digest()

    def of_service(self, sets: Iterable[CountedSet]) -> Digest:
        """The digest of these sets of one service."""
        digests = [each.digest.digest for each in sets if each.digest is not None]
        return Digest(sum(each.members for each in digests), sum(each.value for each in digests) & _MASK)

    def _begin(self, member_set: CountedSet) -> None:
        """Begin to count a set. From now on, its changes are counted when they happen."""
        key = member_set.name.key
        totals = [self._sources[source_of(member_set.origin, self._namespaces)]]
        totals += [total for apex, total in self._zones.items() if key[-len(apex) :] == apex][:1]
        self._current = member_set.digest = SetDigest(to_text(key), self._statuses, totals)
        self._members, self._held = list(member_set.members.values()), member_set.held


def exact(digest: str) -> int:
    """The lowest 53 bits of a digest: a metric's value is a double, which has no more."""
    return int(digest, 16) & (1 << 53) - 1
