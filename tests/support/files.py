"""Directories whose paths are short, and a process that can open no more files."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator

_LONGEST = 60
"""Bytes that leave enough for the names of what a test puts below it."""


def new_short_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory for Unix sockets, whose paths have 107 bytes at most (unix(7)).

    Where TMPDIR is long, it is in /tmp.
    """
    place = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(
        prefix="zkdns-test-",
        dir=place if len(os.fsencode(place)) <= _LONGEST else "/tmp",  # noqa: S108 - it has a name of its own there
    )


@contextlib.contextmanager
def file_descriptors_exhausted() -> Iterator[None]:
    """This process can open no file more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 32, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in taken:
            os.close(number)
