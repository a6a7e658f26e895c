"""Forwarding by a whole server: its processes, its upstreams, and members' host names."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.cli import run
from tests.support.loopback import paired_sockets
from tests.support.network import bind_mount_prefix
from tests.support.server import ZkdnsServer
from tests.support.tls import CertificateAuthority
from tests.support.upstream import (
    TLS,
    TLS_NAME,
    UDP,
    Behaviour,
    ReceivedQuery,
    Send,
    UpstreamServer,
    is_silent,
    reply_to,
)
from tests.support.waiting import PATIENCE, eventually, in_time, repeated_if_late
from zkdns.forward.upstreams import UDP_TIMES

pytestmark = pytest.mark.processes

WEB, WWW = "m0.web.staging.discovery", "www.example"
MEMBERS, FORWARDED = {"192.0.2.1"}, {"192.0.2.77"}
_SECONDS = 10


def addresses(last_byte: int = 77, ttl: int = 60) -> Behaviour:
    """An upstream with one IPv4 address, and no IPv6 address, for every name."""

    def act(asked: ReceivedQuery) -> list[Send]:
        if asked.query.question[0].rdtype.name != "A":
            return [Send(reply_to(asked))]
        return [Send(reply_to(asked, f"{asked.name} {ttl} A 192.0.2.{last_byte}"))]

    return act


@contextlib.contextmanager
def serving(
    *upstreams: object,
    arguments: Sequence[str] = ("--demo",),
    environment: dict[str, str] | None = None,
    resolv_conf: Path | None = None,
) -> Iterator[ZkdnsServer]:
    """A server with these upstreams, when it listens.

    Args:
        upstreams: addresses.
        arguments: of the command line.
        environment: variables.
        resolv_conf: the file that replaces /etc/resolv.conf.
    """
    flags = [part for upstream in upstreams for part in ("--upstream", str(upstream))]
    server = ZkdnsServer(*arguments, *flags, environment=environment)
    if resolv_conf is not None:
        server.command = [*bind_mount_prefix({"/etc/resolv.conf": resolv_conf}), *server.command]
    with server:
        yield server


@contextlib.contextmanager
def ready(*upstreams: object, **options: Any) -> Iterator[ZkdnsServer]:
    """A server as in `serving`, when its table has been read."""
    with serving(*upstreams, **options) as server:
        yield server.wait_ready()


@pytest.fixture
def resolver() -> Iterator[UpstreamServer]:
    with UpstreamServer(addresses()) as running:
        yield running


def query_count(resolver: UpstreamServer, name: str = WWW) -> int:
    """Return the number of A queries for a name that an upstream received over UDP."""
    types = [asked.query.question[0].rdtype.name for asked in resolver.queries_over(UDP, name)]
    return types.count("A")


def query_upstream(server: ZkdnsServer, **options: Any) -> dns.message.Message:
    """Query a name of the upstream. If that is late, the server queries it again."""
    started_at = time.monotonic()
    response = server.query(WWW, **options)
    in_time(started_at, UDP_TIMES.shortest)
    return response


# -- names in and outside the zones -------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
@repeated_if_late
def test_names_in_and_outside_the_zones_are_answered(resolver: UpstreamServer, *, tcp: bool) -> None:
    before = query_count(resolver)
    with ready(resolver.address) as server:
        for _ in range(3):
            member, other = server.query(WEB, tcp=tcp), query_upstream(server, tcp=tcp)
            assert bool(member.flags & dns.flags.AA)
            assert not other.flags & dns.flags.AA
            assert member.flags & other.flags & dns.flags.RA
            assert server.lookup(WEB, tcp=tcp) == MEMBERS
            assert server.lookup(WWW, tcp=tcp) == FORWARDED
        assert server.rcode("none.staging.discovery", tcp=tcp) == "NXDOMAIN"
        assert query_count(resolver) == before + 1


def test_dig_resolves_names_in_and_outside_the_zones(resolver: UpstreamServer) -> None:
    with ready(resolver.address) as server:
        for option in ((), ("+tcp",), ("+noedns",), ("+dnssec",), ("+nocookie",)):
            dig = ["dig", "@127.0.0.1", "-p", str(server.port), "+short", "+tries=1", *option, WWW, WEB]
            process = subprocess.run(dig, capture_output=True, text=True, timeout=_SECONDS, check=True)
            assert set(process.stdout.split()) == MEMBERS | FORWARDED, option


def test_other_names_are_forwarded_while_zookeeper_has_not_been_read(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    """ZooKeeper is unreachable, so names in the zone are SERVFAIL, and are not forwarded."""
    udp, tcp = paired_sockets()
    udp.close()
    with tcp:
        closed_port = f"127.0.0.1:{tcp.getsockname()[1]}"
        with serving(resolver.address, arguments=("--zookeeper", closed_port)) as server:
            assert eventually(lambda: server.lookup(WWW)) == FORWARDED
            assert server.rcode("web.staging.discovery") == "SERVFAIL"
            assert query_count(resolver, "web.staging.discovery") == 0
    assert tmp_path.exists()


def test_the_certificate_of_a_tls_upstream_is_verified(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    trusted = {"SSL_CERT_FILE": str(authority.file)}
    with UpstreamServer(addresses(), certificate=authority.sign(TLS_NAME)) as resolver:
        with ready(resolver.tls_address, environment=trusted) as server:
            for number in range(20):
                assert server.lookup(f"n{number}.example") == FORWARDED
            assert {asked.transport for asked in resolver.queries} == {TLS}
            assert resolver.connections < 5  # one, unless the test machine was too busy for a second
        with ready(resolver.tls_address) as server:
            response = server.query(WWW, use_edns=0)
            assert response.rcode() == dns.rcode.SERVFAIL
            assert f"no certificate for {TLS_NAME}" in str(response.options[0])


def test_forward_zones_of_the_configuration_file_have_their_own_upstreams(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    with UpstreamServer(addresses(88)) as corp:
        config = tmp_path / "zkdns.toml"
        config.write_text(
            f'demo = true\nforward.upstreams = ["{resolver.address}"]\n'
            f'[forward.zone."corp.example"]\nupstreams = ["{corp.address}"]\n'
            '[forward.zone."lab.corp.example"]\nupstreams = "none"\n'
        )
        with ready(arguments=("--config", str(config)), environment={"ZKDNS_UPSTREAM": ""}) as server:
            assert server.lookup("db.corp.example") == {"192.0.2.88"}
            assert server.lookup(WWW) == FORWARDED
            assert server.rcode("x.lab.corp.example") == "REFUSED"


# -- workers ------------------------------------------------------------------------------------------------


@repeated_if_late
def test_every_worker_forwards_and_flushes_its_cache(resolver: UpstreamServer) -> None:
    workers = 3
    with ready(resolver.address, arguments=("--demo", "--workers", str(workers))) as server:
        server.wait_api()

        def query_all_workers() -> int:
            """Send queries from 60 ports, to reach every worker. Return the number of upstream queries."""
            before = query_count(resolver)
            for _ in range(60):
                (answer,) = query_upstream(server).answer
                assert {str(record) for record in answer} == FORWARDED
            return query_count(resolver) - before

        assert query_all_workers() == workers
        assert query_all_workers() == 0
        for name in ("example", WWW):
            flushed = run("flush", name, environment={"ZKDNS_ADMIN_SOCKET": server.api})
            assert flushed.status == 0
            assert query_all_workers() == workers
        assert run("flush", "another", environment={"ZKDNS_ADMIN_SOCKET": server.api}).status == 0
        assert query_all_workers() == 0


@repeated_if_late
def test_a_worker_that_replaces_a_killed_one_forwards(resolver: UpstreamServer) -> None:
    before = query_count(resolver)
    with ready(resolver.address) as server:
        assert query_upstream(server).answer
        os.kill(server.pid_of("worker"), signal.SIGKILL)
        assert eventually(lambda: server.lookup(WWW)) == FORWARDED
        assert query_count(resolver) > before + 1


def test_a_terminated_server_answers_waiting_queries_with_servfail(resolver: UpstreamServer) -> None:
    resolver.set_behaviour(is_silent)
    with ready(resolver.address) as server, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        for number in range(50):
            query = dns.message.make_query(f"n{number}.example", "A")
            sock.sendto(query.to_wire(), server.addresses[0])
        eventually(lambda: len(resolver.queries_over(UDP)) >= 50)
        assert server.terminate() == 0
        responses = [dns.message.from_wire(sock.recv(2000)) for _ in range(50)]
        assert {response.rcode() for response in responses} == {dns.rcode.SERVFAIL}
        assert server.events("process_failed") == []


# -- loops --------------------------------------------------------------------------------------------------


def test_dns_37_a_forwarding_loop_of_two_servers_is_detected_and_logged() -> None:
    udp, tcp = paired_sockets()
    second_address = f"127.0.0.1:{tcp.getsockname()[1]}"
    with ready(second_address) as first:
        udp.close()
        tcp.close()
        arguments = ("--demo", "--listen", second_address)
        with ready(f"127.0.0.1:{first.port}", arguments=arguments) as second:
            (event,) = eventually(lambda: second.events("upstream_loop_detected"), 20.0)
            assert event["level"] == "error"
            for part in (f"127.0.0.1:{first.port}", "forward.upstreams", "--upstream ADDRESS"):
                assert part in event["reason"]
            for server in (first, second):
                assert server.rcode(WWW) == "SERVFAIL"
                assert server.lookup(WEB) == MEMBERS


# -- the system's resolvers ---------------------------------------------------------------------------------


def test_auto_uses_the_nameservers_of_resolv_conf_and_follows_its_changes(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"search corp.example\nnameserver {resolver.address}\n")
    arguments = ("--demo", "--workers", "2")
    with (
        UpstreamServer(addresses(88)) as other,
        ready("auto", arguments=arguments, resolv_conf=resolv_conf) as server,
    ):

        def all_answer(expected: set[str]) -> bool:
            return all(server.lookup(WWW) == expected for _ in range(20))

        assert all_answer(FORWARDED)
        assert all(server.query(WEB).flags & dns.flags.RA for _ in range(20))
        resolv_conf.write_text(f"nameserver {other.address}\n")
        eventually(lambda: all_answer({"192.0.2.88"}))
        resolv_conf.write_text(f"nameserver 127.0.0.1:{server.port}\n")
        eventually(lambda: all(server.rcode(WWW) == "REFUSED" for _ in range(20)))
        events = eventually(lambda: server.events("upstreams_missing"))
        assert events[0]["own_addresses"] == [f"127.0.0.1:{server.port}"]
        assert not any(server.query(WEB).flags & dns.flags.RA for _ in range(20))
        assert server.lookup(WEB) == MEMBERS
        resolv_conf.write_text(f"nameserver {resolver.address}\n")
        eventually(lambda: all_answer(FORWARDED))


# -- host names of members ----------------------------------------------------------------------------------


def test_member_hosts_follow_their_ttl_and_stay_while_upstreams_are_down(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    resolver.set_behaviour(addresses(5, ttl=5), "quick.example")
    resolver.set_behaviour(addresses(6, ttl=600), "lasting.example")
    services = tmp_path / "services.toml"
    services.write_text(
        '[services."web.staging"]\nmembers = ["quick.example:80"]\n'
        '[services."db.staging"]\nmembers = ["lasting.example:80"]\n'
    )
    with serving(resolver.address, arguments=("--static", str(services))) as server:
        assert eventually(lambda: server.lookup("web.staging.discovery")) == {"192.0.2.5"}
        assert eventually(lambda: server.lookup("db.staging.discovery")) == {"192.0.2.6"}
        resolver.go_down()
        (event,) = eventually(lambda: server.events("host_resolution_failed"), timeout=20.0)
        assert (event["host"], event["types"]) == ("quick.example", "A, AAAA")
        assert str(resolver.address) in event["reason"]
        before = query_count(resolver, "lasting.example")
        assert server.lookup("web.staging.discovery") == {"192.0.2.5"}
        resolver.come_up()
        resolver.set_behaviour(addresses(7, ttl=5), "quick.example")
        eventually(lambda: server.lookup("web.staging.discovery") == {"192.0.2.7"}, 20.0)
        assert query_count(resolver, "lasting.example") == before
