"""Child processes that end with the test process, even if it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

# PR_SET_PDEATHSIG is sent when the *thread* that started the process ends. Therefore a shell starts a guard
# in its process group, and then executes the command. The guard reads from a pipe whose other end only the
# test process holds, and kills the command at end of file. $$ is the process ID of the command in the guard
# too, and it is not reused while the guard is in its process group.
_LAUNCH = """\
exec 3<&0
{ read -r _ <&3; kill -KILL $$; [ -z "$0" ] || rm -rf "$0"; } &
exec "$@" </dev/null 3<&-
"""


def guarded(command: list[str], *, remove: str = "") -> list[str]:
    """The command with a guard, which also removes the directory `remove` if the test process is killed.

    Start it with `stdin=subprocess.PIPE` and `start_new_session=True`, and kill its process group.
    """
    return ["sh", "-c", _LAUNCH, remove, *command]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a program with a guard. Its output goes to `log`, and into notes of exceptions of the block."""
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
