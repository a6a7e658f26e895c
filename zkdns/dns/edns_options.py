"""Decides which EDNS options a response has: NSID, KEEPALIVE and COOKIE.

    NSID        the server's identity (RFC 5001), if configured
    KEEPALIVE   how long a connection may be idle (RFC 7828), over TCP only
    COOKIE      a server cookie for the client's address (RFC 7873)

Responses to queries with options are cached too. `separate` replaces the options of a query by those that the
response depends on, always in the same form: options that the server ignores are left out, and the cookie has
zeros. All queries that differ only in this have the same response, except for the cookie.

The responder does not know the client's address. It makes a response with zeros in place of both cookies, at
the end of the message. `finish` returns a per-client response. The transport calls that with the address,
which fills the cookies in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import msgspec

from zkdns.dns.cookies import COOKIES_SIZE, Cookies
from zkdns.dns.edns import (
    CLIENT_COOKIE_SIZE,
    MIN_UDP_SIZE,
    OPT,
    BadOptionError,
    Edns,
    OptionCode,
    iter_options,
    pack_option,
    read_options,
)
from zkdns.dns.message import BadQueryError, Query, Rcode, Response

_PER_SECOND = 10  # the unit of RFC 7828 §3.1 is 100 ms

_NO_COOKIES = pack_option(OptionCode.COOKIE, bytes(COOKIES_SIZE))
_ASKED_COOKIE = pack_option(OptionCode.COOKIE, bytes(CLIENT_COOKIE_SIZE))
_ASKED_NSID = pack_option(OptionCode.NSID, b"")
_ASKED_KEEPALIVE = pack_option(OptionCode.KEEPALIVE, b"")
# Root and type of an OPT record; the size of the length of its options.
_OPT_START = b"\0\0\x29"
_COOKIE = int(OptionCode.COOKIE)  # members of enumerations take longer to find
_SIZE = 2
_OPTION_HEAD = 4  # code and length
_ONE_QUESTION_ONE_ADDITIONAL = b"\0\1\0\0\0\0\0\1"
_QR_AND_OPCODE = 0xF8

Finish: TypeAlias = Callable[[bytes, bytes, bytes], bytes]
"""Makes the response for a client from an unfinished response, a cookie, and an address of 4 or 16 bytes."""
MakePerClient: TypeAlias = Callable[[Finish, bytes, bytes], bytes]
"""Makes a per-client response from an unfinished response, which may be deferred, and the client's cookie."""


class SeparatedQuery(NamedTuple):
    """A query without the options that belong to one client."""

    query: bytes
    """The query after its id, with only the options that its response depends on."""
    cookie: bytes | None
    """The client's cookie option. None: the response has no cookie."""
    data: slice | None
    """Where the original query has the data of its cookie, or of its only option. None: neither."""


