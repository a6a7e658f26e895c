"""DNS-SD browsing and reverse lookups of members in a real ZooKeeper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import dns.flags
import msgspec
import pytest

from tests.serverset.sync_helpers import join
from tests.support.server import ZkdnsServer
from tests.support.upstream import ReceivedQuery, Send, UpstreamServer, reply_to
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.processes

CONFIG = """
zookeeper.hosts = "{hosts}"
dns_sd = true
reverse = true
workers = 2
forward.upstreams = "{upstream}"
[[namespace]]
path = "/discovery/{{environment}}/{{service}}"
[[namespace]]
path = "/aurora/{{role}}/{{environment}}/{{job}}"
zone = "aurora"
"""
PRIVATE, PUBLIC = "1.0.0.10.in-addr.arpa", "8.8.8.8.in-addr.arpa"
STAGING = "staging.discovery."
WEB, DB = f"_web._tcp.{STAGING}", f"_db._tcp.{STAGING}"


class Instance(msgspec.Struct, frozen=True):
    """A service instance as a browser finds it."""

    target: str
    port: int
    addresses: set[str]
    is_alive: bool = True


def browse(server: ZkdnsServer, domain: str = STAGING) -> dict[str, dict[str, Instance]]:
    """Browse a domain, using only names from responses; returns the instances by type and name."""
    found: dict[str, dict[str, Instance]] = {}
    for kind in server.lookup(f"_services._dns-sd._udp.{domain}", "PTR"):
        found[kind] = {}
        for instance in server.lookup(kind, "PTR"):
            for service in server.lookup(instance, "SRV"):
                _, _, port, target = service.split()
                is_alive = any('"status=ALIVE"' in text for text in server.lookup(instance, "TXT"))
                found[kind][instance] = Instance(target, int(port), server.lookup(target), is_alive)
    return found


def answers_all_ptr_queries(query: ReceivedQuery) -> Iterable[Send]:
    """Each address has a name that is not in the zones of the server."""
    return [Send(reply_to(query, f"{query.name} 60 PTR upstream.example."))]


@pytest.fixture
def resolver() -> Iterator[UpstreamServer]:
    with UpstreamServer(answers_all_ptr_queries) as running:
        yield running


@pytest.fixture
def server(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, resolver: UpstreamServer, tmp_path: Path
) -> Iterator[ZkdnsServer]:
    """A server with two namespaces below the root of the test, and two workers."""
    zk.ensure_path(zk_root)
    path = tmp_path / "zkdns.toml"
    path.write_text(CONFIG.format(hosts=zookeeper.address + zk_root, upstream=resolver.address))
    with ZkdnsServer("--config", str(path), environment={"ZKDNS_UPSTREAM": ""}) as running:
        yield running.wait_ready()


def test_browsing_follows_changes_of_services_and_members(server: ZkdnsServer, zk: Any, zk_root: str) -> None:
    web = f"{zk_root}/discovery/staging/web"
    first = join(zk, web, "10.0.0.1", 8080)
    eventually(
        lambda: (
            browse(server) == {WEB: {f"m0.{WEB}": Instance("m0.web.staging.discovery.", 8080, {"10.0.0.1"})}}
        )
    )
    join(zk, web, "10.0.0.2", 8081)
    zk.ensure_path(f"{zk_root}/discovery/staging/db")
    eventually(
        lambda: (
            {kind: set(instances) for kind, instances in browse(server).items()}
            == {
                WEB: {f"m0.{WEB}", f"m1.{WEB}"},
                DB: set(),
            }
        )
    )
    zk.delete(first)
    zk.delete(f"{zk_root}/discovery/staging/db")
    eventually(
        lambda: {kind: set(instances) for kind, instances in browse(server).items()} == {WEB: {f"m1.{WEB}"}}
    )
    join(zk, f"{zk_root}/aurora/www/prod/hello", "10.0.0.3", 31000)
    hello = "_hello._tcp.prod.www.aurora."
    instance = Instance("m0.hello.prod.www.aurora.", 31000, {"10.0.0.3"})
    eventually(lambda: browse(server, "prod.www.aurora.") == {hello: {f"m0.{hello}": instance}})


def wait_for_all_workers(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds for 20 queries in a row, which reach all workers."""
    eventually(lambda: all(condition() for _ in range(20)))


def test_reverse_names_resolve_while_an_address_has_members(
    server: ZkdnsServer, zk: Any, zk_root: str, resolver: UpstreamServer
) -> None:
    """Without members, the responses are those of the RFC 6303 zone or of an upstream."""
    assert [server.rcode(PRIVATE, "PTR"), server.lookup(PUBLIC, "PTR")] == ["NXDOMAIN", {"upstream.example."}]
    paths = [
        join(zk, f"{zk_root}/{path}", host)
        for path, host in (
            ("discovery/staging/web", "10.0.0.1"),
            ("discovery/staging/db", "10.0.0.1"),
            ("aurora/www/prod/hello", "8.8.8.8"),
        )
    ]
    both = {"m0.web.staging.discovery.", "m0.db.staging.discovery."}
    wait_for_all_workers(lambda: server.lookup(PRIVATE, "PTR") == both)
    wait_for_all_workers(lambda: server.lookup(PUBLIC, "PTR") == {"m0.hello.prod.www.aurora."})
    response = server.query(PUBLIC, "PTR")
    assert response.flags & dns.flags.AA
    assert response.flags & dns.flags.RA
    count = len(resolver.queries)
    denied = server.query(PUBLIC, "A")
    assert [str(rrset.name) for rrset in denied.authority] == [f"{PUBLIC}."]
    assert len(resolver.queries) == count
    for path in paths[1:]:
        zk.delete(path)
    wait_for_all_workers(lambda: server.lookup(PRIVATE, "PTR") == {"m0.web.staging.discovery."})
    wait_for_all_workers(lambda: server.lookup(PUBLIC, "PTR") == {"upstream.example."})
    zk.delete(paths[0])
    wait_for_all_workers(lambda: server.rcode(PRIVATE, "PTR") == "NXDOMAIN")
