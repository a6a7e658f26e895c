"""The section `[transfer]`: networks, keys and secondaries, and every error with its key."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.config.helpers import load, load_or_errors
from zkdns.address import HostPort
from zkdns.config.model import NotifyTarget, TransferSettings, TsigKey
from zkdns.config.tsig_key import load_secret
from zkdns.errors import BadValueError

SECRET = base64.b64encode(b"a secret of these tests").decode()


def errors_of(toml: str) -> tuple[str, ...]:
    return load_or_errors(toml)[1]


def test_without_the_section_nothing_is_transferred() -> None:
    assert load("").transfer == TransferSettings()
    assert not load("").transfer.is_enabled


def test_all_settings_are_read() -> None:
    config = load(
        f"""
        [transfer]
        allow = ["10.0.0.2", "10.1.0.0/16"]
        notify = ["10.0.0.2", "10.0.0.3:5353#Key.One", "[fd00::1]:53"]
        journal = 0
        directory = "zones"
        max_transfers = 3
        [[transfer.keys]]
        name = "Key.One"
        secret = "{SECRET}"
        [[transfer.keys]]
        name = "two"
        algorithm = "hmac-sha512"
        secret_file = "two.key"
        """
    )
    assert config.transfer == TransferSettings(
        allow=("10.0.0.2/32", "10.1.0.0/16"),
        notify=(
            NotifyTarget(HostPort("10.0.0.2", 53)),
            NotifyTarget(HostPort("10.0.0.3", 5353), "key.one"),
            NotifyTarget(HostPort("fd00::1", 53)),
        ),
        journal=0,
        directory=str(Path("zones").absolute()),
        max_transfers=3,
        keys=(
            TsigKey("key.one", secret=b"a secret of these tests"),
            TsigKey("two", "hmac-sha512", secret_file=str(Path("two.key").absolute())),
        ),
    )
    assert config.transfer.is_enabled


def test_the_text_of_a_key_lacks_its_secret() -> None:
    assert "secret" not in repr(TsigKey("one", secret=b"a secret of these tests"))


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ('allow = ["10.0.0.2/8"]', "transfer.allow: '10.0.0.2/8' has bits set after its prefix"),
        ("allow = []", "transfer.allow: is an empty list"),
        ("journal = -1", "transfer.journal: is -1; write an integer from 0 to 1024"),
        ("max_transfers = 0", "transfer.max_transfers: is 0; write an integer from 1 to 256"),
        ('notify = ["10.0.0.2"]', "transfer.notify: has no effect while no secondary may copy the zones"),
        (
            'allow = ["10.0.0.2"]\nnotify = ["10.0.0.2#one"]',
            "transfer.notify: 10.0.0.2:53#one names an unknown key; write it in [[transfer.keys]]",
        ),
        ('allow = ["10.0.0.2"]\nnotify = ["tls://10.0.0.2"]', "has a scheme; NOTIFY is sent over UDP"),
        ('allow = ["10.0.0.2"]\nnotify = ["ns1"]', "transfer.notify: "),
        (f'keys = [{{secret = "{SECRET}"}}]', "transfer.keys[0]: has no name"),
        ('keys = [{name = "one"}]', "transfer.keys[0]: has no secret, or two"),
        (
            f'keys = [{{name = "one", secret = "{SECRET}", secret_file = "x"}}]',
            "transfer.keys[0]: has no secret, or two; write either secret or secret_file",
        ),
        (
            f'keys = [{{name = "one", secret = "{SECRET}"}}, {{name = "ONE", secret = "{SECRET}"}}]',
            "transfer.keys: has two keys with the name one",
        ),
        (
            f'keys = [{{name = "one", algorithm = "md5", secret = "{SECRET}"}}]',
            "transfer.keys[0].algorithm: is 'md5'; write one of hmac-sha256, ",
        ),
        ('keys = [{name = "one", secret = "?"}]', "transfer.keys[0].secret: is not a secret; write base64"),
        ("key = 1", "transfer: unknown key 'key'; did you mean keys?"),
    ],
)
def test_every_error_has_its_key_and_the_accepted_values(toml: str, error: str) -> None:
    (found,) = errors_of(f"[transfer]\n{toml}")
    assert error in found
    assert SECRET not in found


def test_a_secret_file_has_base64_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = TsigKey("one", secret_file=str(file))
    file.write_text(f"{SECRET}\n")
    file.chmod(0o640)
    assert load_secret(key) == b"a secret of these tests"
    file.chmod(0o644)
    with pytest.raises(BadValueError, match=f"{file}: is accessible to every user"):
        load_secret(key)
    file.chmod(0o600)
    file.write_text("no secret")
    with pytest.raises(BadValueError, match=f"{file}: is not a secret; write base64"):
        load_secret(key)
    file.unlink()
    with pytest.raises(BadValueError, match=f"{file}: cannot be read"):
        load_secret(key)


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ('name = "one"', "primary.key: has no secret, or two; write either secret or secret_file"),
        (f'secret = "{SECRET}"', "primary.key: has no name"),
        ('name = "one"\nsecret = "?"', "primary.key.secret: is not a secret; write base64"),
        ('name = "one"\nsecrets = 1', "primary.key: unknown key 'secrets'; did you mean secret?"),
    ],
)
def test_the_key_of_a_secondary_has_the_same_form(toml: str, error: str) -> None:
    found = load_or_errors(f'[primary]\nservers = ["10.0.0.53"]\n[primary.key]\n{toml}')[1]
    assert any(error in each for each in found)
    assert not any(SECRET in each for each in found)
