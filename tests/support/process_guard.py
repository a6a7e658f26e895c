"""Child processes that end with the test process, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# PR_SET_PDEATHSIG is sent when the *thread* that started the process ends. Therefore a shell starts a guard
# in its process group, and then executes the command. The guard reads from a pipe whose other end only the
# test process holds, and kills the command at end of file. $$ is the process ID of the command in the guard
# too, and it is not reused while the guard is in its process group. The command may have ended before.
_LAUNCH = """\
exec 3<&0
{ read -r _ <&3; [ ! -d /proc/$$ ] || kill -KILL $$; [ -z "$0" ] || rm -rf "$0"; } &
exec "$@" </dev/null 3<&-
"""


def start_guarded(command: list[str], *, remove: str = "", **options: Any) -> subprocess.Popen[Any]:
    """Start a program with a guard, in a process group of its own. End it with `kill_guarded`.

    Args:
        command: the program and its arguments.
        remove: a directory that the guard removes if the test process is killed.
        options: other options of `subprocess.Popen`.
    """
    return subprocess.Popen(
        ["sh", "-c", _LAUNCH, remove, *command], stdin=subprocess.PIPE, start_new_session=True, **options
    )


def kill_guarded(process: subprocess.Popen[Any]) -> None:
    """Kill a program with its guard and the rest of its process group, and close its pipes.

    The program may have ended. Calling this twice is allowed.
    """
    assert process.stdin is not None
    if process.stdin.closed:
        return
    with contextlib.suppress(ProcessLookupError):  # while the guard runs, the group's number is not reused
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextlib.contextmanager
def running_guarded(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program with a guard during the block (see `start_guarded`)."""
    process = start_guarded(command, **options)
    try:
        yield process
    finally:
        kill_guarded(process)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a program with a guard. Its output goes to `log`, and into notes of exceptions of the block."""
    with log.open("wb") as out, running_guarded(command, stdout=out, stderr=out):
        try:
            yield
        except BaseException as error:
            error.add_note(log.read_text(errors="replace"))
            raise
