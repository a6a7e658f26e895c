"""Authentication to ZooKeeper and TLS: digests, SASL, certificates.

Secrets are read from files only: other users can see a command line, and child processes inherit the
environment. No error message, log line or `repr` contains a secret.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import msgspec

from zkdns.causes import cause_of
from zkdns.config import Setting, ZooKeeperSettings
from zkdns.config.load import read_toml
from zkdns.config.parsers import Location, one_of, text
from zkdns.config.private_file import check_private
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

# The mechanisms of ZooKeeper's servers (SecurityUtils.createSaslServer).
_DIGEST_MD5, _GSSAPI = "DIGEST-MD5", "GSSAPI"


class Secret:
    """Text that `repr` and error messages do not show."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Sasl(msgspec.Struct, frozen=True):
    """SASL credentials. GSSAPI uses the Kerberos ticket of the process."""

    mechanism: str
    username: str | None = None
    password: Secret | None = None
    principal: str | None = None
    service: str = "zookeeper"

    def options(self) -> dict[str, str]:
        """The credentials as `sasl_options` for kazoo's client."""
        options = {"mechanism": self.mechanism, "service": self.service}
        if self.username is not None and self.password is not None:
            options |= {"username": self.username, "password": self.password.reveal()}
        if self.principal is not None:
            options["principal"] = self.principal
        return options


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials and TLS settings for ZooKeeper. Default: anonymous, without TLS.

    To build one from files, use `load_access`:

        from zkdns.config import ZooKeeperSettings
        from zkdns.serverset.auth import load_access

        access = load_access(ZooKeeperSettings(credentials="/etc/app/zookeeper.toml", tls=True))
        web = ServerSet(PRODUCTION, "web", "zk01:2281", access=access)
    """

    digests: tuple[Secret, ...] = ()
    """`user:password` each. The client has the permissions of all of them."""
    sasl: Sasl | None = None
    tls: ssl.SSLContext | None = None
    """None: no TLS."""


ANONYMOUS = Access()


def load_access(zookeeper: ZooKeeperSettings) -> Access:
    """Read the files that these settings name. Later changes of the files have no effect on the result.

    Raises:
        ConfigError: with every error that was found.
    """
    errors: list[str] = []
    given: dict[str, Any] = {}
    if zookeeper.credentials is not None:
        given = _read_credentials(zookeeper.credentials, errors)
    tls = None
    if zookeeper.tls:
        tls = _tls_context(zookeeper.ca, errors)
        tls.check_hostname = zookeeper.verify_hostname
        if zookeeper.certificate is not None:
            key = zookeeper.key or zookeeper.certificate
            _load_certificate(tls, zookeeper.certificate, key, given.get("key_password"), errors)
    if errors:
        raise ConfigError(errors)
    return Access(digests=given.get("digest", ()), sasl=given.get("sasl"), tls=tls)


# -- credentials ------------------------------------------------------------------------------------------


def _read_credentials(file: str, errors: list[str]) -> dict[str, Any]:
    """Read the file's values by key. An invalid value is missing or None; its error is added to `errors`."""
    try:
        document = read_toml(file)
        check_private(file)
    except BadValueError as error:
        errors.append(f"{file}: {error}")
        return {}
    location = Location(file, typed=True, directory="", errors=errors)
    given = parse_table(document, _ROWS, location)
    if not document:
        errors.append(f"{file}: contains no credentials; write digest, [sasl] or key_password")
    return given


def _read_secret(value: object, _location: Location) -> Secret:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValueError("is not a secret; write text in quotes (the value is not shown here)")
    return Secret(value)


def _read_digests(value: object, location: Location) -> tuple[Secret, ...]:
    """Read one digest or a list of digests."""
    digests = [_read_secret(one, location) for one in (value if isinstance(value, list) else [value])]
    for digest in digests:
        user, colon, password = digest.reveal().partition(":")
        if not user or not colon or not password:
            raise BadValueError(
                'is not a digest; write "USER:PASSWORD" or a list of them (the value is not shown here)'
            )
    return tuple(digests)


