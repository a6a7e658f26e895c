"""Standard output and standard error of all commands.

A command that cannot write its output ends with an exit status of its own, wherever it writes: `run_checked`
replaces standard output by a stream whose errors are `OutputError`, and handles that exception. A line that
cannot be written to standard error is lost, because there is no other place for it.

All commands write with this module or with `zkdns.cli.output`, which escape the text.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterable
from typing import BinaryIO, NoReturn, TextIO, TypeVar, cast

import msgspec

from zkdns.cli.statuses import ExitStatus
from zkdns.escape import printable, printable_json

T = TypeVar("T")

_DUMB_TERMINALS = frozenset({"dumb", "unknown"})  # the same names as in rich


class OutputError(Exception):
    """Standard output cannot be written. The text is the system's reason.

    It is neither an OSError nor a ZkdnsError, so that only `run_checked` handles it.
    """


class ReaderGoneError(OutputError):
    """The reader of standard output has closed it."""


def run_checked(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit with its status, or with that of an error of its output."""
    streams = sys.stdout, sys.stderr
    output = _Output(sys.stdout) if sys.stdout is not None else None
    if output is not None:
        sys.stdout = cast("TextIO", output)
    errors = _Errors(sys.stderr) if sys.stderr is not None else None
    if errors is not None:
        sys.stderr = cast("TextIO", errors)
    status: object = 0
    try:
        try:
            command()
        except SystemExit as ended:
            status = ended.code
        if output is not None and sys.stdout is output:  # the command may have given it up
            output.flush()
    except ReaderGoneError:
        status = ExitStatus.READER_GONE
    except OutputError as error:
        write_error(f"cannot write to standard output: {error}")
        status = ExitStatus.NOT_WRITTEN
    finally:
        sys.stdout, sys.stderr = streams
        if errors is not None:
            errors.close()
    sys.exit(cast("int", status))


class _Stream:
    """A standard stream that handles its own errors. Everything else is that of the original stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="backslashreplace")  # the encoding may lack a character

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _discard(self) -> None:
        """Discard the buffered and all further output, so that it does not fail again, or at exit."""
        from zkdns.telemetry.log_setup import silence  # noqa: PLC0415 - slow to load, rarely used

        with contextlib.suppress(OSError, ValueError):  # without a descriptor: a stream in memory
            silence(self._stream)


class _Output(_Stream):
    """Standard output: an error is an `OutputError`.

    After the first error, every use raises it again: a library may have caught it, for example click, which
    tries out the type of the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._error: OutputError | None = None

    @property
    def buffer(self) -> _OutputBuffer:
        """The binary stream, with the same errors; click writes shell completions to it."""
        return _OutputBuffer(self, self._stream.buffer)

    def write(self, text: str) -> int:
        return self.attempt(lambda: self._stream.write(text))

    def flush(self) -> None:
        self.attempt(self._stream.flush)

    def attempt(self, act: Callable[[], T]) -> T:
        """Call a function that writes.

        Raises:
            OutputError: it fails, or an earlier one did.
        """
        if self._error is not None:
            raise self._error
        try:
            return act()
        except (BrokenPipeError, ConnectionResetError):
            self._error = ReaderGoneError()
        except OSError as error:
            self._error = OutputError(error.strerror or str(error))
        self._discard()
        raise self._error


class _OutputBuffer:
    """The binary stream of standard output."""

    def __init__(self, owner: _Output, stream: BinaryIO) -> None:
        self._owner = owner
        self._stream = stream

    def write(self, data: bytes) -> int:
        return self._owner.attempt(lambda: self._stream.write(data))

    def flush(self) -> None:
        self._owner.attempt(self._stream.flush)


class _Errors(_Stream):
    """Standard error: what cannot be written is lost.

    A full disk is temporary, and a server that logs into a file runs on, so later lines are tried again.
    """

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def close(self) -> None:
        """Discard what could not be written, because Python would fail to write it at exit."""
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:
            self._discard()
        except OSError:
            pass


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal with cursor movement and colours.

    None is a standard stream that was closed when the program started.
    """
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in _DUMB_TERMINALS


def write_out(text: str) -> None:
    """Write a text that needs no escapes, such as a zone file or a page of the documentation.

    Raises:
        OutputError: standard output cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.write(text)
        sys.stdout.flush()


def write_lines(*lines: str) -> None:
    """Write these texts, each escaped and on its own line."""
    write_out("".join(f"{printable(line)}\n" for line in lines))


def write_fields(rows: Iterable[Iterable[str]]) -> None:
    """Write a line for each of these rows: its fields, escaped and separated by tabs."""
    write_out("".join("\t".join(map(printable, row)) + "\n" for row in rows))


def write_json(*values: object) -> None:
    """Write these objects as JSON, each on its own line, with escapes for all unprintable characters."""
    write_out("".join(f"{printable_json(msgspec.json.encode(value).decode())}\n" for value in values))


def write_error(message: str) -> None:
    """Write a message for the user as one line to standard error."""
    write_notice(f"zkdns: {message}")


def write_notice(line: str) -> None:
    """Write a line to standard error that is not an error."""
    if sys.stderr is not None:
        sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()


def watch_reader(on_gone: Callable[[], None]) -> None:
    """Call a function, in a thread of its own, when the reader of standard output closes it.

    Commands that wait for changes need it, because only a write would notice it otherwise.
    """
    if sys.stdout is None:  # closed when the program started
        return
    try:
        output = sys.stdout.fileno()
    except OSError:  # a stream in memory
        return
    mode = os.fstat(output).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def wait() -> None:
        poller = select.poll()
        poller.register(output, 0)  # poll(2) always reports errors
        poller.poll()
        on_gone()

    threading.Thread(target=wait, name="zkdns reader", daemon=True).start()
