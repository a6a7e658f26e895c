"""Reads the records of a zone transfer's messages.

The reader raises only `BadTransferError`, and works in time linear in the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from zkdns.dns.message import CLASS_IN, HEADER, HEADER_SIZE, RECORD, TSIG, TYPE_CLASS, Type
from zkdns.errors import ZkdnsError
from zkdns.names import MAX_LABEL, MAX_NAME, Labels, lower, to_wire, wire_length

_POINTER = 0xC0
_MAX_POINTERS = 128  # in one name, which has at most as many labels
_SRV_NUMBERS = 6  # bytes before the target
_SOA_NUMBERS = struct.Struct("!5I")
_PROTOCOLS: Final = frozenset({b"_tcp", b"_udp"})
_PLAIN: Final = frozenset({int(Type.A), int(Type.AAAA), int(Type.TXT)})
_SIZES: Final = {int(Type.A): 4, int(Type.AAAA): 16}
_SRV, _SOA = int(Type.SRV), int(Type.SOA)


class BadTransferError(ZkdnsError):
    """A primary's message or transfer is not valid. The text says why."""


class Soa(NamedTuple):
    """The numbers of an SOA record; all but the serial are seconds (RFC 1035 §3.3.13)."""

    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


class ZoneRecord(NamedTuple):
    """A record of a zone.

    Attributes:
        owner: its name in lower case.
        rtype: its type.
        data: its data, with names in full; empty for types that services do not need.
        soa: the numbers of an SOA record.
    """

    owner: Labels
    rtype: int
    data: bytes
    soa: Soa | None = None


class TransferMessage(NamedTuple):
    """The parts of a response that a transfer needs.

    Attributes:
        ident: the id.
        flags: the flags, as in the header.
        question: its name in lower case and its type; None: it has none.
        answers: the records of the answer section.
        tsig_at: the offset of the TSIG record. None: it has none.
    """

    ident: int
    flags: int
    question: tuple[Labels, int] | None
    answers: list[ZoneRecord]
    tsig_at: int | None


Records: TypeAlias = dict[Labels, list[tuple[int, bytes]]]
"""The records of a zone by owner name in lower case: type and data of each."""


def is_needed(record: ZoneRecord) -> bool:
    """Whether members may follow from a record: not from SRV records of endpoints, or in RFC 2782 form."""
    rtype, owner = record.rtype, record.owner
    if rtype == _SRV:
        return owner[0][:1] != b"_" or _PROTOCOLS.isdisjoint(owner[1:])
    return rtype in _PLAIN


Names: TypeAlias = dict[int, Labels]
"""The names of a message by offset, as spelled."""


def read_message(message: bytes) -> TransferMessage:
    """Read a response.

    Raises:
        BadTransferError: it is malformed.
    """
    try:
        return _read(message)
    except (IndexError, struct.error):
        raise BadTransferError("a message ends within a record") from None


def _read(message: bytes) -> TransferMessage:
    ident, flags, questions, *counts = HEADER.unpack_from(message)
    names: Names = {}
    at = HEADER_SIZE
    question: tuple[Labels, int] | None = None
    for _ in range(questions):
        name, at = read_name(message, at, names)
        question = lower(name), TYPE_CLASS.unpack_from(message, at)[0]
        at += TYPE_CLASS.size
    answers: list[ZoneRecord] = []
    at = _read_answers(message, at, counts[0], names, answers)
    tsig_at: int | None = None
    for _ in range(counts[1] + counts[2]):
        start = at
        _, at = read_name(message, at, names)
        rtype, _, _, size = RECORD.unpack_from(message, at)
        at += RECORD.size + size
        tsig_at = start if rtype == TSIG else None  # it is the last record (RFC 8945 §5.1)
    if at > len(message):
        raise BadTransferError("a message ends within a record")
    return TransferMessage(ident, flags, question, answers, tsig_at)


