"""DNS messages in wire format: a strict parser of queries, and a writer of responses.

The parser accepts a header, one question (or only a cookie) and at most one OPT record. It ignores some bytes
after them, as other servers do. For anything else it raises `BadQueryError` with the error response, and no
other exception. Its time is linear in the size of the message (at most 64 KiB).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from zkdns.dns.edns import (
    DO,
    MIN_UDP_SIZE,
    OPT,
    BadOptionError,
    Ede,
    Edns,
    OptionCode,
    pack_ede,
    pack_opt,
    read_options,
    response_opt,
)
from zkdns.names import MAX_LABEL, MAX_NAME, Labels

HEADER_SIZE: Final = 12
MAX_MESSAGE: Final = 65535  # the length field of TCP (RFC 1035 §4.2.2)

MAX_TRAILING: Final = 512
"""Maximum number of ignored bytes after a query: some clients send a whole buffer of 512 bytes."""

QUESTION_POINTER: Final = b"\xc0\x0c"  # the question's name always starts after the header

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010

HEADER: Final = struct.Struct("!6H")
"""A message's header: id, flags, and the number of records in each section."""
_HEADER_AFTER_ID = struct.Struct("!5H")
TYPE_CLASS: Final = struct.Struct("!2H")
RECORD: Final = struct.Struct("!HHIH")
"""A record after its owner name: type, class, TTL, length of the data."""
_SOA_NUMBERS = 20  # bytes at the end of an SOA record, of which the serial is the first (RFC 1035 §3.3.13)
MIN_RECORD: Final = 1 + RECORD.size
"""Bytes of the shortest record: it is owned by the root and has no data."""


class Type(enum.IntEnum):
    """The RR types that this server handles. Queries may have any other number too."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    DS = 43
    IXFR = 251
    AXFR = 252
    ANY = 255


CLASS_IN: Final = 1
CLASS_CH: Final = 3
TSIG: Final = 250
"""The type of the record with the signature of a message (RFC 8945)."""


class Rcode(enum.IntEnum):
    """Response codes; those above 15 need an OPT record."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    NOTAUTH = 9
    BADVERS = 16
    BADCOOKIE = 23


class BadQueryError(Exception):
    """The query gets an error response, or (`response` is None) no response at all."""

    def __init__(self, response: bytes | None) -> None:
        self.response = response
        super().__init__(response)


class _MalformedError(Exception):
    """The message cannot be parsed."""


class _Record(NamedTuple):
    """A record of a query. Its data is `message[data_at:end]`."""

    rtype: int
    rclass: int
    ttl: int
    data_at: int
    end: int


class Query(msgspec.Struct, frozen=True, gc=False):
    """A question and the header flags and EDNS data that came with it.

    `name` is in lower case. `question` has the question in wire format and original spelling, as responses
    repeat it; it is empty in a query without a question (RFC 7873 §5.4). `ad` and `cd` matter only for
    forwarding (RFC 6840 §5.7, RFC 4035 §3.2.2). `is_exact`: no bytes follow the query. `is_signed`: it has a
    TSIG record, which was not checked.
    """

    id: int
    rd: bool
    name: Labels
    qtype: int
    qclass: int
    question: bytes
    edns: Edns | None
    ad: bool = False
    cd: bool = False
    is_exact: bool = True
    is_signed: bool = False

    def pointer_to(self, count: int) -> bytes:
        """A compression pointer to the last `count` labels of the question's name."""
        last = self.name[len(self.name) - count :]
        size = sum(map(len, last)) + count + TYPE_CLASS.size + 1
        return (0xC000 | (HEADER_SIZE + len(self.question) - size)).to_bytes(2)


def parse_query(message: bytes) -> Query:
    """Parse a query.

    Raises:
        BadQueryError: with the error response, or with None for no response.
    """
    if len(message) < HEADER_SIZE:
        raise BadQueryError(None)
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if flags & QR:  # a response: answering it could start an endless loop
        raise BadQueryError(None)
    if flags >> 11 & 0xF:  # RFC 8906 §3.1.4: NOTIMP copies no other flag
        raise BadQueryError(HEADER.pack(ident, QR | flags & 0x7800 | Rcode.NOTIMP, 0, 0, 0, 0))
    try:
        name, qtype, qclass, at = _read_question(message, questions)
        question = message[HEADER_SIZE:at]
        at = _skip_records(message, at, answers, authorities, qtype)
        edns, at, is_signed = _read_additional(message, at, additionals)
        if not questions:
            _require_cookie(edns)
    except BadOptionError:  # RFC 6891 §7: the OPT record shows that EDNS is supported
        header = HEADER.pack(ident, QR | flags & RD | Rcode.FORMERR, questions, 0, 0, 1)
        raise BadQueryError(header + question + pack_opt()) from None
    except (_MalformedError, struct.error):  # struct.error: the message ends too early
        raise BadQueryError(HEADER.pack(ident, QR | flags & RD | Rcode.FORMERR, 0, 0, 0, 0)) from None
    ad, cd = bool(flags & AD), bool(flags & CD)
    is_exact = at == len(message)
    return Query(ident, bool(flags & RD), name, qtype, qclass, question, edns, ad, cd, is_exact, is_signed)