def _read_sasl(value: object, location: Location) -> Sasl:
    """Read the `[sasl]` table, and check that its mechanism is available.

    Raises:
        BadValueError: a key is missing or not used, or a package is not installed.
    """
    if not isinstance(value, dict):
        raise BadValueError("is not a table; write [sasl] (the value is not shown here)")
    before = len(location.errors)
    given = parse_table(value, _SASL_ROWS, location)
    mechanism = given.get("mechanism")
    if "mechanism" not in given:
        location.add_error(f"has no mechanism; write {_DIGEST_MD5} or {_GSSAPI}")
    needed = {"username", "password"} if mechanism == _DIGEST_MD5 else set()
    unused = {"principal"} if mechanism == _DIGEST_MD5 else {"username", "password"}
    for key in sorted(needed - given.keys()) if mechanism else ():
        location.add_error(f"has no {key}, which {mechanism} needs")
    for key in sorted(unused & given.keys()) if mechanism else ():
        location.child(key).add_error(f"is not used by {mechanism}")
    if mechanism:
        _check_package(mechanism)
    if len(location.errors) > before:
        raise BadValueError("is incomplete, so it is not used")
    return Sasl(**given)


def _check_package(mechanism: str) -> None:
    """Check that the packages are installed. Otherwise kazoo fails in its own thread, and ends for good."""
    try:
        from puresasl import mechanisms  # type: ignore[import-untyped]  # noqa: PLC0415 - it is an extra
    except ImportError:
        raise BadValueError(
            str(MissingExtraError("SASL needs pure-sasl: pip install 'zkdns[sasl]'"))
        ) from None
    if mechanism == _GSSAPI and not mechanisms.have_kerberos:
        raise BadValueError("GSSAPI also needs the package kerberos: pip install kerberos")


_AS_WRITTEN: Callable[[str], str] = str
_ROWS = {
    row.key: row
    for row in (
        Setting("digest", _read_digests, "USER:PASSWORD", "Digest authentication."),
        Setting("sasl", _read_sasl, "TABLE", "SASL authentication."),
        Setting("key_password", _read_secret, "PASSWORD", "The password of the private key."),
    )
}
_SASL_ROWS = {
    row.key: row
    for row in (
        Setting("mechanism", one_of(_DIGEST_MD5, _GSSAPI), "NAME", "How to authenticate."),
        Setting("username", text(_AS_WRITTEN, "a user's name"), "NAME", "The user, with DIGEST-MD5."),
        Setting("password", _read_secret, "PASSWORD", "The password, with DIGEST-MD5."),
        Setting(
            "principal", text(_AS_WRITTEN, "a principal"), "NAME", "The Kerberos principal, with GSSAPI."
        ),
        Setting(
            "service", text(_AS_WRITTEN, "a service's name"), "NAME", "The servers' service name (zookeeper)."
        ),
    )
}


# -- TLS --------------------------------------------------------------------------------------------------


def _tls_context(ca: str | None, errors: list[str]) -> ssl.SSLContext:
    """The TLS context that trusts the authorities in the file `ca`. None: the system's authorities."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        errors.append(f"{ca}: is not a file of CA certificates ({cause_of(error)}); write a PEM file")
        return ssl.create_default_context()


def _load_certificate(
    tls: ssl.SSLContext, certificate: str, key: str, password: Secret | None, errors: list[str]
) -> None:
    try:
        # Without any password OpenSSL would ask for one at the terminal.
        tls.load_cert_chain(certificate, key, password.reveal() if password else "")
        check_private(key)
    except BadValueError as error:
        errors.append(f"{key}: {error}")
    except (OSError, ValueError) as error:
        both = certificate if key == certificate else f"{certificate} and {key}"
        errors.append(
            f"{both}: cannot be used as certificate and key ({cause_of(error)}); write PEM files, and for an "
            "encrypted key set key_password in the credentials file"
        )
