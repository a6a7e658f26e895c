"""The browser for all tests of the page."""

from collections.abc import Iterator

import pytest

from tests.support.chromium import CHROMIUM, Chromium


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (Debian and Ubuntu: apt install chromium)")
    with Chromium() as browser:
        yield browser
