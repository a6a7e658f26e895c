"""`zkdns explain` with servers of a real ZooKeeper: each verdict, and the state of the znodes."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import dns.rcode
import pytest
from kazoo.security import make_digest_acl

from tests.cli import Terminal, run
from tests.support.forked_command import Ended
from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer, returns_rcode
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of

pytestmark = pytest.mark.processes

HELD = "members_held"


def explain(server: ZkdnsServer, *arguments: str) -> Ended:
    return run("explain", *arguments, environment={"ZKDNS_ADMIN_SOCKET": server.api})


def explained(server: ZkdnsServer, name: str) -> dict[str, Any]:
    """The output of `--json`."""
    found: dict[str, Any] = json.loads(explain(server, name, "--json").output)
    return found


def by_member(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["member"].removeprefix("member_").lstrip("0") or "0": row for row in found["members"]}


def verdicts(found: dict[str, Any]) -> set[str]:
    return {row["verdict"] for row in found["members"]}


def explained_with_znodes(server: ZkdnsServer, name: str) -> dict[str, Any]:
    """The output of `--json` with the state of the znodes, which is left out if ZooKeeper is slow."""

    def complete() -> dict[str, Any] | None:
        found = explained(server, name)
        return found if found["members"][0]["session"] is not None else None

    return eventually(complete)


def data(host: str, status: str = "ALIVE", **more: Any) -> bytes:
    return json.dumps({"serviceEndpoint": {"host": host, "port": 80}, "status": status, **more}).encode()


@pytest.fixture
def judged(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> Iterator[ZkdnsServer]:
    """A server of a service with a member for each verdict that needs no disturbance."""
    path = f"{zk_root}/staging/web/member_"
    written = [
        data("10.0.0.1", additionalEndpoints={"admin\x1b[2J": {"host": "10.0.0.1", "port": 81}}),
        data("10.0.0.2", "STARTING"),
        data("10.0.0.3"),
        data("10.0.0.4"),
        data("10.0.0.1"),
        data("nowhere.example"),
        b"{",
        data("10.0.0.7").replace(b"80", b"0.5"),
    ]
    for at, member in enumerate(written):
        zk.create(path, member, ephemeral=at != 0, sequence=True, makepath=True)
    acl = make_digest_acl("other", "secret", all=True)
    denied = zk.create(path, data("10.0.0.8"), [acl], ephemeral=True, sequence=True)
    vector = {"vector": [{"select": f"member=member_000000000{at}", "weight": at - 2} for at in (2, 3)]}
    vector["vector"][1]["weight"] = -1
    zk.create(f"{zk_root}/staging/web/vector_0000000001", json.dumps(vector).encode())
    with (
        UpstreamServer(returns_rcode(dns.rcode.SERVFAIL)) as upstream,
        ZkdnsServer(
            *("--zookeeper", zookeeper.address, "--namespace", f"{zk_root}/{{environment}}/{{service}}"),
            environment={"ZKDNS_UPSTREAM": str(upstream.address)},
        ) as server,
    ):
        server.wait_ready()
        eventually(lambda: server.events("host_resolution_failed"))
        yield server
    zk.delete(denied)  # a recursive deletion of its parent could not list its children


def test_each_member_has_a_verdict_and_the_state_of_its_znode(
    judged: ZkdnsServer, zk: Any, zk_root: str
) -> None:
    before = time.time()
    found = explained_with_znodes(judged, "web.staging")
    rows = by_member(found)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "0": "duplicate",
        "1": "hidden",
        "2": "drained",
        "3": "dropped",
        "4": "answered",
        "5": "unresolved",
        "6": "bad",
        "7": "bad",
        "8": "unread",
    }
    assert (found["state"], found["origins"]) == ("live", [f"{zk_root}/staging/web"])
    assert found["heard_seconds"] < 60
    assert found["audited_seconds"] < 60
    sessions = {name: row["session"] for name, row in rows.items()}
    assert sessions.pop("8") is None
    assert sessions["0"]["owner"] == "0x0"
    assert {sessions[str(at)]["owner"] for at in range(1, 8)} == {hex(zk.client_id[0])}
    assert all(abs(session["created"] - before) < 60 for session in sessions.values())
    assert rows["0"]["why"].endswith("; its znode is persistent: it stays when its server is gone")
    assert "SERVFAIL" in rows["5"]["why"]
    assert rows["6"]["why"].startswith("json: its data is not JSON")
    assert rows["7"]["why"].startswith("port: serviceEndpoint has the port 0.5")
    assert {answer["type"]: answer["records"] for answer in found["answers"]}["A"] == len(
        judged.lookup("web.staging.discovery")
    )


def test_members_are_printed_as_a_table(judged: ZkdnsServer) -> None:
    explained_with_znodes(judged, "web.staging")  # the server caches this for 2 s
    ended = explain(judged, "web.staging")
    assert (ended.status, ended.errors) == (0, "")
    lines = ended.output.splitlines()
    assert lines[0] == "web.staging.discovery: it is the service web.staging"
    assert lines[1].startswith("answered now: A 1, AAAA 0, SRV ")
    head = next(line for line in lines if line.startswith("verdict"))
    rows = lines[lines.index(head) + 1 :]
    assert len(rows) == 9
    at = head.index("session")
    assert rows[0][at:].split()[0] == "persistent"
    assert "admin\\x1b[2J=10.0.0.1:81" in ended.output  # escaped: it would clear the terminal


def test_the_name_of_a_member_explains_that_member(judged: ZkdnsServer) -> None:
    ended = explain(judged, "m1.web.staging")
    assert ended.status == 1
    assert ended.output.startswith("m1.web.staging.discovery: web.staging is not answered with its member")
    assert "its status is STARTING" in ended.output
    assert len(by_member(explained(judged, "m4.web.staging"))) == 1


def test_verdicts_have_colours_in_a_terminal(demo: ZkdnsServer) -> None:
    with Terminal("explain", "web.staging", environment={"ZKDNS_ADMIN_SOCKET": demo.api}) as terminal:
        assert terminal.wait() == 0
        assert terminal.written.count("\x1b[32manswered") == 3
    assert "\x1b" not in explain(demo, "web.staging").output


def test_a_held_member_has_its_hold_time(own_zookeeper: ZooKeeperServer) -> None:
    with client_of(own_zookeeper.address) as client:
        paths = [
            client.create(f"/discovery/staging/{service}/member_", data(host), sequence=True, makepath=True)
            for service, host in (("db", "10.0.1.1"), *(("web", f"10.0.0.{at}") for at in range(1, 7)))
        ]
        with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
            server.wait_ready()
            transaction = client.transaction()
            for path in paths:
                transaction.delete(path)
            transaction.commit()
            eventually(lambda: len(server.events(HELD)) == 2)
            eventually(lambda: len(server.lookup("web.staging.discovery")) == 6)
            found = eventually(
                lambda: found if verdicts(found := explained(server, "web.staging")) == {"held"} else None
            )
            assert len(found["members"]) == 6
            for row in found["members"]:
                assert row["session"] is None
                assert row["held_until"] - row["held_since"] == pytest.approx(600)
                assert abs(row["held_since"] - time.time()) < 30
                assert row["why"].startswith("it has left, which may be a failure of ZooKeeper (")
                assert row["why"].endswith("; if it was stopped on purpose: zkdns accept web.staging")
            shown = explain(server, "web.staging").output
            assert re.search("held for .*, at most (10m|9m [0-9]+s) more: it has left, ", shown)


def test_without_zookeeper_only_the_state_of_znodes_is_missing(
    own_zookeeper: ZooKeeperServer,
) -> None:
    with client_of(own_zookeeper.address) as client:
        client.create("/discovery/staging/web/member_", data("10.0.0.1"), sequence=True, makepath=True)
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        server.wait_ready()
        assert explained_with_znodes(server, "web.staging")["members"][0]["session"]["owner"] == "0x0"
        own_zookeeper.pause()  # it stays connected, but does not respond
        # The server caches the state of the znodes for 2 s.
        eventually(lambda: explained(server, "web.staging")["members"][0]["session"] is None, 20.0)
        assert explained(server, "web.staging")["members"][0]["verdict"] == "answered"
        own_zookeeper.kill()
        eventually(lambda: explained(server, "web.staging")["state"] == "unreachable", 20)
        ended = explain(server, "web.staging")
        assert ended.status == 0
        assert "zookeeper: unreachable for " in ended.output


def test_other_children_are_explained_with_their_format(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    path = f"{zk_root}/staging/web"
    for name in ("Member_", "Member_", "Member_", "Member_"):
        zk.create(f"{path}/{name}", data("10.0.0.1"), sequence=True, makepath=True)
    zk.create(f"{zk_root}/staging/api/member_1", data("10.0.0.2"), makepath=True)
    zk.create(f"{zk_root}/staging/api/leader\u202e", b"\xff")
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    with ZkdnsServer("--zookeeper", zookeeper.address, "--namespace", namespace) as server:
        server.wait_ready()
        wanted = (
            f"4 children of {path} without the prefix member_ are passed over: "
            "Member_0000000000, Member_0000000001, Member_0000000002 and 1 more "
            "(format: server set with member_prefix = 'Member_')"
        )
        eventually(lambda: wanted in explain(server, "web.staging").output.splitlines())
        assert wanted in explained(server, path)["notes"]
        assert (
            f"1 child of {zk_root}/staging/api without the prefix member_ is passed over: leader\\u202e"
            in explain(server, "m1.api.staging").output.splitlines()
        )
        zk.delete(path, recursive=True)
        zk.create(path)
        eventually(lambda: "passed over" not in explain(server, "web.staging").output)


def test_an_unknown_name_is_explained_with_similar_names(judged: ZkdnsServer) -> None:
    ended = explain(judged, "web.stagin")
    assert (ended.status, ended.errors) == (1, "")
    assert ended.output.splitlines()[:3] == [
        "web.stagin.discovery: there is no service web.stagin",
        "answered now: A NXDOMAIN, AAAA NXDOMAIN, SRV NXDOMAIN",
        "similar names: web.staging",
    ]


def test_an_offline_snapshot_is_reported_as_old(own_zookeeper: ZooKeeperServer, tmp_path: Any) -> None:
    with client_of(own_zookeeper.address) as client:
        client.create("/discovery/staging/web/member_", data("10.0.0.1"), sequence=True, makepath=True)
    snapshot = ("--snapshot", str(tmp_path / "table"))
    with ZkdnsServer("--zookeeper", own_zookeeper.address, *snapshot) as server:
        server.wait_ready()
        assert server.terminate() == 0
    with ZkdnsServer("--offline", *snapshot) as server:
        server.wait_ready()
        ended = explain(server, "web.staging")
        assert ended.status == 0
        assert "\nthe source is unreachable: this is the last table that was read\n" in ended.output
        assert explained(server, "web.staging")["members"][0]["session"] is None


def test_usage_errors_and_missing_servers_have_exit_statuses(tmp_path: Any, demo: ZkdnsServer) -> None:
    invalid = explain(demo, "a..b")
    assert (invalid.status, invalid.output) == (2, "")
    assert invalid.errors == "zkdns: 'a..b' is not a domain name: it has an empty label\n"
    ended = run("explain", "web", "--server", str(tmp_path / "api"))
    assert (ended.status, ended.output) == (3, "")


def test_the_sockets_between_processes_are_private(short_path: Any) -> None:
    """Commands do not use the watcher's socket for requests, which exists without a configured one too."""
    environment = {"ZKDNS_ADMIN_SOCKET": "none", "TMPDIR": str(short_path)}
    with ZkdnsServer("--demo", environment=environment) as server:
        server.wait_ready()
        (requests,) = eventually(lambda: list(short_path.glob("*/*.requests")))
        assert requests.stat().st_mode & 0o777 == 0o600
        assert run("explain", "web.staging", "--server", server.admin).status == 0
        assert server.terminate() == 0
        assert list(short_path.glob("*/*.requests")) == []
