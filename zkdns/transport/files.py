"""How many files a process may open, and how many connections it can afford by that."""

from __future__ import annotations

import resource
from typing import Final

MAX_CONNECTIONS: Final = 1024
"""Connections that a listener has at most."""

# What a process has open beside connections: standard files, event loop, feed, and some to spare.
_OTHER_FILES = 64
_FILES_OF_LISTENER = 3  # its TCP socket, its selector, and the UDP socket beside it


def connections_per_listener(listeners: int) -> int:
    """How many connections each of so many listeners of this process may have.

    It takes the files that the system grants (a soft limit of 1,024 is common, the hard one far above it):
    without a file left no connection is accepted, and so none makes room for another.
    """
    others = _OTHER_FILES + _FILES_OF_LISTENER * listeners
    wanted = others + MAX_CONNECTIONS * listeners
    return max(1, (raise_open_file_limit(wanted) - others) // listeners)


def raise_open_file_limit(wanted: int) -> int:
    """How many of so many files this process may open, its limit being raised where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    except (OSError, ValueError):
        return soft
    return granted
