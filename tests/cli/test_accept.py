"""`zkdns accept` with running servers, and without one."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.cli import completions, run
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.admin.client import ApiClient, ServerAddress

pytestmark = pytest.mark.processes

HELD = "members_held"


@pytest.fixture
def holding(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> Iterator[tuple[ZkdnsServer, list[str]]]:
    """A server of two services with six and one held members, and the paths of the six."""
    zk.ensure_path(zk_root)
    hosts = zookeeper.address + zk_root
    client: Any = KazooClient(hosts=hosts)
    client.start()
    paths = []
    for service, count in (("web", 6), ("db", 1)):
        for number in range(1, count + 1):
            data = f'{{"serviceEndpoint":{{"host":"10.0.0.{number}","port":80}},"status":"ALIVE"}}'
            path = f"/discovery/staging/{service}/member_"
            paths.append(client.create(path, data.encode(), sequence=True, makepath=True))
    client.ensure_path("/discovery/staging/empty")
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        transaction = client.transaction()
        for path in paths:
            transaction.delete(path)
        transaction.commit()
        eventually(lambda: len(server.events(HELD)) == 2)
        # The first removals may take effect before the number looks like a failure; these members return.
        eventually(lambda: held_by(server) == len(paths))
        eventually(lambda: len(server.lookup("web.staging.discovery")) == 6)
        yield server, paths[:6]
    client.stop()
    client.close()


def held_by(server: ZkdnsServer) -> int:
    """Return the number of held members."""
    table = ApiClient(ServerAddress(path=server.api)).stats().table
    return table.held if table is not None else 0


def accept(server: ZkdnsServer, *arguments: str) -> Ended:
    return run("accept", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


@pytest.mark.parametrize(
    "name", ["web.staging", "WEB.staging.discovery.", "web.staging.discovery", "/discovery/staging/web"]
)
def test_the_held_members_of_a_service_are_dropped_and_listed(
    holding: tuple[ZkdnsServer, list[str]], name: str
) -> None:
    server, paths = holding
    ended = accept(server, name)
    lines = [
        f"web.staging\t{path.rpartition('/')[2]}\t10.0.0.{number}:80" for number, path in enumerate(paths, 1)
    ]
    assert (ended.status, ended.errors, ended.output.splitlines()) == (0, "", lines)
    assert not server.lookup("web.staging.discovery")
    assert server.lookup("db.staging.discovery") == {"10.0.0.1"}
    again = accept(server, name)
    assert (again.status, again.output) == (1, "")
    assert again.errors == f"zkdns: no members of {name} are held\n"


def test_all_held_members_are_dropped_and_printed_as_json(holding: tuple[ZkdnsServer, list[str]]) -> None:
    server, _ = holding
    ended = accept(server, "--all", "--json")
    rows = [json.loads(line) for line in ended.output.splitlines()]
    assert [row["service"] for row in rows] == ["db.staging"] + ["web.staging"] * 6
    assert {key: value for key, value in rows[0].items() if key != "held_seconds"} == {
        "service": "db.staging",
        "znode": "/discovery/staging/db/member_0000000000",
        "endpoint": "10.0.0.1:80",
    }
    assert rows[0]["held_seconds"] >= 0
    assert not server.lookup("db.staging.discovery")
    assert accept(server, "--all").errors == "zkdns: no members are held\n"


@pytest.mark.parametrize("command", ["services", "history"])
def test_other_commands_say_how_to_drop_held_members(
    holding: tuple[ZkdnsServer, list[str]], command: str
) -> None:
    server, paths = holding
    environment = {"ZKDNS_ADMIN_SOCKET": server.api}
    one, all_of_web = run(command, environment=environment).errors.splitlines()
    assert one.startswith("zkdns: db.staging is also answered with 1 held member: it has left, ")
    assert one.endswith("; if it was on purpose: zkdns accept db.staging")
    assert all_of_web.startswith(f"zkdns: web.staging is also answered with {len(paths)} held members: ")
    accept(server, "--all")
    assert run(command, environment=environment).errors == ""


def test_the_status_names_the_services_with_held_members(holding: tuple[ZkdnsServer, list[str]]) -> None:
    server, paths = holding
    environment = {"ZKDNS_ADMIN_SOCKET": server.api}
    ended = run("status", "--json", environment=environment)
    assert ended.status == 1
    held = {"db.staging.discovery": 1, "web.staging.discovery": len(paths)}
    assert json.loads(ended.output)["held"] == held
    accept(server, "--all")
    eventually(lambda: run("status", environment=environment).status == 0)


def test_a_service_without_held_members_is_an_error(holding: tuple[ZkdnsServer, list[str]]) -> None:
    server, _ = holding
    assert accept(server, "empty.staging")[::2] == (1, "zkdns: no members of empty.staging are held\n")
    assert accept(server, "no.staging")[::2] == (1, "zkdns: there is no service no.staging\n")
    invalid = accept(server, "a..b")
    assert (invalid.status, invalid.output) == (2, "")
    assert "'a..b' is not a domain name" in invalid.errors


def test_services_with_held_members_are_completed(holding: tuple[ZkdnsServer, list[str]]) -> None:
    server, _ = holding
    environment = {"ZKDNS_ADMIN_SOCKET": server.api}
    held = ["plain,db.staging.discovery", "plain,web.staging.discovery"]
    # There are no completions if the server is too slow, for example while other tests run.
    eventually(lambda: completions("zkdns accept ", environment) == held)
    services = [held[0], "plain,empty.staging.discovery", held[1]]
    eventually(lambda: completions("zkdns lookup ", environment) == services)
    assert accept(server, "web.staging.discovery").status == 0
    eventually(lambda: completions("zkdns accept ", environment) == held[:1])


def test_a_server_without_zookeeper_has_no_held_members() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        server.wait_api()
        assert accept(server, "web.staging")[::2] == (1, "zkdns: no members of web.staging are held\n")
        assert server.terminate() == 0
        assert not Path(server.api).exists()


def test_a_server_responds_again_after_its_watcher_was_killed() -> None:
    with ZkdnsServer("--demo") as server:
        pid = server.wait_ready().pid_of("watcher")
        server.wait_api()
        os.kill(pid, 9)
        eventually(lambda: server.pid_of("watcher") != pid)
        eventually(lambda: accept(server, "--all").status == 1, 20.0)


@pytest.mark.parametrize("arguments", [(), ("web.staging", "--all")])
def test_either_a_service_or_all_is_required(arguments: tuple[str, ...]) -> None:
    ended = run("accept", *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.errors == "zkdns: write one SERVICE, or --all for all services\n"


def test_without_a_server_the_exit_status_is_3(short_path: Path) -> None:
    control = str(short_path / "api")
    ended = run("accept", "--all", "--server", control)
    assert (ended.status, ended.output) == (3, "")
    assert ended.errors.startswith(
        f"zkdns: no server listens at {control} (no such file or directory); start one"
    )
    ended = run("accept", "--all", environment={"ZKDNS_ADMIN": "none"})
    assert (ended.status, ended.errors) == (
        2,
        "zkdns: no address of a server is configured; name the server with --server URL\n",
    )
