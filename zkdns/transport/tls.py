"""TLS of the servers: a certificate, which is read again when its file changes, and connections.

    Tls (certificate, context) ── accept ──▶ TlsSocket ── recv, send ──▶ the server of the connection

A `TlsSocket` has the methods of a non-blocking socket, so that a server needs hardly any code for TLS. Its
handshake is part of the first `recv`. So the bounds on connections and on their idle time apply to handshakes
too.

DNS over TLS (RFC 7858) requires TLS 1.3 here, as zone transfers do (RFC 9103 §7.2). Session tickets are
stateless. Early data is not accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Final

import structlog

from zkdns.causes import cause_of
from zkdns.config.private_file import check_private
from zkdns.errors import BadValueError

log = structlog.get_logger("zkdns.tls")

RENEW_SECONDS = 30.0
"""Time between two checks whether the files have changed."""
ALPN: Final = "dot"
"""The protocol of DNS over TLS (RFC 7858, RFC 9103 §7.1)."""

_RECORD_BYTES = 1 << 14  # of a TLS record at most (RFC 8446 §5.1)
# Measured with OpenSSL 3.0: 17,000 bytes when idle, 34,000 with an incomplete record, and 49,000 with an
# incomplete handshake.
_CONNECTION_BYTES, _HANDSHAKE_BYTES = 1 << 14, 3 << 14


class Tls:
    """A server's certificate, and counts of its handshakes.

    Args:
        certificate: path of the certificate chain (PEM).
        key: path of the private key; None: it is in the same file.
        for_dns: whether it is for DNS over TLS.
        must_be_usable: False: unusable files are logged, and all handshakes fail until the files change.

    Attributes:
        context: for new connections. A new certificate is in a new context.
        handshakes: number of finished handshakes.
        failed_handshakes: number of connections that ended before their handshake did.

    Raises:
        BadValueError: they cannot be used.
    """

    def __init__(
        self, certificate: str, key: str | None, *, for_dns: bool = False, must_be_usable: bool = True
    ) -> None:
        self.handshakes = self.failed_handshakes = 0
        self._certificate, self._key = certificate, key or certificate
        self._for_dns = for_dns
        self._stamp = self._read_stamp()
        try:
            self.context = self._load()
        except BadValueError as error:
            if must_be_usable:
                raise
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._log_refused(error, "TLS connections fail until the files change")

    def accept(self, sock: socket.socket) -> TlsSocket:
        """Use TLS on an accepted, non-blocking connection. The result replaces the socket.

        Raises:
            OSError: the client has closed it already.
        """
        return TlsSocket(self, sock)

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
                self._log_refused(error, "the previous certificate is used")
            else:
                log.info("certificate_renewed", path=self._certificate)

    def _log_refused(self, error: BadValueError, effect: str) -> None:
        log.warning("certificate_refused", path=self._certificate, reason=str(error), effect=effect)

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if self._for_dns:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols([ALPN])
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


class TlsSocket:
    """A connection with TLS. Its methods are those of a non-blocking socket.

    Args:
        tls: has the certificate, and counts handshakes.
        sock: the accepted socket, which is replaced.
    """

    def __init__(self, tls: Tls, sock: socket.socket) -> None:
        self._tls = tls
        self._sock = tls.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._has_handshake = False

    @property
    def has_alpn(self) -> bool:
        """Whether client and server have agreed on the protocol `dot` (RFC 9103 §7.1)."""
        return self._sock.selected_alpn_protocol() == ALPN

    @property
    def pending(self) -> int:
        """Bytes that are decrypted, but were not read. The file descriptor does not become ready for them."""
        return self._sock.pending()

    @property
    def memory(self) -> int:
        """Approximate bytes that OpenSSL holds for this connection."""
        return _CONNECTION_BYTES if self._has_handshake else _HANDSHAKE_BYTES

    def fileno(self) -> int:
        """The file descriptor."""
        return self._sock.fileno()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket."""
        self._sock.setsockopt(level, option, value)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Continue the handshake, and read. With flags, read encrypted data, without the handshake.

        Raises:
            BlockingIOError: no data has arrived.
            OSError: the connection cannot be used, for instance because the handshake fails.
        """
        if flags:
            return socket.socket.recv(self._sock, size, flags)
        try:
            if not self._has_handshake:
                self._sock.do_handshake()
                self._has_handshake = True
                self._tls.handshakes += 1
            return self._sock.recv(size)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None

    def send(self, data: bytes | memoryview) -> int:
        """Send data; return how much of it. Its rest must be sent next.

        Raises:
            BlockingIOError: nothing can be sent now.
            OSError: the connection cannot be used.
        """
        view, at = memoryview(data), 0
        try:
            while at < len(
                view
            ):  # in records, because OpenSSL does not report how much of several it has sent
                at += self._sock.send(view[at : at + _RECORD_BYTES])
        except ssl.SSLWantWriteError:
            if not at:
                raise BlockingIOError from None
        return at

    def close(self) -> None:
        """Announce the end to the client, and close the connection."""
        if self._has_handshake:
            with contextlib.suppress(OSError, ValueError):  # it does not wait for the client's own end
                self._sock.unwrap()
        elif self._sock.fileno() >= 0:
            self._tls.failed_handshakes += 1
        self._sock.close()
