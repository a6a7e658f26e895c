"""Runs a command after each change of a set: never twice at once, and once for all changes during a run.

The command gets all endpoints on its standard input, one on each line, sorted. The standard input is a file,
so a command that reads it partly or not at all neither blocks nor is blocked.

Environment variables are for short scripts. Linux limits each string to 128 KiB (execve(2)), which is about
6,000 IPv4 endpoints. A variable that is too long is not set at all: a shortened one would look like a smaller
set, and an empty one like a set without members.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Final

from zkdns.causes import cause_of
from zkdns.serverset.checks import describe_status, wait_for_command
from zkdns.serverset.logs import Log

log = Log("zkdns.watch")

ENDPOINTS: Final = "ZKDNS_ENDPOINTS"
"""Variable with all endpoints, sorted and separated by spaces."""
ADDED: Final = "ZKDNS_ADDED"
"""Variable with the endpoints that were added since the last run."""
REMOVED: Final = "ZKDNS_REMOVED"
"""Variable with the endpoints that were removed since the last run."""

_MAX_STRING = 32 * os.sysconf("SC_PAGE_SIZE")  # bytes, with the final zero: MAX_ARG_STRLEN of Linux
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


class Hook:
    """A command, and the thread that runs it. A failure is logged; the next change runs the command again.

    Args:
        command: for the shell.
        on_output: called with each line that the command prints, in a thread of its own. None: the command
            inherits standard output and standard error.
    """

    def __init__(self, command: str, on_output: Callable[[str], None] | None = None) -> None:
        self._command = command
        self._on_output = on_output
        self._pending: tuple[str, ...] | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._has_warned = False
        self._thread = threading.Thread(target=self._work, name="zkdns hook", daemon=True)
        self._thread.start()

    def schedule(self, endpoints: tuple[str, ...]) -> None:
        """Run the command with these endpoints (sorted), after a current run."""
        with self._changed:
            self._pending = endpoints
            self._changed.notify()

    def close(self) -> None:
        """Terminate a running command: SIGTERM, and SIGKILL after 5 s."""
        self._closed.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        previous: tuple[str, ...] = ()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closed.is_set())
                endpoints, self._pending = self._pending, None
            if endpoints is None or self._closed.is_set():
                return
            self._run(endpoints, previous)
            previous = endpoints

    def _run(self, endpoints: tuple[str, ...], previous: tuple[str, ...]) -> None:
        variables = {
            ENDPOINTS: " ".join(endpoints),
            ADDED: " ".join(sorted(set(endpoints) - set(previous))),
            REMOVED: " ".join(sorted(set(previous) - set(endpoints))),
        }
        try:
            with tempfile.TemporaryFile() as stdin:
                stdin.write("".join(f"{endpoint}\n" for endpoint in endpoints).encode())
                stdin.seek(0)
                process = self._start(stdin, variables)
        except OSError as error:  # for instance a full disk, or a user with too many processes
            log.warning("watch_command_start_failed", command=self._command, reason=cause_of(error))
            return
        if self._on_output is not None and process.stdout is not None:
            # This thread is not joined: background processes of the command may keep its output open.
            threading.Thread(
                target=_forward_lines, args=(process.stdout, self._on_output), daemon=True
            ).start()
        if wait_for_command(process, self._closed, grace=_GRACE) and process.returncode:
            log.warning(
                "watch_command_failed", command=self._command, outcome=describe_status(process.returncode)
            )

    def _start(self, stdin: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        fitting = {name: value for name, value in variables.items() if _fits(name, value)}
        try:
            process = self._start_with(stdin, fitting)
        except OSError as error:
            if error.errno != errno.E2BIG or not fitting:
                raise
            fitting = {}  # all strings together have a limit too, which depends on `ulimit -s`
            process = self._start_with(stdin, fitting)
        self._warn(variables.keys() - fitting.keys())
        return process

    def _start_with(self, stdin: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        inherited = {
            name: value for name, value in os.environ.items() if name not in (ENDPOINTS, ADDED, REMOVED)
        }
        output = None if self._on_output is None else subprocess.PIPE
        return subprocess.Popen(  # noqa: S602 - the user gives a shell command
            self._command,
            shell=True,
            stdin=stdin,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            env={**inherited, **variables},
            process_group=0,
        )

    def _warn(self, unset: Iterable[str]) -> None:
        """Log once that variables are too long, because each later run may have the same problem."""
        if unset and not self._has_warned:
            self._has_warned = True
            log.warning(
                "watch_command_variables_unset",
                command=self._command,
                variables=", ".join(sorted(unset)),
            )


def _forward_lines(output: IO[bytes], on_output: Callable[[str], None]) -> None:
    with output:
        for line in output:
            on_output(line.decode(errors="replace").rstrip("\r\n"))


def _fits(name: str, value: str) -> bool:
    return len(os.fsencode(f"{name}={value}")) < _MAX_STRING
