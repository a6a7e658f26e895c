"""The permissions of files with secrets."""

from __future__ import annotations

import stat
from pathlib import Path

from zkdns.errors import BadValueError

_OTHER_USERS = stat.S_IROTH | stat.S_IWOTH


def check_private(file: str) -> None:
    """Check the permissions of a file with secrets.

    Raises:
        BadValueError: every user may read or write it.
        OSError: it does not exist.
    """
    mode = stat.S_IMODE(Path(file).stat().st_mode)
    if mode & _OTHER_USERS:
        raise BadValueError(
            f"is accessible to every user of this machine (mode {mode:04o}) and contains secrets; "
            "run chmod o-rwx on it"
        )
