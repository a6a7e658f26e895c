"""Responses for clients that access control rejects: REFUSED, or an empty response with TC."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from zkdns.dns.answer_source import PENDING, REFUSED, AnswerSources
from zkdns.dns.edns import Ede
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.message import BadQueryError, Query, Rcode, Response, parse_query
from zkdns.dns.query_codec import QueryCodec
from zkdns.dns.response_class import classify

_ID = 2
_NO_ID = bytes(_ID)


class ErrorResponder:
    """A `ResponseLookup` that gives every query the same kind of response. It never raises.

    Args:
        codec: the form of keys and responses.
        respond: makes the response after its id.
        sources: counts each response.
        edns_options: the EDNS options of responses. A client that has received a cookie ignores responses
            without one (RFC 7873 §5.3).
    """

    def __init__(
        self,
        codec: QueryCodec,
        respond: Callable[[Query], bytes],
        edns_options: EdnsOptions,
        sources: AnswerSources,
    ) -> None:
        self._sources = sources
        self._codec = codec
        self._respond = respond
        self._edns_options = edns_options

    def __getitem__(self, key: bytes) -> Iterator[bytes]:
        try:
            query = self._edns_options.negotiate(parse_query(_NO_ID + self._codec.query(key)), stream=False)
        except BadQueryError as bad:
            body = (bad.response or b"")[_ID:]
            self._sources.record(REFUSED if body else PENDING)
            return itertools.repeat(self._codec.response(body, 0, classify(body)))
        body = self._respond(query)
        response = self._codec.response(body, len(query.question), classify(body))
        self._sources.record(REFUSED)
        cookie = self._edns_options.cookie_of(query)
        if cookie is not None:
            response = self._edns_options.finish(response, cookie)
        return itertools.repeat(response)

    def has_valid_cookie(self, key: bytes, address: bytes) -> bool:
        """Whether the query with this key has a server cookie that was sent to this address."""
        try:
            query = parse_query(_NO_ID + self._codec.query(key))
        except BadQueryError:
            return False
        return self._edns_options.has_valid_cookie(query, address)


def refused_response(query: Query) -> bytes:
    """REFUSED: the client's network is not allowed (RFC 8914 §4.19)."""
    return Response(query, Rcode.REFUSED, ede=Ede.PROHIBITED).template().build(b"", 0, 0, 0)


def truncated_response(query: Query) -> bytes:
    """An empty response with TC, so that the client repeats the query over TCP."""
    return Response(query).template().build(b"", 0, 0, 0, truncated=True)
