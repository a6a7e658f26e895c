"""Bearer tokens for requests that change something.

The token file is read for every request, so that a new token takes effect as soon as it is written.
"""

from __future__ import annotations

import hmac
from http import HTTPStatus

import structlog

from zkdns.admin.status import RequestError
from zkdns.admin.token_file import read_token
from zkdns.errors import BadValueError

log = structlog.get_logger("zkdns.admin")

_NOT_CONFIGURED = (
    "requests that change something are disabled: write a token into a private file, "
    "and set admin.token to its path"
)
_UNUSABLE = (
    "requests that change something are disabled: the file of admin.token is unusable; the log has the reason"
)


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
