"""Records ready to send.

Every piece is independent of its position in the message: an answer's owner is a pointer to the question, the
owner of an address record in the additional section is the target's own label before a pointer into the
question. So an RRset is rendered once, and each order of it is a join of the same pieces.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from zkdns.dns.message import QUESTION_POINTER, Query, Type, pack_record
from zkdns.dns.rrset import Record, RRset, Weighting, arrange
from zkdns.names import Labels, to_wire

_TYPES = frozenset({Type.A, Type.AAAA, Type.SRV, Type.TXT})
"""Those of which there may be records; that there are none is found by looking at all members."""
_PRIORITY = 0  # one for all SRV records: members differ in weight (RFC 2782)
_SRV_DATA = struct.Struct("!3H")
_MAX_STRING = 255  # RFC 1035 §3.3


class Target(msgspec.Struct, frozen=True):
    """Where an SRV record leads; `label` is empty where `name` is not one of the service's own names."""

    port: int
    name: Labels
    label: bytes = b""
    addresses: tuple[str, ...] = ()
    weighting: Weighting = Weighting()


class Text(msgspec.Struct, frozen=True):
    """What a TXT record tells of a member."""

    strings: tuple[str, ...]
    weighting: Weighting = Weighting()


class Node(msgspec.Struct):
    """What stands at one name; a node without anything is an empty non-terminal (RFC 8020).

    The names of targets that have a label consist of it, of `between`, and of the last `shared` labels of
    the name itself.
    """

    addresses: Mapping[str, Weighting] = {}
    targets: tuple[Target, ...] = ()
    texts: Callable[[], Iterable[Text]] = tuple
    """What TXT tells, made when it is asked for."""
    shared: int = 0
    between: Labels = ()
    is_unresolved: bool = False
    """Whether it has addresses that nobody knows: those of host names that could not be resolved yet."""
    rendered: dict[int, RRset] = {}

    def records(self, query: Query, qtype: int, ttl: int) -> RRset:
        """The RRset of that type, ready to send as the answer to this query and all others of the name."""
        found = self.rendered.get(qtype)
        if found is None:
            found = arrange(self._render(query, qtype, ttl))
            if found or qtype in _TYPES:  # of others there is no end
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
            return self.services(query, ttl)
        if qtype == Type.TXT:
            return self.txt_records(ttl)
        return ()

    def txt_records(self, ttl: int, owner: bytes = QUESTION_POINTER) -> Iterator[Record]:
        """TXT records of that owner, which is ready for the wire."""
        for text in self.texts():
            yield Record(
                pack_record(owner, Type.TXT, ttl, _text_data(text.strings)), weighting=text.weighting
            )

    def services(self, query: Query, ttl: int, owner: bytes = QUESTION_POINTER) -> Iterator[Record]:
        """SRV records of that owner, each with the addresses of its target where that is a name of ours."""
        behind_owner = to_wire(self.between)[:-1] + query.pointer_to(self.shared)
        own = b""  # what all targets of ours have behind their labels
        for target in self.targets:
            additional: list[bytes] = []
            if target.label:
                own = own or to_wire(target.name[1:])
                label = bytes((len(target.label),)) + target.label
                name = label + own
                for qtype in (Type.A, Type.AAAA):
                    additional += _address_records(label + behind_owner, target.addresses, ttl, qtype)
            else:
                name = to_wire(target.name)
            # RFC 2782: the target is not compressed.
            data = _SRV_DATA.pack(_PRIORITY, target.weighting.srv_weight, target.port) + name
            answer = pack_record(owner, Type.SRV, ttl, data)
            yield Record(answer, tuple(additional), target.weighting)


def _address_records(owner: bytes, addresses: Sequence[str], ttl: int, qtype: int) -> list[bytes]:
    """Records of those addresses that belong to the type."""
    pack = _packed_ipv4 if qtype == Type.A else _packed_ipv6
    is_ipv6 = qtype == Type.AAAA
    return [
        pack_record(owner, qtype, ttl, pack(address)) for address in addresses if (":" in address) == is_ipv6
    ]


def _packed_ipv4(address: str) -> bytes:
    """The address in 4 bytes; it is in its canonical form (a twentieth of the time that ipaddress takes)."""
    return bytes(map(int, address.split(".")))


def _packed_ipv6(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


def _text_data(strings: Sequence[str]) -> bytes:
    """TXT data: strings of at most 255 bytes each, what is longer cut (RFC 1035 §3.3.14)."""
    parts = (string.encode()[:_MAX_STRING] for string in strings)
    return b"".join(bytes((len(part),)) + part for part in parts)
