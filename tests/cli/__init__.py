"""Runs `zkdns` commands as processes and in terminals; each ends with its test."""

import contextlib
import ctypes
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

import pyte

from tests.support.forked_command import Ended, run_forked
from tests.support.process_guard import kill_guarded, start_guarded
from tests.support.waiting import eventually

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
SCRIPTS = Path(sys.executable).parent
"""The directory of the script `zkdns`."""
_MAX_SECONDS = 60  # after which a program of a test ends in any case

# Prints each signal that it receives, with the monotonic time, which is the same in all processes.
PROGRAM = f"""\
import os, signal, sys, time
signal.alarm({_MAX_SECONDS})
def say(word):  # print() writes in parts, between which zkdns may write to the same terminal
    os.write(1, b"%s %f\\n" % (word.encode(), time.monotonic()))
def report(number, frame):
    say(signal.Signals(number).name)
    if number in (signal.SIGTERM, signal.SIGINT):
        sys.exit(7)
for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"):
    signal.signal(getattr(signal, "SIG" + name), report)
say("ready")
while True:
    signal.pause()
"""

# Longer than a test: a znode that disappears was deleted, and did not expire with its session.
SESSION = ("--session-timeout", "30s")
SERVED = ("web", "--environment", "staging", "--host", "10.0.0.1", "--port", "8080", *SESSION)
AS_PROGRAM = ("--", sys.executable, "-c", PROGRAM)

# Makes the terminal on standard input the controlling terminal of the session, and executes the command.
_TAKE_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Command:
    """Runs `zkdns` with these arguments.

    A context manager: it starts the command, and kills it and its program.
    """

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="zkdns-test-")
        self._out_file = Path(self._directory.name) / "out"
        self._err_file = Path(self._directory.name) / "err"
        self._command = [sys.executable, "-m", "zkdns", *arguments]
        self._environment = {**os.environ, "ZKDNS_LOG_FORMAT": "json", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._out_file.open("wb") as out, self._err_file.open("wb") as err:
            self._process = start_guarded(self._command, stdout=out, stderr=err, env=self._environment)
        return self

    def __exit__(self, *_: object) -> None:
        kill_guarded(self.process)
        started, ended = self.events("program_started"), self.events("program_exited")
        if started and not ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started[0]["pid"], signal.SIGKILL)
        self._directory.cleanup()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        """Standard output of the command and its program."""
        return self._out_file.read_text()

    @property
    def errors(self) -> str:
        """Standard error of both, with the log."""
        return self._err_file.read_text()

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log entries with this event."""
        complete, _, _ = self.errors.rpartition("\n")  # the last line may be incomplete
        lines = [line for line in complete.splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def time_of(self, word: str) -> float:
        """Wait until the program has printed this word, and return the time that it printed."""
        return float(eventually(lambda: dict(line.split() for line in self.output.splitlines())[word]))

    def wait_logged(self, event: str, count: int = 1) -> Self:
        """Wait until the log has this number of entries with this event."""
        eventually(lambda: len(self.events(event)) >= count or None, 20.0)
        return self

    def signal_other_thread(self, number: signal.Signals) -> None:
        """Send a signal to a thread other than the main one. It does not interrupt the main thread.

        The same happens if a signal arrives just before the main thread waits, which a test cannot cause.
        """
        pid = self.process.pid
        threads = {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
        thread = min(threads - {pid})
        assert ctypes.CDLL(None).tgkill(pid, thread, number) == 0

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for the exit status."""
        return self.process.wait(timeout)


def run(*arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 20.0) -> Ended:
    """Run a command to its end, in a fork."""
    variables = {**os.environ, "ZKDNS_LOG_FORMAT": "json", **(environment or {})}
    return run_forked(*arguments, environment=variables, timeout=timeout)


def completions(typed: str, environment: Mapping[str, str]) -> list[str]:
    """The completions for bash, as `plain,VALUE` or `file,VALUE`. Standard error must be empty."""
    variables = {**os.environ, **environment, **completion_request(typed)}
    ended = run_forked(environment=variables, is_script=True)
    assert (ended.status, ended.errors) == (0, "")
    return ended.output.split()


def completion_request(typed: str) -> dict[str, str]:
    """The variables with which bash requests the completions of a typed line from the script."""
    return {"_ZKDNS_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}


@contextlib.contextmanager
def piped(
    *arguments: str, environment: Mapping[str, str], errors: int | IO[bytes] = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `zkdns` with a pipe as standard output; yield the process, and the reading end of the pipe.

    The caller closes this end. `errors` is standard error.
    """
    reader, writer = os.pipe()
    try:
        process = start_guarded(
            [sys.executable, "-m", "zkdns", *arguments],
            stdout=writer,
            stderr=errors,
            env={**os.environ, **environment},
        )
    finally:
        os.close(writer)
    try:
        yield process, reader
    finally:
        kill_guarded(process)


class Terminal:
    """Runs `zkdns` with these arguments in a new terminal.

    A context manager: it starts and kills the command. Closing the terminal sends SIGHUP to all programs in
    it, so that none outlives the test.
    """

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, "TERM": "xterm", **(environment or {})}
        for name in ("COLUMNS", "LINES", *({"NO_COLOR"} - set(environment or {}))):
            self._environment.pop(name, None)
        self._written = bytearray()

    def __enter__(self) -> Self:
        self.master, slave = pty.openpty()
        self.resize(40, 160)
        os.set_blocking(self.master, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, "-m", "zkdns", *self._arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environment,
            start_new_session=True,
        )
        os.close(slave)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def written(self) -> str:
        """All output so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # no new output, or no writer
            while chunk := os.read(self.master, 65536):
                self._written += chunk
        return self._written.decode(errors="replace")

    @property
    def screen(self) -> str:
        """All output without control sequences."""
        return _CONTROLS.sub("", self.written)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for the exit status, and read the output, as a terminal does."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            _ = self.written
            time.sleep(0.005)
        return self.process.wait(0.1)


class ScreenTerminal(Terminal):
    """A terminal of which the test reads the screen, as a terminal emulator shows it."""

    def __init__(
        self, *arguments: str, size: tuple[int, int] = (24, 80), environment: dict[str, str] | None = None
    ) -> None:
        super().__init__(*arguments, environment=environment)
        self._size = size
        self._emulator = pyte.Screen(size[1], size[0])
        self._stream = pyte.ByteStream(self._emulator)
        self._shown = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.resize(*self._size)
        return self

    def resize(self, lines: int, columns: int) -> None:
        super().resize(lines, columns)
        self._emulator.resize(lines, columns)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen without trailing spaces."""
        _ = self.written
        self._stream.feed(bytes(self._written[self._shown :]))
        self._shown = len(self._written)
        return [line.rstrip() for line in self._emulator.display]

    def has_line(self, pattern: str) -> bool:
        """Whether a line of the screen matches a regular expression."""
        return any(re.search(pattern, line) for line in self.lines)
