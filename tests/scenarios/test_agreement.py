"""Servers that agree and servers that do not: digests, `zkdns diff`, and the alert of Prometheus."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli import run
from tests.scenarios.test_metric_rules import scrape
from tests.support.prometheus import assert_alerts, find_program, query, running_prometheus, series_of
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.telemetry.test_alerts import EXPRESSIONS, RULES
from zkdns.admin.client import ApiClient, ServerAddress

pytestmark = pytest.mark.processes

DIGEST = "_digest.discovery"


def add_member(zk: Any, root: str, service: str, number: int) -> str:
    """Register a member of a service in prod, and return its path."""
    data = {
        "serviceEndpoint": {"host": f"10.0.0.{number}", "port": 80},
        "additionalEndpoints": {},
        "status": "ALIVE",
    }
    path = f"{root}/prod/{service}/member_{number:010d}"
    zk.create(path, json.dumps(data).encode(), makepath=True)
    return path


def digests_of(server: ZkdnsServer) -> set[str]:
    """The digests that the processes of a server report."""
    status = ApiClient(ServerAddress(path=server.api)).status()
    assert status.table is not None
    reports = [status.table.digests, *(worker.digests for worker in status.workers)]
    return {digest.digest for report in reports for digest in report}


def _is_complete(server: ZkdnsServer, addresses: set[str]) -> bool:
    return server.lookup("web.prod.discovery") == addresses and len(digests_of(server)) == 1


@pytest.fixture
def pair(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> Iterator[tuple[ZkdnsServer, ZkdnsServer]]:
    """Two servers of one ensemble with three members, which have counted their members."""
    addresses = {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    for number in (1, 2, 3):
        add_member(zk, f"{zk_root}/first", "web", number)
    arguments = (
        *("--zookeeper", zookeeper.address, "--namespace", f"{zk_root}/first/{{environment}}/{{service}}"),
        *("--workers", "2"),
    )
    with ZkdnsServer(*arguments) as one, ZkdnsServer(*arguments) as other:
        for server in (one, other):
            server.wait_ready()
            eventually(partial(_is_complete, server, addresses))
        yield one, other


def diff(*servers: ZkdnsServer, wait: str = "2s") -> tuple[int, list[Mapping[str, Any]]]:
    """Run `zkdns diff`; return its exit status and the differences."""
    ended = run("diff", *(server.api for server in servers), "--wait", wait, "--json")
    assert ended.errors == ""
    return ended.status, [json.loads(line) for line in ended.output.splitlines()]


def test_servers_of_one_ensemble_have_the_same_digest(pair: tuple[ZkdnsServer, ZkdnsServer]) -> None:
    one, other = pair
    assert digests_of(one) == digests_of(other)
    (digest,) = digests_of(one)
    assert (
        one.lookup(DIGEST, "TXT") == other.lookup(DIGEST, "TXT") == {f'"v=1" "members=3" "digest={digest}"'}
    )
    assert diff(one, other, wait="0") == (0, [])


def test_a_stopped_watcher_is_noticed_by_diff_and_by_the_alert(
    pair: tuple[ZkdnsServer, ZkdnsServer], zk: Any, zk_root: str, tmp_path: Path
) -> None:
    find_program("promtool")
    one, other = pair
    agreeing = {"one": scrape(one)[1], "other": scrape(other)[1]}
    os.kill(other.pid_of("watcher"), signal.SIGSTOP)
    try:
        zk.delete(f"{zk_root}/first/prod/web/member_{1:010d}")
        add_member(zk, f"{zk_root}/first", "api", 9)
        eventually(lambda: one.lookup("api.prod.discovery") == {"10.0.0.9"})
        eventually(lambda: digests_of(one) != digests_of(other) and len(digests_of(one)) == 1)
        disagreeing = {"one": scrape(one)[1], "other": scrape(other)[1]}
    finally:
        os.kill(other.pid_of("watcher"), signal.SIGCONT)
    scrapes = {name: [agreeing[name]] * 4 + [disagreeing[name]] * 16 for name in agreeing}
    expected = [("ZkdnsServersDisagree", "45s", False), ("ZkdnsServersDisagree", "4m30s", True)]
    assert_alerts(RULES, series_of(scrapes), expected, tmp_path)
    eventually(lambda: digests_of(one) == digests_of(other))
    assert diff(one, other) == (0, [])


def test_diff_lists_what_differs(
    pair: tuple[ZkdnsServer, ZkdnsServer], zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    """The other server follows a second tree, in which members differ."""
    one, _ = pair
    second = f"{zk_root}/second"
    for number in (1, 2, 3):
        add_member(zk, second, "web", number)
    zk.delete(f"{second}/prod/web/member_{3:010d}")
    changed = {
        "serviceEndpoint": {"host": "10.0.0.77", "port": 80},
        "additionalEndpoints": {},
        "status": "STOPPING",
    }
    zk.set(f"{second}/prod/web/member_{2:010d}", json.dumps(changed).encode())
    add_member(zk, second, "api", 9)
    arguments = ("--zookeeper", zookeeper.address, "--namespace", f"{second}/{{environment}}/{{service}}")
    with ZkdnsServer(*arguments) as other:
        other.wait_ready()
        status, found = diff(one, other, wait="1s")
    places = [(each["service"], each["member"], each["field"]) for each in found]
    values = [list(each["values"].values()) for each in found]
    assert status == 1
    second_member, third_member = (f"member_{number:010d}" for number in (2, 3))
    assert dict(zip(places, values, strict=True)) == {
        ("api.prod.discovery", "", "service"): ["missing", "1 member"],
        ("web.prod.discovery", second_member, "endpoint"): ["10.0.0.2:80", "10.0.0.77:80"],
        ("web.prod.discovery", second_member, "status"): ["ALIVE", "STOPPING"],
        ("web.prod.discovery", third_member, "member"): ["10.0.0.3:80", "missing"],
    }
    assert all(list(each["values"]) == [one.api, other.api] for each in found)


def test_prometheus_evaluates_every_expression(pair: tuple[ZkdnsServer, ZkdnsServer], tmp_path: Path) -> None:
    """With the variables of the dashboard replaced as Grafana does."""
    targets = [server.admin.removeprefix("http://") for server in pair]
    variables = {"$job": ".*", "$instance": ".*", "$service": ".*", "$__rate_interval": "1m"}
    with running_prometheus(targets, RULES, tmp_path) as url:
        for expression in EXPRESSIONS:
            query(
                url, functools.reduce(lambda text, each: text.replace(*each), variables.items(), expression)
            )
        members = query(url, 'zkdns_service_members{service="web.prod",state="alive"}')
        assert [sample["value"][1] for sample in members] == ["3", "3"]
        digests = {sample["value"][1] for sample in query(url, "zkdns_table_digest")}
        assert len(digests) == 1
