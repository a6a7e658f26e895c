"""The section `[tls]`: addresses and the certificate for DNS over TLS, and the required settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.helpers import errors_of, load
from zkdns.address import HostPort
from zkdns.config import load_config
from zkdns.config.model import TlsSettings


def test_there_is_no_tls_by_default() -> None:
    assert load("").tls == TlsSettings()


def test_the_default_port_is_853() -> None:
    config = load(
        """
        [tls]
        listen = ["10.0.0.53", "[::1]:8853", "127.0.0.1:0"]
        certificate = "tls.pem"
        key = "tls.key"
        """
    )
    assert config.tls == TlsSettings(
        (HostPort("10.0.0.53", 853), HostPort("::1", 8853), HostPort("127.0.0.1", 0)),
        str(Path("tls.pem").absolute()),
        str(Path("tls.key").absolute()),
    )


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ('[tls]\nlisten = ["::1"]', "tls.listen: needs a certificate; write tls.certificate as well"),
        (
            '[tls]\ncertificate = "x"',
            "tls.certificate: has no effect without an address; write tls.listen as well",
        ),
        (
            'listen = ["::1"]\n[tls]\nlisten = ["[::1]:53"]\ncertificate = "x"',
            "tls.listen: [::1]:53 is the address of another server; use another port, such as 853",
        ),
        (
            '[admin]\nlisten = "127.0.0.1:853"\n[tls]\nlisten = ["127.0.0.1"]\ncertificate = "x"',
            "tls.listen: 127.0.0.1:853 is the address of another server; use another port, such as 853",
        ),
        (
            '[forward]\nupstreams = ["tls://127.0.0.1"]\n[tls]\nlisten = ["0.0.0.0"]\ncertificate = "x"',
            "forward.upstreams: tls://127.0.0.1:853#127.0.0.1 is an address of this server; write another …",
        ),
        (
            '[transfer]\nallow = ["10.0.0.2"]\nrequire_tls = true',
            "transfer.require_tls: needs an address for TLS; write tls.listen as well",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_errors(toml: str, error: str) -> None:
    (found,) = errors_of(toml)
    _, _, sentence = found.partition(": ")
    assert sentence.startswith(error.removesuffix(" …"))
    assert len(sentence) == len(error) or error.endswith("…")


def test_a_key_needs_a_certificate() -> None:
    errors = errors_of('[tls]\nlisten = ["::1"]\nkey = "x"')
    assert [error.split(": ")[1] for error in errors] == ["tls.key", "tls.listen"]


def test_a_credential_of_the_systemd_unit_is_the_default_certificate(tmp_path: Path) -> None:
    (tmp_path / "tls.pem").touch()
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "ZKDNS_TLS_LISTEN": "127.0.0.1"}
    assert load(environment=environment).tls.certificate == str(tmp_path / "tls.pem")
    environment["ZKDNS_TLS_CERTIFICATE"] = "/own.pem"
    assert load(environment=environment).tls.certificate == "/own.pem"
    del environment["ZKDNS_TLS_LISTEN"], environment["ZKDNS_TLS_CERTIFICATE"]
    assert load_config(flags={}, environment=environment, file=None).tls == TlsSettings()
