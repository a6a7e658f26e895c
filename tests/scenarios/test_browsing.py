"""Who knows no more than a domain, or an address, finds the members of a real ZooKeeper."""

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

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

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


class Seen(msgspec.Struct, frozen=True):
    """A member as whoever browses sees it."""

    target: str
    port: int
    addresses: set[str]
    is_alive: bool = True


def walk(server: ZkdnsServer, domain: str = STAGING) -> dict[str, dict[str, Seen]]:
    """The members by instance, by type; each name is one that an answer before has told."""
    found: dict[str, dict[str, Seen]] = {}
    for kind in server.ask(f"_services._dns-sd._udp.{domain}", "PTR"):
        found[kind] = {}
        for instance in server.ask(kind, "PTR"):
            for service in server.ask(instance, "SRV"):
                _, _, port, target = service.split()
                is_alive = any('"status=ALIVE"' in text for text in server.ask(instance, "TXT"))
                found[kind][instance] = Seen(target, int(port), server.ask(target), is_alive)
    return found


def names_everything(asked: ReceivedQuery) -> Iterable[Send]:
    """Every address has a name, which is nobody's here."""
    return [Send(reply_to(asked, f"{asked.name} 60 PTR upstream.example."))]


@pytest.fixture
def resolver() -> Iterator[UpstreamServer]:
    with UpstreamServer(names_everything) as running:
        yield running


@pytest.fixture
def server(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str, resolver: UpstreamServer, tmp_path: Path
) -> Iterator[ZkdnsServer]:
    """A server of two namespaces below the test's own root, with two workers that have a table each."""
    zk.ensure_path(zk_root)
    path = tmp_path / "zkdns.toml"
    path.write_text(CONFIG.format(hosts=zookeeper.address + zk_root, upstream=resolver.address))
    with ZkdnsServer("--config", str(path), environment={"ZKDNS_UPSTREAM": ""}) as running:
        yield running.wait_ready()


def test_services_and_members_are_found_out_as_they_come_and_go(
    server: ZkdnsServer, zk: Any, zk_root: str
) -> None:
    web = f"{zk_root}/discovery/staging/web"
    first = join(zk, web, "10.0.0.1", 8080)
    eventually(
        lambda: walk(server) == {WEB: {f"m0.{WEB}": Seen("m0.web.staging.discovery.", 8080, {"10.0.0.1"})}}
    )
    join(zk, web, "10.0.0.2", 8081)
    zk.ensure_path(f"{zk_root}/discovery/staging/db")
    eventually(
        lambda: (
            {kind: set(seen) for kind, seen in walk(server).items()}
            == {
                WEB: {f"m0.{WEB}", f"m1.{WEB}"},
                DB: set(),
            }
        )
    )
    zk.delete(first)
    zk.delete(f"{zk_root}/discovery/staging/db")
    eventually(lambda: {kind: set(seen) for kind, seen in walk(server).items()} == {WEB: {f"m1.{WEB}"}})
    join(zk, f"{zk_root}/aurora/www/prod/hello", "10.0.0.3", 31000)
    hello = "_hello._tcp.prod.www.aurora."
    seen = Seen("m0.hello.prod.www.aurora.", 31000, {"10.0.0.3"})
    eventually(lambda: walk(server, "prod.www.aurora.") == {hello: {f"m0.{hello}": seen}})


def by_all_workers(is_answered: Callable[[], bool]) -> None:
    """Wait until it is answered so by whichever worker is asked."""
    eventually(lambda: all(is_answered() for _ in range(20)))


def test_an_address_leads_to_its_members_while_it_has_any(
    server: ZkdnsServer, zk: Any, zk_root: str, resolver: UpstreamServer
) -> None:
    """Before and after that, those answer who would without it: the zone of RFC 6303, or an upstream."""
    assert [server.rcode(PRIVATE, "PTR"), server.ask(PUBLIC, "PTR")] == ["NXDOMAIN", {"upstream.example."}]
    paths = [
        join(zk, f"{zk_root}/{path}", host)
        for path, host in (
            ("discovery/staging/web", "10.0.0.1"),
            ("discovery/staging/db", "10.0.0.1"),
            ("aurora/www/prod/hello", "8.8.8.8"),
        )
    ]
    both = {"m0.web.staging.discovery.", "m0.db.staging.discovery."}
    by_all_workers(lambda: server.ask(PRIVATE, "PTR") == both)
    by_all_workers(lambda: server.ask(PUBLIC, "PTR") == {"m0.hello.prod.www.aurora."})
    response = server.query(PUBLIC, "PTR")
    assert response.flags & dns.flags.AA
    assert response.flags & dns.flags.RA
    asked = len(resolver.queries)
    denied = server.query(PUBLIC, "A")
    assert [str(rrset.name) for rrset in denied.authority] == [f"{PUBLIC}."]
    assert len(resolver.queries) == asked
    for path in paths[1:]:
        zk.delete(path)
    by_all_workers(lambda: server.ask(PRIVATE, "PTR") == {"m0.web.staging.discovery."})
    by_all_workers(lambda: server.ask(PUBLIC, "PTR") == {"upstream.example."})
    zk.delete(paths[0])
    by_all_workers(lambda: server.rcode(PRIVATE, "PTR") == "NXDOMAIN")
