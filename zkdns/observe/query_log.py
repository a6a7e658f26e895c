"""The log of queries: a line for each response, or for a share of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from zkdns.dns.answer_source import RESPONSE_CACHE, AnswerSources
from zkdns.dns.marks import summary_of
from zkdns.transport.contract import ResponseObserver

log = structlog.get_logger("zkdns.query")

_MICROSECONDS = 1e6


class QueryLog(ResponseObserver):
    """Logs responses.

    Args:
        share: of how many of them there is a line, above 0 and up to 1.
        sources: tells what they were made from.
        draw: by what lot it is decided, from 0 to below 1.
    """

    def __init__(
        self, share: float, sources: AnswerSources, draw: Callable[[], float] = random.random
    ) -> None:
        self._share = share
        self._sources = sources
        self._draw = draw

    def take_source(self) -> str:
        """What the last response was made from: the memo, where nobody has said anything else since."""
        source, self._sources.last = self._sources.last, RESPONSE_CACHE
        return source

    def is_sampled(self) -> bool:
        """Whether this one is to be logged."""
        return self._draw() < self._share

    def on_response(self, transport: str, host: str, message: bytes, source: str, seconds: float, /) -> None:
        """Log a response."""
        summary = summary_of(message)
        log.info(
            "query",
            name=summary.name,
            type=summary.qtype,
            rcode=summary.rcode,
            answers=summary.answers,
            source=source,
            asker=host,
            transport=transport,
            microseconds=round(seconds * _MICROSECONDS, 1),
        )
