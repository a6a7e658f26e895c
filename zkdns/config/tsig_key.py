"""A TSIG key in the configuration: `[[transfer.keys]]` of a primary, `[primary.key]` of a secondary.

[primary.key]
name = "secondary-key"
algorithm = "hmac-sha256"
secret_file = "/etc/zkdns/secondary-key"   # or secret = "…", in base64
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zkdns.causes import cause_of
from zkdns.config.model import TsigKey
from zkdns.config.parsers import Location, one_of, parse_domain, parse_tsig_secret, path, text
from zkdns.config.private_file import check_private
from zkdns.config.setting import Setting, list_of_tables, table
from zkdns.errors import BadValueError

ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")
"""The algorithms of TSIG keys (RFC 8945 §6)."""

TSIG_KEY_SETTINGS = (
    Setting("name", text(parse_domain, "the name of the key"), "NAME", "Name of the key."),
    Setting(
        "algorithm",
        one_of(*ALGORITHMS),
        "ALGORITHM",
        f"One of {', '.join(ALGORITHMS)}. Default: {ALGORITHMS[0]}.",
    ),
    Setting("secret", parse_tsig_secret, "BASE64", "The secret."),
    Setting("secret_file", path, "FILE", "Private file with the secret, in place of `secret`."),
)
"""The keys of a table."""

_MAX_LENGTH = 4096


def _make_key(given: dict[str, Any], _location: Location) -> TsigKey | None:
    """Return the key of one table; None if an error is reported already."""
    if "name" not in given:
        raise BadValueError('has no name; write the name of the key, such as name = "zkdns-secondary"')
    if ("secret" in given) == ("secret_file" in given):
        raise BadValueError("has no secret, or two; write either secret or secret_file")
    return None if None in given.values() else TsigKey(**given)


parse_tsig_key = table(TSIG_KEY_SETTINGS, _make_key)
"""Parse a table."""

_parse_tables = list_of_tables(TSIG_KEY_SETTINGS, _make_key)


def parse_tsig_keys(value: object, location: Location) -> tuple[TsigKey | None, ...]:
    """Parse a list of tables. A table with an error becomes None."""
    return tuple(_parse_tables(value, location))


def load_secret(key: TsigKey) -> bytes:
    """Return the secret of a key, from its file if it has one.

    Raises:
        BadValueError: the file is unusable.
    """
    if key.secret is not None:
        return key.secret
    file = key.secret_file
    assert file is not None  # noqa: S101 - a key has one of them
    try:
        with Path(file).open("rb") as stream:
            written = stream.read(_MAX_LENGTH + 1)
        check_private(file)
        return parse_tsig_secret(
            written.decode(errors="replace"), Location(file, typed=False, directory="", errors=[])
        )
    except OSError as error:
        raise BadValueError(
            f"{file}: cannot be read ({cause_of(error)}); name a file that this user may read"
        ) from None
    except BadValueError as error:
        raise BadValueError(f"{file}: {error}") from None
