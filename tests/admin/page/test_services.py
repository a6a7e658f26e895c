"""The list of services: order, filters, the address, and what a refresh costs and changes."""

import time

import msgspec
import pytest

from tests.admin.helpers import FakeBackend, entry
from tests.admin.page.helpers import TO, UNKNOWN, is_clean, line, names, opened
from tests.support.chromium import Chromium, Tab
from zkdns.address import HostPort
from zkdns.admin.api_types import UnreadZnode

pytestmark = pytest.mark.processes

# Marks each row, and counts the changes of the table's nodes from then on.
WATCH = """(() => {
  document.querySelectorAll("#service-rows tr").forEach((row, index) => { row.mark = index; });
  window.mutations = [];
  const nameOf = ({ target }) => target.closest("tr")?.querySelector("a").textContent ?? "table";
  new MutationObserver((records) => window.mutations.push(...records.map(nameOf)))
    .observe(document.getElementById("service-rows"), { subtree: true, childList: true });
})()"""


CHOOSE = """(() => {
  const select = document.getElementById("environment");
  select.value = "prod";
  select.dispatchEvent(new Event("change"));
})()"""
ENVIRONMENTS = "[...document.querySelectorAll('#environment option')].map((one) => one.textContent)"
LOADED = """performance.getEntriesByType("resource").filter(({ name }) => name.includes("/api/services"))
  .map(({ responseStatus, encodedBodySize }) => [responseStatus, encodedBodySize])"""


def order(tab: Tab) -> dict[str, str]:
    """The columns with an `aria-sort`."""
    return dict(
        tab.evaluate(
            "[...document.querySelectorAll('[aria-sort]')].map((th) => [th.innerText.trim(), th.ariaSort])"
        )
    )


def search(tab: Tab) -> str:
    return str(tab.evaluate("location.search"))


