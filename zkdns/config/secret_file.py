"""Files with secrets: their permissions, and the file with the secret of a TSIG key."""

from __future__ import annotations

import stat
from pathlib import Path

from zkdns.causes import cause_of
from zkdns.config.parsers import Location, parse_tsig_secret
from zkdns.errors import BadValueError

_MAX_LENGTH = 4096
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


def read_secret(file: str) -> bytes:
    """Read a secret in base64.

    Raises:
        BadValueError: it is unusable. The text does not contain the path.
    """
    try:
        with Path(file).open("rb") as stream:
            written = stream.read(_MAX_LENGTH + 1)
        check_private(file)
    except OSError as error:
        raise BadValueError(
            f"cannot be read ({cause_of(error)}); name a file that this user may read"
        ) from None
    location = Location(file, typed=False, directory="", errors=[])
    return parse_tsig_secret(written.decode(errors="replace"), location)
