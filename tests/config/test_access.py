"""Settings for clients: cookies, identity and version."""

from __future__ import annotations

import pytest

from tests.config.helpers import errors_of, load

DIGITS = "00112233445566778899AABBccddeeff"


def test_access_settings_are_read_from_the_file_and_from_variables() -> None:
    config = load(
        'identity = "ns1 at Łódź"\nshow_version = true\n'
        f'[access]\ncookies = false\ncookie_secret = "{DIGITS}"'
    )
    assert (config.access.cookies, config.access.cookie_secret) == (False, bytes.fromhex(DIGITS))
    assert (config.identity, config.show_version) == ("ns1 at Łódź", True)
    environment = {
        "ZKDNS_ACCESS_COOKIES": "no",
        "ZKDNS_ACCESS_COOKIE_SECRET": f" {DIGITS} ",
        "ZKDNS_IDENTITY": "ns1 at Łódź",
        "ZKDNS_SHOW_VERSION": "yes",
    }
    assert load(None, environment) == config


def test_by_default_cookies_are_on_and_identity_and_version_are_hidden() -> None:
    config = load()
    assert (config.access.cookies, config.access.cookie_secret, config.identity, config.show_version) == (
        True, None, "", False
    )  # fmt: skip


@pytest.mark.parametrize(
    "written",
    ['""', '"0011"', '"g0112233445566778899aabbccddeeff"', '"00112233445566778899aabbccddeeff00"', "1", "[]"],
)
def test_an_invalid_cookie_secret_is_an_error_that_does_not_show_it(written: str) -> None:
    (error,) = errors_of(f"access.cookie_secret = {written}")
    assert error == (
        "zkdns.toml: access.cookie_secret: is not a secret; write 32 hexadecimal digits in quotes"
        " (the value is not shown)"
    )


@pytest.mark.parametrize("identity", ["n" * 65, "é" * 33, "two\\nlines", "\\u0007"])
def test_a_too_long_or_multi_line_identity_is_an_error(identity: str) -> None:
    (error,) = errors_of(f'identity = "{identity}"')
    assert error.startswith("zkdns.toml: identity: is ")
    assert error.endswith("; write a name of up to 64 bytes in one line")
    assert load(f'identity = "{"n" * 64}"').identity == "n" * 64
