"""The browser and the backend for all tests of the page."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from tests.admin.helpers import STATUS, FakeBackend, entry, serving
from tests.admin.page.helpers import explained, line, member
from tests.support.chromium import CHROMIUM, Chromium
from zkdns.address import HostPort
from zkdns.telemetry.stats import UpstreamStatus


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (Debian and Ubuntu: apt install chromium)")
    with Chromium() as browser:
        yield browser


@pytest.fixture
def backend() -> FakeBackend:
    upstreams = (
        UpstreamStatus("10.0.0.53:53", "", False, 0.0012),
        UpstreamStatus("10.0.1.53:53", "a.b", True, None),
    )
    current = msgspec.structs.replace(
        STATUS, upstreams=upstreams, started=time.time() - 90_061, now=time.time()
    )
    return FakeBackend(
        lines=[
            line("calm.prod", drained=1),
            line("empty.prod", 0),
            line("lost.prod", 2, held=4),
            line("odd.prod", bad=1),
        ],
        current=current,
        entries=[entry(1_000_000 + number, f"s{number}.prod") for number in range(3)],
        explanation=explained(
            "calm.prod", member("m1", endpoint="10.0.0.1:80"), member("m2", "held", held_since=1.0)
        ),
    )


@pytest.fixture
def served(backend: FakeBackend) -> Iterator[HostPort]:
    with serving(backend) as at:
        yield at
