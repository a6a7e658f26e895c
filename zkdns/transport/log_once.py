"""Logs each internal error once, so that a flood of queries cannot flood the log."""

from __future__ import annotations

from typing import Any, Final

MAX_ERRORS: Final = 100
"""Maximum number of different errors that an object logs. The text of an error may depend on a query."""


class LogOnce:
    """Logs internal errors, each once. Errors with the same `repr` are the same error.

    Args:
        log: a structlog logger.
        event: the identifier of the log event.
    """

    def __init__(self, log: Any, event: str) -> None:  # noqa: ANN401 - structlog has no type for loggers
        self._log = log
        self._event = event
        self._logged: set[str] = set()

    def error(self, error: Exception, **context: object) -> None:
        """Log an exception, unless one with the same `repr` has been logged."""
        kind = repr(error)
        if kind not in self._logged and len(self._logged) < MAX_ERRORS:
            self._logged.add(kind)
            self._log.error(self._event, exc_info=error, **context)
