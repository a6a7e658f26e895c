"""Directories with short paths, and exhaustion of file descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator

_MAX_LENGTH = 60
"""Bytes, which leaves room for the names of files in the directory."""


def new_short_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory for Unix sockets, whose paths are limited to 107 bytes (unix(7)).

    It is in /tmp if TMPDIR is long.
    """
    place = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(
        prefix="zkdns-test-",
        dir=place if len(os.fsencode(place)) <= _MAX_LENGTH else "/tmp",  # noqa: S108 - its name is unique
    )


@contextlib.contextmanager
def file_descriptors_exhausted() -> Iterator[None]:
    """Use up all file descriptors of this process."""
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
