"""`Node`: the records at one name, in wire format.

The bytes of a record do not depend on its position in the message: the owner name of an answer is a pointer
to the question, and that of an additional address record is the target's first label, then a pointer into the
question. A record is therefore rendered once, and each response of a rotation joins the same bytes. The node
of a service remains when its members change, and so do the records of all other members.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from zkdns.address import pack_address
from zkdns.dns.message import CLASS_IN, QUESTION_POINTER, RECORD, Query, Type, pack_record
from zkdns.dns.rrset import (
    EQUAL_WEIGHT,
    NO_RECORDS,
    WEIGHT_ONE,
    Item,
    Renderer,
    RRset,
    Weighting,
    arrange_in_steps,
)
from zkdns.dns.steps import Run, Steps, run_at_once
from zkdns.names import Labels, to_wire

_CACHED_IF_EMPTY = frozenset({Type.A, Type.AAAA, Type.SRV, Type.TXT})
"""The types for which a node caches an empty RRset too, since computing it visits all members."""
# RFC 2782: a client uses records of a higher number only if it can reach none of a lower one. Live members
# differ in weight only.
_PRIORITY, _HELD_PRIORITY = 0, 1
_SRV_START = struct.Struct("!HHI")  # type, class, TTL
_SRV_NUMBERS = struct.Struct("!4H")  # length of the data, priority, weight, port
_SRV_NUMBERS_SIZE = 6  # the numbers that are part of the data
_MAX_STRING = 255  # RFC 1035 §3.3


class Address(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An IP address of a name, for an A or AAAA record."""

    address: str
    weighting: Weighting = EQUAL_WEIGHT


