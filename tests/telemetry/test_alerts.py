"""The alert rules and the dashboard: their expressions use existing metrics, and fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.support.prometheus import assert_alerts, find_program, series_of
from tests.support.reference import EVERYTHING
from zkdns.clock import elapsed_seconds
from zkdns.telemetry.prometheus import render
from zkdns.telemetry.stats import (
    ForwardStats,
    NamespaceStats,
    ServerStats,
    ServiceMembers,
    UpstreamStats,
    WatcherStats,
    WorkerStats,
    ZoneDigest,
)

RULES = Path(str(resources.files("zkdns.telemetry").joinpath("alerts.yaml")))
DASHBOARD = Path(str(resources.files("zkdns.telemetry").joinpath("dashboard.json")))
ALERTS: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
EXPRESSIONS = [
    *(rule["expr"] for rule in ALERTS.values()),
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
]
NAMESPACE = "/discovery/{environment}/{service}"
GOOD_SCRAPES, REPEATED = 4, 40  # 15 s apart


def upstream(*, is_dead: bool) -> UpstreamStats:
    return UpstreamStats("192.0.2.1:53", "", is_dead, None, 0, 0, 0)


def scrape(
    *,
    digest: int = 1,
    changes: int = 1,
    stale_seconds: float | None = None,
    state: str = "live",
    held: int = 0,
    web: int | None = 3,
    restarts: int = 0,
    forwarded: int = 0,
    failures: int = 0,
    dead: tuple[bool, ...] = (False,),
    repairs: int = 0,
    worker_digest: int | None = None,
) -> str:
    """A scrape of a server with these values. `dead` has a value for each worker."""
    of_worker = digest if worker_digest is None else worker_digest
    stale = None if stale_seconds is None else elapsed_seconds() - stale_seconds
    watcher = WatcherStats(
        state=state,
        namespaces=(NamespaceStats(NAMESPACE, state=state, stale_since=stale, held=held),),
        changes=changes,
        repairs=repairs,
        digests=(ZoneDigest("discovery", 3, f"{digest:016x}"),),
    )
    workers = [
        WorkerStats(
            forward=ForwardStats(
                queries=forwarded if number == 0 else 0,
                failed=failures if number == 0 else 0,
                upstreams=(upstream(is_dead=is_dead),),
            ),
            digests=(ZoneDigest("discovery", 3, f"{of_worker:016x}"),),
        )
        for number, is_dead in enumerate(dead)
    ]
    members = {} if web is None else {"web.prod": ServiceMembers("prod", web, 0, held)}
    server = ServerStats(
        version="1", started=-10_000.0, restarts={"watcher": restarts}, members=members, max_services=10
    )
    return render(watcher, workers, server)


def test_every_expression_uses_metrics_that_exist() -> None:
    known = {
        name
        for family in text_string_to_metric_families(render(*EVERYTHING))
        for name in (*(sample.name for sample in family.samples), "up")
    }
    for expression in EXPRESSIONS:
        used = set(re.findall(r"\b(?:zkdns|process)_[a-z_]+", expression))
        assert used, expression
        assert used <= known, expression


def test_every_alert_has_a_severity_and_a_summary() -> None:
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]


def test_panels_do_not_overlap_and_have_different_titles() -> None:
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_promtool_accepts_the_rules() -> None:
    ended = subprocess.run(
        [find_program("promtool"), "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


class Case(NamedTuple):
    """Scrapes of servers `a` and `b`, at equal intervals."""

    fires: Mapping[str, Sequence[str]]
    """With these, the alert fires, but not during the first scrapes."""
    is_quiet: Mapping[str, Sequence[str]]
    """With these, which are near the limit, it does not fire."""
    minutes: int = 9
    """The alert fires after them, and does not fire at any minute until then."""
    interval: str = "15s"


def one_bad(number: int = REPEATED, **values: Any) -> dict[str, list[str]]:
    """Both are in order. From the fourth scrape on, `b` has these values in some scrapes."""
    good, bad = scrape(), scrape(**values)
    series = [good] * GOOD_SCRAPES + [bad] * number + [good] * REPEATED
    return {"a": [good] * REPEATED, "b": series[:REPEATED]}


def one_forwards(*, forwarded: int, failures: int) -> dict[str, list[str]]:
    """`a` is in order. `b` forwards this number of queries between two scrapes; some of them fail."""
    forwarding = [
        scrape(forwarded=number * forwarded, failures=number * failures) for number in range(REPEATED)
    ]
    return {"a": [scrape()] * REPEATED, "b": forwarding}


def changing(*, b: int = 0, workers: int = 0) -> dict[str, list[str]]:
    """The digests change all the time. Those of `b`, or of workers, are ahead by these numbers of changes."""
    return {
        name: [
            scrape(digest=number + ahead, worker_digest=number + ahead + workers, changes=number)
            for number in range(REPEATED)
        ]
        for name, ahead in (("a", 0), ("b", b))
    }


def changes(**counts: Callable[[int], int | None]) -> dict[str, list[str]]:
    """Numbers of changes by minute, for 70 minutes. None: the server is not scraped."""
    series: dict[str, list[str]] = {}
    for name, count in counts.items():
        found = [count(minute) for minute in range(70)]
        series[name] = ["" if changes is None else scrape(changes=changes) for changes in found]
    return series


CASES: dict[str, Case] = {
    "ZkdnsServiceBelowMinimum": Case(one_bad(web=1), one_bad(web=2)),
    "ZkdnsServersDisagree": Case(one_bad(digest=2**53 - 1), changing(b=1)),
    "ZkdnsWorkerDisagrees": Case(one_bad(worker_digest=2), changing(workers=1)),
    "ZkdnsNoChanges": Case(
        changes(a=lambda at: at, b=lambda _: 7),
        changes(a=lambda at: at, b=lambda at: 7 + at // 30),
        minutes=65,
        interval="1m",
    ),
    "ZkdnsZooKeeperUnreachable": Case(
        one_bad(stale_seconds=3600.0, state="unreachable"), one_bad(stale_seconds=30.0, state="unreachable")
    ),
    "ZkdnsZooKeeperNotRead": Case(one_bad(state="reading"), one_bad(16, state="reading")),
    "ZkdnsMembersHeld": Case(one_bad(held=2), one_bad(16, held=2)),
    "ZkdnsForwardingFails": Case(
        one_forwards(forwarded=10, failures=1), one_forwards(forwarded=100, failures=4)
    ),
    "ZkdnsUpstreamDead": Case(one_bad(dead=(True, True)), one_bad(dead=(True, False))),
    "ZkdnsProcessRestarts": Case(one_bad(restarts=1), {"a": [scrape(restarts=3)] * REPEATED}),
    "ZkdnsChangesMissed": Case(one_bad(repairs=1), {"a": [scrape(repairs=3)] * REPEATED}),
}


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_in_its_case_only(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    fires = [(alert, "45s", False), (alert, f"{case.minutes}m", True)]
    assert_alerts(RULES, series_of(case.fires), fires, tmp_path, case.interval)
    is_quiet = [(alert, f"{minute}m", False) for minute in range(case.minutes + 1)]
    assert_alerts(RULES, series_of(case.is_quiet), is_quiet, tmp_path, case.interval)


@pytest.mark.parametrize("alert", ["ZkdnsServersDisagree", "ZkdnsWorkerDisagrees"])
def test_digests_that_change_are_not_reported_with_the_default_interval_of_prometheus(
    alert: str, tmp_path: Path
) -> None:
    never = [(alert, f"{minute}m", False) for minute in range(10)]
    assert_alerts(RULES, series_of(CASES[alert].is_quiet), never, tmp_path, "1m")
    fires = [(alert, "3m", False), (alert, "7m", True)]
    assert_alerts(RULES, series_of(CASES[alert].fires), fires, tmp_path, "1m")


def test_a_service_that_does_not_exist_is_below_its_minimum(tmp_path: Path) -> None:
    series = series_of({"a": [scrape(web=None)] * 20})
    assert_alerts(RULES, series, [("ZkdnsServiceBelowMinimum", "4m", True)], tmp_path)


@pytest.mark.parametrize(
    "series",
    [
        changes(a=lambda _: 7, b=lambda _: 7),
        changes(a=lambda at: at, b=lambda at: 7 if at > 30 else None),
    ],
    ids=["no server has any", "scraped for half an hour"],
)
def test_a_server_that_is_not_stuck_is_not_reported(series: dict[str, list[str]], tmp_path: Path) -> None:
    assert_alerts(RULES, series_of(series), [("ZkdnsNoChanges", "65m", False)], tmp_path, "1m")
