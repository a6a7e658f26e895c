"""Recent changes, grouped by service."""

import time

import msgspec
import pytest

from tests.admin.helpers import FakeBackend, entry
from tests.admin.page.helpers import is_clean, opened
from tests.support.chromium import Chromium, Tab
from zkdns.address import HostPort

pytestmark = pytest.mark.processes


def groups(tab: Tab) -> list[str]:
    """The text of each group without its time."""
    return [" ".join(text.split()) for text in tab.texts("#changes > li > div")]


def test_changes_of_a_service_are_one_line_that_expands(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    start = time.time_ns() // 1000 - 3_600_000_000
    backend.entries[:] = [entry(start, "old.prod")]
    for number in range(24):
        made = entry(start + (600 + number * 12) * 1_000_000, "web.prod")
        backend.entries.append(msgspec.structs.replace(made, kind="left" if number % 2 else "joined"))
    backend.entries.append(entry(start + 1_800_000_000, "api.prod"))
    backend.entries.append(entry(start + 1_900_000_000, "web.prod"))
    with chromium.page() as tab:
        opened(tab, served)
        tab.wait(lambda tab: len(groups(tab)) == 4)
        assert groups(tab) == [
            "web.prod joined 10.0.0.1:80 · member_1",
            "api.prod joined 10.0.0.1:80 · member_1",
            "web.prod 12 joined, 12 left in 4 min 36 s",
            "old.prod joined 10.0.0.1:80 · member_1",
        ]
        assert tab.evaluate("document.querySelectorAll('#changes .entries li').length") == 0
        tab.evaluate("document.querySelector('#changes > li:nth-child(3) summary').focus()")
        tab.press("Enter")
        tab.wait(lambda tab: len(tab.texts("#changes > li:nth-child(3) .entries li")) == 24)
        # A further change moves its group to the top, and leaves the expanded one as it is.
        backend.entries.append(entry(time.time_ns() // 1000, "api.prod"))
        tab.wait(lambda tab: len(groups(tab)) == 5)
        assert groups(tab)[0].startswith("api.prod joined")
        assert len(tab.texts("#changes > li:nth-child(4) .entries li")) == 24
        assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert is_clean(tab, served)


def test_many_changes_stay_few_elements(chromium: Chromium, backend: FakeBackend, served: HostPort) -> None:
    with chromium.page() as tab:
        opened(tab, served)
        now = time.time_ns() // 1000
        backend.entries += [entry(now + number, f"s{number % 200}.prod") for number in range(4_000)]
        tab.wait(lambda tab: groups(tab)[0].startswith("s199.prod 20 joined"))
        assert len(groups(tab)) == 50
        tab.evaluate("document.querySelectorAll('#changes details').forEach((one) => { one.open = true; })")
        tab.wait(lambda tab: len(tab.texts("#changes > li:first-child .entries li")) == 20)
        assert tab.evaluate("document.querySelectorAll('*').length") < 10_000
        assert is_clean(tab, served)
