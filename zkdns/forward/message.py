"""Messages to and from upstreams: a writer of queries and a strict reader of replies.

The reader checks a reply to its last byte and then keeps the records as they came, without taking them apart.
So every type passes intact, unknown ones too (RFC 3597). This works because the names in a record may point
only into the question, which has the same length in every message about it, or into an earlier record, which
keeps its place. Only TTLs change, so the reader rejects a name with a TTL inside it; and if a message is too
long, records are removed from the end only.

The reader raises only `BadReplyError` and works in time linear in the message. No sockets and no clocks here.
"""

from __future__ import annotations

import array
import os
import struct
from bisect import bisect_left
from typing import Final, NamedTuple

import msgspec

from zkdns.dns.edns import OPT, BadOptionError, OptionCode, iter_options, pack_opt, sanitize_ede
from zkdns.dns.message import (
    AD,
    CD,
    CLASS_IN,
    HEADER,
    HEADER_SIZE,
    QR,
    RD,
    RECORD,
    TC,
    TYPE_CLASS,
    Rcode,
    Type,
)
from zkdns.forward.reply import MAX_TTL, TTL_FIELD, Reply
from zkdns.names import MAX_LABEL, MAX_NAME

_OPCODE = 0x7800
_ROOT_SIZE = 1
_POINTER = 0xC0
_RANDOM_BYTES = 4096  # read by one system call; two bytes for each id

# Plain integers: access to a member of an enumeration takes several times as long.
_NOERROR, _NXDOMAIN = int(Rcode.NOERROR), int(Rcode.NXDOMAIN)
_SOA_TYPE, _OPT_TYPE, _ANY_TYPE = int(Type.SOA), int(Type.OPT), int(Type.ANY)
_ADDRESS_SIZES: Final = {int(Type.A): 4, int(Type.AAAA): 16}

# Types with names in their data that may be compressed (RFC 1035 §3.3), or that some servers compress
# although RFC 3597 §4 forbids it: bytes before the names, number of names, bytes after them.
_NAMES_IN: Final = {
    2: (0, 1, 0),  # NS
    3: (0, 1, 0),  # MD
    4: (0, 1, 0),  # MF
    5: (0, 1, 0),  # CNAME
    6: (0, 2, 20),  # SOA
    7: (0, 1, 0),  # MB
    8: (0, 1, 0),  # MG
    9: (0, 1, 0),  # MR
    12: (0, 1, 0),  # PTR
    14: (0, 2, 0),  # MINFO
    15: (2, 1, 0),  # MX
    17: (0, 2, 0),  # RP
    18: (2, 1, 0),  # AFSDB
    21: (2, 1, 0),  # RT
    26: (2, 2, 0),  # PX
    33: (6, 1, 0),  # SRV
    36: (2, 1, 0),  # KX
    39: (0, 1, 0),  # DNAME
}


class Question(msgspec.Struct, frozen=True, gc=False):
    """A question of class IN, with the flags that change its reply (RFC 4035 §3.2)."""

    name: bytes
    """In wire format: labels with their lengths, in lower case, with the zero of the root; 1 to 255 bytes."""
    qtype: int
    do: bool = False
    """True if the client accepts DNSSEC records (RFC 3225)."""
    cd: bool = False
    """True if the upstream should not validate the data (checking disabled)."""


class RandomIds:
    """Unpredictable 16-bit message ids, from the random source of the system (RFC 5452 §9.2)."""

    def __init__(self) -> None:
        self._unused = array.array("H")

    def take(self) -> int:
        """Return the next id."""
        if not self._unused:
            self._unused.frombytes(os.urandom(_RANDOM_BYTES))
        return self._unused.pop()


class BadReplyError(Exception):
    """The message is not a valid reply to the question.

    Attributes:
        reason: the fault, as a clause such as `it is a query`.
        rcode: the response code of a message that has only a header; otherwise None. A server sends such a
            message if it cannot or will not read the query. The message names no question, so it must not end
            the attempt, but it may be a reason to repeat the query without EDNS.
    """

    def __init__(self, reason: str, rcode: int | None = None) -> None:
        self.reason = reason
        self.rcode = rcode
        super().__init__(reason)


def build_query(question: Question, ident: int, *, edns: bool = True) -> bytes:
    """Build a query for an upstream.

    AD is always set, so that the upstream reports whether it has validated the data (RFC 6840 §5.7): the
    reply may be cached for clients that want to know.

    Args:
        question: the question.
        ident: the id of the message.
        edns: whether to add an OPT record, which is required to request DNSSEC records.
    """
    flags = RD | AD | (question.cd and CD)
    header = HEADER.pack(ident, flags, 1, 0, 0, edns)
    opt = pack_opt(do=question.do) if edns else b""
    return b"".join((header, question.name, TYPE_CLASS.pack(question.qtype, CLASS_IN), opt))


class _Records(NamedTuple):
    """The records of a message: element i of each list is about record i.

    Offsets count from the first record.
    """

    types: list[int]
    ttls: list[int]
    ttls_at: list[int]
    ends: list[int]


