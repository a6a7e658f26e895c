"""The files of `[primary]`: the TSIG key, and the CA certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from zkdns.address import UpstreamAddress
from zkdns.config.model import PrimarySettings
from zkdns.errors import ConfigError
from zkdns.secondary.access import load_primary_access

SERVER = (UpstreamAddress("10.0.0.53", 53),)
TLS = (UpstreamAddress("10.0.0.53", 853, "ns1.example.com"),)
KEY = 'name = "Transfer.Example."\nalgorithm = "hmac-sha512"\nsecret = "c2VjcmV0"\n'


def write(directory: Path, text: str, mode: int = 0o600) -> str:
    file = directory / "key.toml"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def errors_of(settings: PrimarySettings) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load_primary_access(settings)
    return raised.value.errors


def test_a_key(tmp_path: Path) -> None:
    access = load_primary_access(PrimarySettings(SERVER, key=write(tmp_path, KEY)))
    assert access.key is not None
    assert (access.key.name, access.key.algorithm) == ((b"transfer", b"example"), "hmac-sha512")
    assert access.key.secret.reveal() == "c2VjcmV0"
    assert "c2VjcmV0" not in repr(access)
    assert access.tls is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (KEY.replace("hmac-sha512", "hmac-md5"), "algorithm"),
        (KEY.replace("c2VjcmV0", "not base64!"), "the value is not shown"),
        (KEY.replace('name = "Transfer.Example."\n', ""), "has no name"),
        ("x = [", "is not TOML"),
    ],
)
def test_wrong_keys(tmp_path: Path, text: str, reason: str) -> None:
    (error,) = errors_of(PrimarySettings(SERVER, key=write(tmp_path, text)))
    assert reason in error
    assert "not base64!" not in error


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    (error,) = errors_of(PrimarySettings(SERVER, key=write(tmp_path, KEY, 0o644)))
    assert "chmod o-rwx" in error


def test_tls_is_loaded_only_for_primaries_with_tls(tmp_path: Path) -> None:
    assert load_primary_access(PrimarySettings(TLS)).tls is not None
    (error,) = errors_of(PrimarySettings(TLS, ca=str(tmp_path / "none.pem")))
    assert "is not a file of CA certificates" in error
