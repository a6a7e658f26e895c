"""Which records of a reply are about its question, and a message with fewer records or compressed names.

All names must have been checked by `records.walk`. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from zkdns.dns.message import CLASS_IN, HEADER_SIZE, MAX_MESSAGE, QUESTION_POINTER, RECORD, TYPE_CLASS, Type
from zkdns.forward.records import ANY_SIZE, NAMES_IN, POINTER, BadReplyError, Records, first_name_at, walk
from zkdns.forward.reply import TTL_FIELD
from zkdns.names import MAX_LABEL

MAX_ALIASES: Final = 64
"""Maximum number of CNAME records that lead from the name of the question to others."""
WITHOUT_ALIASES: Final = frozenset({5, int(Type.ANY)})
"""Types of questions for the CNAME record itself (RFC 1034 §3.6.2)."""

_CNAME, _DNAME, _RRSIG = 5, 39, 46
_ABOVE_THE_NAME = frozenset({_DNAME, _RRSIG})  # a DNAME record, and its signature, have a domain above it
_TTL_AND_LENGTH = 6
_MAX_POINTER = 0x3FFF
_CLASS_IN = CLASS_IN.to_bytes(2)


def is_subdomain(name: bytes, domain: bytes) -> bool:
    """Return whether a name is the domain or lies below it; both in wire format and lower case."""
    if not name.endswith(domain):
        return False
    at, domain_at = 0, len(name) - len(domain)
    while at < domain_at:  # the same bytes may occur within a label
        at += name[at] + 1
    return at == domain_at


def name_at(message: bytes, at: int, known: dict[int, bytes]) -> bytes:
    """Return a name without compression.

    Args:
        message: the message.
        at: offset of the name.
        known: names by offset; this one is added, and those to which it points.
    """
    path: list[tuple[int, bytes]] = []
    name = known.get(at)
    while name is None:
        start = at
        while 0 < (length := message[at]) <= MAX_LABEL:
            at += 1 + length
        path.append((start, message[start:at]))
        if length:
            at = (length & ~POINTER) << 8 | message[at + 1]
            name = known.get(at)
        else:
            name = b"\0"
    for start, labels in reversed(path):
        name = labels + name
        known[start] = name
    return name


def follow_aliases(
    message: bytes, records: Records, answers: int, name: bytes, qtype: int
) -> tuple[list[bytes], list[int]]:
    """Follow the CNAME records in the answer section from the name of the question.

    Args:
        message: the reply.
        records: its records.
        answers: number of answer records.
        name: the name of the question in lower case.
        qtype: its type.

    Returns:
        The names to which the CNAME records lead, in lower case and in order; and the indexes of the answer
        records that belong neither to one of these names nor to that of the question.

    Raises:
        BadReplyError: the aliases form a loop, or there are too many.
    """
    known: dict[int, bytes] = {}
    pointed = {QUESTION_POINTER: name}  # names by pointer; most owners are pointers to earlier names
    owners: list[bytes] = []
    targets: dict[bytes, bytes] = {}
    at = start = HEADER_SIZE + len(name) + TYPE_CLASS.size
    for index in range(answers):
        ttl_at = start + records.ttls_at[index]
        owner = pointed.get(message[at : at + 2]) or name_at(message, at, known).lower()
        if message[ttl_at - 2 : ttl_at] != _CLASS_IN:
            owner = b""
        elif records.types[index] == _CNAME and qtype not in WITHOUT_ALIASES and owner not in targets:
            target_at = ttl_at + _TTL_AND_LENGTH
            targets[owner] = target = name_at(message, target_at, known).lower()
            if target_at <= _MAX_POINTER:
                pointed[(POINTER << 8 | target_at).to_bytes(2)] = target
        owners.append(owner)
        at = start + records.ends[index]
    names = {name: None}  # a set in order
    last = name
    while (next_name := targets.get(last)) is not None:
        if next_name in names:
            raise BadReplyError("its aliases form a loop")
        if len(names) > MAX_ALIASES:
            raise BadReplyError(f"it has more than {MAX_ALIASES} aliases")
        names[next_name] = None
        last = next_name
    strangers = [
        index
        for index, owner in enumerate(owners)
        if owner not in names and not _is_above(owner, records.types[index], names)
    ]
    return list(names)[1:], strangers


def _is_above(owner: bytes, rtype: int, names: Iterable[bytes]) -> bool:
    return rtype in _ABOVE_THE_NAME and owner != b"" and any(is_subdomain(name, owner) for name in names)


def rewrite(
    message: bytes,
    start: int,
    records: Records,
    counts: Sequence[int],
    dropped: Collection[int],
) -> tuple[bytes, Records, list[int]]:
    """Write a message without some records, and with all names in the data of its records in full.

    Args:
        message: the message.
        start: offset of the first record.
        records: its records.
        counts: number of records in each section.
        dropped: indexes of the records to leave out.

    Returns:
        The message, its records, and the number of records in each section. The header is unchanged.

    Raises:
        BadReplyError: the message would be longer than 65,535 bytes.
    """
    writer = Writer(message[:start])
    kept = writer.add(message, records, counts, frozenset(dropped))
    result = bytes(writer.written)
    return result, walk(result, start, sum(kept)), kept


class Writer:
    """Writes records without compression, except for owners that were written before.

    Attributes:
        written: the message so far.

    Args:
        head: a header, its counts without meaning, and a question.
    """

    def __init__(self, head: bytes) -> None:
        self.written = bytearray(head)
        self._places = {head[HEADER_SIZE : len(head) - TYPE_CLASS.size].lower(): HEADER_SIZE}

    def add_alias(self, owner: bytes, target: bytes, ttl: int) -> None:
        """Add a CNAME record of class IN."""
        self._add_owner(owner)
        self.written += RECORD.pack(_CNAME, CLASS_IN, ttl, len(target))
        self._places.setdefault(target, len(self.written))
        self.written += target

    def add(
        self, message: bytes, records: Records, counts: Sequence[int], dropped: Collection[int] = ()
    ) -> list[int]:
        """Add the records of a message, and return the number of those in each section.

        Raises:
            BadReplyError: the message would be longer than 65,535 bytes.
        """
        known: dict[int, bytes] = {}
        kept = [0, 0, 0]
        first_authority, first_additional = counts[0], counts[0] + counts[1]
        start = at = records.start
        for index, end in enumerate(records.ends):
            if index not in dropped:
                kept[(index >= first_authority) + (index >= first_additional)] += 1
                owner_at = HEADER_SIZE if message[at : at + 2] == QUESTION_POINTER else at
                self._add_owner(known.get(owner_at) or name_at(message, owner_at, known))
                ttl_at = start + records.ttls_at[index]
                self.written += message[ttl_at - TYPE_CLASS.size : ttl_at + TTL_FIELD.size]
                if records.types[index] in NAMES_IN:
                    data = _data(message, ttl_at, start + end, records.types[index], known)
                    self.written += len(data).to_bytes(2) + data
                else:
                    self.written += message[ttl_at + TTL_FIELD.size : start + end]
            at = start + end
        if len(self.written) > MAX_MESSAGE:
            raise BadReplyError(f"it has more than {MAX_MESSAGE} bytes without forbidden compression")
        return kept

    def _add_owner(self, owner: bytes) -> None:
        here = len(self.written)
        place = self._places.setdefault(owner.lower(), here)
        is_earlier = place < here and place <= _MAX_POINTER
        self.written += (POINTER << 8 | place).to_bytes(2) if is_earlier else owner


def _data(message: bytes, ttl_at: int, end: int, rtype: int, known: dict[int, bytes]) -> bytes:
    """Return the data of a record, without compression."""
    data_at = ttl_at + _TTL_AND_LENGTH
    if rtype not in NAMES_IN or message[ttl_at - 2 : ttl_at] != _CLASS_IN:
        return message[data_at:end]
    _, count, after = NAMES_IN[rtype]
    at = first_name_at(message, rtype, data_at)
    parts = [message[data_at:at]]
    for _ in range(count):
        parts.append(name_at(message, at, known))
        while 0 < (length := message[at]) <= MAX_LABEL:
            at += 1 + length
        at += 2 if length else 1
    parts.append(message[at:end] if after == ANY_SIZE else message[at : at + after])
    return b"".join(parts)
