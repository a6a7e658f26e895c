"""The sources of responses (zone, forward cache, upstream and so on), for metrics and the query log.

The component that computes a response records its source. Responses from the response cache are not recorded,
because that would slow the hot path. A response without a recorded source therefore comes from the cache.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

RESPONSE_CACHE: Final = "response_cache"
"""The response cache. It is the default of `AnswerSources.last` and never recorded."""
ZONE: Final = "zone"
"""The table of services."""
FORWARD_CACHE: Final = "forward_cache"
"""Cached responses of upstreams."""
UPSTREAM: Final = "upstream"
"""A response of an upstream, or the failure of all of them."""
STALE: Final = "stale"
"""An expired response of an upstream (RFC 8767)."""
REFUSED: Final = "refused"
"""An error: the query is malformed or not supported, or the client or the name is not allowed."""
PENDING: Final = ""
"""There is no response, or it is deferred; the forwarder records the source of a deferred response later."""


class AnswerSources:
    """Counts responses by source.

    Attributes:
        counts: number of responses by source.
        last: source of the last response. The query log reads it after each response and then resets it to
            `RESPONSE_CACHE`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = RESPONSE_CACHE

    def record(self, source: str) -> None:
        """Count a response of this source."""
        if source:
            self.counts[source] += 1
            self.last = source
