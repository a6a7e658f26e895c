"""What is said of askers: cookies, and what they are told of the server."""

from __future__ import annotations

import pytest

from tests.config.helpers import load, mistakes

DIGITS = "00112233445566778899AABBccddeeff"


def test_what_askers_are_told_is_read_from_a_file_and_from_variables() -> None:
    config = load(
        f'cookies = false\ncookie_secret = "{DIGITS}"\nidentity = "ns1 at Łódź"\ntell_version = true'
    )
    assert (config.cookies, config.cookie_secret) == (False, bytes.fromhex(DIGITS))
    assert (config.identity, config.tell_version) == ("ns1 at Łódź", True)
    environment = {
        "ZKDNS_COOKIES": "no",
        "ZKDNS_COOKIE_SECRET": f" {DIGITS} ",
        "ZKDNS_IDENTITY": "ns1 at Łódź",
        "ZKDNS_TELL_VERSION": "yes",
    }
    assert load(None, environment) == config


def test_by_default_there_are_cookies_and_nothing_is_told() -> None:
    config = load()
    assert (config.cookies, config.cookie_secret, config.identity, config.tell_version) == (
        True, None, "", False
    )  # fmt: skip


@pytest.mark.parametrize(
    "written",
    ['""', '"0011"', '"g0112233445566778899aabbccddeeff"', '"00112233445566778899aabbccddeeff00"', "1", "[]"],
)
def test_a_secret_that_is_none_is_told_and_not_shown(written: str) -> None:
    (mistake,) = mistakes(f"cookie_secret = {written}")
    assert mistake == (
        "zkdns.toml: cookie_secret: is no secret; write 32 hexadecimal digits in quotes"
        " (what is written there is not shown)"
    )


@pytest.mark.parametrize("identity", ["n" * 65, "é" * 33, "two\\nlines", "\\u0007"])
def test_an_identity_that_is_too_long_or_not_one_line_is_a_mistake(identity: str) -> None:
    (mistake,) = mistakes(f'identity = "{identity}"')
    assert mistake.startswith("zkdns.toml: identity: is ")
    assert mistake.endswith("; write a name of up to 64 bytes, in one line")
    assert load(f'identity = "{"n" * 64}"').identity == "n" * 64
