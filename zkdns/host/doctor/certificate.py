"""The certificate that the server presents for DNS over TLS."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Final

from zkdns.address import HostPort
from zkdns.host.doctor.checks import Finding, ok, warning

_SECONDS: Final = 3.0  # for the connection and the handshake
_DAY: Final = 86_400
_SOON: Final = 14 * _DAY  # certificates of ACME are renewed a month before their end


def tls_client(certificate: str | None) -> ssl.SSLContext:
    """Return the TLS context of a client that trusts exactly the certificates in a file.

    It accepts any name: the server's name is known to its clients only.

    Args:
        certificate: path of the file. None: all certificates are trusted.

    Raises:
        OSError: the file cannot be used.
    """
    if certificate is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # the file need not have the root's
    return context


def valid_until(server: HostPort, tls: ssl.SSLContext) -> float | None:
    """Return the end of the validity of a server's certificate, as Unix time. None: it was not verified.

    Raises:
        OSError: there is no connection, or the certificate is not accepted.
    """
    with (
        socket.create_connection((server.host, server.port), _SECONDS) as plain,
        tls.wrap_socket(plain, server_hostname=server.host) as sock,
    ):
        end = (sock.getpeercert() or {}).get("notAfter")
    return ssl.cert_time_to_seconds(end) if isinstance(end, str) else None


def check_certificate(about: str, end: float | None, now: float) -> Finding:
    """Check when the certificate ends.

    Args:
        about: the address.
        end: as from `valid_until`.
        now: Unix time.
    """
    if end is None:
        return ok(about, "presents a certificate")
    found = f"presents a certificate that is valid until {time.strftime('%Y-%m-%d', time.gmtime(end))}"
    if end - now < _SOON:
        return warning(about, found, "renew the files of tls.certificate and tls.key; they are read again")
    return ok(about, found)
