"""The file with the secret of a TSIG key."""

from __future__ import annotations

import stat
from pathlib import Path

from zkdns.causes import cause_of
from zkdns.config.parsers import Location, parse_tsig_secret
from zkdns.errors import BadValueError

_MAX_LENGTH = 4096
_OTHER_USERS = stat.S_IROTH | stat.S_IWOTH


def read_secret(file: str) -> bytes:
    """Read a secret in base64.

    Raises:
        BadValueError: it is unusable. The text does not contain the path.
    """
    try:
        with Path(file).open("rb") as stream:
            mode = stat.S_IMODE(Path(file).stat().st_mode)
            written = stream.read(_MAX_LENGTH + 1)
    except OSError as error:
        raise BadValueError(
            f"cannot be read ({cause_of(error)}); name a file that this user may read"
        ) from None
    if mode & _OTHER_USERS:
        raise BadValueError(
            f"is accessible to every user of this machine (mode {mode:04o}) and contains a secret; "
            "run chmod o-rwx on it"
        )
    location = Location(file, typed=False, directory="", errors=[])
    return parse_tsig_secret(written.decode(errors="replace"), location)
