"""Answers for those who are not answered: a bare refusal, or the hint to ask over TCP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from zkdns.dns.answer_source import PENDING, REFUSED, AnswerSources
from zkdns.dns.edns import Ede
from zkdns.dns.edns_options import EdnsOptions
from zkdns.dns.marks import mark_of
from zkdns.dns.message import BadQueryError, Query, Rcode, Response, parse_query
from zkdns.dns.response_cache import QueryCodec

_ID = 2
_NO_ID = bytes(_ID)


class ErrorResponder:
    """Answers every query alike, by its bytes, as the memo answers others; never raises.

    Args:
        form: of keys and responses.
        respond: makes the response after its id.
        sources: is told of each answer.
        extras: what is said by EDNS options. Who has been given a cookie drops what comes without one (RFC
            7873 §5.3), and would never learn what a bare response says.
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
            return itertools.repeat(self._codec.response(body, 0, mark_of(body)))
        body = self._respond(query)
        response = self._codec.response(body, len(query.question), mark_of(body))
        self._sources.record(REFUSED)
        return itertools.repeat(self._edns_options.finish(query, response))


def refused_response(query: Query) -> bytes:
    """REFUSED, since who asks is not allowed to (RFC 8914 §4.19)."""
    return Response(query, Rcode.REFUSED, ede=Ede.PROHIBITED).template().build(b"", 0, 0, 0)


def truncated_response(query: Query) -> bytes:
    """Nothing but TC, which asks to ask over TCP."""
    return Response(query).template().build(b"", 0, 0, 0, truncated=True)


def has_valid_cookie(codec: QueryCodec, edns_options: EdnsOptions, key: bytes, address: bytes) -> bool:
    """Whether a query, by its key, shows by its cookie that it was asked from that address."""
    try:
        query = parse_query(_NO_ID + codec.query(key))
    except BadQueryError:
        return False
    return edns_options.has_valid_cookie(query, address)
