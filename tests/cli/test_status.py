"""`zkdns status`: the problems of a server, its screen, and a server of ZooKeeper that has some."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.admin.helpers import STATUS
from tests.cli import Terminal, run
from tests.support.fake_api import FakeApi, responding
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of
from zkdns.admin.api_types import MemberCount, Names, ServiceDigests
from zkdns.admin.status import (
    NamespaceStatus,
    PrimaryStatus,
    Status,
    TableStatus,
    WorkerStatus,
    ZoneStatus,
    ZooKeeperStatus,
)
from zkdns.cli import main
from zkdns.cli import status as module
from zkdns.cli.status import find_problems
from zkdns.telemetry.stats import UpstreamStatus, ZoneDigest

pytestmark = pytest.mark.processes

TEMPLATE = "/discovery/{environment}/{service}"
WEB = "web.staging.discovery"
DIGESTS = (ZoneDigest("discovery", 3, "0123456789abcdef"),)


def changed(**fields: object) -> Status:
    return msgspec.structs.replace(STATUS, **fields)


def of_zookeeper(state: str, **fields: Any) -> Status:
    return changed(zookeeper=ZooKeeperStatus("zk:2181", state, fields.pop("stale", 0.0), **fields))


def of_primary(state: str, problem: str = "") -> Status:
    zone = ZoneStatus("discovery", state, 17, "10.0.0.53:53", problem)
    return changed(
        source="primary", zookeeper=None, primary=PrimaryStatus(("10.0.0.53",), state, 2.0, problem, (zone,))
    )


def upstream(address: str, domain: str = "", *, is_dead: bool) -> UpstreamStatus:
    return UpstreamStatus(address, domain, is_dead, None)


PROBLEMS: dict[str, tuple[Status, list[str]]] = {
    "none": (STATUS, []),
    "a worker starts": (
        changed(ready=False, workers=(WorkerStatus(7, True), WorkerStatus(None, False))),
        ["1 of 2 workers has no table"],
    ),
    "the server starts": (
        changed(ready=False, table=None, workers=(WorkerStatus(7, False),) * 2),
        ["2 of 2 workers have no table", "the watcher has not reported yet"],
    ),
    "ZooKeeper is lost": (
        of_zookeeper("unreachable", stale=185.0, problem="ZooKeeper is unreachable: refused"),
        ["ZooKeeper is unreachable: refused"],
    ),
    "ZooKeeper is lost for an unknown reason": (
        of_zookeeper("unreachable", stale=185.0),
        ["ZooKeeper is unreachable for 3m 5s"],
    ),
    "ZooKeeper was not read": (of_zookeeper("reading"), ["ZooKeeper has not been read yet"]),
    "ZooKeeper has no quorum": (of_zookeeper("readonly", problem="no quorum"), ["no quorum"]),
    "the root is missing": (of_zookeeper("live", problem="no znode"), ["no znode"]),
    "znodes are denied": (
        of_zookeeper("live", namespaces=(NamespaceStatus(TEMPLATE, "live", 0.0, 0, 2),)),
        ["2 znodes above the services cannot be listed: zkdns help operations"],
    ),
    "the primary is well": (of_primary("live"), []),
    "the primary is lost": (of_primary("unreachable", "10.0.0.53: refused"), ["10.0.0.53: refused"]),
    "the zone was not transferred": (of_primary("reading"), ["the primary has not been read yet"]),
    "upstreams are dead": (
        changed(
            upstreams=(
                upstream("10.0.0.1:53", is_dead=False),
                upstream("10.0.0.2:53", is_dead=True),
                upstream("10.0.0.3:53", "corp", is_dead=True),
            )
        ),
        [
            "the upstream 10.0.0.2:53 does not respond",
            "the upstream 10.0.0.3:53 for corp does not respond",
        ],
    ),
    "members are hidden or bad": (changed(table=TableStatus(1, 1, 5, 0, 5, DIGESTS)), []),
    "processes were replaced": (changed(restarts={"watcher": 1, "worker": 2}), []),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problems_are_found_in_the_state(case: str) -> None:
    state, expected = PROBLEMS[case]
    assert list(find_problems(state)) == expected


def test_the_screen_of_a_server_with_problems(short_path: Path) -> None:
    namespace = NamespaceStatus(TEMPLATE, "unreachable", 3.0, 12, 0, "00000000000000ff", "zk2:2181")
    state = changed(
        zookeeper=ZooKeeperStatus("zk1:2181,zk2:2181", "unreachable", 3.0, "it is away", (namespace,)),
        table=TableStatus(40, 1, 0, 12, 1, DIGESTS, 4321, STATUS.now - 90),
        upstreams=(upstream("10.0.0.1:53", is_dead=True),),
        restarts={"watcher": 0, "worker": 2},
    )
    names = tuple(f"s{number:02}.discovery" for number in range(12))
    responses = {
        "status": (200, state),
        "names": (200, Names(names)),
        "count": (200, MemberCount(1, 1, exists=True, ready=True)),
    }
    with FakeApi(str(short_path / "api"), dict(responses)).serving() as api:
        ended = run("status", "--server", api.socket)
        report = json.loads(run("status", "--server", api.socket, "--json").output)
    out_of_date = "unreachable, connected to zk2:2181, out of date for 3s, digest 00000000000000ff"
    held = [
        f"problem    {name} is also answered with 1 held member: it has left, which may be a failure of "
        f"ZooKeeper; if it was on purpose: zkdns accept {name}"
        for name in names[:10]
    ]
    assert (ended.status, ended.errors) == (1, "")
    assert ended.output.splitlines() == [
        f"ready, with problems: zkdns 1 at {api.socket}, up 1s",
        "problem    it is away",
        "problem    the upstream 10.0.0.1:53 does not respond",
        *held,
        "problem    2 more services are also answered with held members: zkdns help operations",
        "addresses  127.0.0.1:53",
        "source     ZooKeeper zk1:2181,zk2:2181",
        f"namespace  {TEMPLATE}: {out_of_date}",
        "table      40 services, members: 1 alive, 12 held, 1 bad, serial 4321, last change 1m 30s ago",
        "zone       discovery: 3 members, digest 0123456789abcdef",
        "upstream   10.0.0.1:53: down",
        "processes  1 worker, restarts: worker 2",
    ]
    assert len(report["problems"]) == 13
    assert report["held"] == dict.fromkeys(names[:10], 1)
    assert report["table"]["serial"] == 4321


def test_the_screen_of_a_secondary_and_of_a_server_that_starts(short_path: Path) -> None:
    with responding(short_path / "api", "status", of_primary("live")) as api:
        ended = run("status", "--server", api.socket)
        assert ended.status == 0
        assert ended.output.splitlines()[2:4] == [
            "source     primary 10.0.0.53",
            "transfer   discovery: live, from 10.0.0.53:53, serial 17",
        ]
        api.responses["status"] = (200, changed(ready=False, table=None, workers=(WorkerStatus(7, False),)))
        ended = run("status", "--server", api.socket)
    assert ended.status == 1
    assert ended.output.splitlines() == [
        f"not ready: zkdns 1 at {api.socket}, up 1s",
        "problem    1 of 1 worker has no table",
        "problem    the watcher has not reported yet",
        "addresses  127.0.0.1:53",
        "source     ZooKeeper zk:2181",
        "processes  1 worker, restarts: none",
    ]


def test_a_worker_that_stays_different_is_a_problem(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORKER_SECONDS", 0.0)
    other = (ZoneDigest("discovery", 3, "f" * 16),)
    state = changed(workers=(WorkerStatus(7, True, DIGESTS), WorkerStatus(8, True, other)))
    responses: dict[str, tuple[int, object]] = {
        "status": (200, state),
        "digests": (200, ServiceDigests(())),
    }
    with FakeApi(str(short_path / "api"), responses).serving() as api:
        ended = CliRunner().invoke(main, ["status", "--server", api.socket])
    assert ended.exit_code == 1
    assert "problem    worker 8 has another digest than the watcher\n" in ended.output


def test_a_worker_without_digests_is_no_problem(short_path: Path) -> None:
    """It has not counted its members yet."""
    state = changed(workers=(WorkerStatus(7, True),))
    with responding(short_path / "api", "status", state) as api:
        assert run("status", "--server", api.socket).status == 0
    assert api.requests == ["/api/status"]


def test_a_terminal_shows_the_same_lines(demo: ZkdnsServer) -> None:
    environment = {"ZKDNS_ADMIN_SOCKET": demo.api}
    with Terminal("status", environment=environment) as terminal:
        assert terminal.wait() == 0
        shown = terminal.screen
    assert shown.startswith("ready: zkdns ")
    assert "source     built-in example\n" in shown


def test_a_server_that_does_not_respond_is_an_error(short_path: Path) -> None:
    ended = run("status", "--server", str(short_path / "none"))
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith("zkdns: no server listens at ")


# -- a server of ZooKeeper ----------------------------------------------------------------------------------


def test_a_server_of_zookeeper_that_gets_problems(own_zookeeper: ZooKeeperServer) -> None:
    """Dead upstreams, a killed worker and a lost ZooKeeper appear one after another."""

    def read() -> tuple[int, dict[str, Any]]:
        ended = run("status", "--json", environment={"ZKDNS_ADMIN_SOCKET": server.api})
        return ended.status, json.loads(ended.output)

    def eventually_reads(condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        found: dict[str, Any] = eventually(lambda: (now := read()[1]) and (now if condition(now) else None))
        return found

    with client_of(own_zookeeper.address) as client:
        client.create("/discovery/staging/web/member_1", member("10.0.0.1"), makepath=True)
        address = f"127.0.0.1:{free_port()}"  # without a resolver, so that queries fail at once
        arguments = ("--zookeeper", own_zookeeper.address, "--upstream", address)
        with ZkdnsServer(*arguments) as server:
            server.wait_ready()
            found = eventually_reads(lambda now: now["table"]["digests"])
            assert read()[0] == 0
            assert found["problems"] == []
            [namespace] = found["zookeeper"]["namespaces"]
            assert (namespace["state"], namespace["server"]) == ("live", own_zookeeper.address)
            before = found["table"]

            client.create("/discovery/staging/web/member_2", member("10.0.0.2"))
            after = eventually_reads(lambda now: now["table"]["alive"] == 2)["table"]
            assert after["serial"] > before["serial"]
            assert after["changed"] >= before["changed"]

            os.kill(server.pid_of("worker"), signal.SIGKILL)
            found = eventually_reads(lambda now: now["restarts"]["worker"] and now["ready"])
            assert found["restarts"] == {"watcher": 0, "worker": 1}

            for number in range(5):
                server.query(f"www{number}.example", timeout=20.0)
            dead = f"the upstream {address} does not respond"
            eventually_reads(lambda now: dead in now["problems"])
            assert read()[0] == 1

            own_zookeeper.kill()
            found = eventually_reads(lambda now: now["zookeeper"]["state"] == "unreachable")
            assert any(text.startswith("ZooKeeper is unreachable") for text in found["problems"])
            assert found["zookeeper"]["namespaces"][0]["server"] == ""
            assert read()[0] == 1


def member(host: str) -> bytes:
    return json.dumps({"serviceEndpoint": {"host": host, "port": 80}, "status": "ALIVE"}).encode()
