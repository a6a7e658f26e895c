"""Reads the usual replies in few steps. All others are read record by record (`message.py`).

    addresses     answer: A or AAAA records of the question's name
    aliases       answer: CNAME records in order, then A or AAAA records of the last name
    denial        answer: CNAME records in order, or none; authority: an SOA record

An OPT record without options is the last one, and the answer records have pointers as owners, as servers
write them. The address records have equal TTLs, so that one regular expression matches all of them.

The result is equal to that of the reader of all replies. For a message with another form, valid or not, there
is none.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from zkdns.dns.edns import OPT
from zkdns.dns.message import (
    AD,
    CLASS_IN,
    HEADER,
    HEADER_SIZE,
    QR,
    QUESTION_POINTER,
    RECORD,
    TC,
    TYPE_CLASS,
    Rcode,
    Type,
)
from zkdns.forward.records import POINTER
from zkdns.forward.reply import MAX_TTL, NOT_VERBATIM, TTL_FIELD, Reply
from zkdns.forward.rewriting import MAX_ALIASES, WITHOUT_ALIASES, is_subdomain
from zkdns.names import MAX_LABEL, MAX_NAME

_HEADER_AFTER_ID = struct.Struct("!5H")
_OPCODE, _RCODE = 0x7800, 0xF
_UNUSUAL_FLAGS = QR | _OPCODE | TC
_NOERROR, _NXDOMAIN = int(Rcode.NOERROR), int(Rcode.NXDOMAIN)
_ID_SIZE = 2
_POINTER_SIZE = len(QUESTION_POINTER)
_TTL_AT = _POINTER_SIZE + TYPE_CLASS.size  # in a record with a pointer as owner
_DATA_AT = _POINTER_SIZE + RECORD.size
_TTL_AND_LENGTH = struct.Struct("!IH")
_MAX_POINTER = 0x3FFF
_ROOT = b"\0"
_SOA_NUMBERS = 20  # bytes after the names of an SOA record; the last number is its MINIMUM field
_CNAME_IN = TYPE_CLASS.pack(5, CLASS_IN)
_SOA_IN = TYPE_CLASS.pack(Type.SOA, CLASS_IN)
_MAX_ADDRESSES = 64

# 0 as upper bits of the RCODE, and no options.
_PLAIN_OPT = rb"\x00\x00\x29.{2}\x00.{3}\x00\x00"
_ends_with_opt = re.compile(_PLAIN_OPT, re.DOTALL).fullmatch


def read_usual(message: bytes, name: bytes, qtype: int) -> Reply | None:
    """Read a usual reply to a question of class IN.

    Args:
        message: any bytes. The caller checks the id.
        name: the name of the question in wire format and lower case.
        qtype: its type.

    Returns:
        None: it is another message.
    """
    form = _address_form(message[_ID_SIZE:HEADER_SIZE], qtype)
    if form is not None and message.startswith(name, HEADER_SIZE):
        name_end = HEADER_SIZE + len(name)
        found = form.after_name.fullmatch(message, name_end)
        if found is not None and len(message) == name_end + form.size:
            ttl = int.from_bytes(found[1])
            return Reply(
                authentic=form.authentic,
                has_edns=True,
                ttl=ttl,
                records=message[name_end + TYPE_CLASS.size : -OPT.size],
                counts=form.counts,
                ends=form.ends,
                ttls=(ttl,) * form.counts[0],
                ttls_at=form.ttls_at,
                longest_ttl=ttl or NOT_VERBATIM,
                kind=form.kind,
            )
    try:
        return _read_aliases_or_denial(message, name, qtype)
    except (IndexError, struct.error):  # it ends too early
        return None


# -- addresses ---------------------------------------------------------------------------------------------


class _AddressType(NamedTuple):
    """The records of a type of address.

    Attributes:
        size: bytes of a record.
        records: matches records with equal owners and TTLs. The groups are the owner and the TTL.
        after_name: matches a message after the name of the question if it has only such records and an OPT
            record. The group is the TTL.
    """

    size: int
    records: re.Pattern[bytes]
    after_name: re.Pattern[bytes]


def _address_type(rtype: int, length: int) -> _AddressType:
    type_class = TYPE_CLASS.pack(rtype, CLASS_IN)
    ttl = rb"([\x00-\x7f].{3})"  # RFC 2181 §8: the top bit is 0
    kind, data = re.escape(type_class), re.escape(length.to_bytes(2)) + b".{%d}" % length
    about_name = re.escape(QUESTION_POINTER + type_class)
    records = rb"(..)" + kind + ttl + data + rb"(?:\1" + kind + rb"\2" + data + b")*"
    after_name = kind + about_name + ttl + data + b"(?:" + about_name + rb"\1" + data + b")*" + _PLAIN_OPT
    return _AddressType(_DATA_AT + length, re.compile(records, re.DOTALL), re.compile(after_name, re.DOTALL))


_ADDRESS_TYPES: Final = {
    int(Type.A): _address_type(Type.A, 4),
    int(Type.AAAA): _address_type(Type.AAAA, 16),
}


class _AddressForm(msgspec.Struct, frozen=True, gc=False):
    """Replies with addresses of the question's name and equal headers.

    Attributes:
        after_name: as in `_AddressType`.
        size: bytes of the message after the name of the question.
        kind, authentic, counts, ends, ttls_at: as in `Reply`.
    """

    kind: bytes
    after_name: re.Pattern[bytes]
    size: int
    authentic: bool
    counts: tuple[int, int, int]
    ends: tuple[int, ...]
    ttls_at: tuple[int, ...]


@lru_cache(maxsize=256)
def _address_form(header: bytes, qtype: int) -> _AddressForm | None:
    """Return the form of replies with addresses to questions of this type.

    Args:
        header: the header after the id.
        qtype: the type.

    Returns:
        None: other replies have this header.
    """
    found = _ADDRESS_TYPES.get(qtype)
    if found is None or len(header) != _HEADER_AFTER_ID.size:
        return None
    flags, questions, answers, authorities, additionals = _HEADER_AFTER_ID.unpack(header)
    if flags & _UNUSUAL_FLAGS != QR or flags & _RCODE or not 0 < answers <= _MAX_ADDRESSES:
        return None
    if (questions, authorities, additionals) != (1, 0, 1):
        return None
    ends, ttls_at = _layout(found.size, answers)
    size = TYPE_CLASS.size + found.size * answers + OPT.size
    return _AddressForm(header, found.after_name, size, bool(flags & AD), (answers, 0, 0), ends, ttls_at)


@lru_cache(maxsize=2 * _MAX_ADDRESSES)
def _layout(size: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the offsets of the ends and of the TTLs of records of this size (`Reply.ends`, `ttls_at`)."""
    return tuple(range(size, size * count + 1, size)), tuple(range(_TTL_AT, size * count, size))


