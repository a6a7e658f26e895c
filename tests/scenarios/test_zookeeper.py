"""Members in a real ZooKeeper, in the format of go.serversets, and responses of a real server."""

import json
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import dns.edns
import dns.flags
import dns.message
import pytest
from kazoo.client import KazooClient

from tests.cli import run
from tests.serverset.sync_helpers import join
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble, ZooKeeperServer, expire_session

pytestmark = pytest.mark.processes

SET = "/discovery/staging/web"
NAME = "web.staging.discovery"


def register(client: Any, host: str, port: int = 8080, *, path: str = SET, ephemeral: bool = True) -> str:
    """Register a member in exactly the format of go.serversets; return the path of its znode."""
    data = (
        f'{{"serviceEndpoint":{{"host":"{host}","port":{port}}},"additionalEndpoints":{{}},"status":"ALIVE"}}'
    ).encode()
    created: str = client.create(f"{path}/member_", data, ephemeral=ephemeral, sequence=True, makepath=True)
    return created


def has_addresses(server: ZkdnsServer, addresses: set[str]) -> bool:
    """Whether the response has exactly these addresses."""
    return server.lookup(NAME) == addresses


@pytest.fixture
def chrooted(zookeeper: ZooKeeperServer, zk_root: str) -> Iterator[tuple[str, Any]]:
    """A chroot on the shared ZooKeeper: the connection string, and a client in the chroot."""
    outside = KazooClient(hosts=zookeeper.address)
    outside.start()
    outside.create(zk_root)
    outside.stop()
    outside.close()
    hosts = f"{zookeeper.address}{zk_root}"
    client = KazooClient(hosts=hosts)
    client.start()
    yield hosts, client
    client.stop()
    client.close()


def test_members_appear_and_disappear_with_their_znodes(chrooted: tuple[str, Any]) -> None:
    """How long a change takes is measured by the benchmark `table`."""
    hosts, client = chrooted
    client.ensure_path(SET)
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        for number in range(1, 12):
            path = register(client, f"10.0.0.{number}")
            eventually(partial(has_addresses, server, {f"10.0.0.{number}"}))
            client.delete(path)
            eventually(lambda: not server.lookup(NAME))


def test_all_names_of_a_member_are_answered(chrooted: tuple[str, Any]) -> None:
    hosts, client = chrooted
    member = {
        "serviceEndpoint": {"host": "10.0.0.1", "port": 8080},
        "additionalEndpoints": {"admin": {"host": "10.0.0.1", "port": 9990}},
        "status": "ALIVE",
        "shard": 3,
    }
    client.ensure_path(SET)
    client.create(f"{SET}/member_", b"not JSON", sequence=True)
    path = client.create(f"{SET}/member_", json.dumps(member).encode(), ephemeral=True, sequence=True)
    label = f"m{int(path[-10:])}"
    own = f"{label}.{NAME}"
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        assert server.lookup(NAME) == {"10.0.0.1"}
        assert server.lookup(NAME, "SRV") == {f"0 100 8080 {own}."}
        assert server.lookup(f"_admin._tcp.{NAME}", "SRV") == {f"0 100 9990 {own}."}
        assert server.lookup("_web._tcp.staging.discovery", "SRV") == {f"0 100 8080 {own}."}
        assert (
            server.lookup(own)
            == server.lookup(f"{path[-17:]}.{NAME}")
            == server.lookup(f"s3.{NAME}")
            == {"10.0.0.1"}
        )
        assert server.lookup(NAME, "TXT") == {
            f'"member={path[-17:]}" "status=ALIVE" "shard=3" "endpoint.admin=10.0.0.1:9990" "znode={path}"'
        }
        assert server.lookup(NAME, "AAAA") == set()
        assert [server.rcode(name) for name in ("staging.discovery", f"_tcp.{NAME}")] == ["NOERROR"] * 2
        assert [server.rcode(name) for name in (f"x.{NAME}", "no.staging.discovery")] == ["NXDOMAIN"] * 2
        assert server.rcode("example.com") == "REFUSED"
        assert [entry["reason"] for entry in server.events("member_skipped")] == ["json"]


