"""What answers are made from, counted where that costs little: all but those that were given before.

Whoever makes an answer notes its source, once for each response that leaves; the others come from the memo.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

RESPONSE_CACHE: Final = "memo"
"""It was given before; nobody notes that."""
ZONE: Final = "zone"
FORWARD_CACHE: Final = "cache"
"""What upstreams have said before."""
UPSTREAM: Final = "upstream"
"""What upstreams say, or that they say nothing."""
STALE: Final = "stale"
"""What upstreams said once, and is over."""
REFUSED: Final = "refused"
"""Nothing: the query is malformed or not supported, or who asks, or the name, is not answered."""
PENDING: Final = ""
"""There is no response yet, or none at all: whoever makes one notes its source."""


class AnswerSources:
    """Counts what answers are made from.

    Attributes:
        counts: how many answers there were, by their source.
        last: the source of the last one; whoever asks for one sets it to `MEMO` before.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last = RESPONSE_CACHE

    def record(self, source: str) -> None:
        """An answer has that source."""
        if source:
            self.counts[source] += 1
            self.last = source
