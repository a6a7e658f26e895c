"""A server with several namespaces of one ZooKeeper, each with its own zone."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from kazoo.client import KazooClient

from tests.cli import run
from tests.serverset.sync_helpers import join
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

CONFIG = """
zookeeper.hosts = "{hosts}"
[[namespace]]
path = "/discovery/{{environment}}/{{service}}"
[[namespace]]
path = "/aurora/{{role}}/{{environment}}/{{job}}"
zone = "aurora"
"""


@pytest.fixture
def config(zookeeper: ZooKeeperServer, zk: Any, zk_root: str, tmp_path: Path) -> Path:
    """A configuration with two namespaces below the root of the test."""
    zk.ensure_path(zk_root)
    path = tmp_path / "zkdns.toml"
    path.write_text(CONFIG.format(hosts=f"{zookeeper.address}{zk_root}"))
    return path


def test_each_zone_has_the_services_of_its_namespace(config: Path, zk: Any, zk_root: str) -> None:
    join(zk, f"{zk_root}/discovery/staging/web", "10.0.0.1", 8080)
    with ZkdnsServer("--config", str(config)) as server:
        server.wait_ready()
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        assert server.rcode("hello.prod.www.aurora") == "NXDOMAIN"
        hello = join(zk, f"{zk_root}/aurora/www/prod/hello", "10.0.0.2", 31000)
        eventually(lambda: server.lookup("hello.prod.www.aurora") == {"10.0.0.2"})
        assert server.lookup("hello.prod.www.aurora", "SRV") == {"0 100 31000 m0.hello.prod.www.aurora."}
        assert [server.rcode(apex, "SOA") for apex in ("discovery", "aurora")] == ["NOERROR"] * 2
        assert [server.rcode(name) for name in ("web.staging.aurora", "hello.prod.www.discovery")] == [
            "NXDOMAIN"
        ] * 2
        assert server.rcode("web.staging.example") == "REFUSED"
        zk.delete(hello)
        eventually(lambda: server.lookup("hello.prod.www.aurora") == set())
        assert server.lookup("web.staging.discovery") == {"10.0.0.1"}
        live = (
            f'zkdns_zookeeper_state{{namespace="{template}",state="live"}} 1.0'
            for template in ("/discovery/{environment}/{service}", "/aurora/{role}/{environment}/{job}")
        )
        for sample in (*live, "zkdns_services 2.0"):
            eventually(lambda: sample in httpx2.get(f"{server.admin}/metrics").text)  # noqa: B023 - called in this iteration


def test_snapshot_has_all_namespaces(own_zookeeper: ZooKeeperServer, tmp_path: Path, config: Path) -> None:
    config.write_text(CONFIG.format(hosts=own_zookeeper.address))
    client = KazooClient(own_zookeeper.address)
    client.start()
    join(client, "/discovery/staging/web", "10.0.0.1")
    join(client, "/aurora/www/prod/hello", "10.0.0.2")
    client.stop()
    client.close()
    arguments = ("--config", str(config), "--snapshot", str(tmp_path / "table"))
    names = {"web.staging.discovery": {"10.0.0.1"}, "hello.prod.www.aurora": {"10.0.0.2"}}
    with ZkdnsServer(*arguments) as server:
        server.wait_ready()
        assert {name: server.lookup(name) for name in names} == names
        assert server.terminate() == 0
    own_zookeeper.kill()
    with ZkdnsServer(*arguments) as server:
        server.wait_ready()
        assert {name: server.lookup(name) for name in names} == names
        assert server.query("web.staging.discovery", use_edns=0).options  # stale
        own_zookeeper.start()
        eventually(lambda: not server.query("web.staging.discovery", use_edns=0).options, 30)
        assert {name: server.lookup(name) for name in names} == names


def test_only_matching_services_are_answered(config: Path, zk: Any, zk_root: str) -> None:
    """All other names are answered like absent ones."""
    for path in (
        "discovery/prod/web",
        "discovery/staging/web",
        "discovery/staging/api",
        "discovery/test/web",
    ):
        join(zk, f"{zk_root}/{path}", "10.0.0.1")
    text = config.read_text().replace("[[namespace]]", '[[namespace]]\nonly = ["*.prod", "web.staging"]', 1)
    config.write_text(text)
    with ZkdnsServer("--config", str(config)) as server:
        server.wait_ready()
        for name in ("web.prod", "web.staging"):
            assert server.lookup(f"{name}.discovery") == {"10.0.0.1"}
        for name in ("api.staging", "web.test", "test"):
            assert server.rcode(f"{name}.discovery") == "NXDOMAIN"
        join(zk, f"{zk_root}/discovery/prod/new", "10.0.0.2")
        eventually(lambda: server.lookup("new.prod.discovery") == {"10.0.0.2"})
        explained = run("explain", "api.staging", "--server", server.api).output
        assert 'not followed (only = ["*.prod", "web.staging"])' in explained
