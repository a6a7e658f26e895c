"""Padding of responses over TLS (RFC 7830), so that their lengths disclose little about the names.

The length of a padded response is a multiple of 468 bytes (RFC 8467 §4.1). Only clients whose query has the
option get it. The OPT record is the last record of each response of this server.
"""

from __future__ import annotations

from typing import Final

from zkdns.dns.edns import OPT, BadOptionError, OptionCode, read_options

BLOCK: Final = 468
"""Lengths of padded responses are multiples of this."""

_MAX_MESSAGE = 65_535
_ID = 2
_QUESTION_AT = 10
_TYPE_AND_CLASS = 4
_COUNTS = slice(2, 10)
_ONE_QUESTION_ONE_ADDITIONAL = b"\0\1\0\0\0\0\0\1"
_OPT_START = b"\0\0\x29"  # root and type
_SIZE = 2  # of the length of the options
_OPTION_HEAD = 4


def wants_padding(query: bytes) -> bool:
    """Whether a query after its id has a padding option, in an OPT record that is its only other record."""
    if query[_COUNTS] != _ONE_QUESTION_ONE_ADDITIONAL:
        return False
    at, size = _QUESTION_AT, len(query)
    while at < size and (length := query[at]):
        at += 1 + length
    at += 1 + _TYPE_AND_CLASS
    if not query.startswith(_OPT_START, at):
        return False
    options = at + OPT.size
    end = options + int.from_bytes(query[options - _SIZE : options])
    try:
        return OptionCode.PADDING in read_options(query[options:end])
    except BadOptionError:
        return False


def pad(response: bytes) -> bytes:
    """Pad a response after its id. One without an OPT record, or without room, is returned unchanged."""
    opt = _find_opt(response)
    length = _ID + len(response) + _OPTION_HEAD
    padded = min(-(-length // BLOCK) * BLOCK, _MAX_MESSAGE)
    if opt < 0 or padded < length:
        return response
    data = padded - length
    options = opt + OPT.size
    size = len(response) - options + _OPTION_HEAD + data
    option = OptionCode.PADDING.to_bytes(2) + data.to_bytes(2) + bytes(data)
    return b"".join((response[: options - _SIZE], size.to_bytes(2), response[options:], option))


def _find_opt(response: bytes) -> int:
    """The offset of the OPT record, whose options end with the response. -1: it has none."""
    at = len(response)
    while (at := response.rfind(_OPT_START, 0, at)) >= 0:
        options = at + OPT.size
        if int.from_bytes(response[options - _SIZE : options]) == len(response) - options:
            return at
        at += len(_OPT_START) - 1  # the next one may overlap
    return -1
