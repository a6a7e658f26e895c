"""Forward zones: longest match, exclusion of this server, system upstreams and loop detection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.forward.forwarder_helpers import NAMESPACE, SECRET
from tests.forward.resolution_helpers import run, until
from tests.support.upstream import UpstreamServer
from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import Config, ForwardSettings, ForwardZoneSettings
from zkdns.forward.forward_zones import LOOP_AVOID_SECONDS, LOOP_PROBE_SECONDS, ForwardZone, ForwardZones
from zkdns.forward.message import Question
from zkdns.forward.resolver import Resolver

ONE, TWO, THREE = (UpstreamAddress(f"192.0.2.{number}", 53) for number in (1, 2, 3))
LISTENING = [HostPort("127.0.0.1", 5300)]
OURSELVES = UpstreamAddress("127.0.0.1", 5300)


def zones_of(
    upstream: tuple[UpstreamAddress, ...] | str = (ONE,),
    domains: Mapping[str, Iterable[UpstreamAddress]] | None = None,
    *,
    listening: Iterable[HostPort] = LISTENING,
    secret: bytes | None = SECRET,
    resolv_conf: Path | None = None,
) -> ForwardZones:
    """Return the forward zones of a server with these upstreams and this resolv.conf of the system."""
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(
            upstreams=upstream,  # type: ignore[arg-type]  # the one word is a literal
            zones={name: ForwardZoneSettings(tuple(each)) for name, each in (domains or {}).items()},
        ),
    )
    system_files = [resolv_conf] if resolv_conf is not None else []
    return ForwardZones(config, list(listening), secret, Resolver, system_files=system_files)


def domain_of(zones: ForwardZones, name: str) -> str | None:
    """Return the domain of the forward zone of a name."""
    return zones.find(labels(name)).domain


def labels(name: str) -> tuple[bytes, ...]:
    return tuple(name.encode().split(b".")) if name else ()


def upstreams_of(zone: ForwardZone) -> list[UpstreamAddress]:
    return [upstream.address for upstream in zone.resolver.upstreams.all]


# -- domains ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("", None),
        ("example", None),
        ("www.example", None),
        ("corp.example", "corp.example"),
        ("a.b.corp.example", "corp.example"),
        ("notcorp.example", None),
        ("corp.example.org", "org"),
        ("corp.example.net", None),
        ("lab.corp.example", "lab.corp.example"),
        ("x.lab.corp.example", "lab.corp.example"),
        ("org", "org"),
        ("a.b.c.d.org", "org"),
    ],
)
def test_longest_matching_domain_wins(name: str, domain: str | None) -> None:
    zones = zones_of(domains={"corp.example": [TWO], "lab.corp.example": [THREE], "org": []})
    assert domain_of(zones, name) == domain


def test_domain_is_configured_if_it_has_upstreams() -> None:
    zones = zones_of(domains={"corp.example": [TWO], "org": []})
    assert zones.is_configured(labels("corp.example"))
    assert not zones.is_configured(labels("org"))
    assert not zones.is_configured(labels("a.corp.example"))
    assert not zones.is_configured(())


@pytest.mark.parametrize(
    ("upstream", "domains", "has_upstreams"),
    [((), {}, False), ((ONE,), {}, True), ((), {"org": []}, False), ((), {"org": [ONE]}, True)],
)
def test_has_upstreams(
    upstream: tuple[UpstreamAddress, ...], domains: dict[str, list[UpstreamAddress]], *, has_upstreams: bool
) -> None:
    assert zones_of(upstream, domains).has_upstreams is has_upstreams


# -- this server itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listening", "upstream"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.9.9.9"),
        ("::", "::1"),
        ("::1", "::1"),
    ],
)
def test_dns_37_upstream_that_is_this_server_is_skipped_and_logged(listening: str, upstream: str) -> None:
    ourselves = UpstreamAddress(upstream, 5300)
    with capture_logs() as logs:
        zones = zones_of((ourselves, ONE), {"org": [ourselves]}, listening=[HostPort(listening, 5300)])
    default, org = zones.all
    assert (default.servers, org.servers) == ((ONE,), ())
    assert upstreams_of(default) == [ONE]
    assert not zones.is_configured(labels("org"))
    assert [(entry["event"], entry["upstream"]) for entry in logs] == [
        ("upstream_skipped", str(ourselves))
    ] * 2


@pytest.mark.parametrize(
    ("listening", "upstream"),
    [
        (HostPort("127.0.0.1", 5300), UpstreamAddress("127.0.0.1", 5301)),
        (HostPort("127.0.0.1", 5300), UpstreamAddress("127.0.0.2", 5300)),
        (HostPort("0.0.0.0", 5300), UpstreamAddress("::1", 5300)),
        (HostPort("0.0.0.0", 5300), UpstreamAddress("192.0.2.1", 5300)),
    ],
)
def test_other_upstreams_are_used(listening: HostPort, upstream: UpstreamAddress) -> None:
    assert zones_of((upstream,), listening=[listening]).find(()).servers == (upstream,)


# -- system upstreams -------------------------------------------------------------------------------------


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    """The system's resolv.conf."""
    file = tmp_path / "resolv.conf"
    write_nameservers(file, ONE, OURSELVES)
    return file


def write_nameservers(file: Path, *servers: UpstreamAddress) -> None:
    file.write_text("".join(f"nameserver {server}\n" for server in servers))


