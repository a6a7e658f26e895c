"""The records of a zone, for AXFR and IXFR: the same as in a zone file (`zkdns.dns.zonefile`).

The records of each service are packed in blocks. Their number and their bytes are all that a message needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from zkdns.dns.message import CLASS_IN, QUESTION_POINTER, RECORD, TYPE_CLASS, Query, Type
from zkdns.dns.zone import SOA_BYTES_AFTER_SERIAL, Zone
from zkdns.dns.zonefile import name_at, records_of_zone
from zkdns.names import Labels, to_wire

BLOCK_BYTES: Final = 1 << 14
"""A block has no more bytes than this, unless one record has more, so that several fit into a message."""
MAX_RECORD: Final = 64_000
"""Bytes of the longest record without its owner name. One that fills a message is left out."""

_SERIAL = 4
_POINTER = 0xC0  # the first byte of a compression pointer, without its offset


class Block(NamedTuple):
    """Consecutive records."""

    records: int
    """Number of records."""
    data: bytes
    """The records, as they are in a message whose question has the name of the apex."""


class SoaTemplate(NamedTuple):
    """The SOA record of a zone, before and after its serial."""

    before: bytes
    after: bytes

    def record(self, serial: int) -> bytes:
        """The record with this serial."""
        return self.before + serial.to_bytes(_SERIAL) + self.after


def soa_template(zone: Zone, apex: Labels) -> SoaTemplate:
    """The SOA record of a zone."""
    soa = zone.soa(query_for(apex), apex)
    at = len(soa) - SOA_BYTES_AFTER_SERIAL
    return SoaTemplate(soa[: at - _SERIAL], soa[at:])


def zone_blocks(zone: Zone, apex: Labels) -> tuple[Block, ...]:
    """The records that belong to the zone as a whole, except the SOA."""
    found: list[bytes] = []
    for name, qtype, records in records_of_zone(zone, apex):
        owner = owner_in_zone(name, apex)
        for record in (*records.leading, *records.held):
            rest = record.answer[len(QUESTION_POINTER) :]
            found.append(owner + (with_target(rest, name, apex) if qtype == Type.PTR else rest))
    return join_records(found)


def owner_in_zone(name: Labels, apex: Labels) -> bytes:
    """A name in a zone, which ends with a pointer to the apex."""
    return to_wire(name[: len(name) - len(apex)])[:-1] + QUESTION_POINTER


def with_target(rest: bytes, owner: Labels, apex: Labels) -> bytes:
    """A record without its owner name. Its data is a name, which may end with a pointer to the owner."""
    target, _ = name_at(rest, RECORD.size, owner)
    data = owner_in_zone(target, apex) if target[-len(apex) :] == apex else to_wire(target)
    rtype, rclass, ttl, _ = RECORD.unpack_from(rest)
    return RECORD.pack(rtype, rclass, ttl, len(data)) + data


def split_records(blocks: Iterable[Block]) -> Iterator[bytes]:
    """The records of blocks, one by one."""
    for block in blocks:
        data, at = block.data, 0
        while at < len(data):
            start = at
            while 0 < data[at] < _POINTER:
                at += 1 + data[at]
            at += len(QUESTION_POINTER) if data[at] else 1
            at += RECORD.size + int.from_bytes(data[at + RECORD.size - 2 : at + RECORD.size])
            yield data[start:at]


def join_records(records: Sequence[bytes]) -> tuple[Block, ...]:
    """Pack records into blocks."""
    blocks: list[Block] = []
    start = size = 0
    for at, record in enumerate(records):
        if size + len(record) > BLOCK_BYTES and at > start:
            blocks.append(Block(at - start, b"".join(records[start:at])))
            start, size = at, 0
        size += len(record)
    if start < len(records):
        blocks.append(Block(len(records) - start, b"".join(records[start:])))
    return tuple(blocks)


def query_for(name: Labels) -> Query:
    """A query for all records of a name; their bytes do not depend on the type of the query."""
    question = to_wire(name) + TYPE_CLASS.pack(Type.ANY, CLASS_IN)
    return Query(0, False, name, Type.ANY, CLASS_IN, question, None)
