"""`Node`: the records at one name, in wire format.

The bytes of a record do not depend on its position in the message: the owner name of an answer is a pointer
to the question, and that of an additional address record is the target's first label, then a pointer into the
question. A record is therefore packed once, and each response of a rotation joins the same bytes.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from zkdns.dns.message import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.rrset import Record, RRset, Weighting, arrange
from zkdns.names import Labels, to_wire

_CACHED_IF_EMPTY = frozenset({Type.A, Type.AAAA, Type.SRV, Type.TXT})
"""The types for which a node caches an empty RRset too, since computing it visits all members."""
# RFC 2782: a client uses records of a higher number only if it can reach none of a lower one. Live members
# differ in weight only.
_PRIORITY, _HELD_PRIORITY = 0, 1
_SRV_DATA = struct.Struct("!3H")
_MAX_STRING = 255  # RFC 1035 §3.3


class Target(msgspec.Struct, frozen=True):
    """The target of an SRV record; `label` is empty if `name` is not a name of the service."""

    port: int
    name: Labels
    label: bytes = b""
    addresses: tuple[str, ...] = ()
    weighting: Weighting = Weighting()


class Text(msgspec.Struct, frozen=True):
    """The strings of a TXT record about a member."""

    strings: tuple[str, ...]
    weighting: Weighting = Weighting()


class Node(msgspec.Struct):
    """The records at one name; a node without records is an empty non-terminal (RFC 8020).

    `shared` and `between` describe the names of targets within the service, so that they can be compressed
    with the question: a target's label, `between`, and the last `shared` labels of the node's name. For the
    target `m318.web.staging` of the node `_web._tcp.staging`, `between` is `web` and `shared` counts
    `staging` and the zone's labels.
    """

    addresses: Mapping[str, Weighting] = {}
    targets: tuple[Target, ...] = ()
    texts: Callable[[], Iterable[Text]] = tuple
    """Returns the TXT strings; called when TXT is first queried."""
    shared: int = 0
    between: Labels = ()
    is_unresolved: bool = False
    """Whether the addresses are unknown because no host name could be resolved yet."""
    rendered: dict[int, RRset] = {}
    """Cached RRsets by type."""

    def records(self, query: Query, qtype: int, ttl: int) -> RRset:
        """The RRset of this type.

        `query` may be any query for this name, since pointers into it are the same.
        """
        found = self.rendered.get(qtype)
        if found is None:
            found = arrange(self._render(query, qtype, ttl))
            # Empty RRsets of all other types would take unlimited memory.
            if found or qtype in _CACHED_IF_EMPTY:
                self.rendered[qtype] = found
        return found

    def _render(self, query: Query, qtype: int, ttl: int) -> Iterable[Record]:
        if qtype in (Type.A, Type.AAAA):
            return (
                Record(record, weighting=weighting)
                for address, weighting in self.addresses.items()
                for record in _address_records(QUESTION_POINTER, [address], ttl, qtype)
            )
        if qtype == Type.SRV:
            return self.srv_records(query, ttl)
        if qtype == Type.TXT:
            return self.txt_records(ttl)
        return ()

    def txt_records(self, ttl: int, owner: bytes = QUESTION_POINTER) -> Iterator[Record]:
        """TXT records; `owner` is in wire format."""
        for text in self.texts():
            yield Record(
                pack_record(owner, Type.TXT, ttl, _text_data(text.strings)), weighting=text.weighting
            )

    def srv_records(self, query: Query, ttl: int, owner: bytes = QUESTION_POINTER) -> Iterator[Record]:
        """SRV records, with the addresses of targets within the service as additional records.

        `owner` is in wire format.
        """
        owner_suffix = to_wire(self.between)[:-1] + query.pointer_to(self.shared)
        own = b""  # the name after the label, which is the same for all targets within the service
        for target in self.targets:
            additional: list[bytes] = []
            if target.label:
                own = own or to_wire(target.name[1:])
                label = bytes((len(target.label),)) + target.label
                name = label + own
                for qtype in (Type.A, Type.AAAA):
                    additional += _address_records(label + owner_suffix, target.addresses, ttl, qtype)
            else:
                name = to_wire(target.name)
            # RFC 2782: the target is not compressed
            priority = _HELD_PRIORITY if target.weighting.held else _PRIORITY
            data = _SRV_DATA.pack(priority, target.weighting.srv_weight, target.port) + name
            answer = pack_record(owner, Type.SRV, ttl, data)
            yield Record(answer, tuple(additional), target.weighting)


def _address_records(owner: bytes, addresses: Sequence[str], ttl: int, qtype: int) -> list[bytes]:
    """Address records for the addresses that belong to the type (IPv4 to A, IPv6 to AAAA)."""
    pack = _packed_ipv4 if qtype == Type.A else _packed_ipv6
    is_ipv6 = qtype == Type.AAAA
    return [
        pack_record(owner, qtype, ttl, pack(address)) for address in addresses if (":" in address) == is_ipv6
    ]


def _packed_ipv4(address: str) -> bytes:
    """The 4 bytes of an address in canonical form; twenty times faster than `ipaddress`."""
    return bytes(map(int, address.split(".")))


def _packed_ipv6(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


def _text_data(strings: Sequence[str]) -> bytes:
    """TXT data: strings, each cut to 255 bytes (RFC 1035 §3.3.14)."""
    parts = (string.encode()[:_MAX_STRING] for string in strings)
    return b"".join(bytes((len(part),)) + part for part in parts)
