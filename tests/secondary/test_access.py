"""The files of `[primary]`: the TSIG key, and the CA certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from zkdns.address import UpstreamAddress
from zkdns.config.model import PrimarySettings, TsigKey
from zkdns.errors import ConfigError
from zkdns.secondary.access import load_primary_access

SERVER = (UpstreamAddress("10.0.0.53", 53),)
TLS = (UpstreamAddress("10.0.0.53", 853, "ns1.example.com"),)


def errors_of(settings: PrimarySettings) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load_primary_access(settings)
    return raised.value.errors


def test_a_key(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text("c2VjcmV0")
    key = TsigKey("transfer.example", "hmac-sha512", secret_file=str(file))
    access = load_primary_access(PrimarySettings(SERVER, key=key))
    assert access.key is not None
    assert (access.key.name.to_text(), access.key.secret) == ("transfer.example.", b"secret")
    assert "c2VjcmV0" not in repr(access)
    assert access.tls is None


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("c2VjcmV0")
    file.chmod(0o644)
    (error,) = errors_of(PrimarySettings(SERVER, key=TsigKey("one", secret_file=str(file))))
    assert "chmod o-rwx" in error


def test_tls_is_loaded_only_for_primaries_with_tls(tmp_path: Path) -> None:
    assert load_primary_access(PrimarySettings(TLS)).tls is not None
    (error,) = errors_of(PrimarySettings(TLS, ca=str(tmp_path / "none.pem")))
    assert "is not a file of CA certificates" in error