def _read_question(message: bytes, count: int) -> tuple[Labels, int, int, int]:
    """Name, type, class and end of the question. Without a question: the root, 0, IN and the header's end."""
    if not count:
        return (), 0, CLASS_IN, HEADER_SIZE
    if count > 1:  # RFC 9619 §4
        raise _MalformedError
    name, at = _read_name(message)
    qtype, qclass = TYPE_CLASS.unpack_from(message, at)
    return name, qtype, qclass, at + TYPE_CLASS.size


def _require_cookie(edns: Edns | None) -> None:
    """Reject a query with neither a question nor a cookie (RFC 7873 §5.4)."""
    if edns is None or OptionCode.COOKIE not in edns.options:
        raise _MalformedError


def _skip_records(message: bytes, at: int, answers: int, authorities: int, qtype: int) -> int:
    """The start of the additional section.

    Only an IXFR query has a record before it: its SOA (RFC 1995 §3).
    """
    if answers or (authorities and qtype != Type.IXFR):
        raise _MalformedError
    for _ in range(authorities):
        at = _read_record(message, at).end
    return at


def _read_name(message: bytes) -> tuple[Labels, int]:
    """The question's name in lower case, and the offset of its type.

    A compression pointer is an error, since no earlier name exists to which it could point.
    """
    labels: list[bytes] = []
    lowered = message.lower()
    at, end = HEADER_SIZE, min(len(message), HEADER_SIZE + MAX_NAME)
    while at < end:
        length = message[at]
        at += 1
        if not length:
            return tuple(labels), at
        if length > MAX_LABEL:
            break
        labels.append(lowered[at : at + length])
        at += length
    raise _MalformedError


def end_of_question(query: bytes) -> int:
    """The end of the only question of a query after its id; 0 if its name is malformed.

    This is for quick paths. `parse_query` has all the checks.
    """
    at, size = HEADER_SIZE - 2, len(query)
    end = min(size, at + MAX_NAME)
    while at < end:
        length = query[at]
        if not length:
            at += 1 + TYPE_CLASS.size
            return at if at <= size else 0
        if length > MAX_LABEL:
            return 0
        at += 1 + length
    return 0


def _read_additional(message: bytes, at: int, count: int) -> tuple[Edns | None, int, bool]:
    """The OPT record of the additional section, the end of the section, and whether it has a TSIG record."""
    if count == 1 and len(message) == at + OPT.size:  # by far the most common case
        root, rtype, size, _, version, flags, length = OPT.unpack_from(message, at)
        if not root and rtype == Type.OPT and not length:
            return Edns(size, version, bool(flags & DO)), len(message), False
    edns, is_signed = None, False
    for _ in range(count):
        record = _read_record(message, at)
        if record.rtype == Type.OPT:
            if edns is not None or message[at]:  # RFC 6891 §6.1.1: one, and owned by the root
                raise BadOptionError("there are two OPT records, or one has a name")
            edns = Edns(
                size=record.rclass,
                version=record.ttl >> 16 & 0xFF,
                do=bool(record.ttl & DO),
                options=read_options(message[record.data_at : record.end]),
            )
        is_signed |= record.rtype == TSIG
        at = record.end
    if len(message) - at > MAX_TRAILING:
        raise _MalformedError
    return edns, at, is_signed


def _read_record(message: bytes, at: int) -> _Record:
    """The record at this offset."""
    at = _skip_name(message, at)
    rtype, rclass, ttl, length = RECORD.unpack_from(message, at)
    at += RECORD.size
    if at + length > len(message):
        raise _MalformedError
    return _Record(rtype, rclass, ttl, at, at + length)


def _skip_name(message: bytes, at: int) -> int:
    """The end of a record's name: after its root or its compression pointer, which must point backwards."""
    start = at
    while at < len(message) and at - start < MAX_NAME:
        length = message[at]
        if length > MAX_LABEL:
            if length < 0xC0 or at + 2 > len(message):  # noqa: PLR2004 - the two bits of a pointer
                raise _MalformedError
            if struct.unpack_from("!H", message, at)[0] & 0x3FFF >= start:
                raise _MalformedError
            return at + 2
        at += 1 + length
        if not length:
            return at
    raise _MalformedError


