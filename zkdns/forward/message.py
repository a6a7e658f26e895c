"""Messages to and from upstreams: a writer of queries and a strict reader of replies.

The reader checks all records of a reply and then keeps them as they came, without taking them apart. So every
type passes intact, unknown ones too (RFC 3597). This works because the names in a record may point only into
the question, which has the same length in every message about it, or into an earlier record, which keeps its
place. Only TTLs change, so the reader rejects a name with a TTL inside it; and if a message is too long,
records are removed from the end only.

A reply that must not pass as it came is rewritten first (`rewriting.py`):

    an answer record is not about the question or its aliases           without the record
    the SOA record of a negative reply is of a zone without the name    without the record
    an OPT record is malformed, doubled or misplaced                    without any OPT record
    names are compressed in data of types newer than RFC 1035           written in full (RFC 3597 §4)

Most replies have one of a few forms, which take less time to read (`usual_replies.py`). The reader raises
only `BadReplyError`, and works in time linear in the message. No sockets, no clocks.
"""

from __future__ import annotations

import array
import itertools
import os
import struct
from collections.abc import Iterator, Sequence

import msgspec

from zkdns.dns.edns import OPT, PLAIN_OPT, BadOptionError, OptionCode, iter_options, sanitize_ede
from zkdns.dns.message import (
    AA,
    AD,
    CD,
    CLASS_IN,
    HEADER,
    HEADER_SIZE,
    QR,
    RA,
    RD,
    TC,
    TYPE_CLASS,
    Rcode,
    Type,
)
from zkdns.forward.records import POINTER, BadReplyError, Records, walk
from zkdns.forward.reply import MAX_TTL, NOT_VERBATIM, TTL_FIELD, Reply
from zkdns.forward.rewriting import follow_aliases, is_subdomain, name_at, rewrite
from zkdns.forward.usual_replies import read_usual

_OPCODE = 0x7800
_QUERY_FLAGS = (RD | AD, RD | AD | CD)  # without and with CD
_RANDOM_BYTES = 4096  # read by one system call; two bytes for each id

# Plain integers: access to a member of an enumeration takes several times as long.
_NOERROR, _NXDOMAIN = int(Rcode.NOERROR), int(Rcode.NXDOMAIN)
_SOA_TYPE, _OPT_TYPE, _ANY_TYPE = int(Type.SOA), int(Type.OPT), int(Type.ANY)
_NS_TYPE, _CNAME_TYPE = int(Type.NS), int(Type.CNAME)
_OF_SEVERAL_RRSETS = frozenset({_CNAME_TYPE, 39, 46})  # CNAME, DNAME, RRSIG


