"""`PaddedResponses`: the responses over TLS, which are padded for clients that request it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from zkdns.dns.padding import pad, wants_padding
from zkdns.transport.contract import ResponseLookup, with_change


class PaddedResponses:
    """A `ResponseLookup` for DNS over TLS.

    Args:
        responses: the same responses without padding.
    """

    def __init__(self, responses: ResponseLookup) -> None:
        self._responses = responses

    def __getitem__(self, query: bytes, /) -> Iterator[bytes]:
        """The responses to a query without its id."""
        found = self._responses[query]
        return map(with_change, found, repeat(pad)) if wants_padding(query) else found
