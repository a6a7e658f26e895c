"""The records of a zone, for AXFR and IXFR: the same as in a zone file (`zkdns.dns.zonefile`).

The records of each service are packed in blocks. Their number and their bytes are all that a message needs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from zkdns.dns.message import CLASS_IN, QUESTION_POINTER, RECORD, TYPE_CLASS, Query, Type
from zkdns.dns.rrset import RRset
from zkdns.dns.zone import SOA_BYTES_AFTER_SERIAL, Zone
from zkdns.dns.zonefile import MEMBER_NAME_TYPES, name_at, records_of_zone
from zkdns.names import Labels, to_wire

BLOCK_BYTES: Final = 1 << 14
"""A block has no more bytes than this, unless one record has more, so that several fit into a message."""
MAX_RECORD: Final = 64_000
"""Bytes of the longest record. One that fills a whole message cannot be transferred, and is left out."""
NAMES_PER_STEP: Final = 100
"""Names between two pauses of `service_blocks`; they take some milliseconds."""

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
    soa = zone.soa(_query(apex), apex)
    at = len(soa) - SOA_BYTES_AFTER_SERIAL
    return SoaTemplate(soa[: at - _SERIAL], soa[at:])


def zone_blocks(zone: Zone, apex: Labels) -> tuple[Block, ...]:
    """The records that belong to the zone as a whole, except the SOA."""
    packer = _Packer(apex)
    for name, qtype, records in records_of_zone(zone, apex):
        packer.add(_query(name), qtype, records)
    return packer.blocks()


def service_blocks(zone: Zone, service: Labels) -> Generator[None, None, dict[Labels, tuple[Block, ...]]]:
    """Make the records of the service with this key, in steps. Returns them by the apex of their zone.

    The table may change between the steps; the records are then made again. Names that a zone file cannot
    contain are left out (`zkdns.dns.zonefile`).
    """
    packers: dict[Labels, _Packer] = {}
    is_known = service in zone.services and b"*" not in service
    names = list(zone.names_of_service(service)) if is_known else []
    ttl = zone.policy_of(service).ttl
    for number, name in enumerate(names, 1):
        if not number % NAMES_PER_STEP:
            yield
        apex = zone.apex_of(name)
        found = zone.find(name)
        if apex is None or b"*" in name or found.service != service or found.is_unread or found.node is None:
            continue
        packer = packers.setdefault(apex, _Packer(apex))
        query = _query(name)
        for qtype in MEMBER_NAME_TYPES:
            if records := found.node.records(query, qtype, ttl):
                packer.add(query, qtype, records)
    return {apex: packer.blocks() for apex, packer in packers.items()}


class _Packer:
    """Packs records of a zone into blocks."""

    def __init__(self, apex: Labels) -> None:
        self._apex = apex
        self._apex_size = len(to_wire(apex))
        self._blocks: list[Block] = []
        self._records: list[bytes] = []
        self._size = 0

    def add(self, query: Query, qtype: int, records: RRset) -> None:
        """Add the records of one name and type, in their own order."""
        owner = query.question[: len(query.question) - TYPE_CLASS.size - self._apex_size] + QUESTION_POINTER
        answer = records.renderer.answer
        for item in (*records.leading_items, *records.held_items):
            record = answer(item)
            rest = record[len(QUESTION_POINTER) :]
            if qtype == Type.PTR:
                rest = self._with_data(rest, query.name)
            size = len(owner) + len(rest)
            if size > MAX_RECORD:
                continue
            if self._size + size > BLOCK_BYTES and self._records:
                self._end_block()
            self._records.append(owner + rest)
            self._size += size

    def blocks(self) -> tuple[Block, ...]:
        """All records."""
        if self._records:
            self._end_block()
        return tuple(self._blocks)

    def _end_block(self) -> None:
        self._blocks.append(Block(len(self._records), b"".join(self._records)))
        self._records.clear()
        self._size = 0

    def _relative(self, name: Labels) -> bytes:
        """A name in the zone that ends with a pointer to the apex."""
        return to_wire(name[: len(name) - len(self._apex)])[:-1] + QUESTION_POINTER

    def _with_data(self, rest: bytes, owner: Labels) -> bytes:
        """A record without its owner, whose data is a name that may refer to the owner."""
        target, _ = name_at(rest, RECORD.size, owner)
        is_inside = target[-len(self._apex) :] == self._apex
        data = self._relative(target) if is_inside else to_wire(target)
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


def _query(name: Labels) -> Query:
    """A query for all records of a name; their bytes do not depend on the type of the query."""
    question = to_wire(name) + TYPE_CLASS.pack(Type.ANY, CLASS_IN)
    return Query(0, False, name, Type.ANY, CLASS_IN, question, None)