def test_columns_sort_in_both_directions_and_back(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    backend.lines = [line("b.prod", 2), line("a.prod", 9, changed=5.0), line("c.dev", 4, held=1)]
    with chromium.page() as tab:
        opened(tab, served)
        assert (names(tab), order(tab)) == (["c.dev", "a.prod", "b.prod"], {})
        for expected, direction in (
            (["a.prod", "c.dev", "b.prod"], {"alive": "descending"}),
            (["b.prod", "c.dev", "a.prod"], {"alive": "ascending"}),
            (["c.dev", "a.prod", "b.prod"], {}),
        ):
            tab.point("[data-sort=alive]", click=True)
            assert (names(tab), order(tab)) == (expected, direction)
        tab.point("[data-sort=name]", click=True)
        assert (names(tab), order(tab)) == (["a.prod", "b.prod", "c.dev"], {"service": "ascending"})
        tab.point("[data-sort=changed]", click=True)
        assert names(tab)[0] == "a.prod"
        tab.wait(lambda tab: search(tab) == "?sort=-changed")
        assert is_clean(tab, served)


def test_queries_per_second_are_shown_and_sorted(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    """Rates are the growth between two readings. A service may have the name of a property of objects."""
    backend.lines = [line("constructor"), line("b.prod"), line("a.prod")]
    backend.traffic_counts = {"a.prod": 1_000, "b.prod": 5}
    with chromium.page() as tab:
        opened(tab, served)
        assert tab.texts("#service-rows [data-label=queries]") == [UNKNOWN] * 3
        backend.traffic_counts = {"a.prod": 1_000, "b.prod": 4_005, "constructor": 5}
        backend.clock += 2.0
        tab.wait(lambda tab: tab.texts("#service-rows [data-label=queries]") == ["0", "2,000", "2.5"])
        tab.point("[data-sort=queries]", click=True)
        assert (names(tab), order(tab)) == (["b.prod", "constructor", "a.prod"], {"queries/s": "descending"})
        assert is_clean(tab, served)


def test_the_environment_filters_and_the_address_keeps_the_state(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    backend.lines = [
        line("web.prod", environment="prod"),
        line("api.prod", environment="prod"),
        line("web.dev", environment="dev"),
    ]
    with chromium.page() as tab:
        opened(tab, served)
        assert tab.evaluate(ENVIRONMENTS) == ["All environments", "dev (1)", "prod (2)"]
        tab.evaluate("document.getElementById('environment').focus()")
        tab.evaluate(CHOOSE)
        assert names(tab) == ["api.prod", "web.prod"]
        tab.press("/")
        assert tab.evaluate("document.activeElement.id") == "environment"  # the key belongs to the list
        tab.evaluate("document.getElementById('filter').focus()")
        tab.type("w")
        assert names(tab) == ["web.prod"]
        assert tab.text("#services-count") == "Showing 1 of 1 found, 3 in all"
        tab.wait(lambda tab: search(tab) == "?find=w&environment=prod")
        tab.point("#service-rows a", click=True)
        tab.wait(lambda tab: tab.evaluate("location.hash") == "#web.prod")
        address = tab.evaluate("location.href")
    with chromium.page() as tab:
        tab.open(address)
        tab.wait(lambda tab: names(tab) == ["web.prod"] and tab.texts("#opened .members tbody tr"))
        assert tab.evaluate("document.getElementById('filter').value") == "w"
        assert tab.evaluate("document.getElementById('environment').value") == "prod"
    with chromium.page() as tab:
        tab.open(f"http://{served}/?environment=gone&sort=__proto__&page=99999999999999999999&find=%F0%9F%98")
        tab.wait(lambda tab: tab.text("#services-empty"))
        assert tab.evaluate(ENVIRONMENTS)[-1] == "prod (2)"
        assert tab.console_errors == []


def test_a_refresh_reads_and_redraws_only_the_differences(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    """A change of one of 10,000 services: a small response, one row, and neither focus nor scroll is lost."""
    lines = [line(f"service-{number:05}.prod", changed=1.0) for number in range(10_000)]
    backend.lines = lines
    assert backend.current.table is not None
    table = msgspec.structs.replace(backend.current.table, services=10_000, alive=30_000)
    backend.current = msgspec.structs.replace(backend.current, table=table)
    with chromium.page() as tab:
        opened(tab, served)
        tab.wait(lambda tab: tab.text("#services-count") == f"Showing 1{TO}100 of 10,000")
        tab.evaluate(WATCH)
        tab.evaluate("document.querySelectorAll('#service-rows a')[60].focus()")
        tab.evaluate("window.scrollTo(0, 1500)")
        tab.evaluate("performance.clearResourceTimings()")
        place = tab.evaluate("scrollY")
        assert place > 1000
        lines[30] = line("service-00030.prod", 7, changed=time.time())
        lines.remove(next(one for one in lines if one.name == "service-00090.prod"))
        now = time.time_ns() // 1000
        table = msgspec.structs.replace(table, services=9_999, alive=30_001)
        backend.current = msgspec.structs.replace(backend.current, table=table)
        backend.entries += [entry(now, "service-00030.prod"), entry(now + 1, "service-00090.prod")]
        tab.wait(lambda tab: tab.text("#service-rows tr:nth-child(31) [data-label=alive]") == "7")
        tab.wait(lambda tab: tab.text("#services-count") == f"Showing 1{TO}100 of 9,999")
        assert tab.evaluate("document.activeElement.textContent") == "service-00060.prod"
        assert tab.evaluate("scrollY") == place
        assert tab.evaluate("document.querySelector('#service-rows tr:nth-child(61)').mark") == 60
        changed = set(tab.evaluate("window.mutations"))
        assert "service-00030.prod" in changed
        assert not {f"service-{number:05}.prod" for number in range(90) if number != 30} & changed
        sizes = [size for _, size in tab.evaluate(LOADED)]
        assert max(sizes) < 1000, sizes  # the whole list has 1 MB
        assert tab.evaluate("document.querySelectorAll('*').length") < 2_500
        assert is_clean(tab, served)


def test_an_unchanged_list_is_not_sent_again(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    with chromium.page() as tab:
        opened(tab, served)
        assert backend.current.table is not None
        table = msgspec.structs.replace(backend.current.table, bad=5)
        backend.current = msgspec.structs.replace(backend.current, table=table)
        tab.wait(lambda tab: [status for status, _ in tab.evaluate(LOADED)][-1] == 304)
        assert len(names(tab)) == 4


def test_unread_znodes_are_listed_with_their_reasons(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    backend.unread = [UnreadZnode("/discovery/prod/web/member_1", "access denied")]
    with chromium.page() as tab:
        opened(tab, served)
        assert tab.texts("#unread-rows li") == ["/discovery/prod/web/member_1 access denied"]
        assert tab.text("#unread-count") == "1"
        backend.unread = ()
        assert backend.current.table is not None
        table = msgspec.structs.replace(backend.current.table, bad=5)
        backend.current = msgspec.structs.replace(backend.current, table=table)
        tab.wait(lambda tab: not tab.text("#unread"))
