"""The sources of responses, counted for metrics and the query log.

The component that computes a response records its source, once for each response that is sent. Responses from
the response cache are not recorded, because counting each of them would slow the hot path.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

RESPONSE_CACHE: Final = "response_cache"
"""The response cache; never recorded."""
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
"""No response yet, or none at all; whatever makes a deferred response records its source."""


class AnswerSources:
    """Counts responses by source.

    Attributes:
        counts: number of responses by source.
        last: source of the last response; the query log resets it to `RESPONSE_CACHE` after each one.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = RESPONSE_CACHE

    def record(self, source: str) -> None:
        """Count a response of this source."""
        if source:
            self.counts[source] += 1
            self.last = source
