"""The alert rules and the dashboard: their expressions use existing metrics, and fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.support.prometheus import assert_alerts, find_program, series_of
from tests.support.reference import EVERYTHING
from zkdns.telemetry.prometheus import render
from zkdns.telemetry.stats import (
    ForwardStats,
    NamespaceStats,
    ServerStats,
    ServiceMembers,
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
HELD_AFTER, REPEATED = 4, 40  # scrapes, 15 s apart


def scrape(
    *,
    digest: int = 1,
    changes: int = 1,
    stale: float | None = None,
    state: str = "live",
    held: int = 0,
    web: int | None = 3,
    restarts: int = 0,
    failures: int = 0,
    repairs: int = 0,
    worker_digest: int | None = None,
) -> str:
    """A scrape of a server with these values."""
    of_worker = digest if worker_digest is None else worker_digest
    watcher = WatcherStats(
        state=state,
        namespaces=(NamespaceStats(NAMESPACE, state=state, stale_since=stale, held=held),),
        changes=changes,
        repairs=repairs,
        digests=(ZoneDigest("discovery", 3, f"{digest:016x}"),),
    )
    worker = WorkerStats(
        forward=ForwardStats(queries=failures * 10, failed=failures),
        digests=(ZoneDigest("discovery", 3, f"{of_worker:016x}"),),
    )
    members = {} if web is None else {"web.prod": ServiceMembers("prod", web, 0, held)}
    server = ServerStats(
        version="1", started=-10_000.0, restarts={"watcher": restarts}, members=members, max_services=10
    )
    return render(watcher, [worker], server)


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


CASES: dict[str, dict[str, Any]] = {
    "ZkdnsServiceBelowMinimum": {"web": 1},
    "ZkdnsServersDisagree": {"digest": 2**53 - 1},
    "ZkdnsWorkerDisagrees": {"worker_digest": 2},
    "ZkdnsZooKeeperUnreachable": {"stale": 0.0, "state": "unreachable"},
    "ZkdnsZooKeeperNotRead": {"state": "reading"},
    "ZkdnsMembersHeld": {"held": 2},
    "ZkdnsProcessRestarts": {"restarts": 1},
    "ZkdnsChangesMissed": {"repairs": 1},
}


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_for_its_state_only(alert: str, tmp_path: Path) -> None:
    """Two servers are in order. Then one is not."""
    good, bad = scrape(), scrape(**CASES[alert])
    series = series_of({"a": [good] * REPEATED, "b": [good] * HELD_AFTER + [bad] * (REPEATED - HELD_AFTER)})
    others = [(other, "45s", False) for other in ALERTS]
    assert_alerts(RULES, series, [*others, (alert, "9m", True)], tmp_path)


def test_a_service_that_does_not_exist_is_below_its_minimum(tmp_path: Path) -> None:
    series = series_of({"a": [scrape(web=None)] * 20})
    assert_alerts(RULES, series, [("ZkdnsServiceBelowMinimum", "4m", True)], tmp_path)


def test_servers_that_change_all_the_time_do_not_disagree(tmp_path: Path) -> None:
    """They learn of a change one after another, so that their scrapes differ."""
    scrapes = {
        name: [scrape(digest=number + offset, changes=number) for number in range(REPEATED)]
        for name, offset in (("a", 0), ("b", 1))
    }
    expected = [("ZkdnsServersDisagree", at, False) for at in ("2m", "5m", "9m")]
    assert_alerts(RULES, series_of(scrapes), expected, tmp_path)


def test_a_server_without_changes_while_others_have_some_is_reported(tmp_path: Path) -> None:
    """Only after an hour, and not if no server has any."""
    count = 5 * 60
    moving = [scrape(digest=number, changes=number) for number in range(count)]
    quiet = [scrape(changes=7)] * count
    expected = [("ZkdnsNoChanges", "70m", True)]
    assert_alerts(RULES, series_of({"a": moving, "b": quiet}), expected, tmp_path)
    assert_alerts(RULES, series_of({"a": quiet, "b": quiet}), [("ZkdnsNoChanges", "70m", False)], tmp_path)


def test_failing_to_forward_is_reported(tmp_path: Path) -> None:
    failing = [scrape(failures=number) for number in range(REPEATED)]
    rare = [scrape(failures=0)] * REPEATED
    assert_alerts(RULES, series_of({"a": failing}), [("ZkdnsForwardingFails", "9m", True)], tmp_path)
    assert_alerts(RULES, series_of({"a": rare}), [("ZkdnsForwardingFails", "9m", False)], tmp_path)
