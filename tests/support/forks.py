"""Forked child processes, for the programs of tests that fork."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CHILD_SECONDS = 40  # after which a child that hangs ends
_WAIT_SECONDS = 20.0


def in_child(work: Callable[[], object]) -> None:
    """Run a function in a forked child process, which must succeed and end as programs do."""
    child = os.fork()
    if not child:
        signal.alarm(_CHILD_SECONDS)
        work()
        sys.exit()  # with the functions of atexit
    assert os.waitpid(child, 0)[1] == 0


def sockets() -> set[str]:
    """The open sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the directory itself is closed
            found.add(str(entry.readlink()))
    return {target for target in found if target.startswith("socket:")}


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
