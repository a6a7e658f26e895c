"""Decides which EDNS options a response has: NSID, KEEPALIVE and COOKIE.

    NSID        the server's identity (RFC 5001), if configured
    KEEPALIVE   how long a connection may be idle (RFC 7828), over TCP only
    COOKIE      a server cookie for the client's address (RFC 7873)

The responder does not know the client's address. It makes a response with zeros in place of the server cookie
(at the end of the message) and returns a per-client response. The transport calls that with the address,
which fills the cookie in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from zkdns.dns.cookies import SERVER_COOKIE_SIZE, Cookies
from zkdns.dns.edns import CLIENT_COOKIE_SIZE, MIN_UDP_SIZE, Edns, OptionCode, pack_option
from zkdns.dns.message import BadQueryError, Query, Rcode, Response

_NO_COOKIE = bytes(SERVER_COOKIE_SIZE)
_PER_SECOND = 10  # the unit of RFC 7828 §3.1 is 100 ms

MakePerClient: TypeAlias = Callable[[Callable[[bytes], bytes]], bytes]
"""Makes a per-client response from a function that returns the response for an address of 4 or 16 bytes."""


class EdnsOptions(msgspec.Struct, frozen=True):
    """The options that this server sends.

    Attributes:
        nsid: identity of this server; empty: not disclosed.
        idle_seconds: how long a connection may be idle before it is closed; below 6,553.
        cookies: makes and verifies server cookies; None: clients' cookies are ignored.
        per_client: makes a per-client response; required with `cookies`.
    """

    nsid: bytes = b""
    idle_seconds: float = 0.0
    cookies: Cookies | None = None
    per_client: MakePerClient | None = None

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
        if self.nsid and OptionCode.NSID in edns.options:  # its data is ignored (RFC 5001 §2.1)
            options += pack_option(OptionCode.NSID, self.nsid)
        # Ignored over UDP (RFC 7828 §3.2.1).
        keepalive = edns.options.get(OptionCode.KEEPALIVE) if stream else None
        if keepalive is not None:
            if keepalive:  # RFC 7828 §3.2.1: only a server's option has a time-out
                raise _malformed(query)
            options += pack_option(OptionCode.KEEPALIVE, int(_PER_SECOND * self.idle_seconds).to_bytes(2))
        cookie = self._cookie_of(edns)
        if cookie is not None:
            options += pack_option(OptionCode.COOKIE, cookie[:CLIENT_COOKIE_SIZE] + _NO_COOKIE)
        elif not query.question:
            raise _malformed(query)
        edns = msgspec.structs.replace(edns, response_options=options)
        return msgspec.structs.replace(query, edns=edns)

    def finish(self, query: Query, response: bytes, if_invalid: bytes = b"") -> bytes:
        """Return a per-client response that adds the server cookie, or `response` if the query has no cookie.

        Args:
            query: from `negotiate`.
            response: the encoded response, with zeros in place of the cookie at its end.
            if_invalid: the response if the query's server cookie is invalid. Empty: `response` in any case.
        """
        cookie = self._cookie_of(query.edns)
        if cookie is None or self.cookies is None or self.per_client is None:
            return response
        unfinished = _Unfinished(self.cookies, cookie, response, if_invalid or response)
        return self.per_client(unfinished.for_address)

    def has_valid_cookie(self, query: Query, address: bytes) -> bool:
        """Whether the query has a server cookie that was sent to this address."""
        cookie = self._cookie_of(query.edns)
        return cookie is not None and self.cookies is not None and self.cookies.is_valid(cookie, address)

    def _cookie_of(self, edns: Edns | None) -> bytes | None:
        return None if self.cookies is None or edns is None else edns.options.get(OptionCode.COOKIE)


class _Unfinished(msgspec.Struct, frozen=True, gc=False):
    """A response with zeros in place of its server cookie, and the response for an invalid cookie."""

    cookies: Cookies
    cookie: bytes
    response: bytes
    if_invalid: bytes

    def for_address(self, address: bytes) -> bytes:
        """The response for a client's address, with a new server cookie (RFC 7873 §5.2)."""
        response = self.response
        if (
            response is not self.if_invalid
            and len(self.cookie) > CLIENT_COOKIE_SIZE
            and not self.cookies.is_valid(self.cookie, address)
        ):
            response = self.if_invalid
        return response[:-SERVER_COOKIE_SIZE] + self.cookies.make(self.cookie[:CLIENT_COOKIE_SIZE], address)


def _malformed(query: Query) -> BadQueryError:
    return BadQueryError(Response(query, Rcode.FORMERR).pack(MIN_UDP_SIZE))
