"""The status page of real servers: changes appear without a reload of the page."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import Chromium, Tab
from tests.support.server import ZkdnsServer
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

pytestmark = pytest.mark.processes

HOSTILE = "<img src=x onerror=window.hurt=1>"
CHANGED = "Number(document.querySelector('#service-rows [data-label=changed]').dataset.since)"
# Milliseconds since the list of services was last requested.
QUIET = """performance.now() - Math.max(...performance.getEntriesByType("resource")
  .filter(({ name }) => name.includes("/api/services")).map(({ startTime }) => startTime))"""


def fixed_file(path: Path, *hosts: str) -> Path:
    """Write a static file with one service atomically."""
    new = path / "new.toml"
    new.write_text(f'[services."web.staging"]\nmembers = {json.dumps([f"{host}:80" for host in hosts])}\n')
    return new.rename(path / "services.toml")


def opened(tab: Tab, server: ZkdnsServer, place: str = "") -> Tab:
    """Open the page, and wait until it shows services."""
    server.wait_ready()
    tab.open(f"{server.admin}/{place}")
    tab.wait(lambda tab: tab.texts("#service-rows tr"))
    return tab


def state(tab: Tab) -> str:
    return tab.text("#state").replace("\n", " ")


def alive(tab: Tab) -> str:
    return tab.text("#service-rows [data-label=alive]")


def test_a_new_member_appears_and_so_does_the_loss_of_the_server(chromium: Chromium, tmp_path: Path) -> None:
    fixed = fixed_file(tmp_path, "10.0.0.1")
    with ZkdnsServer("--static", str(fixed)) as server, chromium.page() as tab:
        opened(tab, server, "#web.staging")
        tab.wait(lambda tab: state(tab).startswith("Static file "))
        tab.wait(lambda tab: len(tab.texts(".members tbody tr")) == 1)
        tab.wait(lambda tab: tab.text("#changes-empty"))
        fixed_file(tmp_path, "10.0.0.1", "10.0.0.2")
        tab.wait(lambda tab: "10.0.0.2:80" in tab.text("#changes"))
        tab.wait(lambda tab: alive(tab) == "2" and len(tab.texts(".members tbody tr")) == 2)
        tab.wait(lambda tab: "joined" in tab.text("#opened .entries"))
        tab.wait(lambda tab: tab.evaluate(QUIET) > 1500)  # no further request
        before = tab.evaluate(CHANGED)
        fixed_file(tmp_path, "10.0.0.1", "10.0.0.3")  # the same number, so that no count changes
        tab.wait(lambda tab: tab.evaluate(CHANGED) > before)
        assert len([url for url in tab.requests if url.endswith("/")]) == 1  # the page was not reloaded
        assert {url for url in tab.requests if not url.startswith((server.admin, "data:"))} == set()
        assert (tab.console_errors, tab.failures, tab.text("#lost")) == ([], [], "")
        os.kill(server.process.pid, signal.SIGSTOP)  # the connection stays open but silent
        tab.wait(
            lambda tab: tab.text("#lost").startswith(
                "The connection to the server is lost. The values below "
            )
        )
        assert state(tab) == "Unknown: no connection to the server"
        assert "now" not in tab.texts("figure .at")
        assert alive(tab) == "2"
        os.kill(server.process.pid, signal.SIGCONT)
        tab.wait(lambda tab: not tab.text("#lost") and state(tab).startswith("Static file "))
        os.killpg(server.process.pid, signal.SIGKILL)
        tab.wait(lambda tab: tab.text("#lost"), 5.0)  # at once, before the silence timeout
        assert tab.evaluate("document.title").startswith("lost ")
        assert tab.console_errors == []


def register(client: Any, place: str, data: str) -> str:
    path: str = client.create(f"/discovery/staging/{place}", data.encode(), makepath=True)
    return path


def test_changes_in_zookeeper_are_shown_even_with_hostile_names(
    chromium: Chromium, own_zookeeper: ZooKeeperServer
) -> None:
    good = '{"serviceEndpoint":{"host":"10.0.0.1","port":80},"status":"ALIVE"}'
    with client_of(own_zookeeper.address) as client:
        register(client, f"{HOSTILE}/member_1", good)
        register(client, "web/member_1", good)
        bad = register(client, "web/member_2", json.dumps({"status": HOSTILE, "serviceEndpoint": HOSTILE}))
        register(client, f"web/member_{HOSTILE}", HOSTILE)
        with ZkdnsServer("--zookeeper", own_zookeeper.address) as server, chromium.page() as tab:
            opened(tab, server, "#web.staging")
            tab.wait(lambda tab: state(tab) == "ZooKeeper: live responses follow each change")
            tab.wait(lambda tab: len(tab.texts(".members tbody tr")) == 3)
            assert tab.texts("#opened .members .chip") == ["bad", "bad", "answered"]
            assert f"member_{HOSTILE}" in tab.text(".members")
            assert tab.texts("#service-rows a")[0] == "web.staging"  # bad members come first
            client.delete(bad)
            tab.wait(lambda tab: len(tab.texts(".members tbody tr")) == 2)
            register(client, "web/member_3", good.replace("10.0.0.1", "10.0.0.3"))
            tab.wait(lambda tab: "10.0.0.3:80" in tab.text("#changes"))
            tab.wait(lambda tab: "10.0.0.3:80" in tab.text(".members"))
            assert tab.evaluate("document.querySelectorAll('img').length") == 0
            assert tab.evaluate("window.hurt") is None
            own_zookeeper.kill()
            tab.wait(lambda tab: state(tab).startswith("ZooKeeper: unreachable "))
            tab.wait(lambda tab: state(tab).endswith(" s: serving the last known table"))
            assert (tab.console_errors, tab.failures, tab.text("#lost")) == ([], [], "")
