"""Who may change something over the admin address: whoever knows what a file says.

The file is read again each time, so that another token is in force as soon as it is written.
"""

from __future__ import annotations

import hmac
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog

from zkdns.errors import BadValueError
from zkdns.observe.status import RequestError
from zkdns.serverset.auth import check_private

log = structlog.get_logger("zkdns.admin")

LEAST: Final = 16
"""Characters of a token; a shorter one could be guessed."""
_MOST = 4096

_NOBODY = (
    "nobody may do that over HTTP: admin_token names no file; write a token into a file that is closed to "
    "others, and name it with admin_token"
)
_NOBODY_NOW = (
    "nobody may do that now: the file of admin_token holds no token that can be used; the log says why"
)


def read_token(file: str) -> bytes:
    """Read a file's token; spaces and line ends around it are none of its own.

    Raises:
        BadValueError: why it cannot be used, without the file's name.
    """
    path = Path(file)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadValueError("is no file; name one that holds a token")
        with path.open("rb") as stream:
            token = stream.read(_MOST + 1).strip()
        check_private(file)
    except OSError as error:
        raise BadValueError(
            f"cannot be read ({error.strerror}); name a file that this user may read"
        ) from None
    if not LEAST <= len(token) <= _MOST or not token.isascii() or len(token.split()) != 1:
        raise BadValueError(
            f"holds no token; write {LEAST} to {_MOST} letters and digits without spaces, "
            "as `openssl rand -hex 24` prints them"
        )
    return token


class Tokens:
    """Checks who knows the token; why nobody can is told in the log alone, once for each reason."""

    def __init__(self) -> None:
        self._told: tuple[str, str] | None = None

    def read(self, file: str | None) -> bytes | None:
        """The file's token; None: there is none that could be used, as the log says where a file is named."""
        if file is None:
            return None
        try:
            token = read_token(file)
        except BadValueError as mistake:
            if self._told != (file, str(mistake)):
                self._told = (file, str(mistake))
                log.warning("nobody can change anything over HTTP", admin_token=file, reason=str(mistake))
            return None
        self._told = None
        return token

    def check(self, file: str | None, authorization: str | None) -> None:
        """Check that who sends this header `Authorization` knows the token.

        Raises:
            RequestError: they do not (401), or nobody can (403).
        """
        token = self.read(file)
        if token is None:
            raise RequestError(HTTPStatus.FORBIDDEN, _NOBODY if file is None else _NOBODY_NOW)
        scheme, _, given = (authorization or "").partition(" ")
        is_token = hmac.compare_digest(given.strip().encode(errors="replace"), token)
        if scheme.lower() != "bearer" or not is_token:
            raise RequestError(
                HTTPStatus.UNAUTHORIZED,
                "who may do that sends the header Authorization: Bearer TOKEN; this is not it",
            )
