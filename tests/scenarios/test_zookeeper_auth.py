"""Access to ZooKeeper with credentials."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_acl, make_digest_acl

from tests.admin.helpers import ask
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.address import parse_host_port

pytestmark = [pytest.mark.zookeeper, pytest.mark.processes]

MEMBER = b'{"serviceEndpoint":{"host":"10.0.0.1","port":8080},"additionalEndpoints":{},"status":"ALIVE"}'


@pytest.fixture
def protected_root(zk_root: str, zk: KazooClient) -> Iterator[str]:
    """A tree that only one digest identity may read."""
    acl = [make_digest_acl("zkdns", "sesame", all=True), make_acl("world", "anyone", delete=True, admin=True)]
    paths = [zk_root + below for below in ("", "/test", "/test/web", "/test/web/member_0000000001")]
    zk.create(paths[-1], MEMBER, makepath=True)
    for path in reversed(paths):
        zk.set_acls(path, acl)
    yield zk_root
    for path in paths:
        zk.set_acls(path, OPEN_ACL_UNSAFE)


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "zookeeper.toml"
    file.touch(0o600)
    file.write_text('digest = "zkdns:sesame"')
    return file


def test_server_reads_a_protected_tree_with_credentials(
    protected_root: str, credentials: Path, zookeeper: ZooKeeperServer
) -> None:
    arguments = (
        "--zookeeper", zookeeper.address, "--namespace", f"{protected_root}/{{environment}}/{{service}}",
        "--zookeeper-credentials", str(credentials),
    )  # fmt: skip
    with ZkdnsServer(*arguments) as server:
        server.wait_ready()
        (answer,) = server.query("web.test.discovery").answer
        assert [record.to_text() for record in answer] == ["10.0.0.1"]
        assert "sesame" not in server.log
        pid = server.pid_of("worker")
        assert b"sesame" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_command_uses_the_same_credentials(
    protected_root: str, credentials: Path, zookeeper: ZooKeeperServer
) -> None:
    command = [
        sys.executable, "-m", "zkdns", "services", "--direct",
        "--zookeeper", zookeeper.address, "--namespace", f"{protected_root}/{{environment}}/{{service}}",
    ]  # fmt: skip
    environment = {**os.environ, "ZKDNS_ZOOKEEPER_CREDENTIALS": str(credentials)}
    authenticated = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (authenticated.returncode, authenticated.stdout) == (0, "test\tweb\t1\n")
    anonymous = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "ACL" in anonymous.stderr


def test_all_errors_in_the_credentials_are_reported_at_the_start(credentials: Path) -> None:
    credentials.write_text('digest = "sesame"\n[sasl]\nmechanism = "none"')
    command = [
        sys.executable,
        "-m",
        "zkdns",
        "serve",
        "--zookeeper-credentials",
        str(credentials),
        "--ttl",
        "x",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("zkdns: --ttl: is 'x'; ")
    assert f"zkdns: {credentials}: digest: is not a digest; " in ended.stderr
    assert f"zkdns: {credentials}: sasl.mechanism: is 'none'; " in ended.stderr
    assert "sesame" not in ended.stderr


def test_znodes_that_cannot_be_read_are_listed_with_their_reasons(
    zk_root: str, zk: KazooClient, zookeeper: ZooKeeperServer
) -> None:
    """A directory, a service and a member, until they can be read."""
    open_member = f"{zk_root}/test/web/member_0000000001"
    denied = [f"{zk_root}/test/web/member_0000000002", f"{zk_root}/prod/api", f"{zk_root}/secret"]
    for path in (open_member, *denied):
        zk.create(path, MEMBER, makepath=True)
    for path in denied:
        zk.set_acls(path, [make_acl("world", "anyone", delete=True, admin=True)])
    namespace = f"{zk_root}/{{environment}}/{{service}}"
    with ZkdnsServer("--zookeeper", zookeeper.address, "--namespace", namespace) as server:

        def unread() -> dict[str, str]:
            listing = ask(parse_host_port(server.admin.removeprefix("http://")), "/api/services").json
            assert listing["unread_count"] == len(listing["unread"])
            return {one["path"]: one["reason"] for one in listing["unread"]}

        server.wait_ready()
        eventually(lambda: unread() == dict.fromkeys(denied, "access denied"))
        for path in denied:
            zk.set_acls(path, OPEN_ACL_UNSAFE)
        eventually(lambda: unread() == {}, 60.0)
