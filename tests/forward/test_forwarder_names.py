"""Names that are forwarded, and to which upstreams; special-use names, RD, system upstreams and loops."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
from structlog.testing import capture_logs

from tests.forward.forwarder_helpers import (
    Scene,
    data_of,
    extended_errors,
    forwarding,
    has,
    numbered,
    queries_to,
    rcode_of,
)
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, returns_rcode
from tests.support.waiting import eventually
from zkdns.address import UpstreamAddress
from zkdns.forward.forward_zones import LOOP_AVOID_SECONDS

NOT_AUTHORITATIVE = 20


# -- no upstreams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_38_without_upstreams_names_are_refused_and_ra_is_clear(*, tcp: bool) -> None:
    async def scenario() -> None:
        async with forwarding() as scene:
            for _ in range(3):
                response = await scene.query(size=1232, tcp=tcp)
                assert rcode_of(response) == "REFUSED"
                assert not response.flags & dns.flags.RA
                assert extended_errors(response) == [NOT_AUTHORITATIVE]
            own = await scene.query("none.staging.discovery", tcp=tcp)
            assert rcode_of(own) == "NXDOMAIN"
            assert not own.flags & dns.flags.RA

    run(scenario)


def test_dns_38_zone_without_upstreams_is_refused_and_others_are_not() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream, domains={"corp.example": []}) as scene:
                assert await scene.rcode("db.corp.example") == "REFUSED"
                assert await scene.rcode("corp.example") == "REFUSED"
                assert await scene.data("db.acorp.example") == ["192.0.2.1"]
                assert await scene.data("example") == ["192.0.2.1"]

    run(scenario)


@pytest.mark.parametrize("is_forwarding", [True, False])
def test_dns_08_ra_is_set_if_and_only_if_there_are_upstreams(*, is_forwarding: bool) -> None:
    """RFC 1035 §4.1.1. In responses of our zones too: dnsmasq caches none without RA (consul#8752)."""

    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(*[upstream] * is_forwarding) as scene:
                for is_ready in (True, False):
                    scene.authority.set_health(ready=is_ready, stale=False)
                    for name, qtype in (
                        ("discovery", "SOA"),
                        ("staging.discovery", "A"),
                        ("none.staging.discovery", "SRV"),
                        ("discovery", "IXFR"),
                        ("localhost", "A"),
                        ("none.invalid", "A"),
                        ("www.example", "A"),
                        ("www.example", "IXFR"),
                    ):
                        for flags in (dns.flags.RD, 0):
                            for tcp in (False, True):
                                response = await scene.query(name, qtype, flags=flags, tcp=tcp)
                                assert bool(response.flags & dns.flags.RA) is is_forwarding, response
                                assert response.flags & dns.flags.RD == flags

    run(scenario)


# -- forward zones ----------------------------------------------------------------------------------------


def test_longest_forward_zone_wins() -> None:
    async def scenario() -> None:
        with (
            UpstreamServer(last_byte=1) as all_names,
            UpstreamServer(last_byte=2) as corp,
            UpstreamServer(last_byte=3) as lab,
        ):
            domains = {"corp.example": [corp], "lab.corp.example": [lab]}
            async with forwarding(all_names, domains=domains) as scene:
                for name, mark in (
                    ("www.example", 1),
                    ("notcorp.example", 1),
                    ("corp.example", 2),
                    ("db.Corp.Example", 2),
                    ("xlab.corp.example", 2),
                    ("lab.corp.example", 3),
                    ("a.b.LAB.corp.example", 3),
                    ("example", 1),
                ):
                    for _ in range(4):  # the caches separate them too
                        assert await scene.data(name) == [f"192.0.2.{mark}"], name

    run(scenario)


def test_forward_zone_works_without_default_upstreams() -> None:
    async def scenario() -> None:
        with UpstreamServer() as corp:
            async with forwarding(domains={"corp.example": [corp]}) as scene:
                response = await scene.query("db.corp.example")
                assert data_of(response) == ["192.0.2.1"]
                assert response.flags & dns.flags.RA
                assert await scene.rcode() == "REFUSED"

    run(scenario)


def test_dns_36_own_zone_is_never_forwarded_in_any_state() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                for name in ("discovery", "none.staging.discovery", "a.b.c.staging.discovery"):
                    await scene.query(name)
                scene.authority.set_health(ready=False, stale=False)
                assert await scene.rcode("none.staging.discovery") == "SERVFAIL"
                assert all(not received.name.endswith("discovery.") for received in upstream.queries)
                assert await scene.data() == ["192.0.2.1"]  # no reply will come

    run(scenario)


# -- special-use names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_36_special_use_names_are_not_forwarded(*, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(upstream) as scene:
                for name, qtype, rcode, data in (
                    ("localhost", "A", "NOERROR", ["127.0.0.1"]),
                    ("db.LocalHost", "AAAA", "NOERROR", ["::1"]),
                    ("x.invalid", "A", "NXDOMAIN", []),
                    ("printer.local", "A", "NXDOMAIN", []),
                    ("abc.onion", "A", "NXDOMAIN", []),
                    ("1.0.168.192.in-addr.arpa", "PTR", "NXDOMAIN", []),
                    ("nas.home.arpa", "A", "NXDOMAIN", []),
                ):
                    for _ in range(2):
                        response = await scene.query(name, qtype, tcp=tcp)
                        assert (rcode_of(response), data_of(response)) == (rcode, data), name
                        assert response.flags & dns.flags.RA
                assert [received for received in upstream.queries if "loop.zkdns" not in received.name] == []

    run(scenario)


def test_dns_36_special_use_name_in_a_forward_zone_is_forwarded() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as all_names, UpstreamServer(last_byte=2) as home:
            domains = {"home.arpa": [home], "168.192.in-addr.arpa": [home]}
            async with forwarding(all_names, domains=domains) as scene:
                assert await scene.data("nas.home.arpa") == ["192.0.2.2"]
                assert await scene.data("1.0.168.192.in-addr.arpa") == ["192.0.2.2"]
                assert await scene.rcode("1.0.0.10.in-addr.arpa", "PTR") == "NXDOMAIN"

    run(scenario)


# -- recursion not desired --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True])
def test_query_without_rd_is_answered_from_the_cache_only(*, is_remembered: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=20)) as upstream:
            async with forwarding(upstream) as scene:
                response = await scene.query(flags=0)
                assert rcode_of(response) == "REFUSED"
                assert response.flags & dns.flags.RA
                assert not response.flags & dns.flags.RD
                assert queries_to(upstream) == 0
                await scene.query()
                assert await scene.data(flags=0) == ["198.51.100.1"]
                if is_remembered:
                    await scene.cached(flags=0)
                scene.pass_time(19)
                assert await scene.ttl(flags=0) == 1  # no prefetch
                scene.pass_time(1)
                for _ in range(2):
                    assert await scene.rcode(flags=0) == "REFUSED"
                assert scene.questions_sent == 1
                assert await scene.data() == ["198.51.100.2"]
                assert await scene.data(flags=0) == ["198.51.100.2"]

    run(scenario)