def test_auto_follows_a_changed_file_once_it_is_stable(resolv_conf: Path) -> None:
    zones = zones_of("auto", {"org": [TWO]}, resolv_conf=resolv_conf)
    assert upstreams_of(zones.find(())) == [ONE]
    assert not zones.poll(0.0)
    write_nameservers(resolv_conf, THREE)
    assert not zones.poll(1.0)
    assert upstreams_of(zones.find(())) == [ONE]
    assert zones.poll(2.0)
    assert zones.find(()).servers == (THREE,)
    assert upstreams_of(zones.find(())) == [THREE]
    assert upstreams_of(zones.find(labels("org"))) == [TWO]
    assert not zones.poll(3.0)
    resolv_conf.unlink()
    assert [zones.poll(4.0), zones.poll(5.0)] == [False, True]
    assert zones.find(()).servers == ()
    assert zones.has_upstreams  # the zone org


def test_configured_upstreams_do_not_depend_on_the_file(resolv_conf: Path) -> None:
    zones = zones_of((TWO,), resolv_conf=resolv_conf)
    write_nameservers(resolv_conf, THREE)
    assert not any(zones.poll(float(second)) for second in range(5))
    assert upstreams_of(zones.find(())) == [TWO]


# -- loops ------------------------------------------------------------------------------------------------


def probes_of(upstream: UpstreamServer) -> list[Question]:
    """Return the probes that an upstream has received, in order."""
    questions = [
        received.query.question[0] for received in list(upstream.queries) if ".loop.zkdns." in received.name
    ]
    return [Question(received.name.to_wire() or b"", int(received.rdtype)) for received in questions]


async def send_probes(
    zones: ForwardZones, upstream: UpstreamServer, now: float, count: int
) -> list[Question]:
    """Poll the forward zones; wait until the upstream has received this number of probes in all."""
    zones.poll(now)
    await until(lambda: len(probes_of(upstream)) >= count)
    return probes_of(upstream)


def test_dns_37_returned_probe_stops_queries_for_a_while() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream, capture_logs() as logs:
            zones = zones_of((upstream.address,))
            zones.start()
            (probe,) = await send_probes(zones, upstream, 1000.0, 1)
            assert zones.detect_loop(probe, 1001.0)
            assert upstreams_of(zones.find(())) == []
            assert zones.find(()).servers == (upstream.address,)  # so the response is SERVFAIL, not REFUSED
            assert zones.detect_loop(probe, 1002.0)
            (logged,) = [entry for entry in logs if entry["event"] == "upstream_loop_detected"]
            assert logged["reason"].startswith(
                f"{upstream.address} (from forward.upstreams) returns queries to this server"
            )
            zones.poll(1001.0 + LOOP_PROBE_SECONDS)
            zones.poll(1002.0 + LOOP_AVOID_SECONDS - 0.1)
            assert upstreams_of(zones.find(())) == []
            await send_probes(zones, upstream, 1002.0 + LOOP_AVOID_SECONDS, 2)
            assert upstreams_of(zones.find(())) == [upstream.address]
            zones.stop()

    run(scenario)


def test_each_zone_gets_a_new_probe_every_minute() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            zones = zones_of((upstream.address,), {"corp.example": [upstream.address], "org": []})
            zones.start()
            first = await send_probes(zones, upstream, 1000.0, 2)
            below = b"\4loop\5zkdns"
            domains = sorted(question.name.partition(below)[2] for question in first)
            assert domains == [b"\4corp\7example\0", b"\7example\0"]
            zones.poll(1000.0 + LOOP_PROBE_SECONDS - 1)
            second = await send_probes(zones, upstream, 1000.0 + LOOP_PROBE_SECONDS, 4)
            assert len(second) == 4
            assert len(set(second)) == 4
            zones.stop()

    run(scenario)


def test_dns_37_loop_in_one_zone_does_not_affect_other_zones() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream, capture_logs() as logs:
            zones = zones_of((upstream.address,), {"corp.example": [upstream.address]})
            zones.start()
            probes = await send_probes(zones, upstream, 1000.0, 2)
            (of_corp,) = [probe for probe in probes if probe.name.endswith(b"\4corp\7example\0")]
            assert zones.detect_loop(of_corp, 1000.0)
            assert upstreams_of(zones.find(labels("db.corp.example"))) == []
            assert upstreams_of(zones.find(())) == [upstream.address]
            (logged,) = [entry for entry in logs if entry["event"] == "upstream_loop_detected"]
            assert '[forward.zone."corp.example"]' in logged["reason"]
            (of_all,) = set(probes) - {of_corp}
            assert zones.detect_loop(of_all, 1000.0)
            assert upstreams_of(zones.find(())) == []
            zones.stop()

    run(scenario)


def test_dns_37_reason_has_the_file_that_names_the_upstream(resolv_conf: Path) -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream, capture_logs() as logs:
            write_nameservers(resolv_conf, upstream.address)
            zones = zones_of("auto", resolv_conf=resolv_conf)
            zones.start()
            (probe,) = await send_probes(zones, upstream, 1000.0, 1)
            assert zones.detect_loop(probe, 1000.0)
            (logged,) = [entry for entry in logs if entry["event"] == "upstream_loop_detected"]
            assert f"(from {resolv_conf})" in logged["reason"]
            assert "--upstream ADDRESS" in logged["reason"]
            zones.stop()

    run(scenario)


def test_no_probes_without_a_secret() -> None:
    async def scenario() -> None:
        with UpstreamServer() as upstream:
            with_secret, without = zones_of((upstream.address,)), zones_of((upstream.address,), secret=None)
            for zones in (without, with_secret):
                zones.start()
                zones.poll(1000.0)
            await until(lambda: probes_of(upstream))
            assert len(upstream.queries) == 1
            (probe,) = probes_of(upstream)
            assert not without.detect_loop(probe, 1000.0)
            for zones in (without, with_secret):
                zones.stop()

    run(scenario)
