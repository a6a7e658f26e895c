"""The status page without findings of axe-core, in both colour schemes, on a laptop and on a phone."""

import msgspec
import pytest

from tests.admin.helpers import FakeBackend, entry, serving
from tests.admin.page.helpers import line, names, opened
from tests.support.axe import VERSION, axe_script, findings
from tests.support.chromium import Chromium
from zkdns.address import HostPort
from zkdns.admin.api_types import UnreadZnode

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def axe() -> str:
    script = axe_script()
    if script is None:
        pytest.skip(f"npm cannot install axe-core {VERSION} into .tests/")
    return script


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["laptop", "phone"])
def test_axe_finds_nothing(
    chromium: Chromium, backend: FakeBackend, axe: str, *, size: tuple[int, int], dark: bool
) -> None:
    backend.lines = [*backend.lines, *(line(f"s{number}.dev", environment="dev") for number in range(101))]
    backend.entries += [entry(2_000_000 + number, "calm.prod") for number in range(10)]
    backend.unread = [UnreadZnode("/discovery/secret", "access denied")]
    with chromium.page(width=size[0], height=size[1], dark=dark) as tab:
        with serving(backend) as at:
            # The second page has few rows: axe-core takes seconds for a hundred.
            opened(tab, at, "?sort=-name&page=2#calm.prod")
            assert len(names(tab)) == 5
            tab.wait(lambda tab: tab.texts("#opened .members tbody tr") and tab.text("#unread-rows"))
            tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            tab.wait(lambda tab: len(tab.texts("#changes .entries li")) == 10)
            assert findings(tab, axe) == []
            backend.is_away = True
            assert backend.current.table is not None
            table = msgspec.structs.replace(backend.current.table, bad=9)
            backend.current = msgspec.structs.replace(backend.current, table=table)
            tab.wait(lambda tab: tab.text("#services-problem"))
        tab.wait(lambda tab: tab.text("#lost"))
        assert findings(tab, axe) == []
        # That it would be noticed:
        tab.evaluate("document.querySelector('.filter span').remove()")
        tab.evaluate("document.querySelector('#filter').removeAttribute('placeholder')")
        assert [one for one in findings(tab, axe, "label") if one.startswith("label ")]


def test_keyboard_reaches_the_order_and_the_pages(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    """Tab moves to each button, and Enter presses it."""
    backend.lines = [line(f"s{number}.dev", alive=number, environment="dev") for number in range(150)]
    with chromium.page() as tab:
        opened(tab, served)
        order = []
        tab.evaluate("document.querySelector('#filter').focus()")
        for _ in range(3):
            tab.press("Tab")
            order.append(tab.evaluate("document.activeElement.dataset.sort ?? document.activeElement.id"))
        assert order == ["environment", "name", "queries"]
        tab.evaluate("document.querySelector('[data-sort=alive]').focus()")
        tab.press("Enter")
        tab.wait(lambda tab: tab.text("#service-rows [data-label=alive]") == "149")
        assert tab.evaluate("document.activeElement.dataset.sort") == "alive"
        assert tab.evaluate("document.activeElement.closest('th').ariaSort") == "descending"
