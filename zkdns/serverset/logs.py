"""Logging of the library: through structlog if the program has configured it, otherwise through `logging`.

A program that does not use structlog thus finds the warnings among its own, and nothing on its output.
"""

from __future__ import annotations

import logging

import structlog


class Log:
    """A logger with an event and its values, as structlog has."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **values: object) -> None:
        """Log a normal event."""
        self._log(logging.INFO, event, values)

    def warning(self, event: str, **values: object) -> None:
        """Log a problem that the program survives."""
        self._log(logging.WARNING, event, values)

    def exception(self, event: str, **values: object) -> None:
        """Log the exception that is being handled."""
        self._log(logging.ERROR, event, {**values, "exc_info": True})

    def _log(self, level: int, event: str, values: dict[str, object]) -> None:
        if structlog.is_configured():
            structlog.get_logger(self._name).log(level, event, **values)
            return
        exc_info = bool(values.pop("exc_info", False))
        text = " ".join((event, *(f"{key}={value!r}" for key, value in values.items())))
        logging.getLogger(self._name).log(level, "%s", text, exc_info=exc_info)
