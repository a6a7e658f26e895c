"""Exceptions that are mistakes of ours: told once for each kind, lest a flood of queries floods the log."""

from __future__ import annotations

from typing import Any


class LogOnce:
    """Tells of mistakes.

    Args:
        log: a structlog logger.
        event: the identifier of the log event.
    """

    def __init__(self, log: Any, event: str) -> None:  # noqa: ANN401 - structlog has no type for them
        self._log = log
        self._event = event
        self._told: set[str] = set()

    def tell(self, error: Exception, **context: object) -> None:
        """Log an exception, unless one that reads the same was logged before."""
        kind = repr(error)
        if kind not in self._told:
            self._told.add(kind)
            self._log.error(self._event, exc_info=error, **context)
