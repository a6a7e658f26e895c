"""What is said of askers: cookies, and what they are told of the server."""

from __future__ import annotations

import pytest

from tests.config.helpers import load, mistakes

DIGITS = "00112233445566778899AABBccddeeff"


def test_what_askers_are_told_is_read_from_a_file_and_from_variables() -> None:
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


def test_by_default_there_are_cookies_and_nothing_is_told() -> None:
    config = load()
    assert (config.access.cookies, config.access.cookie_secret, config.identity, config.show_version) == (
        True, None, "", False
    )  # fmt: skip


@pytest.mark.parametrize(
    "written",
    ['""', '"0011"', '"g0112233445566778899aabbccddeeff"', '"00112233445566778899aabbccddeeff00"', "1", "[]"],
)
def test_a_secret_that_is_none_is_told_and_not_shown(written: str) -> None:
    (mistake,) = mistakes(f"access.cookie_secret = {written}")
    assert mistake == (
        "zkdns.toml: access.cookie_secret: is not a secret; write 32 hexadecimal digits in quotes"
        " (the value is not shown)"
    )


@pytest.mark.parametrize("identity", ["n" * 65, "é" * 33, "two\\nlines", "\\u0007"])
def test_an_identity_that_is_too_long_or_not_one_line_is_a_mistake(identity: str) -> None:
    (mistake,) = mistakes(f'identity = "{identity}"')
    assert mistake.startswith("zkdns.toml: identity: is ")
    assert mistake.endswith("; write a name of up to 64 bytes in one line")
    assert load(f'identity = "{"n" * 64}"').identity == "n" * 64
