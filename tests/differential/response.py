"""Decoded responses, compared by meaning: record order and name compression do not matter."""

from __future__ import annotations

import struct

import dns.flags
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import msgspec

Section = frozenset[tuple[bytes, str, int, bytes]]
"""Records: owner in lower case, type, TTL, and data in its canonical form (RFC 4034 §6.2)."""

SECTIONS = ("answer", "authority", "additional")

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")  # after the owner name
_TYPE_CLASS = 4
_FLAGS = {0x400: "AA", 0x200: "TC", 0x100: "RD", 0x80: "RA", 0x40: "Z", 0x20: "AD", 0x10: "CD"} | {
    0x8000: "QR",
    **{1 << bit: f"opcode {1 << bit - 11}" for bit in range(11, 15)},
}
_NAMES_IN = {
    int(dns.rdatatype.NS): (0, 1),
    int(dns.rdatatype.PTR): (0, 1),
    int(dns.rdatatype.SOA): (0, 2),
    int(dns.rdatatype.SRV): (6, 1),
}
"""For each type with names in its data: number of bytes before the names, and number of names."""


class Response(msgspec.Struct, frozen=True):
    """A decoded response; sections are sets, since each server has its own record order."""

    rcode: str
    flags: frozenset[str]
    question: bytes
    """The question section, undecoded."""
    answer: Section
    authority: Section
    additional: Section
    """Without the OPT record."""
    edns: tuple[int, bool] | None
    """Version and DO bit; None without an OPT record."""
    size: int

    @property
    def is_truncated(self) -> bool:
        """Whether TC is set."""
        return "TC" in self.flags


def decode(response: bytes) -> Response:
    """Decode a response, ten times faster than dnspython.

    Raises:
        AssertionError: trailing bytes, a duplicate record, a class other than IN, or a compression loop.
    """
    _, flags, questions, *counts = _HEADER.unpack_from(response)
    at = _HEADER.size
    for _ in range(questions):
        at = _name(response, at)[1] + _TYPE_CLASS
    question = response[_HEADER.size : at]
    opt: tuple[int, int] | None = None
    sections: list[Section] = []
    for count in counts:
        records: set[tuple[bytes, str, int, bytes]] = set()
        for _ in range(count):
            owner, at = _name(response, at)
            rtype, rclass, ttl, length = _RECORD.unpack_from(response, at)
            at += _RECORD.size
            if rtype == dns.rdatatype.OPT:
                assert opt is None
                opt = rclass, ttl
            else:
                record = owner, dns.rdatatype.to_text(rtype), ttl, _data(response, rtype, at, length)
                assert rclass == dns.rdataclass.IN
                assert record not in records, f"duplicate record: {record}"
                records.add(record)
            at += length
        sections.append(frozenset(records))
    assert at == len(response)
    answer, authority, additional = sections
    extended = opt[1] >> 24 << 4 if opt else 0
    return Response(
        dns.rcode.to_text(dns.rcode.Rcode(extended | flags & 0xF)),
        frozenset(name for bit, name in _FLAGS.items() if flags & bit),
        question,
        answer,
        authority,
        additional,
        edns=(opt[1] >> 16 & 0xFF, bool(opt[1] & dns.flags.DO)) if opt else None,
        size=len(response),
    )


def _name(message: bytes, at: int) -> tuple[bytes, int]:
    """Decompress a name to lower case; return it and the offset of its end."""
    labels = b""
    end = 0
    before = len(message)
    while length := message[at]:
        if length >= 0xC0:
            end = end or at + 2
            at = int.from_bytes(message[at : at + 2]) & 0x3FFF
            assert at < before, "a compression pointer must point backwards"
            before = at
        else:
            labels += message[at : at + 1 + length].lower()  # a length byte is below 64, so lower() keeps it
            at += 1 + length
    return labels + b"\0", end or at + 1


def _data(message: bytes, rtype: int, at: int, length: int) -> bytes:
    """A record's data in its canonical form (RFC 4034 §6.2)."""
    fixed, names = _NAMES_IN.get(rtype, (length, 0))
    data = message[at : at + fixed]
    end = at + length
    at += fixed
    for _ in range(names):
        name, at = _name(message, at)
        data += name
    return data + message[at:end]


def differences(ours: Response, theirs: Response) -> list[str]:
    """Names of the fields in which two responses differ."""
    fields = ("rcode", "flags", "question", *SECTIONS, "edns")
    return [field for field in fields if getattr(ours, field) != getattr(theirs, field)]