def test_dig_gets_a_truncated_response_over_tcp(chrooted: tuple[str, Any]) -> None:
    hosts, client = chrooted
    for number in range(1, 51):
        register(client, f"10.0.1.{number}")
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        command = ["dig", "@127.0.0.1", "-p", str(server.port), "+short", "+tries=1", NAME, "SRV"]
        # Truncated over UDP, so that dig retries over TCP.
        assert server.query(NAME, "SRV").flags & dns.flags.TC
        printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        assert set(printed.splitlines()) == server.lookup(NAME, "SRV", tcp=True)
        assert len(printed.splitlines()) == 50


def is_stale(response: dns.message.Message) -> bool:
    """Whether the response has Extended DNS Error 3 (stale answer)."""
    codes = [option.code for option in response.options if isinstance(option, dns.edns.EDEOption)]
    return dns.edns.EDECode.STALE_ANSWER in codes


def test_members_stay_during_an_outage_and_changes_resume_after_it(own_zookeeper: ZooKeeperServer) -> None:
    client = KazooClient(hosts=own_zookeeper.address)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        server.wait_ready()
        assert server.lookup(NAME) == {"10.0.0.1"}
        own_zookeeper.kill()
        eventually(lambda: server.events("zookeeper_disconnected"))
        eventually(lambda: is_stale(server.query(NAME, use_edns=0)))
        assert server.lookup(NAME) == {"10.0.0.1"}
        own_zookeeper.start()
        client.stop()
        client.start()
        path = register(client, "10.0.0.2")
        eventually(lambda: server.lookup(NAME) == {"10.0.0.1", "10.0.0.2"}, timeout=30)
        client.delete(path)
        eventually(lambda: server.lookup(NAME) == {"10.0.0.1"})
        assert not server.query(NAME, use_edns=0).options
        assert not server.ended
    client.stop()
    client.close()


def test_expired_session_removes_its_members(zookeeper: ZooKeeperServer, chrooted: tuple[str, Any]) -> None:
    hosts, client = chrooted
    expiring = KazooClient(hosts=hosts)
    expiring.start()
    register(client, "10.0.0.1")
    register(expiring, "10.0.0.2")
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        assert server.lookup(NAME) == {"10.0.0.1", "10.0.0.2"}
        expire_session(expiring)
        eventually(lambda: server.lookup(NAME) == {"10.0.0.1"})
    expiring.stop()
    expiring.close()
    eventually(zookeeper.is_serving)


@pytest.mark.parametrize("is_chroot", [True, False])
def test_a_missing_chroot_or_root_is_named_and_waited_for(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, is_chroot: bool
) -> None:
    hosts = zookeeper.address
    if is_chroot:
        options = ["--zookeeper", f"{hosts}{zk_root}"]
        path, cause = f"{zk_root}/discovery", f"the chroot {zk_root} does not exist on {hosts}"
        event, missing = "zookeeper_chroot_missing", f"zkdns: cannot list /discovery: {cause}"
    else:
        options = ["--zookeeper", hosts, "--namespace", f"{zk_root}/{{environment}}/{{service}}"]
        path, cause = zk_root, f"the znode {zk_root} does not exist"
        event, missing = "znode_missing", f"zkdns: there is no znode {zk_root} in ZooKeeper at {hosts}"
    with ZkdnsServer(*options) as server:
        server.wait_ready()
        eventually(lambda: server.events(event))
        explain = run("explain", NAME, "--server", server.api)
        assert f"problem: {cause}" in explain.output
        wait = run("wait", NAME, "--timeout", "200ms", "--server", server.api)
        assert (wait.status, f"there is no such service ({cause})" in wait.errors) == (1, True)
        outdated = f"the list may be out of date: {cause}"
        eventually(lambda: outdated in run("services", "--server", server.api).errors)
        services = run("services", "--direct", *options)
        assert (services.status, services.errors.strip()) == (5 if is_chroot else 1, missing)
        join(zk, f"{path}/staging/web", "10.0.0.1")
        eventually(lambda: server.lookup(NAME) == {"10.0.0.1"})
        assert len(server.events(event)) == 1
        assert "problem:" not in run("explain", NAME, "--server", server.api).output