class Target(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The target of an SRV record.

    It is `label` followed by the service's name, or `host` if that is not empty. A target without addresses
    has no additional records.
    """

    port: int
    weighting: Weighting = EQUAL_WEIGHT
    label: bytes = b""
    addresses: tuple[str, ...] = ()
    host: Labels = ()


class TextSource(Item, Protocol):
    """A member, as the source of a TXT record."""

    def strings(self) -> Iterable[str]:
        """The strings of the TXT record."""


class TargetNames(msgspec.Struct, frozen=True):
    """How the names of targets within a service are written.

    In the data of an SRV record, a name is the target's label and `own`, not compressed (RFC 2782). As the
    owner of an additional record, it is compressed with the question: the target's label, `between`, and the
    last `shared` labels of the question's name. For the target `m318.web.staging` and the question
    `_web._tcp.staging`, `between` is `web` and `shared` counts `staging` and the zone's labels.
    """

    own: Labels = ()
    shared: int = 0
    between: Labels = ()


_NO_TARGETS = TargetNames()


class AddressRenderer(Renderer[Address]):
    """Renders A or AAAA records."""

    def __init__(self, qtype: int, ttl: int) -> None:
        super().__init__()
        self._start = QUESTION_POINTER + _start_of_address(qtype, ttl)

    def render_answer(self, item: Address) -> bytes:
        """The record of an address."""
        return self._start + pack_address(item.address)


class SrvRenderer(Renderer[Target]):
    """Renders SRV records; the addresses of targets within the service are additional records.

    Args:
        names: how the names of targets are written.
        query: a query for the name.
        ttl: TTL of all records.
        owner: the name of the SRV records in wire format.
    """

    has_additional = True

    def __init__(self, names: TargetNames, query: Query, ttl: int, owner: bytes = QUESTION_POINTER) -> None:
        super().__init__()
        self._start = owner + _SRV_START.pack(Type.SRV, CLASS_IN, ttl)
        self._own = to_wire(names.own)
        suffix = to_wire(names.between)[:-1] + query.pointer_to(names.shared)
        self._a, self._aaaa = (suffix + _start_of_address(qtype, ttl) for qtype in (Type.A, Type.AAAA))

    def render_answer(self, item: Target) -> bytes:
        """The SRV record of a target."""
        label = item.label
        name = to_wire(item.host) if item.host else bytes((len(label),)) + label + self._own
        priority = _HELD_PRIORITY if item.weighting.held else _PRIORITY
        weighting = item.weighting
        srv_weight = WEIGHT_ONE if weighting is EQUAL_WEIGHT else weighting.srv_weight
        size = _SRV_NUMBERS_SIZE + len(name)
        return self._start + _SRV_NUMBERS.pack(size, priority, srv_weight, item.port) + name

    def render_additional(self, item: Target) -> tuple[bytes, ...]:
        """The addresses of a target."""
        if not item.addresses:
            return ()
        label = bytes((len(item.label),)) + item.label
        records: tuple[bytes, ...] = ()
        for address in item.addresses:  # nearly always one
            records += (label + (self._aaaa if ":" in address else self._a) + pack_address(address),)
        return records


class TextRenderer(Renderer[TextSource]):
    """Renders TXT records; `owner` is their name in wire format."""

    def __init__(self, ttl: int, owner: bytes = QUESTION_POINTER) -> None:
        super().__init__()
        self._ttl, self._owner = ttl, owner

    def render_answer(self, item: TextSource) -> bytes:
        """The TXT record of a member."""
        return pack_record(self._owner, Type.TXT, self._ttl, _text_data(item.strings()))


class Node:
    """The records at one name. This class is the node of a name without records (RFC 8020).

    Attributes:
        rendered: RRsets by type, until `forget`.

    Args:
        names: how the names of SRV targets are written.
        run: runs the steps that arrange records. It raises `UnfinishedError` if there are many.
    """

    def __init__(self, names: TargetNames = _NO_TARGETS, run: Run = run_at_once) -> None:
        self.names = names
        self._run = run
        self.rendered: dict[int, RRset] = {}
        self._renderers: dict[int, Renderer[Any]] = {}

    @property
    def is_unresolved(self) -> bool:
        """Whether the addresses are unknown because no host name could be resolved yet."""
        return False

    def addresses(self, qtype: int) -> Sequence[Address]:
        """The addresses for this type, A or AAAA."""
        del qtype
        return ()

    def targets(self) -> Sequence[Target]:
        """The SRV targets."""
        return ()

    def texts(self) -> Sequence[TextSource]:
        """The sources of the TXT records."""
        return ()

    def records(self, query: Query, qtype: int, ttl: int) -> RRset:
        """The RRset of this type.

        `query` may be any query for this name, since pointers into it are the same. The TTL is always the
        same too.
        """
        found = self.rendered.get(qtype)
        if found is not None:
            return found
        items = self.items(qtype)
        if items:
            self._run(self._arrange(query, qtype, ttl, items))
            return self.rendered[qtype]
        if qtype in _CACHED_IF_EMPTY:  # empty RRsets of all other types would take unlimited memory
            self.rendered[qtype] = NO_RECORDS
        return NO_RECORDS

    def forget(self) -> None:
        """Forget the RRsets after a change. Rendered records are kept and used again."""
        self.rendered.clear()

    def items(self, qtype: int) -> Sequence[Item]:
        """The items of the records of this type."""
        if qtype in (Type.A, Type.AAAA):
            return self.addresses(qtype)
        if qtype == Type.SRV:
            return self.targets()
        return self.texts() if qtype == Type.TXT else ()

    def renderer(self, query: Query, qtype: int, ttl: int) -> Renderer[Any]:
        """Make the renderer of a type for which `items` returns items."""
        if qtype == Type.SRV:
            return SrvRenderer(self.names, query, ttl)
        return TextRenderer(ttl) if qtype == Type.TXT else AddressRenderer(qtype, ttl)

    def _arrange(self, query: Query, qtype: int, ttl: int, items: Sequence[Item]) -> Steps:
        renderer = self._renderers.get(qtype)
        if renderer is None:
            renderer = self._renderers[qtype] = self.renderer(query, qtype, ttl)
        renderer.retain(len(items))
        self.rendered[qtype] = yield from arrange_in_steps(items, renderer)


class FixedNode(Node):
    """A node with these records."""

    def __init__(
        self,
        names: TargetNames = _NO_TARGETS,
        *,
        addresses: Sequence[Address] = (),
        targets: Sequence[Target] = (),
        texts: Sequence[TextSource] = (),
        is_unresolved: bool = False,
    ) -> None:
        super().__init__(names)
        self._addresses, self._targets, self._texts = addresses, targets, texts
        self._is_unresolved = is_unresolved

    @property
    def is_unresolved(self) -> bool:
        """As in the base class."""
        return self._is_unresolved

    def addresses(self, qtype: int) -> Sequence[Address]:
        """The given addresses of this type."""
        return [found for found in self._addresses if is_of_type(found.address, qtype)]

    def targets(self) -> Sequence[Target]:
        """The given targets."""
        return self._targets

    def texts(self) -> Sequence[TextSource]:
        """The given sources of TXT records."""
        return self._texts


def is_of_type(address: str, qtype: int) -> bool:
    """Whether the address belongs to this type: IPv4 to A, IPv6 to AAAA."""
    return (":" in address) == (qtype == Type.AAAA)


def _start_of_address(qtype: int, ttl: int) -> bytes:
    """An A or AAAA record between its name and its data."""
    return RECORD.pack(qtype, CLASS_IN, ttl, 4 if qtype == Type.A else 16)


def _text_data(strings: Iterable[str]) -> bytes:
    """TXT data: strings, each cut to 255 bytes (RFC 1035 §3.3.14)."""
    # Lists are faster here than generators.
    parts = [string.encode()[:_MAX_STRING] for string in strings]
    return b"".join([bytes((len(part),)) + part for part in parts])
