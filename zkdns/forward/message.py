"""What is said to upstreams, and what they say: a writer of queries, a strict reader of replies.

A reply is checked to its last byte and then kept as it came: its records are never taken apart, so that every
type passes intact, unknown ones too (RFC 3597). That goes because a name in them may point back into the
question, whose length is the same in every message about it, and to records before it, which stay where they
are. Only TTLs change, which no name may lie in, and records go from the end where there is not room for all.

The reader never raises anything but `BadReplyError` and works in time linear in the message. Never here:
sockets, clocks.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import Final, NamedTuple

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
from zkdns.forward.question import Question
from zkdns.forward.reply import Reply
from zkdns.names import MAX_LABEL, MAX_NAME

_OPCODE = 0x7800
_MOST_SECONDS = 0x7FFFFFFF
_ROOT_SIZE = 1
_POINTER = 0xC0

_LONG = struct.Struct("!I")

# As plain numbers: an enumeration's members take several times as long to look up.
_NOERROR, _NXDOMAIN = int(Rcode.NOERROR), int(Rcode.NXDOMAIN)
_SOA_TYPE, _OPT_TYPE, _ANY_TYPE = int(Type.SOA), int(Type.OPT), int(Type.ANY)
_TTL_SIZE = 4
_SIZES: Final = {int(Type.A): 4, int(Type.AAAA): 16}

# Data with names that may be compressed (RFC 1035 §3.3), or are by some although they must not (RFC 3597 §4):
# bytes before the names, how many names there are, bytes behind them.
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


class BadReplyError(Exception):
    """A message that is no reply to the question.

    Attributes:
        reason: what is wrong with it, as a short text.
        rcode: what its header says, where it has nothing but a header: so answers who could not read the
            query, or will not. It does not say to what, so it must not end the wait; it may be a reason to
            ask otherwise.
    """

    def __init__(self, reason: str, rcode: int | None = None) -> None:
        self.reason = reason
        self.rcode = rcode
        super().__init__(reason)


def build_query(question: Question, ident: int, *, edns: bool = True) -> bytes:
    """The query for an upstream.

    AD is always set, which asks to be told whether the data are authentic (RFC 6840 §5.7): the reply may be
    kept for others than who asked first.

    Args:
        question: what is asked.
        ident: the message's id.
        edns: whether it has an OPT record. Without one DNSSEC's records cannot be asked for.
    """
    flags = RD | AD | (question.cd and CD)
    header = HEADER.pack(ident, flags, 1, 0, 0, edns)
    opt = pack_opt(do=question.do) if edns else b""
    return b"".join((header, question.name, TYPE_CLASS.pack(question.qtype, CLASS_IN), opt))


class _Records(NamedTuple):
    """A message's records, an element of each list for one of them; places are counted from the first one."""

    types: list[int]
    ttls: list[int]
    ttls_at: list[int]
    ends: list[int]


class _Names(NamedTuple):
    """The names of a message so far.

    Attributes:
        sizes: by place how long the name that begins there is, uncompressed. All that is found is put there,
            so that no byte is looked at twice, however many names point to it.
        strays: where a name points to and none was known to begin.
    """

    sizes: dict[int, int]
    strays: list[int]


class _Opt(NamedTuple):
    """What an OPT record says: the upper bits of the RCODE, and extended errors as options."""

    rcode: int
    ede: bytes


