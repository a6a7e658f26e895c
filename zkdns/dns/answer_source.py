"""Sources of responses, and counters for all of them except the response cache.

The code that makes a response notes its source, once for each response that is sent. All other responses
come from the response cache: its hits are too frequent to be counted one by one.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

RESPONSE_CACHE: Final = "response_cache"
"""An earlier response to the same query. Not noted."""
ZONE: Final = "zone"
"""The table."""
FORWARD_CACHE: Final = "forward_cache"
"""An earlier response of an upstream."""
UPSTREAM: Final = "upstream"
"""A response of an upstream, or SERVFAIL because no upstream responded."""
STALE: Final = "stale"
"""An expired entry of the forward cache, because no upstream responded."""
REFUSED: Final = "refused"
"""An error: the query is malformed or not supported, or the client or the name is not allowed."""
PENDING: Final = ""
"""There is no response yet. The code that makes one notes its source."""


class AnswerSources:
    """Counts responses by source.

    Attributes:
        counts: responses by source.
        last: source of the last response. The caller sets it to `RESPONSE_CACHE` before each query.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = RESPONSE_CACHE

    def note(self, source: str) -> None:
        """Count a response from this source."""
        if source:
            self.counts[source] += 1
            self.last = source
