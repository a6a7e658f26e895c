"""Reads the records of a message without taking them apart: offsets, and whether all names are valid.

The reader raises only `BadReplyError`, `IndexError` and `struct.error`, and works in time linear in the
message.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec

from zkdns.dns.message import CLASS_IN, HEADER_SIZE, RECORD, TYPE_CLASS, Type
from zkdns.forward.reply import MAX_TTL, TTL_FIELD
from zkdns.names import MAX_LABEL, MAX_NAME

POINTER: Final = 0xC0
"""The two top bits of a compression pointer (RFC 1035 §4.1.4)."""
_ROOT_SIZE = 1
_NAPTR = 35
_NAPTR_STRINGS = 3  # before its name (RFC 3403 §4.1)
_ADDRESS_SIZES: Final = {int(Type.A): 4, int(Type.AAAA): 16}

ANY_SIZE: Final = -1
NAMES_IN: Final = {
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
    24: (18, 1, ANY_SIZE),  # SIG
    26: (2, 2, 0),  # PX
    30: (0, 1, ANY_SIZE),  # NXT
    33: (6, 1, 0),  # SRV
    35: (4, 1, 0),  # NAPTR
    36: (2, 1, 0),  # KX
    39: (0, 1, 0),  # DNAME
}
"""Types with names in their data that may be compressed (RFC 1035 §3.3), or that some servers compress
although RFC 3597 §4 forbids it: bytes before the names, number of names, bytes after them or `ANY_SIZE`. The
name of NAPTR comes after strings."""
_COMPRESSIBLE = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15})  # the types of RFC 1035


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


class Records(msgspec.Struct, gc=False):
    """The records of a message: element i of the first four lists is about record i.

    Offsets count from the first record.

    Attributes:
        types: types.
        ttls: TTLs; those with the top bit set are 0 (RFC 2181 §8).
        ttls_at: offsets of the TTLs.
        ends: offsets of the ends.
        others: indexes of the records with an owner other than the question's name, or a class other than IN.
            The question's name counts as another one unless it is a pointer to the question.
        compressed: indexes of the records with a compressed name that must not be compressed.
        start: offset of the first record in the message.
    """

    types: list[int]
    ttls: list[int]
    ttls_at: list[int]
    ends: list[int]
    others: list[int]
    compressed: list[int]
    start: int

    def cut(self, count: int) -> None:
        """Keep only this number of records."""
        if count == len(self.types) - 1 and self.others and self.others[-1] == count:
            # Nearly always: the OPT record comes last, and its owner is the root.
            for column in (self.types, self.ttls, self.ttls_at, self.ends, self.others):
                column.pop()
            return
        for column in (self.types, self.ttls, self.ttls_at, self.ends):
            del column[count:]
        for indexes in (self.others, self.compressed):
            del indexes[bisect_left(indexes, count) :]


class _Names(msgspec.Struct, gc=False):
    """The names found in a message so far.

    Attributes:
        sizes: uncompressed length of the name that starts at each offset. Includes every suffix, so that no
            byte is read twice, however many names point to it.
        unchecked: targets of pointers at which no name was known to start.
    """

    sizes: dict[int, int]
    unchecked: list[int]


def walk(message: bytes, start: int, count: int) -> Records:
    """Read all records. Bytes after the last one are ignored.

    Args:
        message: the message.
        start: offset of the first record.
        count: number of records.

    Raises:
        BadReplyError: a record is malformed.
        IndexError: the message is too short.
        struct.error: the message is too short.
    """
    types: list[int] = []
    ttls: list[int] = []
    ttls_at: list[int] = []
    ends: list[int] = []
    others: list[int] = []
    compressed: list[int] = []
    names = _Names({HEADER_SIZE: start - TYPE_CLASS.size - HEADER_SIZE}, [])
    at = start
    for _ in range(count):
        first = message[at]
        if first == POINTER and message[at + 1] == HEADER_SIZE:  # most owners are the name of the question
            at += 2
        elif not first:  # the root, the owner of the OPT record
            at += _ROOT_SIZE
            others.append(len(types))
        else:
            at = _skip_name(message, at, names)
            others.append(len(types))
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
            if rtype in NAMES_IN and _check_data(message, rtype, data_at, at, names):
                compressed.append(len(types) - 1)
        elif not others or others[-1] != len(types) - 1:
            others.append(len(types) - 1)
    if at > len(message):
        raise BadReplyError("it ends within a record")
    for place in names.unchecked:
        _check_without_ttl(message, place - start, start, ttls_at)
    return Records(types, ttls, ttls_at, ends, others, compressed, start)


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
    known, unchecked = names.sizes, names.unchecked
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
        elif length >= POINTER:
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


def _check_data(message: bytes, rtype: int, at: int, end: int, names: _Names) -> bool:
    """Check that the names in the data of a record are valid, and that the data end with them.

    Returns:
        Whether one is compressed that must not be.

    Raises:
        BadReplyError: a name is malformed, or the length of the data is wrong.
    """
    _, count, after = NAMES_IN[rtype]
    first_at = at = first_name_at(message, rtype, at)
    size = 0
    for _ in range(count):
        name_at, at = at, _skip_name(message, at, names)
        size += names.sizes[name_at]
    if at > end if after == ANY_SIZE else at + after != end:
        raise BadReplyError(f"the data of a record of type {rtype} do not have the length of their content")
    return rtype not in _COMPRESSIBLE and first_at + size != at


def first_name_at(message: bytes, rtype: int, at: int) -> int:
    """Return the offset of the first name in the data of a record, which begin at `at`."""
    at += NAMES_IN[rtype][0]
    if rtype == _NAPTR:
        for _ in range(_NAPTR_STRINGS):
            at += 1 + message[at]
    return at