# -- system upstreams -------------------------------------------------------------------------------------


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    """The system's resolv.conf."""
    file = tmp_path / "resolv.conf"
    file.write_text("")
    return file


def write_nameservers(scene: Scene, file: Path, *servers: UpstreamAddress) -> None:
    """Write these into the file, and poll it until it is used."""
    file.write_text("".join(f"nameserver {server}\n" for server in servers))
    for _ in range(2):
        scene.pass_time(1)


def test_new_system_upstreams_flush_the_cache(resolv_conf: Path) -> None:
    """In another network names have other addresses, and earlier failures do not apply."""

    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as old, UpstreamServer(last_byte=2) as new:
            old.set_behaviour(returns_rcode(dns.rcode.SERVFAIL), "fails.example")
            async with forwarding(resolv_conf=resolv_conf) as scene:
                assert await scene.rcode() == "REFUSED"
                own = await scene.cached("discovery", "SOA")
                assert not own.flags & dns.flags.RA
                write_nameservers(scene, resolv_conf, old.address)
                own = await scene.query("discovery", "SOA")
                assert own.flags & dns.flags.RA
                await scene.cached()
                assert await scene.rcode("fails.example") == "SERVFAIL"
                write_nameservers(scene, resolv_conf, new.address)
                assert await scene.data() == ["192.0.2.2"]
                assert await scene.data("fails.example") == ["192.0.2.2"]
                assert queries_to(old) == 1
                write_nameservers(scene, resolv_conf)
                assert await scene.rcode() == "REFUSED"

    run(scenario)


