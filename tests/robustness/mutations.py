"""Mutated DNS messages: messages of clients with changed, missing, repeated and mixed bytes.

All randomness comes from a `random.Random`, so that a seed always gives the same messages.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence

from tests.dns.helpers import query

HEADER_SIZE = 12
MAX_SIZE = 1400
"""Maximum bytes of a mutated message; larger datagrams have a test of their own."""

# Boundary values of counts, label lengths, label types and compression pointers.
_BOUNDARIES = bytes((0, 1, 2, 3, 0x0C, 0x20, 0x29, 0x3F, 0x40, 0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF))
_NUMBERS = (
    0,
    1,
    2,
    11,
    12,
    41,
    251,
    252,
    255,
    511,
    512,
    513,
    1231,
    1232,
    1233,
    0x7FFF,
    0x8000,
    0xC00C,
    0xFFFF,
)
_PER_LABEL = 64

_TYPES = ("A", "AAAA", "SRV", "TXT", "SOA", "NS", "ANY", "PTR", "HTTPS", "AXFR", "OPT", "TYPE65280")


def ordinary_messages(names: Sequence[str]) -> list[bytes]:
    """Messages about these names: queries of many types, with and without EDNS, options, flags and 0x20.

    Also messages that a server must refuse: other classes, opcodes and EDNS versions, and responses.
    """
    made = [
        query(name, qtype, edns=edns).to_wire() for name in names for qtype in _TYPES for edns in (None, 0)
    ]
    for name in names:
        plain = query(name).to_wire()
        question = plain[HEADER_SIZE:]
        made += [
            query(name.swapcase(), "SRV", edns=0, size=4096, do=True).to_wire(),
            query(name, edns=1).to_wire(),
            query(name, qclass="CH").to_wire(),
            # An OPT record with a cookie and a client subnet; one with padding.
            plain[:11] + b"\1" + question + _opt(b"\0\x0a\0\x08clientsc" + b"\0\x08\0\7\0\1\x18\0\xc0\0\2"),
            plain[:11] + b"\1" + question + _opt(b"\0\x0c\1\x00" + bytes(256)),
            # An IXFR query with its SOA record; an UPDATE message; a response.
            plain[:8] + b"\0\1\0\0" + question[:-4] + b"\0\xfb\0\1" + _soa(),
            plain[:2] + b"\x28\0" + plain[4:],
            plain[:2] + b"\x85\0\0\1\0\1\0\0\0\0" + question + b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\0\0\1",
        ]
    return made


def _opt(options: bytes) -> bytes:
    return struct.pack("!BHHIH", 0, 41, 1232, 0, len(options)) + options


def _soa() -> bytes:
    return b"\xc0\x0c\0\6\0\1\0\0\0\5\0\x16\0\0" + bytes(20)


class Mutator:
    """An endless iterator of mutated messages.

    Args:
        seeds: the messages to mutate.
        rng: source of all randomness.
        max_size: maximum bytes of a mutated message.
    """

    def __init__(self, seeds: Sequence[bytes], rng: random.Random, max_size: int = MAX_SIZE) -> None:
        self._seeds, self._rng, self._max_size = seeds, rng, max_size
        self._careful: tuple[Callable[[bytearray], None], ...] = (
            self._change_label,
            self._set_type,
            self._set_flags,
            self._set_size,
        )
        self._changes: tuple[Callable[[bytearray], None], ...] = (
            self._flip,
            self._replace,
            self._set_number,
            self._set_header,
            self._insert,
            self._remove,
            self._cut,
            self._double,
            self._mix,
            self._append,
            self._nest,
        )

    def __iter__(self) -> Iterator[bytes]:
        """Yield messages, most with few mutations; about half remain valid queries."""
        rng = self._rng
        while True:
            message = bytearray(rng.choice(self._seeds))
            changes = rng.choice((self._careful, self._changes))
            for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
                rng.choice(changes)(message)
            yield bytes(message[: self._max_size])

    # -- mutations that keep a query valid -----------------------------------------------------------------

    def _change_label(self, message: bytearray) -> None:
        """Change a byte of a label: its case, or to any value."""
        at = HEADER_SIZE
        places: list[int] = []
        while at < len(message) and (length := message[at]):
            places += range(at + 1, min(at + 1 + length, len(message)))
            at += 1 + length
        if places:
            place = self._rng.choice(places)
            message[place] = self._rng.choice((message[place] ^ 0x20, self._rng.randrange(256)))

    def _set_type(self, message: bytearray) -> None:
        end = message.find(0, HEADER_SIZE)
        if 0 < end < len(message) - 4:
            qtype = self._rng.choice((self._rng.randrange(65536), 1, 33, 255))
            message[end + 1 : end + 3] = qtype.to_bytes(2)

    def _set_flags(self, message: bytearray) -> None:
        """Change AA, TC and RD, and all bits of the second flags byte, which a server ignores in a query."""
        if len(message) > 3:
            message[2] = message[2] & 0xF8 | self._rng.randrange(8)
            message[3] = self._rng.randrange(256)

    def _set_size(self, message: bytearray) -> None:
        """Change UDP size and DO of an OPT record without options at the end."""
        if message[-11:-8] == b"\0\0\x29" and message[-2:] == b"\0\0":
            message[-8:-6] = self._rng.choice((*_NUMBERS, self._rng.randrange(65536))).to_bytes(2)
            message[-4] = self._rng.randrange(256)

    # -- mutations that may make a query invalid -----------------------------------------------------------

    def _at(self, message: bytearray) -> int:
        return self._rng.randrange(len(message)) if message else 0

    def _flip(self, message: bytearray) -> None:
        if message:
            message[self._at(message)] ^= 1 << self._rng.randrange(8)

    def _replace(self, message: bytearray) -> None:
        if message:
            message[self._at(message)] = self._rng.choice((*_BOUNDARIES, self._rng.randrange(256)))

    def _set_number(self, message: bytearray) -> None:
        at = self._at(message)
        message[at : at + 2] = self._rng.choice(_NUMBERS).to_bytes(2)

    def _set_header(self, message: bytearray) -> None:
        """Change a byte of flags or counts."""
        at = self._rng.randrange(2, HEADER_SIZE)
        if at < len(message):
            message[at] = self._rng.choice((0, 1, 2, 0x80, 0xFF, self._rng.randrange(256)))

    def _insert(self, message: bytearray) -> None:
        at = self._at(message)
        message[at:at] = self._rng.randbytes(self._rng.choice((1, 1, 2, 4, 30)))

    def _remove(self, message: bytearray) -> None:
        at = self._at(message)
        del message[at : at + self._rng.choice((1, 1, 2, 4, 30))]

    def _cut(self, message: bytearray) -> None:
        del message[self._at(message) :]

    def _double(self, message: bytearray) -> None:
        """Copy a piece of the message to another place."""
        at = self._at(message)
        piece = message[at : at + self._rng.choice((1, 4, 16, 100))]
        to = self._at(message)
        message[to:to] = piece

    def _mix(self, message: bytearray) -> None:
        """Replace the end of the message with the end of another one."""
        other = self._rng.choice(self._seeds)
        del message[self._at(message) :]
        message += other[self._rng.randrange(len(other)) :]

    def _append(self, message: bytearray) -> None:
        message += self._rng.randbytes(self._rng.choice((1, 2, 11, 200)))

    def _nest(self, message: bytearray) -> None:
        """Append many labels, or a chain of compression pointers, as additional records."""
        if len(message) < HEADER_SIZE:
            return
        count = self._rng.randrange(1, 200)
        message[10:12] = count.to_bytes(2)
        if self._rng.random() < 0.5:
            labels = bytes((_PER_LABEL - 1,)) + b"x" * (_PER_LABEL - 1)
            message += labels * self._rng.randrange(1, 6) + bytes(11)
        else:
            start = len(message)
            message += b"".join(struct.pack("!H", 0xC000 | start + 2 * at) for at in range(count))


def needs_response(message: bytes) -> bool:
    """Whether a server must respond: the message has a header, and is no response."""
    return len(message) >= HEADER_SIZE and not message[2] & 0x80
