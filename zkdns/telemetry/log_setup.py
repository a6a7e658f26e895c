"""Set-up of structlog: coloured lines, JSON lines or journal entries on standard error.

If standard error is systemd's journal, entries carry their priorities and fields. A line that cannot be
written (full disk, closed pipe) is lost; the process continues.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

import structlog

from zkdns.config import LogFormat, LogLevel
from zkdns.escape import printable
from zkdns.telemetry.journald import SOCKET, JournalRenderer, is_journal

# The longest identifiers of events fit, so that the fields of all lines begin in one column.
_EVENT_WIDTH = 32

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(log_format: LogFormat, level: LogLevel, *, process: str, journal: str = SOCKET) -> None:
    """Send this process's log to standard error or to the journal.

    Args:
        log_format: `auto` means `journald` if standard error is the journal, otherwise `console`.
        level: minimum level.
        process: role of this process, a field of every line.
        journal: the socket of journald.
    """
    if log_format == "auto":
        log_format = "journald" if is_journal() else "console"
    shared: list[structlog.types.Processor] = [
        # Not a bound context variable, since each thread has its own context.
        lambda _logger, _name, event: {"process": process, **event},
        structlog.processors.add_log_level,
    ]
    if log_format == "json":
        # Without local variables, which may hold secrets.
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        rest: list[structlog.types.Processor] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(traceback),
            structlog.processors.JSONRenderer(),
        ]
    elif log_format == "journald":  # the journal adds timestamps
        rest = [structlog.processors.format_exc_info, JournalRenderer(journal)]
    else:
        rest = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _quote_unprintable,
            structlog.dev.ConsoleRenderer(
                _EVENT_WIDTH,
                colors=sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
                exception_formatter=_printable_traceback,
                sort_keys=False,  # the process first, then the fields in the order of the call
            ),
        ]
    structlog.configure(
        processors=shared + rest,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_Output(sys.stderr)),  # type: ignore[arg-type]
        # A cached logger keeps its settings; those of the supervisor change on reload.
        cache_logger_on_first_use=process != "supervisor",
    )
    # Only errors of libraries that use the logging module.
    logging.basicConfig(level=logging.ERROR, handlers=[_ToStructlog()], force=True)


class _Quoted:
    """A text whose representation is quoted and escaped; `ConsoleRenderer` writes most texts as they are."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _quote_unprintable(
    _logger: object, _name: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Quote texts that a terminal would execute, or that would forge a line; they may come from ZooKeeper."""
    return {
        key: _Quoted(value) if isinstance(value, str) and not value.isprintable() else value
        for key, value in event.items()
    }


def _printable_traceback(out: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write a traceback; the text of the exception is escaped in each of its lines."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write("\n".join(map(printable, text.getvalue().split("\n"))))


class _Output:
    """Writes lines to a stream and ignores errors. None: discards them."""

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
        except BrokenPipeError:  # permanent; the buffered rest must not fail at exit
            silence(self._stream)
        except (OSError, ValueError):  # such as a full disk, which is temporary
            pass


class _ToStructlog(logging.Handler):
    """Passes log records of libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "library_message_logged",
            logger=record.name,
            text=record.getMessage(),
            exc_info=record.exc_info,
        )


def silence(stream: TextIO) -> None:
    """Discard further output of this stream after its reader has closed it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