@pytest.mark.parametrize("does_connect", [True, False])
def test_the_cause_of_an_unreachable_zookeeper_is_named(does_connect: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1] if does_connect else free_port()}"
        reason = "it accepts connections, but sends nothing" if does_connect else "connection refused"
        with ZkdnsServer("--zookeeper", hosts) as server:
            eventually(lambda: server.events("zookeeper_unreachable"))
            problem = f"ZooKeeper is unreachable: {reason}"
            explain = run("explain", NAME, "--server", server.api)
            assert f"problem: {problem}" in explain.output
            wait = run("wait", NAME, "--timeout", "200ms", "--server", server.api)
            assert (wait.status, f"the server has not read its table yet ({problem}" in wait.errors) == (
                1,
                True,
            )


def test_server_started_before_zookeeper_waits_for_it(own_zookeeper: ZooKeeperServer) -> None:
    client = KazooClient(hosts=own_zookeeper.address)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    client.stop()
    client.close()
    own_zookeeper.kill()
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        response = server.query(NAME, use_edns=0, timeout=30.0)  # zkdns may still be starting
        assert server.rcode(NAME) == "SERVFAIL"
        assert [option.code for option in response.options if isinstance(option, dns.edns.EDEOption)] == [
            dns.edns.EDECode.NOT_READY
        ]
        own_zookeeper.start()
        server.wait_ready(30)
        assert server.lookup(NAME) == {"10.0.0.1"}


def test_snapshot_is_served_at_a_start_without_zookeeper(
    own_zookeeper: ZooKeeperServer, tmp_path: Any
) -> None:
    client = KazooClient(hosts=own_zookeeper.address)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    register(client, "10.0.0.2", path="/discovery/staging/old", ephemeral=False)
    (tmp_path / "zkdns.toml").write_text("guard.seconds = 0\n")
    files = ("--snapshot", str(tmp_path / "table"), "--config", str(tmp_path / "zkdns.toml"))
    arguments = ("--zookeeper", own_zookeeper.address, *files)
    with ZkdnsServer(*arguments) as server:
        server.wait_ready()
        assert server.terminate() == 0
    client.delete("/discovery/staging/old", recursive=True)
    client.stop()
    client.close()
    own_zookeeper.kill()
    with ZkdnsServer(*arguments) as server:
        server.wait_ready()
        assert server.lookup(NAME) == {"10.0.0.1"}
        assert server.lookup("old.staging.discovery") == {"10.0.0.2"}
        assert server.query(NAME, use_edns=0).options  # marked as stale
        own_zookeeper.start()
        eventually(lambda: server.rcode("old.staging.discovery") == "NXDOMAIN", timeout=30)
        assert server.lookup(NAME) == {"10.0.0.1"}
        eventually(lambda: not server.query(NAME, use_edns=0).options)


def test_changes_continue_without_one_server_of_an_ensemble(ensemble: Ensemble) -> None:
    client = KazooClient(hosts=ensemble.hosts)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    with ZkdnsServer("--zookeeper", ensemble.hosts) as server:
        server.wait_ready()
        for number, member in enumerate(ensemble.members, 2):
            member.kill()
            before = server.lookup(NAME)
            assert len(before) == number - 1
            added = f"10.0.0.{number}"
            eventually(partial(client.retry, register, client, added, ephemeral=False), timeout=30)
            eventually(partial(has_addresses, server, before | {added}), timeout=30)
            ensemble.start()
    client.stop()
    client.close()
