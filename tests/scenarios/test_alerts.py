"""Alerts about a real server: its upstream does not respond, and its worker is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.scenarios.test_metric_rules import samples_of, scrape
from tests.support.loopback import free_port
from tests.support.prometheus import assert_alerts, find_program, series_of
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.telemetry.test_alerts import RULES

pytestmark = pytest.mark.processes

EACH = 20  # scrapes of a state, 15 s apart


def test_a_dead_upstream_and_a_killed_worker_are_reported(tmp_path: Path) -> None:
    find_program("promtool")
    with ZkdnsServer("--demo", "--upstream", f"127.0.0.1:{free_port()}") as server:
        server.wait_ready()
        eventually(lambda: "zkdns_upstream_dead" in scrape(server)[1])
        good = scrape(server)[1]
        for number in range(5):
            server.query(f"www{number}.example", timeout=20.0)
        eventually(lambda: samples_of(server, "zkdns_upstream_dead", "address"))
        dead = scrape(server)[1]
        os.kill(server.pid_of("worker"), signal.SIGKILL)
        eventually(lambda: samples_of(server, "zkdns_process_restarts_total", "role"))
        replaced = scrape(server)[1]
    series = series_of({"a": [good] * EACH + [dead] * 2 * EACH + [replaced] * EACH})
    expected = [
        ("ZkdnsUpstreamDead", "9m", False),  # for less than 5 minutes
        ("ZkdnsUpstreamDead", "14m", True),
        ("ZkdnsProcessRestarts", "14m", False),
        ("ZkdnsProcessRestarts", "19m", True),
    ]
    assert_alerts(RULES, series, expected, tmp_path)
