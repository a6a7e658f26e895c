"""`[primary]`: the TSIG key file and the TLS context for connections to primaries.

The key file is TOML, readable by the server's user only:

    name = "transfer.example"
    algorithm = "hmac-sha256"
    secret = "…"              # base64, as tsig-keygen and keymgr print it
"""

from __future__ import annotations

import base64
import contextlib
import ssl
from typing import Final

import msgspec

from zkdns.causes import cause_of
from zkdns.config import PrimarySettings, Setting
from zkdns.config.load import read_toml
from zkdns.config.parsers import Location, one_of, text
from zkdns.config.secret_file import check_private
from zkdns.config.setting import parse_table
from zkdns.errors import BadValueError, ConfigError
from zkdns.names import Labels, lower, parse_name
from zkdns.serverset.auth import Secret

ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512")


class TsigKey(msgspec.Struct, frozen=True):
    """A key that a primary and its secondary share. `secret` is base64."""

    name: Labels
    algorithm: str
    secret: Secret


class PrimaryAccess(msgspec.Struct, frozen=True):
    """How to authenticate to primaries, and they to this server."""

    key: TsigKey | None = None
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
        key = _read_key(primary.key, errors)
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


def _read_key(file: str, errors: list[str]) -> TsigKey | None:
    """Read a key file. None: it has errors, which are added to `errors`."""
    try:
        document = read_toml(file)
        check_private(file)
    except BadValueError as error:
        errors.append(f"{file}: {error}")
        return None
    given = parse_table(document, _ROWS, Location(file, typed=True, directory="", errors=errors))
    errors += [f"{file}: has no {key}; write name, algorithm and secret" for key in _ROWS if key not in given]
    if len(given) < len(_ROWS) or None in given.values():
        return None
    return TsigKey(given["name"], given["algorithm"], given["secret"])


def _parse_secret(value: object, _location: Location) -> Secret:
    with contextlib.suppress(ValueError):  # binascii.Error is one
        if isinstance(value, str) and base64.b64decode(value, validate=True):
            return Secret(value)
    raise BadValueError("is not a secret; write base64 in quotes (the value is not shown here)")


_ROWS = {
    row.key: row
    for row in (
        Setting("name", text(lambda name: lower(parse_name(name)), "a domain name"), "NAME", "Its name."),
        Setting("algorithm", one_of(*ALGORITHMS), "NAME", "Its algorithm."),
        Setting("secret", _parse_secret, "BASE64", "The secret."),
    )
}
