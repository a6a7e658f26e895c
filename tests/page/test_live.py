"""The status page of whole servers: what happens appears in it without being asked for."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.support.chromium import Chromium, Tab
from tests.support.members import client_of
from tests.support.server import ZkdnsServer
from tests.support.zookeeper import ZooKeeperServer

HOSTILE = "<img src=x onerror=window.hurt=1>"
CHANGED = "Number(document.querySelector('#service-rows [data-label=changed]').dataset.since)"
# Milliseconds since the list of services was last asked for.
QUIET = """performance.now() - Math.max(...performance.getEntriesByType("resource")
  .filter(({ name }) => name.endsWith("/api/services")).map(({ startTime }) => startTime))"""


def fixed_file(path: Path, *hosts: str) -> Path:
    """A fixed file with one service, replaced in one go."""
    new = path / "new.toml"
    new.write_text(f'[services."web.staging"]\nmembers = {json.dumps([f"{host}:80" for host in hosts])}\n')
    return new.rename(path / "services.toml")


def opened(tab: Tab, server: ZkdnsServer, place: str = "") -> Tab:
    """The page, when it shows services."""
    server.wait_ready()
    tab.open(f"{server.admin}/{place}")
    tab.wait(lambda tab: tab.texts("#service-rows tr"))
    return tab


def state(tab: Tab) -> str:
    return tab.text("#state").replace("\n", " ")


def alive(tab: Tab) -> str:
    return tab.text("#service-rows [data-label=alive]")


def test_a_member_that_comes_appears_and_a_server_that_is_gone_is_told_of(
    chromium: Chromium, tmp_path: Path
) -> None:
    fixed = fixed_file(tmp_path, "10.0.0.1")
    with ZkdnsServer("--static", str(fixed)) as server, chromium.page() as tab:
        opened(tab, server, "#web.staging")
        tab.wait(lambda tab: state(tab).startswith("Fixed file "))
        tab.wait(lambda tab: len(tab.texts(".members tbody tr")) == 1)
        tab.wait(lambda tab: tab.text("#changes-empty"))
        fixed_file(tmp_path, "10.0.0.1", "10.0.0.2")
        tab.wait(lambda tab: "10.0.0.2:80" in tab.text("#changes"))
        tab.wait(lambda tab: alive(tab) == "2" and len(tab.texts(".members tbody tr")) == 2)
        tab.wait(lambda tab: "joined" in tab.text("#opened .entries"))
        tab.wait(lambda tab: tab.evaluate(QUIET) > 1500)  # nothing is read again that was to be anyway
        before = tab.evaluate(CHANGED)
        fixed_file(tmp_path, "10.0.0.1", "10.0.0.3")  # as many as before, so that no number tells of it
        tab.wait(lambda tab: tab.evaluate(CHANGED) > before)
        assert len([url for url in tab.requests if url.endswith("/")]) == 1  # it was not loaded again
        assert {url for url in tab.requests if not url.startswith((server.admin, "data:"))} == set()
        assert (tab.complaints, tab.failures, tab.text("#lost")) == ([], [], "")
        os.kill(server.process.pid, signal.SIGSTOP)  # the connection stays, and nobody speaks
        tab.wait(lambda tab: tab.text("#lost").startswith("The connection to the server is lost. All below "))
        assert state(tab) == "Unknown: the server says nothing"
        assert "now" not in tab.texts("figure .at")
        assert alive(tab) == "2"
        os.kill(server.process.pid, signal.SIGCONT)
        tab.wait(lambda tab: not tab.text("#lost") and state(tab).startswith("Fixed file "))
        os.killpg(server.process.pid, signal.SIGKILL)
        tab.wait(lambda tab: tab.text("#lost"), 5.0)  # at once: sooner than by silence
        assert tab.evaluate("document.title").startswith("lost ")
        assert tab.complaints == []


def register(client: Any, place: str, data: str) -> str:
    path: str = client.create(f"/discovery/staging/{place}", data.encode(), makepath=True)
    return path


def test_what_happens_in_zookeeper_is_shown_whatever_it_is_called(
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
            tab.wait(lambda tab: state(tab) == "ZooKeeper: live answers follow each change")
            tab.wait(lambda tab: len(tab.texts(".members tbody tr")) == 3)
            assert tab.texts("#opened .members .chip") == ["bad", "bad", "answered"]
            assert f"member_{HOSTILE}" in tab.text(".members")
            assert tab.texts("#service-rows a")[0] == "web.staging"  # what is bad stands first
            client.delete(bad)
            tab.wait(lambda tab: len(tab.texts(".members tbody tr")) == 2)
            register(client, "web/member_3", good.replace("10.0.0.1", "10.0.0.3"))
            tab.wait(lambda tab: "10.0.0.3:80" in tab.text("#changes"))
            tab.wait(lambda tab: "10.0.0.3:80" in tab.text(".members"))
            assert tab.evaluate("document.querySelectorAll('img').length") == 0
            assert tab.evaluate("window.hurt") is None
            own_zookeeper.kill()
            tab.wait(lambda tab: state(tab).startswith("ZooKeeper: away "))
            tab.wait(lambda tab: state(tab).endswith(" s: answers stay as they were"))
            assert (tab.complaints, tab.failures, tab.text("#lost")) == ([], [], "")
