"""A zone as a master file (RFC 1035 §5), so that other servers can serve it.

Each name is looked up as for a query, and its records are written as text. A master file cannot express the
following, which is written as a comment or left out:

- the rotation, and the maximum number of records of an answer (all records are written);
- a name without records and without names below it;
- unknown addresses or members (the server responds with SERVFAIL);
- the name of an endpoint that is no domain name, such as `a..b`, so that no query can contain it;
- a service with an asterisk as a label, which would become a wildcard (RFC 4592 §2.1).
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from zkdns.digest import DIGEST_LABEL
from zkdns.dns.message import CLASS_IN, HEADER_SIZE, QUESTION_POINTER, TYPE_CLASS, Query, Type
from zkdns.dns.rrset import RRset
from zkdns.dns.zone import Zone, ZoneMatch
from zkdns.names import MAX_LABEL, Labels, to_text, to_wire

MEMBER_NAME_TYPES: Final = (Type.A, Type.AAAA, Type.SRV, Type.TXT, Type.PTR)
"""The types of the records at members' names, in the order of the file."""
_ASTERISK = b"*"
_MAX_CACHED_TEXTS = 1 << 14  # enough for the records of one large service
_RECORD = struct.Struct("!2sHHIH")  # owner's pointer, type, class, TTL, length of the data
_SRV_DATA = struct.Struct("!3H")
_SOA_NUMBERS = struct.Struct("!5I")


def zone_header(zone: Zone, apex: Labels) -> str:
    """The records of the zone as a whole: SOA and NS at the apex, its digest, and those of DNS-SD domains.

    Nested zones are delegated with their own NS records.
    """
    soa = _query(apex, Type.SOA)
    lines = [_line(to_text(apex), zone.soa(soa, apex), apex)]
    for name, _, records in records_of_zone(zone, apex):
        lines += _lines(name, records)
    return "".join(lines)


def records_of_zone(zone: Zone, apex: Labels) -> Iterator[tuple[Labels, int, RRset]]:
    """The names, types and records that belong to the zone as a whole, except the SOA."""
    inner = (other for other in reversed(zone.apexes) if zone.apex_of(other[1:]) == apex)
    names = [(name, Type.NS) for name in (apex, *inner)]
    names.append(((DIGEST_LABEL, *apex), Type.TXT))
    names += [(name, Type.PTR) for name in zone.dns_sd_names() if zone.apex_of(name) == apex]
    for name, qtype in names:
        yield name, qtype, zone.records(zone.find(name), _query(name, qtype))


def service_records(zone: Zone, apex: Labels, service: Labels) -> str:
    """The records of all names in this zone of the service with this key."""
    return "".join(
        line
        for name in zone.names_of_service(service)
        if zone.apex_of(name) == apex and (found := zone.find(name)).service == service
        for line in _records_at(zone, service, name, found)
    )


def _records_at(zone: Zone, service: Labels, name: Labels, found: ZoneMatch) -> Iterator[str]:
    """The lines of one name of the service with this key."""
    owner = to_text(name)
    if found.is_unread:
        yield f"; {owner}. is answered with SERVFAIL: its members cannot be read\n"
        return
    if found.node is None:
        return
    if _ASTERISK in (*name, *service):
        yield f"; {owner}. is left out: in this file an asterisk would stand for all other names\n"
        return
    lines = [
        line for qtype in MEMBER_NAME_TYPES for line in _lines(name, zone.records(found, _query(name, qtype)))
    ]
    if found.node.is_unresolved:
        yield f"; {owner}. is answered with SERVFAIL for A and AAAA: no host could be resolved yet\n"
    elif not lines:
        yield f"; {owner}. exists without records\n"
    yield from lines


def _query(name: Labels, qtype: int) -> Query:
    question = to_wire(name) + TYPE_CLASS.pack(qtype, CLASS_IN)
    return Query(0, False, name, qtype, CLASS_IN, question, None)


def _lines(owner: Labels, records: RRset) -> Iterator[str]:
    """The lines of an RRset, in its own order."""
    text = to_text(owner)
    for record in (*records.leading, *records.held):
        yield _line(text, record.answer, owner)


def _line(text: str, record: bytes, owner: Labels) -> str:
    """A record as a line; `owner` and `text` are the same name."""
    pointer, rtype, _, ttl, length = _RECORD.unpack_from(record)
    data = record[_RECORD.size :]
    assert (pointer, length) == (QUESTION_POINTER, len(data))  # noqa: S101 - all records are packed like this
    return f"{text}.\t{ttl}\tIN\t{Type(rtype).name}\t{_data_text(rtype, data, owner)}\n"


def _data_text(rtype: int, data: bytes, owner: Labels) -> str:
    if rtype == Type.PTR:
        return _name_text(data, 0, owner)[0]
    if rtype != Type.SOA:
        return _shared_text(rtype, data)
    server, at = _name_text(data, 0, owner)
    responsible, at = _name_text(data, at, owner)
    return " ".join((server, responsible, *map(str, _SOA_NUMBERS.unpack_from(data, at))))


@functools.lru_cache(_MAX_CACHED_TEXTS)
def _shared_text(rtype: int, data: bytes) -> str:
    """The text of data that does not depend on the owner. Cached, since most data occurs at several names."""
    match rtype:
        case Type.A:
            return ".".join(map(str, data))
        case Type.AAAA:
            return str(ipaddress.IPv6Address(data))
        case Type.SRV:
            priority, weight, port = _SRV_DATA.unpack_from(data)
            return f"{priority} {weight} {port} {_name_text(data, _SRV_DATA.size)[0]}"
        case Type.NS:
            return _name_text(data, 0)[0]
        case _:
            return " ".join(_strings(data))


def _name_text(data: bytes, at: int, owner: Labels = ()) -> tuple[str, int]:
    name, end = name_at(data, at, owner)
    return to_text(name) + ".", end


def name_at(data: bytes, at: int, owner: Labels = ()) -> tuple[Labels, int]:
    """A name in record data and its end; a pointer can only point into the owner's name."""
    labels: list[bytes] = []
    while length := data[at]:
        if length > MAX_LABEL:
            target = int.from_bytes(data[at : at + len(QUESTION_POINTER)]) & 0x3FFF
            ends = accumulate((1 + len(label) for label in owner), initial=HEADER_SIZE)
            labels += owner[list(ends).index(target) :]
            return tuple(labels), at + len(QUESTION_POINTER)
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return tuple(labels), at + 1


def _strings(data: bytes) -> Iterator[str]:
    """TXT strings in quotes (RFC 1035 §5.1)."""
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        yield '"' + "".join(map(_CHARACTERS.__getitem__, data[at + 1 : end])) + '"'
        at = end


_CHARACTERS = tuple(
    f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03d}"  # noqa: PLR2004 - ASCII's printable range
    for byte in range(0x100)
)
