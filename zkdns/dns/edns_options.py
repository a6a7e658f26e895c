"""What responses hold beside what was asked for: the options with which a server answers an asker's own.

    NSID        who answers (RFC 5001), where that is to be told
    KEEPALIVE   how long a connection may be idle (RFC 7828), over TCP
    COOKIE      a cookie for the asker's address (RFC 7873)

Responses are made before it is known who gets them. So the place of the server cookie stays empty in them; it
is at their very end, where it is filled in when the address is known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import msgspec

from zkdns.dns.cookies import SERVER_COOKIE, Cookies
from zkdns.dns.edns import CLIENT_COOKIE, MIN_UDP_SIZE, Edns, OptionCode, pack_option
from zkdns.dns.message import BadQueryError, Query, Rcode, Response

_NO_COOKIE = bytes(SERVER_COOKIE)
_TENTHS = 10  # of a second: the unit of RFC 7828 §3.1

MakePerClient: TypeAlias = Callable[[Callable[[bytes], bytes]], bytes]
"""Makes what stands for a response until it is known who gets it: the function is then given the address, in
4 or 16 bytes, and returns the response."""


class EdnsOptions(msgspec.Struct, frozen=True):
    """What a server says by options.

    Attributes:
        nsid: what tells this server from others; empty: that is not told.
        idle_seconds: how long a connection may be idle before it is closed; below 6,553.
        cookies: makes and knows them; None: askers' cookies are ignored.
        personal: how a transport has responses that depend on who gets them; to be told with `cookies`.
    """

    nsid: bytes = b""
    idle_seconds: float = 0.0
    cookies: Cookies | None = None
    personal: MakePerClient | None = None

    def negotiate(self, query: Query, *, stream: bool) -> Query:
        """The query with the options that its responses have; `stream`: it came over TCP.

        Raises:
            BadQueryError: with FORMERR, since an option says what no asker may say.
        """
        edns = query.edns
        if edns is None or not edns.options:
            return query
        response_options = b""
        if self.nsid and OptionCode.NSID in edns.options:  # whose data do not matter (RFC 5001 §2.1)
            response_options += pack_option(OptionCode.NSID, self.nsid)
        # Over UDP it is ignored (RFC 7828 §3.2.1).
        keepalive = edns.options.get(OptionCode.KEEPALIVE) if stream else None
        if keepalive is not None:
            if keepalive:  # only servers tell a time
                raise _malformed(query)
            response_options += pack_option(
                OptionCode.KEEPALIVE, int(_TENTHS * self.idle_seconds).to_bytes(2)
            )
        cookie = self._cookie_of(edns)
        if cookie is not None:
            response_options += pack_option(OptionCode.COOKIE, cookie[:CLIENT_COOKIE] + _NO_COOKIE)
        elif not query.question:
            raise _malformed(query)
        edns = msgspec.structs.replace(edns, response_options=response_options)
        return msgspec.structs.replace(query, edns=edns)

    def finish(self, query: Query, response: bytes, if_unknown: bytes = b"") -> bytes:
        """The response, which gets its cookie when it is known whom it goes to, where it is to have one.

        Args:
            query: prepared.
            response: ready to be handed out, but for the cookie at its end.
            if_unknown: the same for whoever shows a server cookie that is not ours; empty: `response`.
        """
        cookie = self._cookie_of(query.edns)
        if cookie is None or self.cookies is None or self.personal is None:
            return response
        return self.personal(partial(_with_cookie, self.cookies, cookie, (response, if_unknown or response)))

    def has_valid_cookie(self, query: Query, address: bytes) -> bool:
        """Whether the query could only be asked by who receives what is sent to that address."""
        cookie = self._cookie_of(query.edns)
        return cookie is not None and self.cookies is not None and self.cookies.is_valid(cookie, address)

    def _cookie_of(self, edns: Edns | None) -> bytes | None:
        return None if self.cookies is None or edns is None else edns.options.get(OptionCode.COOKIE)


def _with_cookie(cookies: Cookies, cookie: bytes, responses: tuple[bytes, bytes], address: bytes) -> bytes:
    """Of two responses the one for who shows that cookie from that address, with a new one for it."""
    response, if_unknown = responses
    if response is not if_unknown and len(cookie) > CLIENT_COOKIE and not cookies.is_valid(cookie, address):
        response = if_unknown
    return response[:-SERVER_COOKIE] + cookies.make(cookie[:CLIENT_COOKIE], address)


def _malformed(query: Query) -> BadQueryError:
    return BadQueryError(Response(query, Rcode.FORMERR).pack(MIN_UDP_SIZE))
