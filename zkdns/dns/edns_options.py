"""The EDNS options of responses: NSID, KEEPALIVE and COOKIE.

    NSID        the server's identity (RFC 5001), if configured
    KEEPALIVE   how long a connection may be idle (RFC 7828), over TCP only
    COOKIE      a server cookie for the client's address (RFC 7873)

Responses are made before the client's address is known. They therefore end with room for the server cookie,
which the transport has filled in when it sends them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from zkdns.dns.cookies import SERVER_COOKIE, Cookies
from zkdns.dns.edns import CLIENT_COOKIE, MIN_UDP_SIZE, Edns, OptionCode, pack_option
from zkdns.dns.message import BadQueryError, Query, Rcode, Response

_NO_COOKIE = bytes(SERVER_COOKIE)
_TENTHS = 10  # of a second: the unit of RFC 7828 §3.1

MakePerClient: TypeAlias = Callable[[Callable[[bytes], bytes]], bytes]
"""Makes a placeholder from a function of the client's address (4 or 16 bytes) that returns the response."""


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
        """The query together with the options of its responses.

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
            options += pack_option(OptionCode.KEEPALIVE, int(_TENTHS * self.idle_seconds).to_bytes(2))
        cookie = self._cookie_of(edns)
        if cookie is not None:
            options += pack_option(OptionCode.COOKIE, cookie[:CLIENT_COOKIE] + _NO_COOKIE)
        elif not query.question:
            raise _malformed(query)
        edns = msgspec.structs.replace(edns, response_options=options)
        return msgspec.structs.replace(query, edns=edns)

    def finish(self, query: Query, response: bytes, if_invalid: bytes = b"") -> bytes:
        """Add the server cookie: a per-client response, or the response itself if the query has no cookie.

        Args:
            query: from `negotiate`.
            response: ready to send, except for the cookie at its end.
            if_invalid: the response to a query whose server cookie is invalid; empty: `response`.
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
    """A response without its server cookie, and the response for an invalid cookie."""

    cookies: Cookies
    cookie: bytes
    response: bytes
    if_invalid: bytes

    def for_address(self, address: bytes) -> bytes:
        """The response for a client's address, with a new server cookie (RFC 7873 §5.2)."""
        response = self.response
        if (
            response is not self.if_invalid
            and len(self.cookie) > CLIENT_COOKIE
            and not self.cookies.is_valid(self.cookie, address)
        ):
            response = self.if_invalid
        return response[:-SERVER_COOKIE] + self.cookies.make(self.cookie[:CLIENT_COOKIE], address)


def _malformed(query: Query) -> BadQueryError:
    return BadQueryError(Response(query, Rcode.FORMERR).pack(MIN_UDP_SIZE))
