"""Answers for those who are not answered: a bare refusal, or the hint to ask over TCP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from zkdns.dns.edns import Ede
from zkdns.dns.memo import Form
from zkdns.dns.wire import BadQueryError, Query, Rcode, Response, parse_query

_ID = 2
_NO_ID = bytes(_ID)


class TurnedAway:
    """Answers every query alike, by its bytes, as the memo answers others; never raises.

    Args:
        form: of keys and responses.
        respond: makes the response after its id.
    """

    def __init__(self, form: Form, respond: Callable[[Query], bytes]) -> None:
        self._form = form
        self._respond = respond

    def __getitem__(self, key: bytes) -> Iterator[bytes]:
        try:
            query = parse_query(_NO_ID + self._form.query(key))
        except BadQueryError as bad:
            return itertools.repeat(self._form.response((bad.response or b"")[_ID:], 0))
        return itertools.repeat(self._form.response(self._respond(query), len(query.question)))


def refusal(query: Query) -> bytes:
    """REFUSED, since who asks is not allowed to (RFC 8914 §4.19)."""
    return Response(query, Rcode.REFUSED, ede=Ede.PROHIBITED).envelope().around(b"", 0, 0, 0)


def truncation(query: Query) -> bytes:
    """Nothing but TC, which asks to ask over TCP."""
    return Response(query).envelope().around(b"", 0, 0, 0, truncated=True)
