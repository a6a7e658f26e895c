"""EDNS (RFC 6891): what the OPT record of a query says, and the OPT record of its response.

Options are read and written here whoever sends them, askers and upstreams. What a server has to say by them
stands elsewhere (`zkdns.dns.edns_options`).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

MIN_UDP_SIZE: Final = 512  # RFC 1035 §2.3.4; smaller sizes in an OPT count as this (RFC 6891 §6.2.3)
MAX_UDP_SIZE: Final = 1232  # fits an IPv6 packet of the least MTU, so that nothing is fragmented
OPT: Final = struct.Struct("!BHHBBHH")
"""An OPT record without options: root, type, size, extended RCODE, version, flags, length of the options."""
DO: Final = 0x8000

_OPT_TYPE = 41
_OPTION = struct.Struct("!HH")
_INFO_CODE_SIZE = 2

CLIENT_COOKIE: Final = 8
"""Bytes of a client's part of a cookie (RFC 7873 §4)."""
_MIN_COOKIE, _MAX_COOKIE = 16, 40  # with the server's part


class OptionCode(enum.IntEnum):
    """The options that are treated by name; all others are ignored."""

    NSID = 3  # RFC 5001
    COOKIE = 10  # RFC 7873
    KEEPALIVE = 11  # RFC 7828
    EDE = 15  # RFC 8914


class Ede(enum.IntEnum):
    """Extended DNS errors (RFC 8914 §4), and when they are told; upstreams' own are passed on as they are."""

    STALE_ANSWER = 3
    """ZooKeeper is away, or the table is a snapshot; no upstream answers, and what is given is over."""
    NOT_READY = 14
    """The table, or a service, has not been read; the server ends while a question is on its way."""
    BLOCKED = 15
    """A special-use name does not exist here, and nobody else is asked."""
    PROHIBITED = 18
    """Who asks is of no network that is allowed."""
    NOT_AUTHORITATIVE = 20
    """The name lies outside the zones, and nobody is asked for it, or shall be (RD is clear)."""
    NOT_SUPPORTED = 21
    """A zone transfer, or a class other than IN."""
    NO_REACHABLE_AUTHORITY = 22
    """No upstream has an answer, or too many questions wait for them; no member's host can be resolved."""
    NETWORK_ERROR = 23
    """No upstream can be reached."""


class BadOptionError(Exception):
    """An option is not what it must be; the message says in what."""


class Edns(msgspec.Struct, frozen=True, gc=False):
    """What a query's OPT record says (RFC 6891 §6.1.2).

    Attributes:
        size: its UDP payload size as sent.
        version: 0, or what nobody knows yet.
        do: whether DNSSEC's records are wanted.
        options: the data of each, by its code; of equal ones the first.
        returned: the options that each response to the query has, ready for the wire.
    """

    size: int
    version: int
    do: bool
    options: dict[int, bytes] = {}
    response_options: bytes = b""


def iter_options(options: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and data of each option in an OPT record's data.

    Raises:
        BadOptionError: one ends behind the record.
    """
    at = 0
    while at < len(options):
        if at + _OPTION.size > len(options):
            raise BadOptionError("an EDNS option is cut short")
        code, size = _OPTION.unpack_from(options, at)
        at += _OPTION.size + size
        if at > len(options):
            raise BadOptionError("an EDNS option reaches over the end of its record")
        yield code, options[at - size : at]


def read_options(options: bytes) -> dict[int, bytes]:
    """A query's options by their codes; of several cookies the first counts (RFC 7873 §5.2).

    Raises:
        BadOptionError: what is wrong.
    """
    found: dict[int, bytes] = {}
    for code, data in iter_options(options):
        found.setdefault(code, data)
    size = len(found.get(OptionCode.COOKIE, bytes(CLIENT_COOKIE)))
    if size != CLIENT_COOKIE and not _MIN_COOKIE <= size <= _MAX_COOKIE:  # RFC 7873 §5.2.2
        raise BadOptionError(
            f"a cookie has {size} bytes, not {CLIENT_COOKIE} or {_MIN_COOKIE} to {_MAX_COOKIE}"
        )
    return found


def pack_option(code: int, data: bytes) -> bytes:
    """An option, ready for the wire."""
    return _OPTION.pack(code, len(data)) + data


def pack_ede(code: int, text: str = "") -> bytes:
    """The option with an extended error (RFC 8914 §2)."""
    return pack_option(OptionCode.EDE, code.to_bytes(_INFO_CODE_SIZE) + text.encode())


def sanitize_ede(data: bytes) -> bytes:
    """The option with somebody else's extended error, its text only if it is text; empty: it is no error."""
    if len(data) < _INFO_CODE_SIZE:
        return b""
    try:
        data[_INFO_CODE_SIZE:].decode()
    except UnicodeDecodeError:
        data = data[:_INFO_CODE_SIZE]
    return pack_option(OptionCode.EDE, data)


def pack_opt(rcode: int = 0, *, do: bool = False, options: bytes = b"") -> bytes:
    """An OPT record of ours; of the RCODE it holds the upper bits."""
    flags = DO if do else 0
    return OPT.pack(0, _OPT_TYPE, MAX_UDP_SIZE, rcode >> 4, 0, flags, len(options)) + options


def response_opt(edns: Edns | None, rcode: int, errors: bytes, room: int) -> bytes:
    """The OPT record of a response: there is one exactly when the query had one (RFC 6891 §6.1.1, §7).

    Args:
        edns: what the query says.
        rcode: the response's, of which the OPT record holds the upper bits.
        errors: extended errors as options; left out where there is no room for them.
        room: how many bytes the record may have.
    """
    if edns is None:
        return b""
    if OPT.size + len(errors) + len(edns.response_options) > room:
        errors = b""
    return pack_opt(rcode, do=edns.do, options=errors + edns.response_options)


def udp_limit(edns: Edns | None) -> int:
    """The longest response that may go to this asker over UDP (RFC 6891 §6.2.3, §6.2.5)."""
    if edns is None:
        return MIN_UDP_SIZE
    return min(max(edns.size, MIN_UDP_SIZE), MAX_UDP_SIZE)
