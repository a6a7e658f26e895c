"""Logging of the library: through structlog if the program has configured it, otherwise through `logging`.

So a program without structlog gets the warnings of zkdns with its own, and zkdns prints nothing by itself.
The library does not import structlog: a program that has configured it has imported it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final

_QUOTED: Final = frozenset(" ='\"\\")


class Log:
    """Logs an event and its fields, as a structlog logger does."""

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
        structlog = sys.modules.get("structlog")
        # While another thread imports structlog, the module is incomplete.
        if structlog is not None and getattr(structlog, "is_configured", bool)():
            structlog.get_logger(self._name).log(level, event, **values)
            return
        exc_info = bool(values.pop("exc_info", False))
        text = line_of(event, values)
        logging.getLogger(self._name).log(level, "zkdns: %s", text, exc_info=exc_info)


def line_of(event: str, values: Mapping[str, object]) -> str:
    """An event and its fields as one line: `member_skipped path=/a/b reason='two words'`."""
    return " ".join((event, *(f"{key}={_text_of(value)}" for key, value in values.items())))


def _text_of(value: object) -> str:
    """The value; in quotes if it is empty or has characters that would make the line ambiguous."""
    if isinstance(value, str) and value.isprintable() and not _QUOTED.intersection(value) and value:
        return value
    return repr(value)