def test_rewritten_file_with_the_same_upstreams_changes_nothing(resolv_conf: Path) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(resolv_conf=resolv_conf) as scene:
                write_nameservers(scene, resolv_conf, upstream.address)
                await scene.query()
                write_nameservers(scene, resolv_conf, upstream.address)
                assert await scene.data() == ["192.0.2.1"]
                assert queries_to(upstream) == 1

    run(scenario)


def test_dns_37_own_address_is_never_an_upstream(resolv_conf: Path) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            async with forwarding(resolv_conf=resolv_conf) as scene:
                ourselves = UpstreamAddress(scene.address.host, scene.address.port)
                write_nameservers(scene, resolv_conf, ourselves)
                assert await scene.rcode() == "REFUSED"
                write_nameservers(scene, resolv_conf, ourselves, upstream.address)
                assert await scene.data() == ["192.0.2.1"]
                (state,) = scene.forwarder.zones.all[0].resolver.upstreams.all
                assert state.address == upstream.address

    run(scenario)


# -- loops ------------------------------------------------------------------------------------------------


def returns_queries(scenes: list[Scene]) -> Behaviour:
    """An upstream that forwards every query to the server, once there is one."""

    def act(received: ReceivedQuery) -> list[Send]:
        (scene,) = eventually(lambda: scenes)
        query = dns.message.from_wire(received.message)
        response = dns.query.udp(query, scene.address.host, port=scene.address.port, timeout=5)
        return [Send(response.to_wire())]

    return act


@pytest.mark.parametrize("domain", [None, "corp.example"])
def test_dns_37_upstream_in_a_loop_is_detected_logged_and_avoided(
    domain: str | None,
) -> None:
    scenes: list[Scene] = []

    async def scenario() -> None:
        with UpstreamServer(returns_queries(scenes)) as back, UpstreamServer(last_byte=2) as good:
            upstreams = [back, good] if domain is None else [good]
            domains = {domain: [back, good]} if domain is not None else None
            async with forwarding(*upstreams, domains=domains) as scene:
                scenes.append(scene)
                zone = scene.forwarder.zones.all[-1]
                with capture_logs() as logs:
                    await until(lambda: len(zone.resolver.upstreams.all) == 1)
                (reason,) = [entry["reason"] for entry in logs if entry["event"] == "upstream_loop_detected"]
                assert reason.startswith(f"{back.address} (from ")
                assert (f'[forward.zone."{domain}"]' in reason) is (domain is not None)
                assert await scene.data(f"www.{domain or 'example'}") == ["192.0.2.2"]
                before = len(back.queries)
                scene.pass_time(60)
                assert await scene.data(f"mail.{domain or 'example'}") == ["192.0.2.2"]
                assert len(back.queries) == before
                scene.pass_time(LOOP_AVOID_SECONDS)  # its configuration may have changed
                await until(lambda: len(back.queries) > before)
                await until(lambda: len(zone.resolver.upstreams.all) == 1)

    run(scenario)


def test_probe_of_another_server_is_forwarded() -> None:
    async def scenario() -> None:
        with UpstreamServer(has('60 TXT "as every name"')) as upstream:
            async with forwarding(upstream) as scene:
                name = "00" * 20 + ".loop.zkdns.example"
                assert await scene.data(name, "TXT") == ['"as every name"']

    run(scenario)
