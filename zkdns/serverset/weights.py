"""Weights: what the `vector_` znodes beside a set's members say of them, as Finagle's zk2 reads it.

    {"vector": [{"select": "member=member_0000000001", "weight": 1.2, "priority": 1},
                {"select": "inet=10.0.0.3:80", "weight": 1.3, "priority": 2},
                {"select": "shard=3", "weight": 0.5, "priority": 1}]}

A member's weight is the product of all that select it, in all vectors. As in Finagle, an entry without a
known selector says nothing, a missing weight is 1, and the priority means nothing (Finagle reads it and
never looks at it). Otherwise than Finagle this reads integers too, and takes a vector of which any part is
wrong for one that says nothing, rather than half of what somebody meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from zkdns.address import HostPort, parse_host_port
from zkdns.errors import BadMemberError, BadValueError
from zkdns.serverset.member import Member, canonical_host

VECTOR_PREFIX: Final = "vector_"

DROPPED: Final = -1.0
"""The weight of a member that is not answered with at all."""

_MAX_WEIGHT = 1e9  # keeps products finite; far above all that anybody could mean


class _MemberNamed(msgspec.Struct, frozen=True, tag="member"):
    name: str


class _MemberAt(msgspec.Struct, frozen=True, tag="inet"):
    endpoint: HostPort


class _MemberOfShard(msgspec.Struct, frozen=True, tag="shard"):
    shard: int


_Selector: TypeAlias = _MemberNamed | _MemberAt | _MemberOfShard


class Entry(msgspec.Struct, frozen=True):
    """One entry of a vector: which members it means, and by what it multiplies their weights."""

    selector: _Selector
    weight: float


class Vector(msgspec.Struct, frozen=True):
    """What one `vector_` znode says; `name` is the znode's."""

    name: str
    entries: tuple[Entry, ...]


class _WrittenEntry(msgspec.Struct):
    select: str | None = None
    weight: float | None = None


class _WrittenVector(msgspec.Struct):
    vector: list[_WrittenEntry] | None = None


_DECODER = msgspec.json.Decoder(_WrittenVector)


def parse_vector(name: str, data: bytes) -> Vector:
    """Read a `vector_` znode.

    Raises:
        BadMemberError: for the reason `vector`: it is not JSON, or a part of it is not what it has to be.
    """
    try:
        written = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMemberError("vector", f"its data is not a vector of weights: {error}") from None
    entries = []
    for entry in written.vector or ():
        selector = _selector(entry.select or "")
        if selector is not None:
            entries.append(Entry(selector, 1.0 if entry.weight is None else entry.weight))
    return Vector(name, tuple(entries))


def _selector(text: str) -> _Selector | None:
    """What `member=…`, `inet=…` or `shard=…` selects; None for a selector of another kind."""
    kind, _, what = text.partition("=")
    try:
        match kind:
            case "member":
                return _MemberNamed(what)
            case "inet":
                at = parse_host_port(what)
                return _MemberAt(HostPort(canonical_host(at.host).lower(), at.port))
            case "shard":
                return _MemberOfShard(msgspec.json.decode(what, type=int))
    except (BadValueError, msgspec.DecodeError, UnicodeError) as error:
        raise BadMemberError("vector", f"its selector {text!r} cannot be understood: {error}") from None
    return None


class Weights:
    """What all vectors of a set say together, found by what they select: members and entries are many.

    Args:
        vectors: in whatever order; a weight is the product of all that is said of it.
    """

    def __init__(self, vectors: Iterable[Vector]) -> None:
        self._said: dict[_Selector, list[float]] = {}
        for vector in vectors:
            for entry in vector.entries:
                self._said.setdefault(entry.selector, []).append(entry.weight)

    def of(self, member: Member) -> float:
        """The member's weight, which is what `Member.weight` is to be.

        It is 1 where nothing selects the member, 0 where something drains it, and `DROPPED` where anything
        gives it a weight below 0: Finagle's sign for that is -1, and a second one must not bring it back.
        """
        weight = 1.0
        for selector in _selectors_of(member):
            for factor in self._said.get(selector, ()):
                if factor < 0:
                    return DROPPED
                weight = min(weight * factor, _MAX_WEIGHT)
        return weight


def _selectors_of(member: Member) -> set[_Selector]:
    """Everything that selects a member: its name, its shard, and where it is.

    That is its service endpoint, or where it has none any other: a member has one weight.
    """
    found: set[_Selector] = {_MemberNamed(member.name)}
    if member.shard is not None:
        found.add(_MemberOfShard(member.shard))
    for endpoint in (member.service,) if member.service else member.additional.values():
        hosts = (endpoint.host.lower(), *endpoint.addresses)
        found.update(_MemberAt(HostPort(host, endpoint.port)) for host in hosts)
    return found
