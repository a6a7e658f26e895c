"""Messages as no client means them: those that clients send, with bytes changed, lost, doubled, mixed up.

Everything is drawn from a `random.Random`, so that one seed gives the same messages each time.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence

from tests.dns.helpers import query

HEADER_SIZE = 12
LONGEST = 1400
"""Bytes; what is longer is a matter of its own."""

# Where a decision changes: counts, lengths of labels and their kinds, pointers, signs.
_TELLING = bytes((0, 1, 2, 3, 0x0C, 0x20, 0x29, 0x3F, 0x40, 0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF))
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


def ordinary(names: Sequence[str]) -> list[bytes]:
    """What clients send about these names: of many types, with and without EDNS, options, flags and cases."""
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
            # A cookie, a client's subnet and padding, as options of one OPT record.
            plain[:11] + b"\1" + question + _opt(b"\0\x0a\0\x08clientsc" + b"\0\x08\0\7\0\1\x18\0\xc0\0\2"),
            plain[:11] + b"\1" + question + _opt(b"\0\x0c\1\x00" + bytes(256)),
            # A transfer, which has an SOA of its own; a message of change; what only a server says.
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
    """Makes messages out of others.

    Args:
        seeds: the messages that it begins with.
        dice: what everything is drawn from.
        longest: bytes of what it makes.
    """

    def __init__(self, seeds: Sequence[bytes], dice: random.Random, longest: int = LONGEST) -> None:
        self._seeds, self._dice, self._longest = seeds, dice, longest
        self._careful: tuple[Callable[[bytearray], None], ...] = (
            self._spell,
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
        """Messages without end: most with few changes, half of them still readable."""
        dice = self._dice
        while True:
            message = bytearray(dice.choice(self._seeds))
            changes = dice.choice((self._careful, self._changes))
            for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
                dice.choice(changes)(message)
            yield bytes(message[: self._longest])

    # -- what leaves a query a query -----------------------------------------------------------------------

    def _spell(self, message: bytearray) -> None:
        """Another byte in a label: another case, or another name."""
        at = HEADER_SIZE
        places: list[int] = []
        while at < len(message) and (length := message[at]):
            places += range(at + 1, min(at + 1 + length, len(message)))
            at += 1 + length
        if places:
            place = self._dice.choice(places)
            message[place] = self._dice.choice((message[place] ^ 0x20, self._dice.randrange(256)))

    def _set_type(self, message: bytearray) -> None:
        end = message.find(0, HEADER_SIZE)
        if 0 < end < len(message) - 4:
            qtype = self._dice.choice((self._dice.randrange(65536), 1, 33, 255))
            message[end + 1 : end + 3] = qtype.to_bytes(2)

    def _set_flags(self, message: bytearray) -> None:
        """Those that are ignored in a query, and what the code would be."""
        if len(message) > 3:
            message[2] = message[2] & 0xF8 | self._dice.randrange(8)
            message[3] = self._dice.randrange(256)

    def _set_size(self, message: bytearray) -> None:
        """Of UDP, in an OPT record without options at the end; and DO."""
        if message[-11:-8] == b"\0\0\x29" and message[-2:] == b"\0\0":
            message[-8:-6] = self._dice.choice((*_NUMBERS, self._dice.randrange(65536))).to_bytes(2)
            message[-4] = self._dice.randrange(256)

    # -- what does not -------------------------------------------------------------------------------------

    def _at(self, message: bytearray) -> int:
        return self._dice.randrange(len(message)) if message else 0

    def _flip(self, message: bytearray) -> None:
        if message:
            message[self._at(message)] ^= 1 << self._dice.randrange(8)

    def _replace(self, message: bytearray) -> None:
        if message:
            message[self._at(message)] = self._dice.choice((*_TELLING, self._dice.randrange(256)))

    def _set_number(self, message: bytearray) -> None:
        at = self._at(message)
        message[at : at + 2] = self._dice.choice(_NUMBERS).to_bytes(2)

    def _set_header(self, message: bytearray) -> None:
        """Another flag, or another count."""
        at = self._dice.randrange(2, HEADER_SIZE)
        if at < len(message):
            message[at] = self._dice.choice((0, 1, 2, 0x80, 0xFF, self._dice.randrange(256)))

    def _insert(self, message: bytearray) -> None:
        at = self._at(message)
        message[at:at] = self._dice.randbytes(self._dice.choice((1, 1, 2, 4, 30)))

    def _remove(self, message: bytearray) -> None:
        at = self._at(message)
        del message[at : at + self._dice.choice((1, 1, 2, 4, 30))]

    def _cut(self, message: bytearray) -> None:
        del message[self._at(message) :]

    def _double(self, message: bytearray) -> None:
        """A piece once more, where it stood or elsewhere."""
        at = self._at(message)
        piece = message[at : at + self._dice.choice((1, 4, 16, 100))]
        to = self._at(message)
        message[to:to] = piece

    def _mix(self, message: bytearray) -> None:
        """Begun as one, ended as another."""
        other = self._dice.choice(self._seeds)
        del message[self._at(message) :]
        message += other[self._dice.randrange(len(other)) :]

    def _append(self, message: bytearray) -> None:
        message += self._dice.randbytes(self._dice.choice((1, 2, 11, 200)))

    def _nest(self, message: bytearray) -> None:
        """Labels upon labels, or pointers to pointers, where records would stand."""
        if len(message) < HEADER_SIZE:
            return
        count = self._dice.randrange(1, 200)
        message[10:12] = count.to_bytes(2)
        if self._dice.random() < 0.5:
            labels = bytes((_PER_LABEL - 1,)) + b"x" * (_PER_LABEL - 1)
            message += labels * self._dice.randrange(1, 6) + bytes(11)
        else:
            start = len(message)
            message += b"".join(struct.pack("!H", 0xC000 | start + 2 * at) for at in range(count))


def is_answered(message: bytes) -> bool:
    """Whether something is to be said to that: it has a header, and is no response itself."""
    return len(message) >= HEADER_SIZE and not message[2] & 0x80
