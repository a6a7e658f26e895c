"""The whole way: members registered in ZooKeeper as go.serversets does it, answers over real sockets."""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dns.edns
import dns.flags
import dns.message
import pytest
from kazoo.client import KazooClient

from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import Ensemble, ZooKeeperServer, expire_session

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

SET = "/discovery/staging/web"
NAME = "web.staging.discovery"


def register(client: Any, host: str, port: int = 8080, *, path: str = SET, ephemeral: bool = True) -> str:
    """Register a member byte for byte as go.serversets writes it; its znode's path."""
    data = (
        f'{{"serviceEndpoint":{{"host":"{host}","port":{port}}},"additionalEndpoints":{{}},"status":"ALIVE"}}'
    ).encode()
    made: str = client.create(f"{path}/member_", data, ephemeral=ephemeral, sequence=True, makepath=True)
    return made


def holds(server: ZkdnsServer, addresses: set[str]) -> bool:
    """Whether the answer is exactly these addresses."""
    return server.ask(NAME) == addresses


@pytest.fixture
def chrooted(zookeeper: ZooKeeperServer, zk_root: str) -> Iterator[tuple[str, Any]]:
    """A chroot of the test's own on the shared ZooKeeper: the connect string, and a client inside of it."""
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


def test_a_member_is_answered_with_in_under_100_ms_and_gone_as_quickly(chrooted: tuple[str, Any]) -> None:
    hosts, client = chrooted
    client.ensure_path(SET)
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        appeared, vanished = [], []
        for number in range(1, 12):
            begun = time.monotonic()
            path = register(client, f"10.0.0.{number}")
            eventually(partial(holds, server, {f"10.0.0.{number}"}), interval=0.001)
            appeared.append(time.monotonic() - begun)
            begun = time.monotonic()
            client.delete(path)
            eventually(lambda: not server.ask(NAME), interval=0.001)
            vanished.append(time.monotonic() - begun)
        assert statistics.median(appeared) < 0.1
        assert statistics.median(vanished) < 0.1


def test_every_form_of_a_name_is_answered(chrooted: tuple[str, Any]) -> None:
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
        assert server.ask(NAME) == {"10.0.0.1"}
        assert server.ask(NAME, "SRV") == {f"0 100 8080 {own}."}
        assert server.ask(f"_admin._tcp.{NAME}", "SRV") == {f"0 100 9990 {own}."}
        assert server.ask("_web._tcp.staging.discovery", "SRV") == {f"0 100 8080 {own}."}
        assert (
            server.ask(own) == server.ask(f"{path[-17:]}.{NAME}") == server.ask(f"s3.{NAME}") == {"10.0.0.1"}
        )
        assert server.ask(NAME, "TXT") == {f'"member={path[-17:]}" "status=ALIVE" "shard=3" "znode={path}"'}
        assert server.ask(NAME, "AAAA") == set()
        assert [server.rcode(name) for name in ("staging.discovery", f"_tcp.{NAME}")] == ["NOERROR"] * 2
        assert [server.rcode(name) for name in (f"x.{NAME}", "no.staging.discovery")] == ["NXDOMAIN"] * 2
        assert server.rcode("example.com") == "REFUSED"
        assert [entry["reason"] for entry in server.events("member_skipped")] == ["json"]


def test_dig_sees_what_dnspython_sees(chrooted: tuple[str, Any]) -> None:
    hosts, client = chrooted
    for number in range(1, 51):
        register(client, f"10.0.1.{number}")
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        command = ["dig", "@127.0.0.1", "-p", str(server.port), "+short", "+tries=1", NAME, "SRV"]
        # Truncated over UDP, so that dig asks again over TCP.
        assert server.query(NAME, "SRV").flags & dns.flags.TC
        printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        assert set(printed.splitlines()) == server.ask(NAME, "SRV", tcp=True)
        assert len(printed.splitlines()) == 50


def is_stale(response: dns.message.Message) -> bool:
    """Whether the answer says that it is one of old."""
    codes = [option.code for option in response.options if isinstance(option, dns.edns.EDEOption)]
    return dns.edns.EDECode.STALE_ANSWER in codes


def test_answers_outlive_zookeeper_and_changes_flow_again_after_it(own_zookeeper: ZooKeeperServer) -> None:
    client = KazooClient(hosts=own_zookeeper.address)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        server.wait_ready()
        assert server.ask(NAME) == {"10.0.0.1"}
        own_zookeeper.kill()
        eventually(lambda: server.events("zookeeper_disconnected"))
        eventually(lambda: is_stale(server.query(NAME, use_edns=0)))
        assert server.ask(NAME) == {"10.0.0.1"}
        own_zookeeper.start()
        client.stop()
        client.start()
        path = register(client, "10.0.0.2")
        eventually(lambda: server.ask(NAME) == {"10.0.0.1", "10.0.0.2"}, timeout=30)
        client.delete(path)
        eventually(lambda: server.ask(NAME) == {"10.0.0.1"})
        assert not server.query(NAME, use_edns=0).options
        assert not server.ended
    client.stop()
    client.close()


def test_members_go_with_their_session(zookeeper: ZooKeeperServer, chrooted: tuple[str, Any]) -> None:
    hosts, client = chrooted
    mortal = KazooClient(hosts=hosts)
    mortal.start()
    register(client, "10.0.0.1")
    register(mortal, "10.0.0.2")
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        assert server.ask(NAME) == {"10.0.0.1", "10.0.0.2"}
        expire_session(mortal)
        eventually(lambda: server.ask(NAME) == {"10.0.0.1"})
    mortal.stop()
    mortal.close()
    eventually(zookeeper.is_serving)


def test_a_server_started_before_zookeeper_waits_for_it(own_zookeeper: ZooKeeperServer) -> None:
    client = KazooClient(hosts=own_zookeeper.address)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    client.stop()
    client.close()
    own_zookeeper.kill()
    with ZkdnsServer("--zookeeper", own_zookeeper.address) as server:
        response = server.query(NAME, use_edns=0, timeout=30.0)  # it may have just begun to start
        assert server.rcode(NAME) == "SERVFAIL"
        assert [option.code for option in response.options if isinstance(option, dns.edns.EDEOption)] == [
            dns.edns.EDECode.NOT_READY
        ]
        own_zookeeper.start()
        server.wait_ready(30)
        assert server.ask(NAME) == {"10.0.0.1"}


def test_a_snapshot_answers_at_a_start_without_zookeeper(
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
        assert server.ask(NAME) == {"10.0.0.1"}
        assert server.ask("old.staging.discovery") == {"10.0.0.2"}
        assert server.query(NAME, use_edns=0).options  # stale, as EDE tells
        own_zookeeper.start()
        eventually(lambda: server.rcode("old.staging.discovery") == "NXDOMAIN", timeout=30)
        assert server.ask(NAME) == {"10.0.0.1"}
        eventually(lambda: not server.query(NAME, use_edns=0).options)


def test_an_ensemble_may_lose_any_one_of_its_servers(ensemble: Ensemble) -> None:
    client = KazooClient(hosts=ensemble.hosts)
    client.start()
    register(client, "10.0.0.1", ephemeral=False)
    with ZkdnsServer("--zookeeper", ensemble.hosts) as server:
        server.wait_ready()
        for number, member in enumerate(ensemble.members, 2):
            member.kill()
            before = server.ask(NAME)
            assert len(before) == number - 1
            added = f"10.0.0.{number}"
            eventually(partial(client.retry, register, client, added, ephemeral=False), timeout=30)
            eventually(partial(holds, server, before | {added}), timeout=30)
            ensemble.start()
    client.stop()
    client.close()
