"""Exceptions that are mistakes of ours: told once for each kind, lest a flood of queries floods the log."""

from __future__ import annotations

from typing import Any


class LogOnce:
    """Tells of mistakes.

    Args:
        log: a structlog logger.
        sentence: what a mistake has for a consequence.
    """

    def __init__(self, log: Any, sentence: str) -> None:  # noqa: ANN401 - structlog has no type for them
        self._log = log
        self._sentence = sentence
        self._logged: set[str] = set()

    def error(self, error: Exception, **context: object) -> None:
        """Log an exception, unless one that reads the same was logged before."""
        kind = repr(error)
        if kind not in self._logged:
            self._logged.add(kind)
            self._log.error(self._sentence, exc_info=error, **context)