class _Names(NamedTuple):
    """The names found in a message so far.

    Attributes:
        sizes: uncompressed length of the name that starts at each offset. Includes every suffix, so that no
            byte is read twice, however many names point to it.
        unchecked: targets of pointers at which no name was known to start.
    """

    sizes: dict[int, int]
    unchecked: list[int]


class _Opt(NamedTuple):
    """An OPT record: the upper bits of the RCODE, and the extended errors as options."""

    rcode: int
    ede: bytes


def read_reply(message: bytes, question: Question) -> Reply:
    """Read the reply to a question. The caller checks the id.

    Raises:
        BadReplyError: the message is malformed, or is the reply to another question.
    """
    flags, answers, authorities, additionals = _read_header(message)
    start = _match_question(message, question)
    count = answers + authorities + additionals
    try:
        records = _walk(message, start, len(question.name), count)
    except (IndexError, struct.error):
        raise BadReplyError("it ends within a record") from None
    opt = None
    if _OPT_TYPE in records.types:
        count = records.types.index(_OPT_TYPE)
        opt = _read_opt(message, start, records, count, answers + authorities)
        # The records after OPT are removed: they would move, and pointers into them would be wrong.
        additionals = count - answers - authorities
        for column in records:
            del column[count:]
    rcode = flags & 0xF | (opt.rcode if opt else 0)
    is_negative = rcode == _NXDOMAIN or (
        rcode == _NOERROR and not _has_answer(records.types[:answers], question.qtype)
    )
    # RFC 2308 §5: a negative reply is cached only if it has an SOA record, which limits its TTL.
    has_ttl = not is_negative or _limit_soa_ttl(message, start, records, answers, authorities)
    is_cacheable = has_ttl and rcode in (_NOERROR, _NXDOMAIN) and not flags & TC
    return Reply(
        rcode=rcode,
        truncated=bool(flags & TC),
        authentic=bool(flags & AD),
        has_edns=opt is not None,
        is_negative=is_negative,
        ttl=min(records.ttls, default=0) if is_cacheable else 0,
        records=message[start : start + records.ends[-1]] if count else b"",
        counts=(answers, authorities, additionals),
        ends=tuple(records.ends),
        ttls=tuple(records.ttls),
        ttls_at=tuple(records.ttls_at),
        ede=opt.ede if opt else b"",
    )


def _read_header(message: bytes) -> tuple[int, int, int, int]:
    """Return the flags, and the number of records in each section."""
    if len(message) < HEADER_SIZE:
        raise BadReplyError(f"it has {len(message)} bytes, a header has {HEADER_SIZE}")
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if not flags & QR:
        raise BadReplyError("it is a query")
    if flags & _OPCODE:
        raise BadReplyError(f"it has the opcode {flags >> 11 & 0xF}, a reply to a query has 0")
    if questions != 1:
        is_bare = len(message) == HEADER_SIZE and not any((questions, answers, authorities, additionals))
        raise BadReplyError(f"it has {questions} questions", flags & 0xF if is_bare else None)
    return flags, answers, authorities, additionals


def _match_question(message: bytes, question: Question) -> int:
    """Check that the question is the expected one, and return the offset of the first record."""
    name_end = HEADER_SIZE + len(question.name)
    # lower() leaves the length bytes unchanged: they are smaller than any letter.
    if message[HEADER_SIZE:name_end].lower() != question.name:
        raise BadReplyError("it is about another name")
    start = name_end + TYPE_CLASS.size
    if message[name_end:start] != TYPE_CLASS.pack(question.qtype, CLASS_IN):
        raise BadReplyError("it is about another type or class")
    return start


def _walk(message: bytes, start: int, name_size: int, count: int) -> _Records:
    """Read all records; the last one must end where the message ends.

    Raises:
        BadReplyError: a record is malformed.
        IndexError: the message is too short.
        struct.error: the message is too short.
    """
    records = types, ttls, ttls_at, ends = _Records([], [], [], [])
    names = _Names({HEADER_SIZE: name_size}, [])
    at = start
    for _ in range(count):
        first = message[at]
        if first == _POINTER and message[at + 1] == HEADER_SIZE:  # most owners are the name of the question
            at += 2
        elif not first:  # the root, the owner of the OPT record
            at += _ROOT_SIZE
        else:
            at = _skip_name(message, at, names)
        rtype, rclass, ttl, size = RECORD.unpack_from(message, at)
        data_at = at + RECORD.size
        types.append(rtype)
        ttls.append(ttl if ttl <= MAX_TTL else 0)  # RFC 2181 §8
        ttls_at.append(at + 4 - start)
        at = data_at + size
        ends.append(at - start)
        if rclass == CLASS_IN:
            if size != _ADDRESS_SIZES.get(rtype, size):
                raise BadReplyError(f"it has an address of {size} bytes")
            if rtype in _NAMES_IN:
                _check_data(message, rtype, data_at, at, names)
    if at < len(message):
        raise BadReplyError(f"it has {len(message) - at} bytes after its last record")
    if at > len(message):
        raise BadReplyError("it ends within a record")
    for place in names.unchecked:
        _check_without_ttl(message, place - start, start, ttls_at)
    return records


