"""Probing one server of ZooKeeper: real ones, and other programs."""

from __future__ import annotations

import socket
from typing import Any

from kazoo.security import make_digest_acl

from tests.support.zookeeper import ZooKeeperServer
from zkdns.address import HostPort, parse_host_port
from zkdns.serverset.probe import ProbeResult, RootListing, probe


def probed(server: HostPort, *roots: str, seconds: float = 5.0) -> ProbeResult:
    return probe(server, roots, session_timeout=10.0, seconds=seconds)


def test_a_healthy_server_starts_a_session_and_lists_the_roots(
    zookeeper: ZooKeeperServer, zk: Any, zk_root: str
) -> None:
    server = parse_host_port(zookeeper.address)
    assert probed(server, zk_root).roots == (RootListing(zk_root, refusal="does not exist"),)
    for environment in ("prod", "staging"):
        zk.create(f"{zk_root}/{environment}", makepath=True)
    assert probed(server, zk_root) == ProbeResult(server, roots=(RootListing(zk_root, 2),))
    zk.create(f"{zk_root}/secret", acl=[make_digest_acl("user", "password", all=True)])
    secret, prod = probed(server, f"{zk_root}/secret", f"{zk_root}/prod").roots
    assert "ACL denies" in str(secret.refusal)
    assert prod.children == 0
    zk.delete(f"{zk_root}/secret")


def test_a_missing_chroot_is_reported(zookeeper: ZooKeeperServer, zk: Any, zk_root: str) -> None:
    server = parse_host_port(zookeeper.address)
    roots = (f"{zk_root}/discovery",)
    found = probe(server, roots, session_timeout=10.0, chroot=zk_root)
    assert found == ProbeResult(server, missing_chroot=zk_root)
    zk.create(zk_root)
    found = probe(server, roots, session_timeout=10.0, chroot=zk_root)
    assert found == ProbeResult(server, roots=(RootListing(roots[0], refusal="does not exist"),))


def test_a_closed_port_differs_from_another_protocol() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = HostPort("127.0.0.1", sock.getsockname()[1])
        assert probed(server).failure == "connection refused"
        sock.listen()
        assert "sends nothing within 0.5 s" in str(probed(server, seconds=0.5).failure)


def test_an_unknown_host_name_is_reported() -> None:
    assert probed(HostPort("no host", 2181)).failure == "no such host"
