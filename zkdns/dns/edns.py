"""EDNS (RFC 6891): the OPT record of a query, and the OPT record of its response.

This file has the wire format of the record and of its options. `zkdns.dns.edns_options` decides which options
a response has.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

import msgspec

MIN_UDP_SIZE: Final = 512
"""RFC 1035 §2.3.4; smaller sizes in an OPT record count as this one (RFC 6891 §6.2.3)."""
MAX_UDP_SIZE: Final = 1232
"""The largest UDP message that fits into an IPv6 packet of the minimum MTU, so that it is not fragmented."""
OPT: Final = struct.Struct("!BHHBBHH")
"""An OPT record before its options: root, type, size, extended RCODE, version, flags, options' length."""
DO: Final = 0x8000
"""The flag that requests DNSSEC records (RFC 3225)."""

_OPT_TYPE = 41
_OPTION = struct.Struct("!HH")
_INFO_CODE_SIZE = 2

MAX_OPTIONS: Final = 64
"""Maximum number of options in a query. Clients send up to five, but 16,000 would fit into a message."""

CLIENT_COOKIE_SIZE: Final = 8
"""Bytes of a client cookie (RFC 7873 §4)."""
_MIN_COOKIE_SIZE, _MAX_COOKIE_SIZE = 16, 40  # client and server cookie together


class OptionCode(enum.IntEnum):
    """The option codes that this server handles. It ignores all others."""

    NSID = 3  # RFC 5001
    COOKIE = 10  # RFC 7873
    KEEPALIVE = 11  # RFC 7828
    PADDING = 12  # RFC 7830
    EDE = 15  # RFC 8914


class Ede(enum.IntEnum):
    """Extended DNS errors (RFC 8914 §4) of this server. Those of upstreams are passed on unchanged."""

    STALE_ANSWER = 3
    """ZooKeeper is unreachable, the table is a snapshot, or a forwarded response has expired."""
    NOT_READY = 14
    """The table or a service has not been read yet, or the server stops while a query is pending."""
    BLOCKED = 15
    """A special-use name that is not forwarded; or private addresses of a public name were left out."""
    PROHIBITED = 18
    """The client's network is not allowed."""
    NOT_AUTHORITATIVE = 20
    """The name is outside the zones and is not forwarded, or RD is clear."""
    NOT_SUPPORTED = 21
    """A zone transfer, or a class other than IN."""
    NO_REACHABLE_AUTHORITY = 22
    """No upstream has an answer, or too many queries are pending; or no member's host could be resolved."""
    NETWORK_ERROR = 23
    """No upstream can be reached."""


class BadOptionError(Exception):
    """An option is malformed; the message explains how."""


class Edns(msgspec.Struct, frozen=True, gc=False):
    """The OPT record of a query (RFC 6891 §6.1.2).

    Attributes:
        size: UDP payload size as sent.
        version: as sent; this server supports only version 0.
        do: whether DNSSEC records are requested.
        options: data of each option by code. Of repeated options the first one counts.
        response_options: options to send with each response to the query, in wire format.
    """

    size: int
    version: int
    do: bool
    options: dict[int, bytes] = {}
    response_options: bytes = b""


_COOKIE = int(OptionCode.COOKIE)  # members of enumerations take longer to find
_NO_COOKIE = bytes(CLIENT_COOKIE_SIZE)


def iter_options(options: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and data of each option in the data of an OPT record.

    Raises:
        BadOptionError: an option is longer than the rest of the record.
    """
    at = 0
    while at < len(options):
        if at + _OPTION.size > len(options):
            raise BadOptionError("an EDNS option is cut short")
        code, size = _OPTION.unpack_from(options, at)
        at += _OPTION.size + size
        if at > len(options):
            raise BadOptionError("an EDNS option ends after the end of its record")
        yield code, options[at - size : at]


def read_options(options: bytes) -> dict[int, bytes]:
    """A query's options by code; the first of several cookies counts (RFC 7873 §5.2).

    Raises:
        BadOptionError: an option or a cookie has the wrong length, or there are too many options.
    """
    found: dict[int, bytes] = {}
    code, size = _OPTION.unpack_from(options) if len(options) >= _OPTION.size else (0, 0)
    if size and len(options) == _OPTION.size + size:  # most queries have one option at most
        found[code] = options[_OPTION.size :]
    else:
        for number, (code, data) in enumerate(iter_options(options)):
            if number >= MAX_OPTIONS:
                raise BadOptionError(f"a query has more than {MAX_OPTIONS} EDNS options")
            found.setdefault(code, data)
    size = len(found.get(_COOKIE, _NO_COOKIE))
    if size != CLIENT_COOKIE_SIZE and not _MIN_COOKIE_SIZE <= size <= _MAX_COOKIE_SIZE:  # RFC 7873 §5.2.2
        raise BadOptionError(
            f"a cookie has {size} bytes, not {CLIENT_COOKIE_SIZE} or {_MIN_COOKIE_SIZE} to {_MAX_COOKIE_SIZE}"
        )
    return found


def pack_option(code: int, data: bytes) -> bytes:
    """An option in wire format."""
    return _OPTION.pack(code, len(data)) + data


def pack_ede(code: int, text: str = "") -> bytes:
    """The option with an extended DNS error (RFC 8914 §2)."""
    return pack_option(OptionCode.EDE, code.to_bytes(_INFO_CODE_SIZE) + text.encode())


def sanitize_ede(data: bytes) -> bytes:
    """The option with an upstream's extended error; empty if it is malformed.

    If its text is not UTF-8, only the code is kept.
    """
    if len(data) < _INFO_CODE_SIZE:
        return b""
    try:
        data[_INFO_CODE_SIZE:].decode()
    except UnicodeDecodeError:
        data = data[:_INFO_CODE_SIZE]
    return pack_option(OptionCode.EDE, data)


def pack_opt(rcode: int = 0, *, do: bool = False, options: bytes = b"") -> bytes:
    """An OPT record of this server, with the upper bits of the RCODE."""
    flags = DO if do else 0
    return OPT.pack(0, _OPT_TYPE, MAX_UDP_SIZE, rcode >> 4, 0, flags, len(options)) + options


PLAIN_OPT: Final = (pack_opt(), pack_opt(do=True))
"""OPT records without options and upper bits of the RCODE: without and with the DO flag."""


def response_opt(edns: Edns | None, rcode: int, errors: bytes, room: int) -> bytes:
    """The OPT record of a response: present exactly if the query had one (RFC 6891 §6.1.1, §7).

    Args:
        edns: the query's OPT record.
        rcode: the response's RCODE; the OPT record holds its upper bits.
        errors: extended errors as options; left out if there is no room.
        room: maximum bytes of the record.
    """
    if edns is None:
        return b""
    if not errors and not edns.response_options and not rcode >> 4:  # nearly always
        return PLAIN_OPT[edns.do]
    if OPT.size + len(errors) + len(edns.response_options) > room:
        errors = b""
    return pack_opt(rcode, do=edns.do, options=errors + edns.response_options)


def udp_limit(edns: Edns | None) -> int:
    """The maximum size of a response to this client over UDP (RFC 6891 §6.2.3, §6.2.5)."""
    if edns is None:
        return MIN_UDP_SIZE
    return min(max(edns.size, MIN_UDP_SIZE), MAX_UDP_SIZE)
