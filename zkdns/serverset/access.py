"""Who this client is to ZooKeeper, and how it makes sure of the server: digests, SASL, TLS.

Secrets come from files alone: a command line is everybody's to read, and an environment is inherited. None of
them is ever in a mistake, a log or a representation.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from zkdns.config import Setting, ZooKeeperSettings
from zkdns.config.load import read_toml
from zkdns.config.parsers import Location, one_of, text
from zkdns.config.setting import parse_table
from zkdns.errors import BadValueError, ConfigError, MissingExtraError

ACCESS_KEYS = (
    "zookeeper.credentials",
    "zookeeper.tls",
    "zookeeper.ca",
    "zookeeper.certificate",
    "zookeeper.key",
    "zookeeper.verify_hostname",
)
"""The settings that `load_access` uses."""

# ZooKeeper's servers know these two (its SecurityUtils.createSaslServer).
_DIGEST_MD5, _GSSAPI = "DIGEST-MD5", "GSSAPI"
_OTHERS = stat.S_IROTH | stat.S_IWOTH


class Secret:
    """Text that shows itself to nobody by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for whom it is meant."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Sasl(msgspec.Struct, frozen=True):
    """How to authenticate by SASL; with GSSAPI the ticket is the process's own."""

    mechanism: str
    username: str | None = None
    password: Secret | None = None
    principal: str | None = None
    service: str = "zookeeper"

    def options(self) -> dict[str, str]:
        """What kazoo wants to be told."""
        options = {"mechanism": self.mechanism, "service": self.service}
        if self.username is not None and self.password is not None:
            options |= {"username": self.username, "password": self.password.reveal()}
        if self.principal is not None:
            options["principal"] = self.principal
        return options


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How ZooKeeper is to be accessed; by itself: by anybody, without TLS."""

    digests: tuple[Secret, ...] = ()
    """`user:password` each; the client may do what any of them may."""
    sasl: Sasl | None = None
    tls: ssl.SSLContext | None = None


ANYBODY = Access()


def load_access(zookeeper: ZooKeeperSettings) -> Access:
    """Read the files that these settings name.

    Raises:
        ConfigError: with every error in them.
    """
    mistakes: list[str] = []
    given: dict[str, Any] = {}
    if zookeeper.credentials is not None:
        given = _read_credentials(zookeeper.credentials, mistakes)
    tls = None
    if zookeeper.tls:
        tls = _context(zookeeper.ca, mistakes)
        tls.check_hostname = zookeeper.verify_hostname
        if zookeeper.certificate is not None:
            key = zookeeper.key or zookeeper.certificate
            _load_certificate(tls, zookeeper.certificate, key, given.get("key_password"), mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return Access(digests=given.get("digest", ()), sasl=given.get("sasl"), tls=tls)


# -- credentials ------------------------------------------------------------------------------------------


def _read_credentials(file: str, mistakes: list[str]) -> dict[str, Any]:
    """The file's values by key; those that are wrong are missing or None, and the mistakes are kept."""
    try:
        document = read_toml(file)
        check_private(file)
    except BadValueError as mistake:
        mistakes.append(f"{file}: {mistake}")
        return {}
    location = Location(file, typed=True, directory="", errors=mistakes)
    given = parse_table(document, _ROWS, location)
    if not document:
        mistakes.append(f"{file}: holds no credentials; write digest, [sasl] or key_password")
    return given


def check_private(file: str) -> None:
    """Check that not everybody may read the file, which has been opened before."""
    mode = stat.S_IMODE(Path(file).stat().st_mode)
    if mode & _OTHERS:
        raise BadValueError(
            f"is open to every user of this machine (its mode is {mode:04o}), and holds secrets; "
            "take that away with chmod o-rwx"
        )


def _read_secret(value: object, _location: Location) -> Secret:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValueError("is no secret; write text in quotes (what is written there is not shown)")
    return Secret(value)