# -- aliases and denials -----------------------------------------------------------------------------------


class _Records:
    """The records of a reply so far, as in `Reply`, and its names.

    Attributes:
        at: offset of the next record in the message.
        is_verbatim: whether the message has the same TTLs.
    """

    __slots__ = ("_message", "_names", "_start", "aliases", "at", "ends", "is_verbatim", "ttls", "ttls_at")

    def __init__(self, message: bytes, name: bytes, start: int) -> None:
        self._message = message
        self._start = self.at = start
        self.is_verbatim = True
        self.aliases: list[bytes] = []
        self.ends: list[int] = []
        self.ttls: list[int] = []
        self.ttls_at: list[int] = []
        # Of each name: the offset, the end of the labels before its root or pointer, and the whole name.
        self._names = [(HEADER_SIZE, HEADER_SIZE + len(name) - 1, name)]

    def add(self, ttl: int, ttl_at: int, end: int) -> None:
        """Add a record; the offsets are those in the message."""
        self.ttls.append(ttl)
        self.ttls_at.append(ttl_at - self._start)
        self.ends.append(end - self._start)
        self.at = end

    def read_name(self, at: int) -> tuple[bytes, int]:
        """Return a name in lower case, and the offset after it.

        Raises:
            IndexError: it is malformed, or has a pointer to something else than a label of an earlier name.
        """
        message, labels_end = self._message, at
        while 0 < (length := message[labels_end]) <= MAX_LABEL:
            labels_end += 1 + length
        name, end = message[at:labels_end].lower(), labels_end + _POINTER_SIZE
        if not length:
            name, end = name + _ROOT, labels_end + len(_ROOT)
        elif length >= POINTER:
            name += self._name_from((length & ~POINTER) << 8 | message[labels_end + 1])
        else:
            raise IndexError
        if len(name) > MAX_NAME:
            raise IndexError
        self._names.append((at, labels_end, name))
        return name, end

    def _name_from(self, target: int) -> bytes:
        """Return the rest of an earlier name from the label at this offset."""
        for first, end, name in self._names:
            if first <= target < end:
                at = first
                while at < target:
                    at += 1 + self._message[at]
                if at == target:
                    return name[target - first :]
        raise IndexError

    def add_alias(self) -> bytes | None:
        """Add a CNAME record with a pointer as owner.

        Returns:
            The owner of the records of its target. None: the reply is not a usual one.
        """
        message, ttl_at, target_at = self._message, self.at + _TTL_AT, self.at + _DATA_AT
        ttl, size = _TTL_AND_LENGTH.unpack_from(message, ttl_at)
        target, end = self.read_name(target_at)
        if ttl > MAX_TTL or end != target_at + size or target_at > _MAX_POINTER or target in self.aliases:
            return None
        self.add(ttl, ttl_at, end)
        self.aliases.append(target)
        is_pointer = message[target_at] >= POINTER
        return message[target_at:end] if is_pointer else (POINTER << 8 | target_at).to_bytes(_POINTER_SIZE)

    def add_soa(self, name: bytes) -> bool:
        """Add an SOA record; return False if the reply is not a usual one.

        Args:
            name: the name of the question.
        """
        message = self._message
        zone, at = self.read_name(self.at)
        if not message.startswith(_SOA_IN, at):
            return False
        ttl_at = at + TYPE_CLASS.size
        ttl, size = _TTL_AND_LENGTH.unpack_from(message, ttl_at)
        data_at = ttl_at + _TTL_AND_LENGTH.size
        _, at = self.read_name(data_at)
        _, at = self.read_name(at)
        end = at + _SOA_NUMBERS
        (minimum,) = TTL_FIELD.unpack_from(message, end - TTL_FIELD.size)
        if end != data_at + size or ttl > MAX_TTL or minimum > MAX_TTL:
            return False
        self.add(min(ttl, minimum), ttl_at, end)  # RFC 2308 §3, §5
        self.is_verbatim = ttl <= minimum
        return any(is_subdomain(denied, zone) for denied in (name, *self.aliases))


