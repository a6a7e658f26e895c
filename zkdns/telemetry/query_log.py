"""The query log: a line for each response, or for a share of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from zkdns.dns.answer_source import RESPONSE_CACHE, AnswerSources
from zkdns.dns.response_class import summarize
from zkdns.transport.contract import ResponseObserver

log = structlog.get_logger("zkdns.query")

_MICROSECONDS = 1e6


class QueryLog(ResponseObserver):
    """Logs responses.

    Args:
        share: share of the responses to log, above 0 and up to 1.
        sources: holds the source of the last response.
        draw: returns random numbers from 0 to below 1. None: a generator of its own.
    """

    def __init__(self, share: float, sources: AnswerSources, draw: Callable[[], float] | None = None) -> None:
        self._share = share
        self._sources = sources
        self._draw = draw or random.Random().random

    def take_source(self) -> str:
        """Return the source of the last response, and reset it to the response cache."""
        source, self._sources.last = self._sources.last, RESPONSE_CACHE
        return source

    def is_sampled(self) -> bool:
        """Decide at random whether to log the next response."""
        return self._draw() < self._share

    def on_response(self, transport: str, host: str, message: bytes, source: str, seconds: float, /) -> None:
        """Log a response."""
        summary = summarize(message)
        log.info(
            "query_answered",
            name=summary.name,
            type=summary.qtype,
            rcode=summary.rcode,
            answers=summary.answers,
            source=source,
            client=host,
            transport=transport,
            microseconds=round(seconds * _MICROSECONDS, 1),
        )
