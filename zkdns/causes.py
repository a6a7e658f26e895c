"""The cause of a failure as a clause for error messages: `connection refused`, `no such host`."""

from __future__ import annotations

import socket
import ssl
from typing import Final

NO_ADDRESSES: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
"""Errors of getaddrinfo(3) that mean that a name has no addresses. All others mean that the lookup failed."""


def cause_of(error: Exception) -> str:
    """Describe why an operation of the system, of TLS or of a name lookup failed."""
    match error:
        case socket.gaierror(errno=number) if number in NO_ADDRESSES:
            cause = "no such host"
        case socket.gaierror():
            cause = f"its host name cannot be resolved now ({_lower(error.strerror or str(error))})"
        case UnicodeError():  # a host name that DNS cannot have
            cause = f"its host name cannot be resolved ({error})"
        case ssl.SSLCertVerificationError(verify_message=problem):
            cause = f"its certificate is refused: {problem}"
        case ssl.SSLError() if "PEM lib" in str(error):
            cause = "it has no PEM data of this kind"
        case ssl.SSLError(reason=str(reason)):
            cause = reason.replace("_", " ").lower()
        case OSError(strerror=str(reason)):
            cause = _lower(reason)
        case _:
            cause = str(error) or type(error).__name__
    return cause


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
