"""TLS at the admin address: the certificate of the server, which is read again when its file changes."""

from __future__ import annotations

import asyncio
import os
import ssl

import structlog

from zkdns.causes import cause_of
from zkdns.errors import BadValueError
from zkdns.serverset.auth import check_private

log = structlog.get_logger("zkdns.admin")

RENEW_SECONDS = 30.0
"""Time between two checks whether the files have changed."""


class Tls:
    """A server's certificate.

    Args:
        certificate: path of the certificate chain (PEM).
        key: path of the private key; None: it is in the same file.

    Attributes:
        context: for new connections. A new certificate is in a new context.

    Raises:
        BadValueError: they cannot be used.
    """

    def __init__(self, certificate: str, key: str | None) -> None:
        self._certificate, self._key = certificate, key or certificate
        self._stamp = self._read_stamp()
        self.context = self._load()

    async def renew(self) -> None:
        """Load the files again when they change, without end. Unusable ones are logged."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            stamp = await asyncio.to_thread(self._read_stamp)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self.context = await asyncio.to_thread(self._load)
            except BadValueError as error:
                log.warning(
                    "admin_certificate_refused",
                    path=self._certificate,
                    reason=str(error),
                    effect="the previous certificate is used",
                )
            else:
                log.info("admin_certificate_renewed", path=self._certificate)

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # Without any password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self._certificate, self._key, "")
            check_private(self._key)
        except BadValueError as error:
            raise BadValueError(f"has the key {self._key}, which {error}") from None
        except (OSError, ValueError) as error:
            raise BadValueError(
                f"cannot be used with its key ({cause_of(error)}); "
                "name PEM files of a certificate and of its key without a password"
            ) from None
        return context

    def _read_stamp(self) -> tuple[object, ...]:
        """Return a value that changes with the files."""
        stamp: list[object] = []
        for path in (self._certificate, self._key):
            try:
                stat = os.stat(path)  # noqa: PTH116 - an inode too
                stamp.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                stamp.append(None)
        return tuple(stamp)
