"""The file with the bearer token, which the server and the commands read."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from zkdns.causes import cause_of
from zkdns.config.private_file import check_private
from zkdns.errors import BadValueError

MIN_LENGTH: Final = 16
"""Characters of a token; a shorter one could be guessed."""
_MAX_LENGTH = 4096


def read_token(file: str) -> bytes:
    """Read a token file, and strip white space around the token.

    Raises:
        BadValueError: it is unusable. The text does not contain the path.
    """
    path = Path(file)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadValueError("is not a regular file; name a file that holds a token")
        with path.open("rb") as stream:
            token = stream.read(_MAX_LENGTH + 1).strip()
        check_private(file)
    except OSError as error:
        raise BadValueError(
            f"cannot be read ({cause_of(error)}); name a file that this user may read"
        ) from None
    if not MIN_LENGTH <= len(token) <= _MAX_LENGTH or not token.isascii() or len(token.split()) != 1:
        raise BadValueError(
            f"holds no token; write {MIN_LENGTH} to {_MAX_LENGTH} letters and digits without spaces, "
            "such as the output of `openssl rand -hex 24`"
        )
    return token