def _check_without_ttl(message: bytes, at: int, start: int, ttls_at: list[int]) -> None:
    """Reject a name with a TTL inside it: the name would change with the TTL.

    Args:
        message: the message.
        at: offset of the name from the first record; negative in the question.
        start: offset of the first record.
        ttls_at: offsets of the TTLs from the first record.

    Raises:
        BadReplyError: the name has a TTL inside it.
    """
    end = at
    while 0 < (length := message[start + end]) <= MAX_LABEL:
        end += 1 + length
    end += 2 if length else _ROOT_SIZE  # including the end of the name: a pointer, or the root
    before_end = bisect_left(ttls_at, end)
    if before_end and ttls_at[before_end - 1] + TTL_FIELD.size > at:
        raise BadReplyError("a name has a TTL in it")


def _skip_name(message: bytes, at: int, names: _Names) -> int:
    """Check a name, and return the offset after its root or its first pointer.

    Args:
        message: the message.
        at: offset of the name.
        names: the earlier names; this one is added.

    Raises:
        BadReplyError: the name is malformed.
    """
    known, unchecked = names
    path: list[tuple[int, int]] = []
    # The current run of labels starts at `run` and lies before `limit`. A pointer must lead to before the
    # run that it ends, so there are no loops.
    run, limit = at, len(message)
    end = 0
    while at not in known:
        if at >= limit:
            raise BadReplyError("a name points into itself, or it ends within a record")
        length = message[at]
        if not length:
            known[at] = _ROOT_SIZE
        elif length <= MAX_LABEL:
            path.append((at, length + 1))
            at += length + 1
        elif length >= _POINTER:
            target = (length & 0x3F) << 8 | message[at + 1]
            if not HEADER_SIZE <= target < run:
                raise BadReplyError("a name points to where no name was before")
            path.append((at, 0))
            if target not in known:
                unchecked.append(target)
            end = end or at + 2
            at, run, limit = target, target, run
        else:
            raise BadReplyError(f"a name has a label of the unknown kind {length:#04x}")
    end = end or at + _ROOT_SIZE
    size = known[at]
    for place, length in reversed(path):
        size += length
        if size > MAX_NAME:
            raise BadReplyError(f"a name is longer than {MAX_NAME} bytes")
        known[place] = size
    return end


def _check_data(message: bytes, rtype: int, at: int, end: int, names: _Names) -> None:
    """Check that the names in the data of a record are valid, and that the data end with them.

    Raises:
        BadReplyError: a name is malformed, or the length of the data is wrong.
    """
    before, count, after = _NAMES_IN[rtype]
    at += before
    for _ in range(count):
        at = _skip_name(message, at, names)
    if at + after != end:
        raise BadReplyError(f"the data of a record of type {rtype} do not have the length of their content")


def _read_opt(message: bytes, start: int, records: _Records, at: int, first: int) -> _Opt:
    """Read the OPT record.

    Args:
        message: the message.
        start: offset of the first record.
        records: all records.
        at: index of the OPT record.
        first: index of the first additional record.

    Raises:
        BadReplyError: there are two OPT records, it is in another section, or its options are malformed.
    """
    record_at = start + (records.ends[at - 1] if at else 0)
    if records.types.count(_OPT_TYPE) > 1 or at < first or message[record_at]:  # RFC 6891 §6.1.1
        raise BadReplyError("it has two OPT records, or one in the wrong place")
    options = message[record_at + OPT.size : start + records.ends[at]]
    try:
        ede = [sanitize_ede(data) for code, data in iter_options(options) if code == OptionCode.EDE]
    except BadOptionError as bad:
        raise BadReplyError(str(bad)) from None
    extended_rcode = message[record_at + 5]
    return _Opt(extended_rcode << 4, b"".join(ede))


def _has_answer(types: list[int], qtype: int) -> bool:
    """Return whether answer records of these types include the requested type, not only aliases."""
    return qtype in types or (qtype == _ANY_TYPE and bool(types))


def _limit_soa_ttl(message: bytes, start: int, records: _Records, answers: int, authorities: int) -> bool:
    """Limit the TTL of the SOA record in a negative reply to its MINIMUM field (RFC 2308 §3, §5).

    Returns:
        Whether there is an SOA record; without one the reply must not be cached.
    """
    try:
        at = records.types.index(_SOA_TYPE, answers, answers + authorities)
    except ValueError:
        return False
    minimum: int
    (minimum,) = TTL_FIELD.unpack_from(message, start + records.ends[at] - TTL_FIELD.size)
    records.ttls[at] = min(records.ttls[at], minimum if minimum <= MAX_TTL else 0)
    return True
