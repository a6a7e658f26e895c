"""Which names are forwarded to whom, which never are, and what is answered where nobody can be asked."""

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
    asked_of,
    data_of,
    extended_errors,
    forwarding,
    has,
    numbered,
    rcode_of,
)
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import Behaviour, ReceivedQuery, Send, UpstreamServer, returns_rcode
from tests.support.waiting import eventually
from zkdns.address import UpstreamAddress
from zkdns.forward import forward_zones as routes_module
from zkdns.forward.system_upstreams import SystemUpstreams

NOT_AUTHORITATIVE = 20


# -- nobody to ask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_38_without_upstreams_names_are_refused_and_no_recursion_is_offered(*, tcp: bool) -> None:
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


def test_dns_38_a_domain_without_upstreams_is_refused_and_everything_else_is_not() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver, domains={"corp.example": []}) as scene:
                assert await scene.rcode("db.corp.example") == "REFUSED"
                assert await scene.rcode("corp.example") == "REFUSED"
                assert await scene.data("db.acorp.example") == ["192.0.2.1"]
                assert await scene.data("example") == ["192.0.2.1"]

    run(scenario)


@pytest.mark.parametrize("is_forwarding", [True, False])
def test_dns_08_recursion_is_available_exactly_where_anything_is_forwarded(*, is_forwarding: bool) -> None:
    """RFC 1035 §4.1.1: in what we answer ourselves too, or dnsmasq keeps none of it (consul#8752)."""

    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(*[resolver] * is_forwarding) as scene:
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


# -- whom to ask --------------------------------------------------------------------------------------------


def test_the_longest_domain_with_upstreams_of_its_own_wins() -> None:
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
                    for _ in range(4):  # the cache and what is remembered tell them apart as well
                        assert await scene.data(name) == [f"192.0.2.{mark}"], name

    run(scenario)


def test_a_domain_of_its_own_is_forwarded_where_nothing_else_is() -> None:
    async def scenario() -> None:
        with UpstreamServer() as corp:
            async with forwarding(domains={"corp.example": [corp]}) as scene:
                response = await scene.query("db.corp.example")
                assert data_of(response) == ["192.0.2.1"]
                assert response.flags & dns.flags.RA
                assert await scene.rcode() == "REFUSED"

    run(scenario)


def test_dns_36_our_own_zone_is_never_forwarded_in_any_state() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
                for name in ("discovery", "none.staging.discovery", "a.b.c.staging.discovery"):
                    await scene.query(name)
                scene.authority.set_health(ready=False, stale=False)
                assert await scene.rcode("none.staging.discovery") == "SERVFAIL"
                assert all(not asked.name.endswith("discovery.") for asked in resolver.queries)
                assert await scene.data() == ["192.0.2.1"]  # which has nothing to wait for

    run(scenario)


# -- special names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_36_special_names_are_answered_here_and_not_forwarded(*, tcp: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(resolver) as scene:
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
                assert [asked for asked in resolver.queries if "loop.zkdns" not in asked.name] == []

    run(scenario)


def test_dns_36_a_special_name_with_a_server_of_its_own_is_forwarded_there() -> None:
    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as all_names, UpstreamServer(last_byte=2) as home:
            domains = {"home.arpa": [home], "168.192.in-addr.arpa": [home]}
            async with forwarding(all_names, domains=domains) as scene:
                assert await scene.data("nas.home.arpa") == ["192.0.2.2"]
                assert await scene.data("1.0.168.192.in-addr.arpa") == ["192.0.2.2"]
                assert await scene.rcode("1.0.0.10.in-addr.arpa", "PTR") == "NXDOMAIN"

    run(scenario)


# -- no recursion is wanted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_remembered", [False, True])
def test_who_wants_no_recursion_is_told_what_is_known_and_nobody_is_asked(*, is_remembered: bool) -> None:
    async def scenario() -> None:
        with UpstreamServer(numbered(ttl=20)) as resolver:
            async with forwarding(resolver) as scene:
                response = await scene.query(flags=0)
                assert rcode_of(response) == "REFUSED"
                assert response.flags & dns.flags.RA
                assert not response.flags & dns.flags.RD
                assert asked_of(resolver) == 0
                await scene.query()
                assert await scene.data(flags=0) == ["198.51.100.1"]
                if is_remembered:
                    await scene.remembered(flags=0)
                scene.pass_time(19)
                assert await scene.ttl(flags=0) == 1  # which is no reason to ask anew
                scene.pass_time(1)
                for _ in range(2):
                    assert await scene.rcode(flags=0) == "REFUSED"
                assert scene.exchanges_asked == 1
                assert await scene.data() == ["198.51.100.2"]
                assert await scene.data(flags=0) == ["198.51.100.2"]

    run(scenario)


# -- the machine's own upstreams ----------------------------------------------------------------------------


