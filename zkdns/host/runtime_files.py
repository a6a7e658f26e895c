"""Checks the files of a configuration that a server uses while it runs: token, snapshot, and API socket.

A server starts without them, since a machine without DNS is worse, and logs the same errors. So only
`zkdns check` and `zkdns doctor` report them as errors.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from zkdns.admin.token_file import read_token
from zkdns.causes import cause_of
from zkdns.config import Config
from zkdns.errors import BadValueError


def find_file_errors(config: Config) -> Iterator[str]:
    """Yield a sentence for each file that this user's server could not use: key, path and reason."""
    if config.admin.token is not None:
        try:
            read_token(config.admin.token)
        except BadValueError as error:
            yield f"admin.token: {config.admin.token!r} {error}"
    if config.snapshot.path is not None and not config.offline:
        path = Path(config.snapshot.path)
        if reason := _type_error(path, stat.S_IFREG, "a regular file") or _directory_error(path.parent):
            yield f"snapshot.path: {config.snapshot.path!r} {reason}"
    if config.admin.socket is not None:
        path = Path(config.admin.socket)
        directory = path.parent
        while not directory.exists():  # the server creates it
            directory = directory.parent
        if reason := _type_error(path, stat.S_IFSOCK, "a socket") or _directory_error(directory):
            yield f"admin.socket: {config.admin.socket!r} {reason}"


def _type_error(path: Path, kind: int, name: str) -> str:
    """Why an existing file cannot be replaced by one of this type. Empty: it can, or does not exist."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be used ({cause_of(error)}); name another file"
    return "" if stat.S_IFMT(mode) == kind else f"exists and is not {name}; name another file"


def _directory_error(directory: Path) -> str:
    """Why this user cannot create files in a directory. Empty: it can."""
    if not directory.exists():
        return f"cannot be written, because the directory {directory} does not exist; create it"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"cannot be written, because this user may not write to {directory}"
    return ""
