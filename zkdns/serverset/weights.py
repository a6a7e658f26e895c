"""Weights of members, from the `vector_` znodes of a set, as Finagle's zk2 reads them.

    {"vector": [{"select": "member=member_0000000001", "weight": 1.2, "priority": 1},
                {"select": "inet=10.0.0.3:80", "weight": 1.3, "priority": 2},
                {"select": "shard=3", "weight": 0.5, "priority": 1}]}

A member's weight is the product of all entries that select it, in all vectors. As in Finagle, an entry
without a known selector is ignored, a missing weight is 1, and the priority has no effect. Unlike Finagle,
zkdns also reads integers. An invalid entry is ignored alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from zkdns.address import HostPort, parse_host_port
from zkdns.errors import BadMemberError, BadValueError
from zkdns.serverset.member import Member, OnIgnored, canonical_host

DROPPED: Final = -1.0
"""The weight of a member that is never answered."""

_MAX_WEIGHT = 1e9  # keeps products finite; far above any useful weight


class _MemberNamed(msgspec.Struct, frozen=True, tag="member"):
    name: str


class _MemberAt(msgspec.Struct, frozen=True, tag="inet"):
    endpoint: HostPort


class _MemberOfShard(msgspec.Struct, frozen=True, tag="shard"):
    shard: int


_Selector: TypeAlias = _MemberNamed | _MemberAt | _MemberOfShard


class Entry(msgspec.Struct, frozen=True):
    """An entry of a vector: a factor for the weights of the members that it selects."""

    selector: _Selector
    weight: float


class Vector(msgspec.Struct, frozen=True):
    """A decoded `vector_` znode. `name` is the znode's name."""

    name: str
    entries: tuple[Entry, ...]


class _WrittenEntry(msgspec.Struct):
    select: str | None = None
    weight: float | None = None


class _WrittenVector(msgspec.Struct):
    vector: list[object] | None = None


_DECODER = msgspec.json.Decoder(_WrittenVector)


def parse_vector(name: str, data: bytes, on_ignored: OnIgnored = lambda _field, _why: None) -> Vector:
    """Decode the data of a `vector_` znode.

    Args:
        name: the znode's name.
        data: JSON.
        on_ignored: called for each invalid entry, which does not affect the others.

    Raises:
        BadMemberError: reason `vector`: it is not JSON, or not a vector.
    """
    try:
        written = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMemberError("vector", f"its data is not a vector of weights: {error}") from None
    entries = []
    for number, item in enumerate(written.vector or (), 1):
        try:
            entry = msgspec.convert(item, _WrittenEntry)
            selector = _selector(entry.select or "")
        except (msgspec.ValidationError, BadValueError) as error:
            on_ignored("vector", f"its entry {number} is invalid: {error}")
            continue
        if selector is not None:
            entries.append(Entry(selector, 1.0 if entry.weight is None else entry.weight))
    return Vector(name, tuple(entries))


def _selector(text: str) -> _Selector | None:
    """Parse `member=…`, `inet=…` or `shard=…`. None: another kind of selector.

    Raises:
        BadValueError: its value is invalid.
    """
    kind, _, value = text.partition("=")
    try:
        match kind:
            case "member":
                return _MemberNamed(value)
            case "inet":
                address = parse_host_port(value)
                return _MemberAt(HostPort(canonical_host(address.host).lower(), address.port))
            case "shard":
                return _MemberOfShard(msgspec.json.decode(value, type=int))
    except (BadValueError, msgspec.DecodeError, UnicodeError) as error:
        raise BadValueError(f"selector {text!r}: {error}") from None
    return None


class Weights:
    """The combined vectors of a set, indexed by selector, since a set may have many members and entries.

    Args:
        vectors: in any order.
    """

    def __init__(self, vectors: Iterable[Vector]) -> None:
        self._factors: dict[_Selector, list[float]] = {}
        for vector in vectors:
            for entry in vector.entries:
                self._factors.setdefault(entry.selector, []).append(entry.weight)

    def of(self, member: Member) -> float:
        """The weight of a member, for `Member.weight`.

        It is 1 if no entry selects the member, 0 if an entry drains it, and `DROPPED` if any factor is
        negative. Finagle drops a member with -1. The product of two such factors would be 1, and answer the
        member again.
        """
        weight = 1.0
        for selector in _selectors_of(member):
            for factor in self._factors.get(selector, ()):
                if factor < 0:
                    return DROPPED
                weight = min(weight * factor, _MAX_WEIGHT)
        return weight


def _selectors_of(member: Member) -> set[_Selector]:
    """All selectors that match a member: its name, shard and endpoint.

    That is its service endpoint or, without one, any additional endpoint: a member has only one weight.
    """
    found: set[_Selector] = {_MemberNamed(member.name)}
    if member.shard is not None:
        found.add(_MemberOfShard(member.shard))
    for endpoint in (member.service,) if member.service else member.additional.values():
        hosts = (endpoint.host.lower(), *endpoint.addresses)
        found.update(_MemberAt(HostPort(host, endpoint.port)) for host in hosts)
    return found
