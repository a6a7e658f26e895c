"""Logs by structlog, to standard error: for people in colours, for machines as a JSON object a line."""

from __future__ import annotations

import logging
import sys

import structlog

from zkdns.config import LogFormat, LogLevel

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(log_format: LogFormat, level: LogLevel, *, process: str) -> None:
    """Send this process's logs to standard error.

    Args:
        log_format: `console` or `json`.
        level: what is below it is not logged.
        process: which of the processes speaks; it is said on every line.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if log_format == "json":
        rest: list[structlog.types.Processor] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    else:
        rest = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    structlog.configure(
        processors=shared + rest,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    # Libraries that log by themselves say only what went wrong.
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