def _read_answers(message: bytes, at: int, count: int, names: Names, answers: list[ZoneRecord]) -> int:
    """Read the answer section, and return the offset after it."""
    owner: Labels = ()
    written = b"\xff"  # the bytes of the last owner; records of one name follow each other
    for _ in range(count):
        if message.startswith(written, at):
            at += len(written)
        else:
            start = at
            spelled, at = read_name(message, start, names)
            owner, written = lower(spelled), message[start:at]
        rtype, rclass, _, size = RECORD.unpack_from(message, at)
        at += RECORD.size
        end = at + size
        if end > len(message):
            raise BadTransferError("a message ends within a record")
        if rclass != CLASS_IN:
            raise BadTransferError(f"a record has the class {rclass} instead of IN")
        answers.append(_record(message, slice(at, end), owner, rtype, names))
        at = end
    return at


def _record(message: bytes, data: slice, owner: Labels, rtype: int, names: Names) -> ZoneRecord:
    """Make a record from its data."""
    at, end = data.start, data.stop
    if rtype in _PLAIN:
        if end - at != _SIZES.get(rtype, end - at):
            raise BadTransferError(f"an address has {end - at} bytes")
        return ZoneRecord(owner, rtype, message[at:end])
    if rtype == _SRV:
        at += _SRV_NUMBERS
        if _is_name(message, at, end):
            return ZoneRecord(owner, rtype, message[data])
        target, target_end = read_name(message, at, names)
        if target_end != end:
            raise BadTransferError("an SRV record does not have the length of its content")
        return ZoneRecord(owner, rtype, message[data.start : at] + to_wire(target))
    if rtype == _SOA:
        _, name_end = read_name(message, at, names)
        _, name_end = read_name(message, name_end, names)
        if name_end + _SOA_NUMBERS.size != end:
            raise BadTransferError("an SOA record does not have the length of its content")
        return ZoneRecord(owner, rtype, b"", Soa(*_SOA_NUMBERS.unpack_from(message, name_end)))
    return ZoneRecord(owner, rtype, b"")


def _is_name(message: bytes, at: int, end: int) -> bool:
    """Whether these bytes are a name that is not compressed."""
    start = at
    while at < end and (length := message[at]) <= MAX_LABEL:
        at += 1 + length
        if not length:
            return at == end and end - start <= MAX_NAME
    return False


def read_name(message: bytes, at: int, names: Names) -> tuple[Labels, int]:
    """Read a name, and return it with the offset after it.

    Args:
        message: the message.
        at: offset of the name.
        names: the earlier names; this one is added, and those to which it points.

    Raises:
        BadTransferError: it is malformed.
        IndexError: the message is too short.
    """
    start, end = at, 0
    labels: list[bytes] = []
    run = at  # a pointer leads to before the run of labels that it ends, so there are no loops
    pointers: list[tuple[int, int]] = []  # the target of each, and the number of labels before it
    rest: Labels | None = None
    while rest is None:
        length = message[at]
        if not length:
            rest = ()
            end = end or at + 1
        elif length <= MAX_LABEL:
            labels.append(message[at + 1 : at + 1 + length])
            at += 1 + length
        elif length >= _POINTER:
            target = (length & ~_POINTER) << 8 | message[at + 1]
            if not HEADER_SIZE <= target < run or len(pointers) == _MAX_POINTERS:
                raise BadTransferError("a name points to where no name was before")
            end = end or at + 2
            at = run = target
            pointers.append((target, len(labels)))
            rest = names.get(target)
        else:
            raise BadTransferError(f"a name has a label of the unknown kind {length:#04x}")
    name = (*labels, *rest)
    if wire_length(name) > MAX_NAME:
        raise BadTransferError(f"a name is longer than {MAX_NAME} bytes")
    names[start] = name
    for target, before in pointers:
        names[target] = name[before:]
    return name, end


def srv_fields(data: bytes) -> tuple[int, int, int, Labels]:
    """The priority, weight, port and target of an SRV record; the target as spelled."""
    priority, weight, port = struct.unpack_from("!3H", data)
    return priority, weight, port, tuple(_labels(data, _SRV_NUMBERS))


def _labels(data: bytes, at: int) -> Iterator[bytes]:
    while length := data[at]:
        yield data[at + 1 : at + 1 + length]
        at += 1 + length


def txt_strings(data: bytes) -> list[bytes]:
    """The strings of a TXT record. One that is too short ends the list."""
    strings: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        strings.append(data[at + 1 : end])
        at = end
    return strings
