"""`Inbound`: the client's side of a zone transfer, message by message (RFC 5936, RFC 1995).

    SOA                                           the primary has nothing newer
    SOA, record, …, SOA                           the whole zone
    SOA, (SOA, record…, SOA, record…)…, SOA       deleted and added records of each version

The first SOA record has the serial of the version that the transfer leads to, and so has the last one.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from zkdns.dns.message import CLASS_IN, HEADER, QR, TC, TYPE_CLASS, Type
from zkdns.dns.serial import is_newer
from zkdns.names import Labels, to_wire
from zkdns.secondary.records import (
    BadTransferError,
    Records,
    Soa,
    TransferMessage,
    ZoneRecord,
    is_needed,
)

MAX_RECORDS: Final = 20_000_000
"""Maximum number of records of a transfer: two hundred for each of 100,000 members."""

_OPCODE = 0x7800
_RCODE = 0x000F
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH"}
_HALF = 1 << 31


class RefusedTransferError(BadTransferError):
    """The primary responds with an error, such as REFUSED."""


class Kind(enum.Enum):
    """What a transfer has turned out to be."""

    UNKNOWN = "unknown"
    CURRENT = "current"
    """There is nothing newer."""
    FULL = "full"
    INCREMENTAL = "incremental"


class Version(NamedTuple):
    """The difference of a version to the one before it."""

    deleted: list[ZoneRecord]
    added: list[ZoneRecord]


def build_query(apex: Labels, qtype: Type, ident: int, serial: int | None = None) -> bytes:
    """Build an SOA, AXFR or IXFR query. IXFR needs the serial that the client has (RFC 1995 §3)."""
    name = to_wire(apex)
    question = name + TYPE_CLASS.pack(qtype, CLASS_IN)
    if serial is None:
        return HEADER.pack(ident, 0, 1, 0, 0, 0) + question
    # The names of the SOA record and all its other numbers have no meaning.
    data = b"\0\0" + serial.to_bytes(4) + bytes(16)
    record = b"\xc0\x0c" + TYPE_CLASS.pack(Type.SOA, CLASS_IN) + bytes(4) + len(data).to_bytes(2) + data
    return HEADER.pack(ident, 0, 1, 0, 1, 0) + question + record


def read_soa(read: TransferMessage, apex: Labels, ident: int) -> Soa | None:
    """The SOA record in the response to an SOA query. None: it is truncated, so TCP is needed.

    Raises:
        RefusedTransferError: the response is an error, or has no authority for the zone.
        BadTransferError: it is no response to the query.
    """
    check_response(read, apex, Type.SOA, ident)
    for record in read.answers:
        if record.soa is not None and record.owner == apex:
            return record.soa
    if read.flags & TC:
        return None
    raise RefusedTransferError("it has no SOA record of the zone")


def check_response(read: TransferMessage, apex: Labels, qtype: int, ident: int) -> None:
    """Check the header and question of a response. Later messages of a transfer need no question.

    Raises:
        RefusedTransferError: the response is an error.
        BadTransferError: it is no response to the query.
    """
    if read.ident != ident or read.flags & (QR | _OPCODE) != QR:
        raise BadTransferError("a message is no response to the query")
    check_rcode(read)
    if read.question is not None and read.question != (apex, qtype):
        raise BadTransferError("a message is the response to another question")


def check_rcode(read: TransferMessage) -> None:
    """Check that a response is no error.

    Raises:
        RefusedTransferError: it is.
    """
    if rcode := read.flags & _RCODE:
        raise RefusedTransferError(f"it responds with {_RCODES.get(rcode, f'RCODE {rcode}')}")


class Inbound:
    """A transfer: pass each message to `feed`, until it returns True.

    Attributes:
        kind: the kind of transfer; known after the second record.
        soa: the SOA record of the version that it leads to.
        records: the needed records of a full transfer.
        versions: the versions of an incremental transfer.
        count: the number of all records so far.

    Args:
        apex: the apex of the zone, in lower case.
        qtype: AXFR or IXFR.
        ident: the id of the query.
        serial: with IXFR, the serial of the version that the client has.
        max_records: as `MAX_RECORDS`.
    """

    def __init__(
        self,
        apex: Labels,
        qtype: Type,
        ident: int,
        serial: int | None = None,
        *,
        max_records: int = MAX_RECORDS,
    ) -> None:
        self.kind = Kind.UNKNOWN
        self.records: Records = {}
        self.versions: list[Version] = []
        self.count = 0
        self._apex, self._qtype, self._ident, self._serial = apex, qtype, ident, serial
        self._max_records = max_records
        self._soa: Soa | None = None
        self._reached = serial  # the serial of the version that the last complete difference led to
        self._is_adding = False
        self._is_complete = False

    @property
    def soa(self) -> Soa:
        """The SOA record of the version that the transfer leads to; known once `feed` has returned True."""
        assert self._soa is not None  # noqa: S101 - as described
        return self._soa

    def feed(self, read: TransferMessage) -> bool:
        """Process a message. Returns whether the transfer is complete.

        Raises:
            RefusedTransferError: the primary refuses the transfer.
            BadTransferError: the transfer is not valid.
        """
        check_response(read, self._apex, self._qtype, self._ident)
        self.count += len(read.answers)
        if self.count > self._max_records:
            raise BadTransferError(f"it has more than {self._max_records} records")
        if not read.answers:
            raise BadTransferError("a message has no records")
        for record in read.answers:
            self._add(record)
        if self.kind is Kind.UNKNOWN and self._qtype is Type.IXFR and self._serial is not None:
            # A single SOA record: there is nothing newer (RFC 1995 §4). A zone in one message has two.
            if is_newer(self.soa.serial, self._serial):
                return False  # the second record is in the next message
            self.kind = Kind.CURRENT
            self._is_complete = True
        return self._is_complete

    def _add(self, record: ZoneRecord) -> None:
        if self._is_complete:
            raise BadTransferError("it has records after its end")
        apex = self._apex
        if record.owner != apex and record.owner[-len(apex) :] != apex:
            raise BadTransferError("it has a record outside of the zone")
        if self._soa is None:
            if record.soa is None or record.owner != apex:
                raise BadTransferError("its first record is not the SOA record of the zone")
            self._soa = record.soa
            return
        if self.kind is Kind.UNKNOWN:
            is_difference = self._qtype is Type.IXFR and record.soa is not None and record.owner == apex
            if is_difference and record.soa is not None and record.soa.serial == self._serial:
                self.kind = Kind.INCREMENTAL
            else:
                self.kind = Kind.FULL
        if self.kind is Kind.FULL:
            self._add_to_zone(record)
        else:
            self._add_to_versions(record)

    def _add_to_zone(self, record: ZoneRecord) -> None:
        if record.soa is not None:
            if record.owner != self._apex or record.soa.serial != self.soa.serial:
                raise BadTransferError("its last record is not the SOA record of its first one")
            self._is_complete = True
        elif is_needed(record):
            self.records.setdefault(record.owner, []).append((record.rtype, record.data))

    def _add_to_versions(self, record: ZoneRecord) -> None:
        if record.soa is None:
            if is_needed(record):
                version = self.versions[-1]
                (version.added if self._is_adding else version.deleted).append(record)
            return
        serial = record.soa.serial
        if self.versions and not self._is_adding:  # the version that the following records are added in
            self._is_adding = True
            self._reached = serial
        elif self.versions and serial == self.soa.serial == self._reached:
            self._is_complete = True
        elif serial == self._reached:
            self.versions.append(Version([], []))
            self._is_adding = False
        else:
            raise BadTransferError("a difference begins at another version than the one before it")
