"""Logs by structlog, to standard error: for people in colours, for machines as a JSON object a line.

Where standard error is systemd's journal they go there with their priorities and fields.

A log that cannot be written (a full disk, a reader that has gone) is lost, and nothing else is.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

import structlog

from zkdns.config import LogFormat, LogLevel
from zkdns.observe.journal import SOCKET, JournalRenderer, is_journal

# The longest identifiers of events fit, so that the fields of all lines begin in one column.
_EVENT_WIDTH = 32

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(log_format: LogFormat, level: LogLevel, *, process: str, journal: str = SOCKET) -> None:
    """Send this process's logs to standard error, or to the journal.

    Args:
        log_format: `auto` is `journald` where standard error is the journal, else `console`.
        level: what is below it is not logged.
        process: which of the processes speaks; it is said on every line.
        journal: where journald takes entries.
    """
    if log_format == "auto":
        log_format = "journald" if is_journal() else "console"
    shared: list[structlog.types.Processor] = [
        # Not bound to a context: each thread has one of its own.
        lambda _logger, _name, event: {"process": process, **event},
        structlog.processors.add_log_level,
    ]
    if log_format == "json":
        # Without the frames' variables, which hold what nobody wants in a log.
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        rest: list[structlog.types.Processor] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(traceback),
            structlog.processors.JSONRenderer(),
        ]
    elif log_format == "journald":  # which has times of its own
        rest = [structlog.processors.format_exc_info, JournalRenderer(journal)]
    else:
        rest = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                _EVENT_WIDTH,
                colors=sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
                sort_keys=False,  # the process first, then the fields in the order of the call
            ),
        ]
    structlog.configure(
        processors=shared + rest,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_Output(sys.stderr)),  # type: ignore[arg-type]
        # What is cached stays as it was, and this process is told of other settings while it runs.
        cache_logger_on_first_use=process != "supervisor",
    )
    # Libraries that log by themselves say only what went wrong.
    logging.basicConfig(level=logging.ERROR, handlers=[_ToStructlog()], force=True)


class _Output:
    """Where lines go, as much as can be written of them; None: nowhere."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._attempt(lambda stream: stream.write(text))

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, act: Callable[[TextIO], object]) -> None:
        if self._stream is None:
            return
        try:
            act(self._stream)
        except BrokenPipeError:  # for good; and what is still buffered must not be an error at exit
            silence(self._stream)
        except (OSError, ValueError):  # a full disk, which may pass
            pass


class _ToStructlog(logging.Handler):
    """Logs a library's record as an event of ours, with its text as a field."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library_message_logged",
            logger=record.name,
            text=record.getMessage(),
            exc_info=record.exc_info,
        )


def silence(stream: TextIO) -> None:
    """Let nobody hear what else is written: the reader of this stream has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
