"""Bearer tokens for requests that change something.

The token file is read for every request, so that a new token takes effect as soon as it is written.
"""

from __future__ import annotations

import hmac
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog

from zkdns.admin.status import RequestError
from zkdns.causes import cause_of
from zkdns.errors import BadValueError
from zkdns.serverset.auth import check_private

log = structlog.get_logger("zkdns.admin")

MIN_LENGTH: Final = 16
"""Characters of a token; a shorter one could be guessed."""
_MAX_LENGTH = 4096

_NOT_CONFIGURED = (
    "requests that change something are disabled: write a token into a private file, "
    "and set admin.token to its path"
)
_UNUSABLE = (
    "requests that change something are disabled: the file of admin.token is unusable; the log has the reason"
)


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


class Tokens:
    """Checks tokens. Logs once for each reason why the token file is unusable."""

    def __init__(self) -> None:
        self._logged: tuple[str, str] | None = None

    def read(self, file: str | None) -> bytes | None:
        """Return the token in this file. None if there is no usable one."""
        if file is None:
            return None
        try:
            token = read_token(file)
        except BadValueError as error:
            if self._logged != (file, str(error)):
                self._logged = (file, str(error))
                log.warning(
                    "admin_token_refused",
                    path=file,
                    reason=str(error),
                    effect="changes over HTTP are disabled",
                )
            return None
        self._logged = None
        return token

    def check(self, file: str | None, authorization: str | None) -> None:
        """Check the header `Authorization` of a request.

        Raises:
            RequestError: the token is wrong (401), or there is no usable token file (403).
        """
        token = self.read(file)
        if token is None:
            raise RequestError(HTTPStatus.FORBIDDEN, _NOT_CONFIGURED if file is None else _UNUSABLE)
        scheme, _, given = (authorization or "").partition(" ")
        is_token = hmac.compare_digest(given.strip().encode(errors="replace"), token)
        if scheme.lower() != "bearer" or not is_token:
            raise RequestError(
                HTTPStatus.UNAUTHORIZED,
                "invalid or missing bearer token; send the header Authorization: Bearer TOKEN",
            )
