"""Processes that do not outlive the test process, not even one that was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

# PR_SET_PDEATHSIG would fire already when the thread that started the process ends. So a shell, before it
# becomes the process, leaves a guard in its group instead. The guard reads from a pipe whose other end only
# the test process holds: end of file there means that nobody else will clean up. $$ is the process also in
# the guard, and no other one as long as the guard is in its group.
_LAUNCH = """\
exec 3<&0
{ read -r _ <&3; kill -KILL $$; [ -z "$0" ] || rm -rf "$0"; } &
exec "$@" </dev/null 3<&-
"""


def guarded(command: list[str], *, remove: str = "") -> list[str]:
    """The command with a guard; `remove` is a directory that goes with it if nobody else removes it.

    It must be started with `stdin=subprocess.PIPE` and `start_new_session=True`, and be ended as a group.
    """
    return ["sh", "-c", _LAUNCH, remove, *command]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """A program in the foreground, with its guard; what it says goes to `log` and to failures meanwhile."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            guarded(command), stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield
    except BaseException as error:
        error.add_note(log.read_text(errors="replace"))
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