def pack_record(owner: bytes, rtype: int, ttl: int, data: bytes, rclass: int = CLASS_IN) -> bytes:
    """A resource record; `owner` is in wire format."""
    return owner + RECORD.pack(rtype, rclass, ttl, len(data)) + data


class ResponseTemplate(msgspec.Struct, frozen=True):
    """The parts of a response that do not depend on its records: flags, question and OPT record."""

    flags: int
    question: bytes
    opt: bytes

    def room_for_records(self, limit: int) -> int:
        """Bytes that are left for records in a message of at most `limit` bytes."""
        return limit - HEADER_SIZE - len(self.question) - len(self.opt)

    def build(
        self, records: bytes, answers: int, authority: int, additional: int, *, truncated: bool = False
    ) -> bytes:
        """The response after its id.

        `records` has all sections; the counts are the records in each section.
        """
        flags = self.flags | TC if truncated else self.flags
        counts = bool(self.question), answers, authority, additional + bool(self.opt)
        return b"".join((_HEADER_AFTER_ID.pack(flags, *counts), self.question, records, self.opt))


class Response(msgspec.Struct):
    """A response to a query.

    If there is not enough room, `pack` first leaves out additional records, since they are optional. If it
    has to leave out an answer or authority record, it sets TC (RFC 2181 §9).
    """

    query: Query
    rcode: Rcode = Rcode.NOERROR
    authoritative: bool = False
    recursion_available: bool = False
    answers: Sequence[bytes] = ()
    authority: Sequence[bytes] = ()
    additional: Sequence[bytes] = ()
    ede: Ede | None = None
    ede_text: str = ""
    errors: bytes = b""
    """Extended errors of an upstream, as options."""
    truncated: bool = False
    """Set by `pack`: whether TC is set, because answer or authority records were left out."""

    def pack(self, limit: int) -> bytes:
        """The message, of at most `limit` bytes."""
        template = self.template()
        room = template.room_for_records(limit)
        answers, room = _fit(self.answers, room)
        authority, room = _fit(self.authority, room)
        self.truncated = len(answers) < len(self.answers) or len(authority) < len(self.authority)
        additional = () if self.truncated else _fit(self.additional, room)[0]
        counts = len(answers), len(authority), len(additional)
        records = b"".join((*answers, *authority, *additional))
        return self.query.id.to_bytes(2) + template.build(records, *counts, truncated=self.truncated)

    def template(self) -> ResponseTemplate:
        """Header, question and OPT record."""
        flags = QR | (self.query.rd and RD) | (self.authoritative and AA) | self.rcode & 0xF
        flags |= self.recursion_available and RA
        return ResponseTemplate(flags, self.query.question, self._opt())

    def _opt(self) -> bytes:
        """The OPT record. It is limited so that header, question and OPT record fit into 512 bytes."""
        edns = self.query.edns
        if edns is None:
            return b""
        errors = self.errors
        if self.ede is not None:
            errors = pack_ede(self.ede, self.ede_text) + errors
        return response_opt(edns, self.rcode, errors, MIN_UDP_SIZE - HEADER_SIZE - len(self.query.question))


def _fit(records: Sequence[bytes], room: int) -> tuple[Sequence[bytes], int]:
    """The first records that fit, and the remaining room."""
    for count, record in enumerate(records):
        if len(record) > room:
            return records[:count], 0
        room -= len(record)
    return records, room


def servfail(query: bytes) -> bytes:
    """A SERVFAIL header after its id, for a query (without its id) that caused an internal error."""
    flags = int.from_bytes(query[:2].ljust(2, b"\0"))
    return _HEADER_AFTER_ID.pack(QR | flags & RD | Rcode.SERVFAIL, 0, 0, 0, 0)


class SentRecords(NamedTuple):
    """The records of a query of which zone transfers need to know."""

    tsig: int | None
    """Offset of the first TSIG record. None: there is none."""
    serial: int | None
    """The serial of the SOA record in the authority section (RFC 1995 §3). None: there is none."""


def find_sent_records(message: bytes) -> SentRecords:
    """Find the SOA and TSIG records of a query that `parse_query` has accepted."""
    _, _, _, _, authorities, additionals = HEADER.unpack_from(message)
    at = end_of_question(message[2:]) + 2
    serial = tsig = None
    for number in range(authorities + additionals):
        record = _read_record(message, at)
        if number < authorities and record.rtype == Type.SOA and record.end - record.data_at > _SOA_NUMBERS:
            serial = int.from_bytes(message[record.end - _SOA_NUMBERS : record.end - _SOA_NUMBERS + 4])
        if record.rtype == TSIG and tsig is None:
            tsig = at
        at = record.end
    return SentRecords(tsig, serial)
