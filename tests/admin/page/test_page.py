"""The status page in a real browser, with a fake backend."""

import json
import time
from pathlib import Path

import msgspec
import pytest

from tests.admin.helpers import FakeBackend, Reader, entry
from tests.admin.page.helpers import (
    HOSTILE,
    LONG,
    QUOTES,
    RIGHT_TO_LEFT,
    TO,
    UNKNOWN,
    explained,
    focus,
    is_clean,
    line,
    member,
    names,
    opened,
)
from tests.support.chromium import Chromium
from zkdns.address import HostPort
from zkdns.admin.api_types import Session, UnreadZnode
from zkdns.admin.sse import MAX_STREAMS
from zkdns.admin.status import ZooKeeperStatus
from zkdns.telemetry import last_hour
from zkdns.telemetry.stats import SOURCES, UpstreamStatus

pytestmark = pytest.mark.processes


# Texts with a contrast to their background below 4.5 (WCAG 2.2, 1.4.3).
FAINT = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = rgba(colour).map((c) => c / 255).map((c) =>
      c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  return [...document.querySelectorAll("body *")].filter((e) =>
    e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
  ).map((e) => {
    const style = getComputedStyle(e);
    const [one, other] = [light(e.closest("svg") ? style.fill : style.color), light(behind(e))];
    return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), e.textContent];
  }).filter(([contrast]) => contrast < 4.5);
})()"""


def test_urgent_services_come_first_and_the_filter_finds(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    with chromium.page() as tab:
        opened(tab, served)
        assert names(tab) == ["lost.prod", "odd.prod", "empty.prod", "calm.prod"]
        assert tab.text("#services-count") == "Showing 4 of 4, 3 with problems"
        assert tab.texts("#service-rows tr:first-child td:not([data-label=queries])") == [
            "2",
            "4",
            "0",
            "0",
            "0",
            UNKNOWN,
        ]
        assert tab.texts("#service-rows .chip") == ["", "", "none alive"]  # narrow screens show the others
        tab.press("/")
        assert focus(tab) == "filter"
        tab.type("PROD lm")
        tab.wait(lambda tab: names(tab) == ["calm.prod"])
        assert tab.text("#services-count") == "Showing 1 of 1 found, 4 in all, 3 with problems"
        tab.press("ArrowDown")
        assert focus(tab) == "calm.prod"
        tab.press("ArrowUp")
        tab.press("Enter")
        tab.wait(lambda tab: tab.texts("#opened .members tbody tr"))
        assert tab.evaluate("location.hash") == "#calm.prod"
        assert focus(tab) == "opened"
        assert tab.texts("#opened .members .chip") == ["held", "answered"]
        tab.press("Escape")
        tab.wait(lambda tab: not tab.text("#opened"))
        assert (focus(tab), tab.evaluate("location.hash")) == ("calm.prod", "")
        tab.press("/")
        tab.press("Escape")
        tab.wait(lambda tab: len(names(tab)) == 4)
        assert backend.done == [("explain", "calm.prod")]
        assert is_clean(tab, served)


def test_a_click_or_a_link_opens_a_service_or_explains_an_absent_name(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    with chromium.page() as tab:
        opened(tab, served)
        tab.point("#service-rows tr:last-child a", click=True)
        tab.wait(lambda tab: tab.texts("#opened .members tbody tr"))
        assert tab.evaluate("location.hash") == "#calm.prod"
        assert "a note of calm.prod" in tab.text("#opened-body")
        assert "A 2, AAAA 0" in tab.text("#opened-body")
        assert "this is the last known state" in tab.text("#opened-body")
        backend.explanation = msgspec.structs.replace(
            explained("web.prod"),
            kind="absent",
            service=None,
            rule="there is no such name",
            nearest=("calm.prod",),
        )
        tab.evaluate("location.hash = '#wbe.prod%'")
        tab.wait(lambda tab: "there is no such name" in tab.text("#opened-body"))
        assert ("explain", "wbe.prod%") in backend.done
        assert tab.texts("#opened-body a") == ["calm.prod"]
        assert tab.console_errors == []
        backend.is_away = True
        tab.evaluate("location.hash = '#other.prod'")
        tab.wait(lambda tab: tab.text("#opened-problem"))
        assert tab.text("#opened-problem") == "It cannot be explained now: it is away."


@pytest.mark.parametrize(
    ("source", "ready", "words"),
    [
        (ZooKeeperStatus("zk:2181", "live", 0.0), True, "ZooKeeper: live responses follow each change"),
        (
            ZooKeeperStatus("zk:2181", "unreachable", 185.0),
            True,
            "ZooKeeper: unreachable for 3 min 5 s: serving the last known table",
        ),
        (
            ZooKeeperStatus("zk:2181", "reading", 0.0),
            False,
            "ZooKeeper: reading for the first time no responses until the read is complete",
        ),
        (
            ZooKeeperStatus("zk:2181", None, 0.0),
            True,
            "ZooKeeper: unknown the watcher has not reported yet",
        ),
        ("static", True, "Static file serving the services of a file, without ZooKeeper"),
        ("demo", True, "Demo serving the built-in example, without ZooKeeper"),
        ("snapshot", True, "Snapshot serving a snapshot, without ZooKeeper"),
    ],
)
def test_the_state_is_shown_at_the_top(
    chromium: Chromium,
    backend: FakeBackend,
    served: HostPort,
    *,
    source: ZooKeeperStatus | str,
    ready: bool,
    words: str,
) -> None:
    table = backend.current.table if ready else None
    of_source = (
        {"zookeeper": source}
        if isinstance(source, ZooKeeperStatus)
        else {"zookeeper": None, "source": source}
    )
    backend.current = msgspec.structs.replace(backend.current, ready=ready, table=table, **of_source)
    with chromium.page() as tab:
        opened(tab, served)
        tab.wait(lambda tab: tab.text("#state").replace("\n", " ") == words)
        is_good = tab.evaluate("document.getElementById('state').dataset.tone") == "good"
        assert is_good == (source in ("static", "demo") or "live" in words)
        assert "10.0.1.53:53" in tab.text("#upstream-rows")
        assert tab.texts("#upstream-rows .chip") == ["up", "down"]
        facts = " ".join(tab.text("#facts").split())
        assert "Workers 1 of 1 ready Up for 1 d 1 h Zones discovery Listening 127.0.0.1:53" in facts


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (HOSTILE, HOSTILE),
        (QUOTES, QUOTES),
        ("\u202egpj.exe\u2066\x1b[31m\u200b\n", r"\u202egpj.exe\u2066\u001b[31m\u200b\u000a"),
        (RIGHT_TO_LEFT, RIGHT_TO_LEFT),
        ("a" * 4_000, "a" * 1_000 + "…"),
    ],
    ids=["markup", "quotes", "invisible", "right-to-left", "long"],
)
def test_untrusted_names_are_shown_as_text(
    chromium: Chromium, backend: FakeBackend, served: HostPort, *, name: str, shown: str
) -> None:
    """Names, endpoints, statuses and reasons from ZooKeeper."""
    backend.lines = [line(name, held=1, environment=name)]
    backend.unread = [UnreadZnode(name, name)]
    backend.entries.append(
        msgspec.structs.replace(entry(2_000_000, name), member=name, znode=name, endpoint=name)
    )
    backend.current = msgspec.structs.replace(
        backend.current,
        zones=(name,),
        zookeeper=ZooKeeperStatus(name, "live", 0.0),
        upstreams=(UpstreamStatus(name, name, False, None),),
    )
    hostile = member(
        name,
        "bad",
        endpoint=name,
        additional={name: name},
        status=name,
        addresses=(name,),
        session=Session(name, 1.0, 1.0),
    )
    found = explained(name, msgspec.structs.replace(hostile, why=name))
    backend.explanation = msgspec.structs.replace(found, nearest=(name,), order=name)
    with chromium.page(width=390, height=844) as tab:
        opened(tab, served)
        tab.evaluate("document.querySelector('#service-rows a').click()")
        tab.wait(lambda tab: tab.texts("#opened .members tbody tr"))
        for place in (
            "#service-rows",
            "#changes",
            "#opened-title",
            "#opened-body",
            "#facts",
            "#upstream-rows",
            "#unread-rows",
        ):
            assert shown in tab.text(place), place
        assert tab.evaluate("document.querySelectorAll('img, [onerror], [onmouseover]').length") == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.evaluate("window.hurt") is None
        assert is_clean(tab, served)
        tab.evaluate("document.querySelector('#opened-close').click()")
        assert tab.evaluate("document.activeElement.closest('#service-rows') !== null")
        # That it would be noticed: the browser forbids markup from text.
        with pytest.raises(RuntimeError, match="TrustedHTML"):
            tab.evaluate(f"document.body['inner' + 'HTML'] = {json.dumps(name)}")


def test_a_list_that_cannot_be_read_shows_its_age(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    with chromium.page() as tab:
        opened(tab, served)
        backend.is_away = True
        assert backend.current.table is not None
        backend.current = msgspec.structs.replace(
            backend.current, table=msgspec.structs.replace(backend.current.table, alive=9)
        )
        said = tab.wait(lambda tab: tab.text("#services-problem"))
        assert said.startswith("The services cannot be read now: it is away. The list below is of ")
        assert len(names(tab)) == 4
        backend.is_away = False
        backend.lines = [line("new.prod")]
        tab.wait(lambda tab: names(tab) == ["new.prod"] and not tab.text("#services-problem"))


def test_a_page_over_the_stream_limit_shows_the_reason_and_reconnects(
    chromium: Chromium, served: HostPort
) -> None:
    readers = [Reader(served) for _ in range(MAX_STREAMS)]
    for reader in readers:
        reader.next("status")
    with chromium.page() as tab:
        tab.open(f"http://{served}/")
        tab.wait(lambda tab: f"rejects this page: {MAX_STREAMS} event streams" in tab.text("#lost"))
        for reader in readers:
            reader.close()
        tab.wait(lambda tab: not tab.text("#lost") and tab.texts("#service-rows tr"))


def test_charts_have_gaps_and_show_the_values_at_the_pointer(
    chromium: Chromium, served: HostPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[float | None] = [float(number) for number in range(last_hour.POINTS)]
    values[100:200] = [None] * 100
    values[-1] = None
    known = {name: [None if one is None else one * 1e-5 for one in values] for name in last_hour.NAMES}
    hour = last_hour.HourSeries(last_hour.STEP, time.time(), {**known, "queries": values})
    monkeypatch.setattr(last_hour.LastHour, "read", lambda *_: hour)
    with chromium.page() as tab:
        opened(tab, served)
        drawn = tab.evaluate("document.querySelector('#queries .line').getAttribute('d')")
        assert drawn.count("M") == 2
        assert tab.evaluate("document.querySelectorAll('#sources .area').length") == len(SOURCES)
        assert tab.texts("#queries .legend li") == [f"all {UNKNOWN}"]
        assert tab.texts("#queries .tick")[:3] == ["0", "200", "400"]
        tab.evaluate("document.querySelector('#queries svg').focus()")
        tab.press("ArrowLeft")
        assert tab.texts("#queries .legend li") == ["all 358"]
        assert tab.texts("#latency .legend li") == [
            f"{kind}: median 3.6 ms, 99 % 3.6 ms" for kind in ("cache", "zone", "upstream")
        ]
        tab.point("#queries svg")
        tab.wait(lambda tab: tab.text("#queries .at") != "now")
        assert tab.texts("#queries .legend li") in ([f"all {UNKNOWN}"], ["all 200"], ["all 201"], ["all 202"])
        label = tab.evaluate("document.querySelector('#queries svg').getAttribute('aria-label')")
        assert label.startswith("Queries per second, ")
        assert is_clean(tab, served)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_readable_on_a_phone_in_light_and_dark_mode(
    chromium: Chromium, backend: FakeBackend, served: HostPort, tmp_path: Path, dark: bool
) -> None:
    backend.lines = [*backend.lines, line(LONG, 0, changed=1.0)]
    backend.entries.append(entry(2_000_000, LONG))
    session = Session("0x100000000000005", 1.0, 1.0)
    backend.explanation = explained(
        LONG, member(LONG, endpoint=f"{LONG}:80", session=session), member("m2", "bad")
    )
    with chromium.page(width=320, height=640, dark=dark) as tab:
        opened(tab, served, f"#{LONG}")
        tab.wait(lambda tab: tab.texts("#opened .members tbody tr"))
        assert tab.evaluate("document.documentElement.scrollWidth") <= 320
        assert tab.evaluate(FAINT) == []
        shade = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(shade) < 60 if dark else min(shade) > 200
        tab.screenshot(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 10_000


def test_ten_thousand_services_are_searchable_and_few_are_drawn(
    chromium: Chromium, backend: FakeBackend, served: HostPort
) -> None:
    backend.lines = [line(f"service-{number}.prod") for number in range(10_000)]
    with chromium.page() as tab:
        opened(tab, served)
        tab.wait(lambda tab: tab.text("#services-count") == f"Showing 1{TO}100 of 10,000")
        tab.press("/")
        tab.type("-9999")
        tab.wait(lambda tab: names(tab) == ["service-9999.prod"])
        tab.press("Escape")
        tab.wait(lambda tab: tab.text("#services-count") == f"Showing 1{TO}100 of 10,000")
        tab.point("#page-after", click=True)
        tab.wait(lambda tab: tab.text("#services-count") == f"Showing 101{TO}200 of 10,000")
        assert tab.text("#page-number") == "Page 2 of 100"
        tab.wait(lambda tab: tab.evaluate("location.search") == "?page=2")
        assert tab.evaluate("document.querySelectorAll('*').length") < 2_000
        opened(tab, served, "?page=2")
        assert tab.text("#services-count") == f"Showing 101{TO}200 of 10,000"
        assert is_clean(tab, served)
