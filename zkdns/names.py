"""Domain names in text form and in wire form (RFC 1035 §3.1, §5.1).

A name is a tuple of labels, each of type `bytes`. A dot or a non-ASCII byte inside a label is valid (RFC 2181
§11), so names are never compared or split as strings.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

from zkdns.errors import BadValueError

Labels: TypeAlias = tuple[bytes, ...]

MAX_LABEL = 63  # RFC 1035 §2.3.4, bytes
IN_ADDR_ARPA: Labels = (b"in-addr", b"arpa")  # RFC 1035 §3.5
IP6_ARPA: Labels = (b"ip6", b"arpa")  # RFC 3596 §2.5
MAX_NAME = 255  # RFC 1035 §2.3.4, bytes on the wire, including length bytes and root

_PLAIN_LABEL = re.compile(rb"[A-Za-z0-9_-]+")
_PLAIN_BYTES = frozenset(range(0x21, 0x7F)) - frozenset(b'.\\"();@$')


def parse_name(text: str) -> Labels:
    r"""Parse a name in presentation form, with `\.` and `\DDD` escapes. A trailing dot has no effect.

    Raises:
        BadValueError: an empty label, a label over 63 bytes, a name over 255 bytes, an invalid escape, or
            invalid Unicode (Python represents arguments that are not UTF-8 with lone surrogates).
    """
    labels: list[bytes] = []
    label = bytearray()
    try:
        data = b"" if text == "." else text.encode()
    except UnicodeEncodeError:
        raise BadValueError(f"{text!r} is not a domain name: it is not UTF-8") from None
    at = 0
    while at < len(data):
        byte = data[at]
        at += 1
        if byte == ord("."):
            labels.append(bytes(label))
            label.clear()
        elif byte == ord("\\"):
            at += _unescape(data, at, label, text)
        else:
            label.append(byte)
    if label:  # after a trailing dot the rest is empty
        labels.append(bytes(label))
    name = tuple(labels)
    check_name(name, text)
    return name


def _unescape(data: bytes, at: int, label: bytearray, text: str) -> int:
    r"""Append the byte of the escape at `at` (after the backslash). Returns the length of the escape."""
    digits = data[at : at + 3]
    if digits.isdigit() and len(digits) == 3 and int(digits) <= 0xFF:  # noqa: PLR2004 - \DDD is three digits
        label.append(int(digits))
        return 3
    if at < len(data) and not data[at : at + 1].isdigit():
        label.append(data[at])
        return 1
    raise BadValueError(
        f"{text!r} is not a domain name: a backslash is followed by a character or three digits up to 255"
    )


def check_name(name: Labels, text: str | None = None) -> None:
    """Check the limits of RFC 1035 §2.3.4.

    Raises:
        BadValueError: an empty label, or a label or name that is too long.
    """
    wrong = f"{text if text is not None else to_text(name)!r} is not a domain name"
    for label in name:
        if not label:
            raise BadValueError(f"{wrong}: it has an empty label")
        if len(label) > MAX_LABEL:
            raise BadValueError(f"{wrong}: a label has {len(label)} bytes, at most {MAX_LABEL} are allowed")
    if wire_length(name) > MAX_NAME:
        raise BadValueError(f"{wrong}: it takes {wire_length(name)} bytes, at most {MAX_NAME} are allowed")


def wire_length(name: Labels) -> int:
    """The length of the uncompressed name on the wire, in bytes, including the root."""
    return sum(map(len, name)) + len(name) + 1


def to_wire(name: Labels) -> bytes:
    """The uncompressed wire form, with the root's zero byte at its end."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def to_text(name: Labels) -> str:
    """The presentation form without a trailing dot. Special characters are escaped (RFC 1035 §5.1)."""
    return ".".join(
        label.decode() if _PLAIN_LABEL.fullmatch(label) else "".join(map(_escaped, label)) for label in name
    )


def short_name(name: Labels, zone: Labels) -> str:
    """The text of a name in lower case, as commands and the API show it: see `without_zone`."""
    return to_text(without_zone(name, zone))


def without_zone(name: Labels, zone: Labels) -> Labels:
    """A name without the zone at its end, also if it is in another zone below this one.

    Args:
        name: in lower case.
        zone: that of the first namespace. It completes a name before all other zones do, so that what this
            returns stands for the same name.
    """
    return name[: -len(zone)] if name[-len(zone) :] == zone and name != zone else name


def _escaped(byte: int) -> str:
    if byte in _PLAIN_BYTES:
        return chr(byte)
    return f"\\{chr(byte)}" if 0x20 < byte < 0x7F else f"\\{byte:03d}"  # noqa: PLR2004 - ASCII's printable range


def lower(name: Labels) -> Labels:
    """The name in ASCII lower case, as names are compared (RFC 4343)."""
    return tuple(map(bytes.lower, name))


def reverse_name(address: str) -> Labels:
    """The name of an IP address in canonical form, below in-addr.arpa or ip6.arpa."""
    if ":" not in address:
        return (*reversed(address.encode().split(b".")), *IN_ADDR_ARPA)
    digits = ipaddress.IPv6Address(address).packed.hex().encode()
    return (*(digits[at : at + 1] for at in range(len(digits) - 1, -1, -1)), *IP6_ARPA)