def _read_digests(value: object, location: Location) -> tuple[Secret, ...]:
    """Read one digest, or a list of some."""
    digests = [_read_secret(one, location) for one in (value if isinstance(value, list) else [value])]
    for digest in digests:
        user, colon, password = digest.reveal().partition(":")
        if not user or not colon or not password:
            raise BadValueError(
                'is no digest; write "USER:PASSWORD" or a list of such (what is written there is not shown)'
            )
    return tuple(digests)


def _read_sasl(value: object, location: Location) -> Sasl:
    """Read the table, and check that its mechanism can be used here.

    Raises:
        BadValueError: a key is missing or of no use, or a package is not installed.
    """
    if not isinstance(value, dict):
        raise BadValueError("is no table; write [sasl] (what is written there is not shown)")
    before = len(location.errors)
    given = parse_table(value, _SASL_ROWS, location)
    mechanism = given.get("mechanism")
    if "mechanism" not in given:
        location.add_error(f"has no mechanism; write {_DIGEST_MD5} or {_GSSAPI}")
    needed = {"username", "password"} if mechanism == _DIGEST_MD5 else set()
    useless = {"principal"} if mechanism == _DIGEST_MD5 else {"username", "password"}
    for key in sorted(needed - given.keys()) if mechanism else ():
        location.add_error(f"has no {key}, which {mechanism} needs")
    for key in sorted(useless & given.keys()) if mechanism else ():
        location.child(key).add_error(f"is nothing that {mechanism} takes")
    if mechanism:
        _check_package(mechanism)
    if len(location.errors) > before:
        raise BadValueError("is incomplete, so nothing of it is used")
    return Sasl(**given)


def _check_package(mechanism: str) -> None:
    """Check that the packages are there; kazoo would find out in its own thread, and end for good."""
    try:
        from puresasl import mechanisms  # type: ignore[import-untyped]  # noqa: PLC0415 - it is an extra
    except ImportError:
        raise BadValueError(
            str(MissingExtraError("SASL needs pure-sasl: pip install 'zkdns[sasl]'"))
        ) from None
    if mechanism == _GSSAPI and not mechanisms.have_kerberos:
        raise BadValueError("GSSAPI needs the package kerberos too: pip install kerberos")


_WORDS: Callable[[str], str] = str
_ROWS = {
    row.key: row
    for row in (
        Setting("digest", _read_digests, "USER:PASSWORD", "Digest authentication."),
        Setting("sasl", _read_sasl, "TABLE", "SASL authentication."),
        Setting("key_password", _read_secret, "PASSWORD", "What the private key is encrypted with."),
    )
}
_SASL_ROWS = {
    row.key: row
    for row in (
        Setting("mechanism", one_of(_DIGEST_MD5, _GSSAPI), "NAME", "How to authenticate."),
        Setting("username", text(_WORDS, "a user's name"), "NAME", "Who this is."),
        Setting("password", _read_secret, "PASSWORD", "With DIGEST-MD5."),
        Setting("principal", text(_WORDS, "a principal"), "NAME", "With GSSAPI, of several in the cache."),
        Setting(
            "service", text(_WORDS, "a service's name"), "NAME", "What the servers are called; zookeeper."
        ),
    )
}


# -- TLS --------------------------------------------------------------------------------------------------


def _context(ca: str | None, mistakes: list[str]) -> ssl.SSLContext:
    """What is spoken with servers whose certificates one of these authorities has signed."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        mistakes.append(f"{ca}: cannot be used as certificates of authorities ({_reason(error)}); write PEM")
        return ssl.create_default_context()


def _load_certificate(
    tls: ssl.SSLContext, certificate: str, key: str, password: Secret | None, mistakes: list[str]
) -> None:
    try:
        # Without a password at all OpenSSL would ask for one at a terminal.
        tls.load_cert_chain(certificate, key, password.reveal() if password else "")
        check_private(key)
    except BadValueError as mistake:
        mistakes.append(f"{key}: {mistake}")
    except (OSError, ValueError) as error:
        both = certificate if key == certificate else f"{certificate} and {key}"
        mistakes.append(
            f"{both}: cannot be used as certificate and key ({_reason(error)}); write PEM, and where the key "
            "is encrypted, key_password in the file of credentials"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