@pytest.fixture
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names the machine's resolvers."""
    file = tmp_path / "resolv.conf"
    file.write_text("")
    monkeypatch.setattr(
        routes_module, "SystemUpstreams", lambda listening, **how: SystemUpstreams(listening, [file], **how)
    )
    return file


def name_resolver(scene: Scene, file: Path, *servers: UpstreamAddress) -> None:
    """Let the file name these, and be looked at until it is believed."""
    file.write_text("".join(f"nameserver {server}\n" for server in servers))
    for _ in range(2):
        scene.pass_time(1)


def test_where_others_are_asked_nothing_is_left_of_what_the_ones_before_said(resolv_conf: Path) -> None:
    """At another place names are others, and what failed there need not fail here."""

    async def scenario() -> None:
        with UpstreamServer(last_byte=1) as old, UpstreamServer(last_byte=2) as new:
            old.set_behaviour(returns_rcode(dns.rcode.SERVFAIL), "fails.example")
            async with forwarding(is_auto=True) as scene:
                assert await scene.rcode() == "REFUSED"
                own = await scene.remembered("discovery", "SOA")
                assert not own.flags & dns.flags.RA
                name_resolver(scene, resolv_conf, old.address)
                own = await scene.query("discovery", "SOA")
                assert own.flags & dns.flags.RA
                await scene.remembered()
                assert await scene.rcode("fails.example") == "SERVFAIL"
                name_resolver(scene, resolv_conf, new.address)
                assert await scene.data() == ["192.0.2.2"]
                assert await scene.data("fails.example") == ["192.0.2.2"]
                assert asked_of(old) == 1
                name_resolver(scene, resolv_conf)
                assert await scene.rcode() == "REFUSED"

    run(scenario)


def test_a_file_that_names_the_same_again_changes_nothing(resolv_conf: Path) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(is_auto=True) as scene:
                name_resolver(scene, resolv_conf, resolver.address)
                await scene.query()
                name_resolver(scene, resolv_conf, resolver.address)
                assert await scene.data() == ["192.0.2.1"]
                assert asked_of(resolver) == 1

    run(scenario)


def test_dns_37_our_own_address_is_never_an_upstream(resolv_conf: Path) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            async with forwarding(is_auto=True) as scene:
                ourselves = UpstreamAddress(scene.address.host, scene.address.port)
                name_resolver(scene, resolv_conf, ourselves)
                assert await scene.rcode() == "REFUSED"
                name_resolver(scene, resolv_conf, ourselves, resolver.address)
                assert await scene.data() == ["192.0.2.1"]
                (upstream,) = scene.forwarder.routes.all[0].exchanges.upstreams.all
                assert upstream.address == resolver.address

    run(scenario)


# -- loops --------------------------------------------------------------------------------------------------


def hands_back(scenes: list[Scene]) -> Behaviour:
    """A resolver that knows nothing but to ask that server, once there is one."""

    def act(asked: ReceivedQuery) -> list[Send]:
        (scene,) = eventually(lambda: scenes)
        query = dns.message.from_wire(asked.message)
        response = dns.query.udp(query, scene.address.host, port=scene.address.port, timeout=5)
        return [Send(response.to_wire())]

    return act


@pytest.mark.parametrize("domain", [None, "corp.example"])
def test_dns_37_an_upstream_that_hands_queries_back_is_found_told_of_and_asked_no_more(
    domain: str | None,
) -> None:
    scenes: list[Scene] = []

    async def scenario() -> None:
        with UpstreamServer(hands_back(scenes)) as back, UpstreamServer(last_byte=2) as good:
            upstreams = [back, good] if domain is None else [good]
            domains = {domain: [back, good]} if domain is not None else None
            async with forwarding(*upstreams, domains=domains) as scene:
                scenes.append(scene)
                route = scene.forwarder.routes.all[-1]
                with capture_logs() as logs:
                    await until(lambda: len(route.exchanges.upstreams.all) == 1)
                (told,) = [entry["reason"] for entry in logs if entry["event"] == "upstream_loop_detected"]
                assert told.startswith(f"{back.address}, which ")
                assert (f'[forward.zone."{domain}"]' in told) is (domain is not None)
                assert await scene.data(f"www.{domain or 'example'}") == ["192.0.2.2"]
                asked = len(back.queries)
                scene.pass_time(60)
                assert await scene.data(f"mail.{domain or 'example'}") == ["192.0.2.2"]
                assert len(back.queries) == asked
                scene.pass_time(routes_module.LOOP_AVOID_SECONDS)  # it may ask somebody else by now
                await until(lambda: len(back.queries) > asked)
                await until(lambda: len(route.exchanges.upstreams.all) == 1)

    run(scenario)


def test_a_probe_is_asked_as_every_name_where_it_is_not_ours() -> None:
    async def scenario() -> None:
        with UpstreamServer(has('60 TXT "as every name"')) as resolver:
            async with forwarding(resolver) as scene:
                name = "00" * 20 + ".loop.zkdns.example"
                assert await scene.data(name, "TXT") == ['"as every name"']

    run(scenario)
