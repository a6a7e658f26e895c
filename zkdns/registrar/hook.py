"""Runs a command at each change of a set: never two at once, once more for all that changed meanwhile.

The command reads all endpoints on its standard input, a line each, sorted. That is a file: however many
there are, a command that does not read them, or not all, neither waits for us nor lets us wait. The variables
are for short scripts, and hold what an environment can: Linux takes 128 KiB for each string (execve(2)), some
6,000 IPv4 endpoints. What does not fit is not set at all, since a part of the set would be taken for the
whole, and an empty variable for a set without members.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Final

from zkdns.serverset.checks import describe_status, wait_for_command
from zkdns.serverset.logs import Log

log = Log("zkdns.watch")

ENDPOINTS: Final = "ZKDNS_ENDPOINTS"
"""All endpoints, sorted, with spaces between, as in the other two."""
ADDED: Final = "ZKDNS_ADDED"
"""Those of them that were not there when the command last ran."""
REMOVED: Final = "ZKDNS_REMOVED"
"""Those that were there then and are gone."""

_MOST_STRING = 32 * os.sysconf("SC_PAGE_SIZE")  # bytes, with the zero at the end: MAX_ARG_STRLEN of Linux
_GRACE = 5.0  # seconds that the command has to end in


class Hook:
    """A command and the thread that runs it; a failure is logged, and the next change runs it again.

    Args:
        command: for the shell.
        say: takes each line that the command prints, in a thread of its own; None: it prints where we do.
    """

    def __init__(self, command: str, say: Callable[[str], None] | None = None) -> None:
        self._command = command
        self._say = say
        self._waiting: tuple[str, ...] | None = None
        self._news = threading.Condition()
        self._ended = threading.Event()
        self._has_warned = False
        self._thread = threading.Thread(target=self._work, name="zkdns hook", daemon=True)
        self._thread.start()

    def changed(self, endpoints: tuple[str, ...]) -> None:
        """Run the command with these, sorted as they are."""
        with self._news:
            self._waiting = endpoints
            self._news.notify()

    def close(self) -> None:
        """End the command if it is running: SIGTERM, and SIGKILL after 5 s."""
        self._ended.set()
        with self._news:
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        known: tuple[str, ...] = ()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting is not None or self._ended.is_set())
                endpoints, self._waiting = self._waiting, None
            if endpoints is None or self._ended.is_set():
                return
            self._run(endpoints, known)
            known = endpoints

    def _run(self, endpoints: tuple[str, ...], known: tuple[str, ...]) -> None:
        variables = {
            ENDPOINTS: " ".join(endpoints),
            ADDED: " ".join(sorted(set(endpoints) - set(known))),
            REMOVED: " ".join(sorted(set(known) - set(endpoints))),
        }
        try:
            with tempfile.TemporaryFile() as told:
                told.write("".join(f"{endpoint}\n" for endpoint in endpoints).encode())
                told.seek(0)
                process = self._start(told, variables)
        except OSError as error:  # for instance a full disk, or a user with too many processes
            log.warning(
                "watch_command_start_failed", command=self._command, reason=error.strerror or str(error)
            )
            return
        if self._say is not None and process.stdout is not None:
            # What it leaves running may print for ever, so nobody waits for the end of that.
            threading.Thread(target=_pass_on, args=(process.stdout, self._say), daemon=True).start()
        if wait_for_command(process, self._ended, grace=_GRACE) and process.returncode:
            log.warning(
                "watch_command_failed", command=self._command, outcome=describe_status(process.returncode)
            )

    def _start(self, told: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        fitting = {name: value for name, value in variables.items() if _fits(name, value)}
        try:
            process = self._start_with(told, fitting)
        except OSError as error:
            if error.errno != errno.E2BIG or not fitting:
                raise
            fitting = {}  # all strings together have a limit too, which depends on `ulimit -s`
            process = self._start_with(told, fitting)
        self._warn(variables.keys() - fitting.keys())
        return process

    def _start_with(self, told: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        inherited = {
            name: value for name, value in os.environ.items() if name not in (ENDPOINTS, ADDED, REMOVED)
        }
        output = None if self._say is None else subprocess.PIPE
        return subprocess.Popen(  # noqa: S602 - the shell is what was asked for
            self._command,
            shell=True,
            stdin=told,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            env={**inherited, **variables},
            process_group=0,
        )

    def _warn(self, left_out: Iterable[str]) -> None:
        """Say once that there are more endpoints than variables hold: they may stay so many for ever."""
        if left_out and not self._has_warned:
            self._has_warned = True
            log.warning(
                "watch_command_variables_unset",
                command=self._command,
                variables=", ".join(sorted(left_out)),
            )


def _pass_on(printed: IO[bytes], say: Callable[[str], None]) -> None:
    with printed:
        for line in printed:
            say(line.decode(errors="replace").rstrip("\r\n"))


def _fits(name: str, value: str) -> bool:
    return len(os.fsencode(f"{name}={value}")) < _MOST_STRING