def read_reply(message: bytes, question: Question) -> Reply:
    """Read what came as the reply to a question; that its id is the query's is for the caller to see.

    Raises:
        BadReplyError: it is not well-formed, or the reply to another question.
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
        # Those behind it would move, and with them what their names point to.
        additionals = count - answers - authorities
        for column in records:
            del column[count:]
    rcode = flags & 0xF | (opt.rcode if opt else 0)
    is_negative = rcode == _NXDOMAIN or (
        rcode == _NOERROR and not _has_answer(records.types[:answers], question.qtype)
    )
    # RFC 2308 §5: what denies something is kept only with an SOA, which says for how long.
    has_limit = not is_negative or _limit_soa(message, start, records, answers, authorities)
    is_lasting = has_limit and rcode in (_NOERROR, _NXDOMAIN) and not flags & TC
    return Reply(
        rcode=rcode,
        truncated=bool(flags & TC),
        authentic=bool(flags & AD),
        has_edns=opt is not None,
        is_negative=is_negative,
        ttl=min(records.ttls, default=0) if is_lasting else 0,
        records=message[start : start + records.ends[-1]] if count else b"",
        counts=(answers, authorities, additionals),
        ends=tuple(records.ends),
        ttls=tuple(records.ttls),
        ttls_at=tuple(records.ttls_at),
        ede=opt.ede if opt else b"",
    )


def _read_header(message: bytes) -> tuple[int, int, int, int]:
    """Flags, and how many records each section has."""
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
    """Where the records begin behind the question, which must be the one that was asked."""
    name_end = HEADER_SIZE + len(question.name)
    # Lengths of labels are below the letters, so that lower() changes none of them.
    if message[HEADER_SIZE:name_end].lower() != question.name:
        raise BadReplyError("it is about another name")
    start = name_end + TYPE_CLASS.size
    if message[name_end:start] != TYPE_CLASS.pack(question.qtype, CLASS_IN):
        raise BadReplyError("it is about another type or class")
    return start


def _walk(message: bytes, start: int, name_size: int, count: int) -> _Records:
    """The records, which must end where the message does.

    Raises:
        BadReplyError: what is wrong.
        IndexError: it is too short.
        struct.error: it is too short.
    """
    records = types, ttls, ttls_at, ends = _Records([], [], [], [])
    names = _Names({HEADER_SIZE: name_size}, [])
    at = start
    for _ in range(count):
        first = message[at]
        if first == _POINTER and message[at + 1] == HEADER_SIZE:  # most records are about the question's name
            at += 2
        elif not first:  # the root, which owns the OPT record
            at += _ROOT_SIZE
        else:
            at = _skip_name(message, at, names)
        rtype, rclass, ttl, size = RECORD.unpack_from(message, at)
        data_at = at + RECORD.size
        types.append(rtype)
        ttls.append(ttl if ttl <= _MOST_SECONDS else 0)  # RFC 2181 §8
        ttls_at.append(at + 4 - start)
        at = data_at + size
        ends.append(at - start)
        if rclass == CLASS_IN:
            if size != _SIZES.get(rtype, size):
                raise BadReplyError(f"it has an address of {size} bytes")
            if rtype in _NAMES_IN:
                _check_data(message, rtype, data_at, at, names)
    if at < len(message):
        raise BadReplyError(f"it has {len(message) - at} bytes behind its last record")
    if at > len(message):
        raise BadReplyError("it ends within a record")
    for place in names.strays:
        _check_stray(message, place - start, start, ttls_at)
    return records


def _check_stray(message: bytes, at: int, start: int, ttls_at: list[int]) -> None:
    """Refuse a name that has a TTL in it, which would be another name a second later, or none.

    Args:
        message: what the name is in.
        at: where it begins, counted from the first record; it may lie before that.
        start: where that one begins.
        ttls_at: where TTLs are.
    """
    end = at
    while 0 < (length := message[start + end]) <= MAX_LABEL:
        end += 1 + length
    end += 2 if length else _ROOT_SIZE  # with what it ends with: a pointer, or the root
    before_end = bisect_left(ttls_at, end)
    if before_end and ttls_at[before_end - 1] + _TTL_SIZE > at:
        raise BadReplyError("a name has a TTL in it")


def _skip_name(message: bytes, at: int, names: _Names) -> int:
    """Where a name ends: behind its root or behind its first pointer.

    Args:
        message: what the name is in.
        at: where it begins.
        names: those before; what is found is added.
    """
    known, strays = names
    path: list[tuple[int, int]] = []
    # The labels that are being read began at `run` and lie before `limit`. Each pointer leads to a name that
    # lies wholly before the one that it stands in, so there is no circle.
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
                strays.append(target)
            end = end or at + 2
            at, run, limit = target, target, run
        else:
            raise BadReplyError(f"a name has a label of the unknown kind {length:#04x}")
    end = end or at + _ROOT_SIZE
    size = known[at]
    for place, taken in reversed(path):
        size += taken
        if size > MAX_NAME:
            raise BadReplyError(f"a name is longer than {MAX_NAME} bytes")
        known[place] = size
    return end


def _check_data(message: bytes, rtype: int, at: int, end: int, names: _Names) -> None:
    """Whether the names in a record's data are names, and end where they must."""
    before, count, behind = _NAMES_IN[rtype]
    at += before
    for _ in range(count):
        at = _skip_name(message, at, names)
    if at + behind != end:
        raise BadReplyError(f"the data of a record of type {rtype} are not as long as what is in them")


def _read_opt(message: bytes, start: int, records: _Records, at: int, first: int) -> _Opt:
    """Read the OPT record, which is the one with the number `at`; additional ones begin with `first`."""
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
    """Whether records of these types in the answer section are what was asked for, not only the way there."""
    return qtype in types or (qtype == _ANY_TYPE and bool(types))


def _limit_soa(message: bytes, start: int, records: _Records, answers: int, authorities: int) -> bool:
    """Let the SOA of a negative reply live no longer than its MINIMUM says (RFC 2308 §3, §5).

    Without one the reply must not be kept.
    """
    try:
        at = records.types.index(_SOA_TYPE, answers, answers + authorities)
    except ValueError:
        return False
    minimum: int
    (minimum,) = _LONG.unpack_from(message, start + records.ends[at] - _LONG.size)
    records.ttls[at] = min(records.ttls[at], minimum if minimum <= _MOST_SECONDS else 0)
    return True