class Question(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A question of class IN, with the flags that change its reply (RFC 4035 §3.2)."""

    name: bytes
    """In wire format: labels with their lengths, in lower case, with the zero of the root; 1 to 255 bytes."""
    qtype: int
    do: bool = False
    """True if the client accepts DNSSEC records (RFC 3225)."""
    cd: bool = False
    """True if the upstream should not validate the data (checking disabled)."""


def random_ids() -> Iterator[int]:
    """Unpredictable 16-bit message ids, from the random source of the system (RFC 5452 §9.2), forever."""
    return itertools.chain.from_iterable(
        array.array("H", os.urandom(_RANDOM_BYTES)) for _ in itertools.count()
    )


def build_query(question: Question, ident: int, *, edns: bool = True) -> bytes:
    """Build a query for an upstream.

    AD is always set, so that the upstream reports whether it has validated the data (RFC 6840 §5.7): the
    reply may be cached for clients that want to know.

    Args:
        question: the question.
        ident: the id of the message.
        edns: whether to add an OPT record, which is required to request DNSSEC records.
    """
    header = HEADER.pack(ident, _QUERY_FLAGS[question.cd], 1, 0, 0, edns)
    query = header + question.name + TYPE_CLASS.pack(question.qtype, CLASS_IN)
    return query + PLAIN_OPT[question.do] if edns else query


def read_reply(message: bytes, question: Question) -> Reply:
    """Read the reply to a question. The caller checks the id.

    Raises:
        BadReplyError: the message is malformed, or is the reply to another question.
    """
    return read_usual(message, question.name, question.qtype) or _read_any(message, question)


def _read_any(message: bytes, question: Question) -> Reply:
    """Read any reply record by record; raises BadReplyError."""
    flags, counts, start = _read_head(message, question)
    answers = counts[0]
    try:
        records = walk(message, start, sum(counts))
        has_edns, upper_bits, ede = False, 0, b""
        dropped: list[int] = []
        if _OPT_TYPE in records.types:
            has_edns, upper_bits, ede, dropped = _take_opt(message, start, records, counts)
    except (IndexError, struct.error):
        raise BadReplyError("it ends within a record") from None
    aliases: list[bytes] = []
    if _CNAME_TYPE in records.types[:answers] or (records.others and records.others[0] < answers):
        aliases, strangers = follow_aliases(message, records, answers, question.name, question.qtype)
        dropped += strangers
    if dropped or records.compressed:
        message, records, counts = rewrite(message, start, records, counts, dropped)
        if answers and not counts[0]:
            raise BadReplyError("its answer is about another name")
    rcode = flags & 0xF | upper_bits
    types, ttls, answers, qtype = records.types, records.ttls, counts[0], question.qtype
    # Without an answer record of the requested type, but perhaps with aliases.
    has_answer = qtype in types[:answers] or (qtype == _ANY_TYPE and answers > 0)
    is_negative = rcode == _NXDOMAIN or (rcode == _NOERROR and not has_answer)
    has_ttl, foreign, is_referral, received_ttls = True, None, False, ttls.copy()
    if is_negative:
        has_ttl, foreign = _limit_by_soa(message, start, records, counts, (question.name, *aliases))
        if foreign is not None:
            message, records, counts = rewrite(message, start, records, counts, [foreign])
            types, ttls = records.types, records.ttls
        elif not has_ttl and counts[1] and not answers and not flags & (AA | RA) and not rcode:
            is_referral = _NS_TYPE in types
    elif answers > 1 and min(ttls[:answers]) != max(ttls[:answers]):
        _equalize_ttls(types, ttls, answers)
    is_verbatim = ttls == received_ttls and 0 not in ttls  # 0 may stand for a TTL that is not valid
    is_cacheable = has_ttl and rcode in (_NOERROR, _NXDOMAIN) and not flags & TC
    return Reply(
        rcode=rcode,
        truncated=bool(flags & TC),
        authentic=bool(flags & AD),
        has_edns=has_edns,
        is_negative=is_negative,
        ttl=min(ttls) if is_cacheable and ttls else 0,
        records=message[start : start + records.ends[-1]] if types else b"",
        counts=(counts[0], counts[1], counts[2]),
        ends=tuple(records.ends),
        ttls=tuple(ttls),
        ttls_at=tuple(records.ttls_at),
        ede=ede,
        aliases=tuple(aliases),
        longest_ttl=max(ttls, default=0) if is_verbatim else NOT_VERBATIM,
        is_referral=is_referral,
    )


def _read_head(message: bytes, question: Question) -> tuple[int, list[int], int]:
    """Check header and question.

    Returns:
        The flags, the number of records in each section, and the offset of the first record.
    """
    if len(message) < HEADER_SIZE:
        raise BadReplyError(f"it has {len(message)} bytes, a header has {HEADER_SIZE}")
    _, flags, questions, *counts = HEADER.unpack_from(message)
    if questions != 1 or flags & (QR | _OPCODE) != QR:
        raise _bad_header(message, flags, questions, counts)
    name_end = HEADER_SIZE + len(question.name)
    # lower() leaves the length bytes unchanged: they are smaller than any letter.
    if message[HEADER_SIZE:name_end].lower() != question.name:
        raise BadReplyError("it is about another name")
    start = name_end + TYPE_CLASS.size
    if message[name_end:start] != TYPE_CLASS.pack(question.qtype, CLASS_IN):
        raise BadReplyError("it is about another type or class")
    return flags, counts, start


def _bad_header(message: bytes, flags: int, questions: int, counts: Sequence[int]) -> BadReplyError:
    """Return the fault of a header that is not that of a reply to one question."""
    if not flags & QR:
        return BadReplyError("it is a query")
    if flags & _OPCODE:
        return BadReplyError(f"it has the opcode {flags >> 11 & 0xF}, a reply to a query has 0")
    is_bare = len(message) == HEADER_SIZE and not questions and not any(counts)
    return BadReplyError(f"it has {questions} questions", flags & 0xF if is_bare else None)


def _take_opt(
    message: bytes, start: int, records: Records, counts: list[int]
) -> tuple[bool, int, bytes, list[int]]:
    """Read the OPT record and remove it from the records, and its successors from records and counts.

    They would move without it, and pointers into them would be wrong.

    Args:
        message: the message.
        start: offset of the first record.
        records: all records.
        counts: number of records in each section.

    Returns:
        Whether there is a valid record, the upper bits of the RCODE, and the extended errors as options.
        Otherwise the indexes of the OPT records, which violate RFC 6891 §6.1.1 or have malformed options.
    """
    index, first_additional = records.types.index(_OPT_TYPE), counts[0] + counts[1]
    record_at = start + (records.ends[index - 1] if index else 0)
    if records.types.count(_OPT_TYPE) == 1 and index >= first_additional and not message[record_at]:
        options = message[record_at + OPT.size : start + records.ends[index]]
        try:
            ede = _extended_errors_of(options) if options else b""
        except BadOptionError:
            pass
        else:
            records.cut(index)
            counts[2] = index - first_additional
            return True, message[record_at + 5] << 4, ede, []
    return False, 0, b"", [index for index, rtype in enumerate(records.types) if rtype == _OPT_TYPE]


def _extended_errors_of(options: bytes) -> bytes:
    """Return the extended errors among options; raises BadOptionError."""
    return b"".join(sanitize_ede(data) for code, data in iter_options(options) if code == OptionCode.EDE)


def _limit_by_soa(
    message: bytes, start: int, records: Records, counts: Sequence[int], names: Sequence[bytes]
) -> tuple[bool, int | None]:
    """Limit the TTL of the SOA record in a negative reply to its MINIMUM field (RFC 2308 §3, §5).

    Args:
        message: the message.
        start: offset of the first record.
        records: its records.
        counts: number of records in each section.
        names: the name of the question and its aliases.

    Returns:
        Whether there is such a record; without it, the reply must not be cached. And the index of an SOA
        record of a zone without any of the names.
    """
    try:
        index = records.types.index(_SOA_TYPE, counts[0], counts[0] + counts[1])
    except ValueError:
        return False, None
    at = start + (records.ends[index - 1] if index else 0)
    # Nearly always, the owner is a pointer into the question.
    if message[at] != POINTER or not HEADER_SIZE <= message[at + 1] < start:
        owner = name_at(message, at, {}).lower()
        if not any(is_subdomain(name, owner) for name in names):
            return False, index
    minimum: int
    (minimum,) = TTL_FIELD.unpack_from(message, start + records.ends[index] - TTL_FIELD.size)
    records.ttls[index] = min(records.ttls[index], minimum if minimum <= MAX_TTL else 0)
    return True, None


def _equalize_ttls(types: list[int], ttls: list[int], answers: int) -> None:
    """Give all answer records of a type the shortest TTL of them: they are one RRset (RFC 2181 §5.2).

    Aliases and signatures belong to several RRsets.
    """
    for rtype in set(types[:answers]) - _OF_SEVERAL_RRSETS:
        indexes = [index for index in range(answers) if types[index] == rtype]
        shortest = min(ttls[index] for index in indexes)
        for index in indexes:
            ttls[index] = shortest