class EdnsOptions:
    """The options that this server sends.

    Attributes:
        finish: returns a per-client response with both cookies. Its arguments are the encoded response, with
            zeros in place of the cookies at its end, and the client's cookie option. The response may be
            deferred. Without cookies, it returns the response unchanged.

    Args:
        nsid: identity of this server; empty: not disclosed.
        idle_seconds: how long a connection may be idle before it is closed; below 6,553.
        cookies: makes and verifies server cookies; None: clients' cookies are ignored.
        per_client: makes a per-client response; required with `cookies`.
    """

    def __init__(
        self,
        nsid: bytes = b"",
        idle_seconds: float = 0.0,
        cookies: Cookies | None = None,
        per_client: MakePerClient | None = None,
    ) -> None:
        self._nsid, self._idle_seconds = nsid, idle_seconds
        self._cookies, self._per_client = cookies, per_client
        self.finish: Callable[[bytes, bytes], bytes] = _unchanged
        if cookies is not None and per_client is not None:
            self.finish = partial(per_client, cookies.finish)  # one call less than a method

    def separate(self, query: bytes, opt: int, *, stream: bool) -> SeparatedQuery | None:
        """Separate the client's own options from a query.

        Args:
            query: the query after its id.
            opt: the end of its question. A guess is sufficient if the separated query is known to be
                well-formed, for instance because it is cached: a wrong one leads to no such query.
            stream: whether it arrived over TCP.

        Returns:
            None: the query has no options, is malformed, or is not a question with only an OPT record.
        """
        if query[2:10] != _ONE_QUESTION_ONE_ADDITIONAL or query[0] & _QR_AND_OPCODE:
            return None
        at = opt + OPT.size
        size = len(query) - at
        if opt <= 0 or size <= 0 or not query.startswith(_OPT_START, opt):
            return None
        if int.from_bytes(query[at - _SIZE : at]) != size:
            return None
        try:
            found = read_options(query[at:])
        except BadOptionError:
            return None
        cookie = found.get(_COOKIE) if self._cookies is not None else None
        options = b""
        if self._nsid and OptionCode.NSID in found:
            options = _ASKED_NSID
        if stream and (keepalive := found.get(OptionCode.KEEPALIVE)) is not None:
            if keepalive:  # RFC 7828 §3.2.1: only a server's option has a time-out
                return None
            options += _ASKED_KEEPALIVE
        if cookie is not None:
            options += _ASKED_COOKIE
        plain = query[: at - _SIZE] + len(options).to_bytes(_SIZE) + options
        return SeparatedQuery(plain, cookie, _place_of_data(query, at, has_cookie=cookie is not None))

    def negotiate(self, query: Query, *, stream: bool) -> Query:
        """Return the query with `response_options` set, according to its own options.

        Args:
            query: the parsed query.
            stream: whether it arrived over TCP.

        Raises:
            BadQueryError: with FORMERR, for an option that a client must not send.
        """
        edns = query.edns
        if edns is None or not edns.options:
            return query
        options = b""
        if self._nsid and OptionCode.NSID in edns.options:  # its data is ignored (RFC 5001 §2.1)
            options += pack_option(OptionCode.NSID, self._nsid)
        # Ignored over UDP (RFC 7828 §3.2.1).
        keepalive = edns.options.get(OptionCode.KEEPALIVE) if stream else None
        if keepalive is not None:
            if keepalive:  # RFC 7828 §3.2.1: only a server's option has a time-out
                raise _malformed(query)
            options += pack_option(OptionCode.KEEPALIVE, int(_PER_SECOND * self._idle_seconds).to_bytes(2))
        cookie = self._cookie_of(edns)
        if cookie is not None:
            options += _NO_COOKIES
        elif not query.question:
            raise _malformed(query)
        edns = msgspec.structs.replace(edns, response_options=options)
        return msgspec.structs.replace(query, edns=edns)

    def cookie_of(self, query: Query) -> bytes | None:
        """The client's cookie option. None: it has none, or cookies are not used."""
        return self._cookie_of(query.edns)

    def finish_verified(self, response: bytes, if_invalid: bytes, cookie: bytes) -> bytes:
        """As `finish`, but with the response `if_invalid` if the client's server cookie is invalid."""
        if self._cookies is None or self._per_client is None:
            return response
        return self._per_client(partial(self._verify_and_finish, self._cookies, if_invalid), response, cookie)

    @staticmethod
    def _verify_and_finish(
        cookies: Cookies, if_invalid: bytes, response: bytes, cookie: bytes, address: bytes
    ) -> bytes:
        is_valid = len(cookie) == CLIENT_COOKIE_SIZE or cookies.is_valid(cookie, address)
        return cookies.finish(response if is_valid else if_invalid, cookie, address)

    def has_valid_cookie(self, query: Query, address: bytes) -> bool:
        """Whether the query has a server cookie that was sent to this address."""
        cookie = self._cookie_of(query.edns)
        return cookie is not None and self._cookies is not None and self._cookies.is_valid(cookie, address)

    def _cookie_of(self, edns: Edns | None) -> bytes | None:
        return None if self._cookies is None or edns is None else edns.options.get(OptionCode.COOKIE)


def _unchanged(response: bytes, _cookie: bytes) -> bytes:
    return response


def _place_of_data(query: bytes, at: int, *, has_cookie: bool) -> slice | None:
    """Where a query whose options start at `at` has the data of its first cookie, or of its only option."""
    if has_cookie:
        for code, data in iter_options(query[at:]):
            at += _OPTION_HEAD + len(data)
            if code == _COOKIE:
                return slice(at - len(data), at)
    data_at = at + _OPTION_HEAD
    size = int.from_bytes(query[at + _SIZE : data_at])
    return slice(data_at, data_at + size) if size and data_at + size == len(query) else None


def _malformed(query: Query) -> BadQueryError:
    return BadQueryError(Response(query, Rcode.FORMERR).pack(MIN_UDP_SIZE))