def _read_aliases_or_denial(message: bytes, name: bytes, qtype: int) -> Reply | None:
    """Read a reply with aliases, a denial, or both; IndexError and struct.error: it is another message."""
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    rcode, name_end = flags & _RCODE, HEADER_SIZE + len(name)
    if (
        flags & _UNUSUAL_FLAGS != QR
        or (questions, additionals) != (1, 1)
        or authorities > 1
        or rcode not in (_NOERROR, _NXDOMAIN)
        or (answers and qtype in WITHOUT_ALIASES)
        or message[HEADER_SIZE:name_end].lower() != name
        or not message.startswith(TYPE_CLASS.pack(qtype, CLASS_IN), name_end)
    ):
        return None
    start = name_end + TYPE_CLASS.size
    records, owner = _Records(message, name, start), QUESTION_POINTER
    aliases = records.aliases
    while len(aliases) < answers and message.startswith(owner + _CNAME_IN, records.at):
        next_owner = records.add_alias()
        if next_owner is None or aliases[-1] == name or len(aliases) > MAX_ALIASES:
            return None
        owner = next_owner
    addresses = answers - len(aliases)
    if authorities:
        if addresses or not records.add_soa(name):
            return None
    elif rcode or not _add_addresses(message, records, qtype, addresses, owner):
        return None
    if not _ends_with_opt(message, records.at):
        return None
    ttls = records.ttls
    ttl = min(ttls)
    return Reply(
        rcode=rcode,
        authentic=bool(flags & AD),
        has_edns=True,
        is_negative=bool(authorities),
        ttl=ttl,
        records=message[start : records.at],
        counts=(answers, authorities, 0),
        ends=tuple(records.ends),
        ttls=tuple(ttls),
        ttls_at=tuple(records.ttls_at),
        aliases=tuple(aliases),
        longest_ttl=max(ttls) if ttl and records.is_verbatim else NOT_VERBATIM,
    )


def _add_addresses(message: bytes, records: _Records, qtype: int, count: int, owner: bytes) -> bool:
    """Add address records with this owner; return False if there are other records."""
    kind = _ADDRESS_TYPES.get(qtype)
    found = kind.records.match(message, records.at) if kind is not None else None
    if kind is None or found is None or found[1] != owner or found.end() != records.at + count * kind.size:
        return False
    ttl = int.from_bytes(found[2])
    for _ in range(count):
        records.add(ttl, records.at + _TTL_AT, records.at + kind.size)
    return True
