"""`[primary]`: the TSIG key and the TLS context for connections to primaries."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import msgspec

from zkdns.causes import cause_of
from zkdns.config import PrimarySettings
from zkdns.config.tsig_key import load_secret
from zkdns.errors import BadValueError, ConfigError

if TYPE_CHECKING:
    import dns.tsig


class PrimaryAccess(msgspec.Struct, frozen=True):
    """How to authenticate to primaries, and they to this server."""

    key: dns.tsig.Key | None = None
    """None: no TSIG."""
    tls: ssl.SSLContext | None = None
    """For primaries with an address `tls://…`; None: there are none."""


def load_primary_access(primary: PrimarySettings) -> PrimaryAccess:
    """Read the files that these settings name.

    Raises:
        ConfigError: with every error that was found.
    """
    errors: list[str] = []
    key = tls = None
    if primary.key is not None:
        from zkdns.dns.tsig import make_key  # noqa: PLC0415 - most servers have no key

        try:
            key = make_key(primary.key.name, primary.key.algorithm, load_secret(primary.key))
        except BadValueError as error:
            errors.append(str(error))
    if any(server.tls is not None for server in primary.servers):
        try:
            tls = ssl.create_default_context(cafile=primary.ca)
            tls.set_alpn_protocols(["dot"])  # RFC 9103 §7.1
        except (OSError, ValueError) as error:  # SSLError is an OSError
            errors.append(
                f"{primary.ca}: is not a file of CA certificates ({cause_of(error)}); write a PEM file"
            )
    if errors:
        raise ConfigError(errors)
    return PrimaryAccess(key, tls)
