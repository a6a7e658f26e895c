"""A whole server that knows its own zone and forwards everything else: its processes, and who they ask."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
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
from tests.support.waiting import eventually

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

WEB, WWW = "m0.web.staging.discovery", "www.example"
OURS, THEIRS = {"192.0.2.1"}, {"192.0.2.77"}
_SECONDS = 10


def addresses(mark: int = 77, ttl: int = 60) -> Behaviour:
    """IPv4 addresses alone."""

    def act(asked: ReceivedQuery) -> list[Send]:
        if asked.query.question[0].rdtype.name != "A":
            return [Send(reply_to(asked))]
        return [Send(reply_to(asked, f"{asked.name} {ttl} A 192.0.2.{mark}"))]

    return act


@contextlib.contextmanager
def serving(
    *upstreams: object,
    arguments: Sequence[str] = ("--demo",),
    environment: dict[str, str] | None = None,
    resolv_conf: Path | None = None,
) -> Iterator[ZkdnsServer]:
    """A server that asks these, listening; it sees that file as /etc/resolv.conf."""
    named = [part for upstream in upstreams for part in ("--upstream", str(upstream))]
    server = ZkdnsServer(*arguments, *named, environment=environment)
    if resolv_conf is not None:
        server.command = [*bind_mount_prefix({"/etc/resolv.conf": resolv_conf}), *server.command]
    with server:
        yield server


@contextlib.contextmanager
def ready(*upstreams: object, **how: Any) -> Iterator[ZkdnsServer]:
    """The same, with its table read."""
    with serving(*upstreams, **how) as server:
        yield server.wait_ready()


@pytest.fixture
def resolver() -> Iterator[UpstreamServer]:
    with UpstreamServer(addresses()) as running:
        yield running


def asked_for(resolver: UpstreamServer, name: str = WWW) -> int:
    """How often a resolver was asked for the IPv4 addresses of a name over UDP."""
    asked = [one.query.question[0].rdtype.name for one in resolver.queries_over(UDP, name)]
    return asked.count("A")


# -- both worlds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_both_worlds_are_answered(resolver: UpstreamServer, *, tcp: bool) -> None:
    with ready(resolver.address) as server:
        for _ in range(3):
            own, other = server.query(WEB, tcp=tcp), server.query(WWW, tcp=tcp)
            assert bool(own.flags & dns.flags.AA)
            assert not other.flags & dns.flags.AA
            assert own.flags & other.flags & dns.flags.RA
            assert server.lookup(WEB, tcp=tcp) == OURS
            assert server.lookup(WWW, tcp=tcp) == THEIRS
        assert server.rcode("none.staging.discovery", tcp=tcp) == "NXDOMAIN"
        assert asked_for(resolver) == 1


def test_dig_finds_both_worlds(resolver: UpstreamServer) -> None:
    with ready(resolver.address) as server:
        for how in ((), ("+tcp",), ("+noedns",), ("+dnssec",), ("+nocookie",)):
            dig = ["dig", "@127.0.0.1", "-p", str(server.port), "+short", "+tries=1", *how, WWW, WEB]
            ended = subprocess.run(dig, capture_output=True, text=True, timeout=_SECONDS, check=True)
            assert set(ended.stdout.split()) == OURS | THEIRS, how


def test_a_zone_that_has_nothing_to_say_yet_keeps_nobody_from_the_rest(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    """ZooKeeper is not there, so the zone is not ready; that is no reason to lose the rest of the world."""
    udp, tcp = paired_sockets()
    udp.close()
    with tcp:
        nowhere = f"127.0.0.1:{tcp.getsockname()[1]}"
        with serving(resolver.address, arguments=("--zookeeper", nowhere)) as server:
            assert eventually(lambda: server.lookup(WWW)) == THEIRS
            assert server.rcode("web.staging.discovery") == "SERVFAIL"
            assert asked_for(resolver, "web.staging.discovery") == 0
    assert tmp_path.exists()


def test_over_tls_the_certificate_is_checked(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    trusted = {"SSL_CERT_FILE": str(authority.file)}
    with UpstreamServer(addresses(), certificate=authority.sign(TLS_NAME)) as resolver:
        with ready(resolver.tls_address, environment=trusted) as server:
            for number in range(20):
                assert server.lookup(f"n{number}.example", timeout=5.0) == THEIRS
            assert {asked.transport for asked in resolver.queries} == {TLS}
            assert resolver.connections < 5  # one, but where the machine was too busy to answer for a second
        with ready(resolver.tls_address) as server:
            response = server.query(WWW, use_edns=0, timeout=5.0)
            assert response.rcode() == dns.rcode.SERVFAIL
            assert f"no certificate for {TLS_NAME}" in str(response.options[0])


def test_domains_of_a_configuration_file_have_upstreams_of_their_own(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    with UpstreamServer(addresses(88)) as corps:
        config = tmp_path / "zkdns.toml"
        config.write_text(
            f'demo = true\nforward.upstreams = ["{resolver.address}"]\n'
            f'[forward.zone."corp.example"]\nupstreams = ["{corps.address}"]\n'
            '[forward.zone."lab.corp.example"]\nupstreams = "none"\n'
        )
        with ready(arguments=("--config", str(config)), environment={"ZKDNS_UPSTREAM": ""}) as server:
            assert server.lookup("db.corp.example") == {"192.0.2.88"}
            assert server.lookup(WWW) == THEIRS
            assert server.rcode("x.lab.corp.example") == "REFUSED"


# -- workers ------------------------------------------------------------------------------------------------


def test_every_worker_forwards_and_every_one_forgets_what_is_flushed(resolver: UpstreamServer) -> None:
    workers = 3
    with ready(resolver.address, arguments=("--demo", "--workers", str(workers))) as server:
        eventually(lambda: Path(server.control).exists())
        query = dns.message.make_query(WWW, "A")

        def ask_all() -> int:
            """Ask from so many ports that every worker is met; how often the resolver was asked for that."""
            before = asked_for(resolver)
            for _ in range(60):
                (answer,) = dns.query.udp(query, "127.0.0.1", port=server.port, timeout=5).answer
                assert {str(record) for record in answer} == THEIRS
            return asked_for(resolver) - before

        assert ask_all() == workers
        assert ask_all() == 0
        for name in ("example", WWW):
            flushed = run("flush", name, environment={"ZKDNS_CONTROL": server.control})
            assert flushed.status == 0
            assert ask_all() == workers
        assert run("flush", "another", environment={"ZKDNS_CONTROL": server.control}).status == 0
        assert ask_all() == 0


def test_a_worker_that_is_lost_has_a_successor_that_forwards(resolver: UpstreamServer) -> None:
    with ready(resolver.address) as server:
        assert server.lookup(WWW) == THEIRS
        os.kill(server.pid_of("worker"), signal.SIGKILL)
        assert eventually(lambda: server.lookup(WWW)) == THEIRS
        assert asked_for(resolver) == 2


def test_it_ends_in_time_while_queries_wait_and_tells_who_waits(resolver: UpstreamServer) -> None:
    resolver.set_behaviour(is_silent)
    with ready(resolver.address) as server, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        for number in range(50):
            query = dns.message.make_query(f"n{number}.example", "A")
            sock.sendto(query.to_wire(), server.addresses[0])
        eventually(lambda: len(resolver.queries_over(UDP)) >= 50)
        assert server.terminate() == 0
        responses = [dns.message.from_wire(sock.recv(2000)) for _ in range(50)]
        assert {response.rcode() for response in responses} == {dns.rcode.SERVFAIL}
        assert server.events("process_failed") == []


# -- loops --------------------------------------------------------------------------------------------------


def test_dns_37_two_servers_that_ask_each_other_find_that_out_and_say_what_to_change() -> None:
    udp, tcp = paired_sockets()
    second_at = f"127.0.0.1:{tcp.getsockname()[1]}"
    with ready(second_at) as first:
        udp.close()
        tcp.close()
        arguments = ("--demo", "--listen", second_at)
        with ready(f"127.0.0.1:{first.port}", arguments=arguments) as second:
            (told,) = eventually(lambda: second.events("upstream_loop_detected"), 20.0)
            assert told["level"] == "error"
            assert f"127.0.0.1:{first.port}, which upstream names, hands the queries" in told["reason"]
            assert "--upstream ADDRESS" in told["reason"]
            for server in (first, second):
                assert server.rcode(WWW, timeout=5.0) == "SERVFAIL"
                assert server.lookup(WEB) == OURS


# -- the machine's own resolvers ----------------------------------------------------------------------------


def test_auto_asks_whom_the_machine_would_and_follows_it(resolver: UpstreamServer, tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"search corp.example\nnameserver {resolver.address}\n")
    arguments = ("--demo", "--workers", "2")
    with (
        UpstreamServer(addresses(88)) as other,
        ready("auto", arguments=arguments, resolv_conf=resolv_conf) as server,
    ):

        def all_answer(wanted: set[str]) -> bool:
            return all(server.lookup(WWW) == wanted for _ in range(20))

        assert all_answer(THEIRS)
        assert all(server.query(WEB).flags & dns.flags.RA for _ in range(20))
        resolv_conf.write_text(f"nameserver {other.address}\n")
        eventually(lambda: all_answer({"192.0.2.88"}))
        resolv_conf.write_text(f"nameserver 127.0.0.1:{server.port}\n")
        eventually(lambda: all(server.rcode(WWW) == "REFUSED" for _ in range(20)))
        told = eventually(lambda: server.events("upstreams_missing"))
        assert told[0]["own_addresses"] == [f"127.0.0.1:{server.port}"]
        assert not any(server.query(WEB).flags & dns.flags.RA for _ in range(20))
        assert server.lookup(WEB) == OURS
        resolv_conf.write_text(f"nameserver {resolver.address}\n")
        eventually(lambda: all_answer(THEIRS))


# -- host names of members ----------------------------------------------------------------------------------


def test_host_names_of_members_are_asked_of_upstreams_as_often_as_they_say(
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
        resolver.set_behaviour(addresses(7, ttl=5), "quick.example")
        eventually(lambda: server.lookup("web.staging.discovery") == {"192.0.2.7"}, 20.0)
        assert asked_for(resolver, "lasting.example") == 1


def test_while_upstreams_are_away_members_keep_the_addresses_that_they_had(
    resolver: UpstreamServer, tmp_path: Path
) -> None:
    resolver.set_behaviour(addresses(5, ttl=5), "quick.example")
    services = tmp_path / "services.toml"
    services.write_text('[services."web.staging"]\nmembers = ["quick.example:80"]\n')
    with serving(resolver.address, arguments=("--static", str(services))) as server:
        assert eventually(lambda: server.lookup("web.staging.discovery")) == {"192.0.2.5"}
        resolver.go_down()
        (told,) = eventually(lambda: server.events("host_resolution_failed"), timeout=20.0)
        assert str(resolver.address) in told["reason"]
        assert server.lookup("web.staging.discovery") == {"192.0.2.5"}
        resolver.come_up()
        resolver.set_behaviour(addresses(8, ttl=5), "quick.example")
        eventually(lambda: server.lookup("web.staging.discovery") == {"192.0.2.8"}, 20.0)
