"""Who is asked for which names, and who never is."""

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
from zkdns.forward import forward_zones as routes_module
from zkdns.forward.forward_zones import LOOP_AVOID_SECONDS, PROBE_SECONDS, ForwardZone, ForwardZones
from zkdns.forward.question import Question
from zkdns.forward.resolver import Resolver
from zkdns.forward.system_upstreams import SystemUpstreams

ONE, TWO, THREE = (UpstreamAddress(f"192.0.2.{number}", 53) for number in (1, 2, 3))
LISTENING = [HostPort("127.0.0.1", 5300)]
OURSELVES = UpstreamAddress("127.0.0.1", 5300)


def routes_of(
    upstream: tuple[UpstreamAddress, ...] | str = (ONE,),
    domains: Mapping[str, Iterable[UpstreamAddress]] | None = None,
    *,
    listening: Iterable[HostPort] = LISTENING,
    secret: bytes | None = SECRET,
) -> ForwardZones:
    """The routes of a server with these upstreams."""
    config = Config(
        listen=(),
        namespaces=(NAMESPACE,),
        forward=ForwardSettings(
            upstreams=upstream,  # type: ignore[arg-type]  # the one word is a literal
            zones={name: ForwardZoneSettings(tuple(each)) for name, each in (domains or {}).items()},
        ),
    )
    return ForwardZones(config, list(listening), secret, Resolver)


def found(routes: ForwardZones, name: str) -> str | None:
    """The domain of the route that a name takes."""
    return routes.find(labels(name)).domain


def labels(name: str) -> tuple[bytes, ...]:
    return tuple(name.encode().split(b".")) if name else ()


def asked_by(route: ForwardZone) -> list[UpstreamAddress]:
    return [upstream.address for upstream in route.exchanges.upstreams.all]


# -- domains ------------------------------------------------------------------------------------------------


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
def test_the_longest_domain_wins_at_whole_labels(name: str, domain: str | None) -> None:
    routes = routes_of(domains={"corp.example": [TWO], "lab.corp.example": [THREE], "org": []})
    assert found(routes, name) == domain


def test_a_domain_counts_as_configured_where_somebody_is_asked() -> None:
    routes = routes_of(domains={"corp.example": [TWO], "org": []})
    assert routes.is_configured(labels("corp.example"))
    assert not routes.is_configured(labels("org"))
    assert not routes.is_configured(labels("a.corp.example"))
    assert not routes.is_configured(())


@pytest.mark.parametrize(
    ("upstream", "domains", "are_any"),
    [((), {}, False), ((ONE,), {}, True), ((), {"org": []}, False), ((), {"org": [ONE]}, True)],
)
def test_whether_anything_is_forwarded(
    upstream: tuple[UpstreamAddress, ...], domains: dict[str, list[UpstreamAddress]], *, are_any: bool
) -> None:
    assert routes_of(upstream, domains).are_any is are_any


# -- ourselves ----------------------------------------------------------------------------------------------


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
def test_dns_37_who_is_this_server_itself_is_left_out_and_told_of(listening: str, upstream: str) -> None:
    ourselves = UpstreamAddress(upstream, 5300)
    with capture_logs() as logs:
        routes = routes_of((ourselves, ONE), {"org": [ourselves]}, listening=[HostPort(listening, 5300)])
    default, org = routes.all
    assert (default.servers, org.servers) == ((ONE,), ())
    assert asked_by(default) == [ONE]
    assert not routes.is_configured(labels("org"))
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
def test_who_is_somebody_else_is_asked(listening: HostPort, upstream: UpstreamAddress) -> None:
    assert routes_of((upstream,), listening=[listening]).find(()).servers == (upstream,)


# -- the machine's own resolvers ----------------------------------------------------------------------------


@pytest.fixture
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names the machine's resolvers."""
    file = tmp_path / "resolv.conf"
    name_resolvers(file, ONE, OURSELVES)
    monkeypatch.setattr(
        routes_module, "SystemUpstreams", lambda listening, **how: SystemUpstreams(listening, [file], **how)
    )
    return file


def name_resolvers(file: Path, *servers: UpstreamAddress) -> None:
    file.write_text("".join(f"nameserver {server}\n" for server in servers))


def test_auto_follows_the_file_once_it_stands_still(resolv_conf: Path) -> None:
    routes = routes_of("auto", {"org": [TWO]})
    assert asked_by(routes.find(())) == [ONE]
    assert not routes.tend(0.0)
    name_resolvers(resolv_conf, THREE)
    assert not routes.tend(1.0)
    assert asked_by(routes.find(())) == [ONE]
    assert routes.tend(2.0)
    assert routes.find(()).servers == (THREE,)
    assert asked_by(routes.find(())) == [THREE]
    assert asked_by(routes.find(labels("org"))) == [TWO]
    assert not routes.tend(3.0)
    resolv_conf.unlink()
    assert [routes.tend(4.0), routes.tend(5.0)] == [False, True]
    assert routes.find(()).servers == ()
    assert routes.are_any  # of org


def test_what_is_configured_does_not_change_with_the_file(resolv_conf: Path) -> None:
    routes = routes_of((TWO,))
    name_resolvers(resolv_conf, THREE)
    assert not any(routes.tend(float(second)) for second in range(5))
    assert asked_by(routes.find(())) == [TWO]


# -- loops --------------------------------------------------------------------------------------------------


def probes_of(resolver: UpstreamServer) -> list[Question]:
    """The probes that a resolver was sent, in their order."""
    questions = [asked.query.question[0] for asked in list(resolver.queries) if ".loop.zkdns." in asked.name]
    return [Question(asked.name.to_wire() or b"", int(asked.rdtype)) for asked in questions]


async def probed(routes: ForwardZones, resolver: UpstreamServer, now: float, count: int) -> list[Question]:
    """Tend routes, and wait until the resolver has been sent so many probes in all."""
    routes.tend(now)
    await until(lambda: len(probes_of(resolver)) >= count)
    return probes_of(resolver)


def test_dns_37_a_probe_that_comes_back_ends_the_asking_for_a_while() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver, capture_logs() as logs:
            routes = routes_of((resolver.address,))
            routes.start()
            (probe,) = await probed(routes, resolver, 1000.0, 1)
            assert routes.has_returned(probe, 1001.0)
            assert asked_by(routes.find(())) == []
            assert routes.find(()).servers == (resolver.address,)  # so it is SERVFAIL, and not refused
            assert routes.has_returned(probe, 1002.0)
            (told,) = [entry for entry in logs if entry["event"] == "upstream_loop_detected"]
            assert told["reason"].startswith(
                f"{resolver.address}, which forward.upstreams names, hands the queries"
            )
            routes.tend(1001.0 + PROBE_SECONDS)
            routes.tend(1002.0 + LOOP_AVOID_SECONDS - 0.1)
            assert asked_by(routes.find(())) == []
            await probed(routes, resolver, 1002.0 + LOOP_AVOID_SECONDS, 2)
            assert asked_by(routes.find(())) == [resolver.address]
            routes.stop()

    run(scenario)


def test_each_minute_there_is_another_probe_of_each_domain() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            routes = routes_of((resolver.address,), {"corp.example": [resolver.address], "org": []})
            routes.start()
            first = await probed(routes, resolver, 1000.0, 2)
            below = b"\4loop\5zkdns"
            domains = sorted(question.name.partition(below)[2] for question in first)
            assert domains == [b"\4corp\7example\0", b"\7example\0"]
            routes.tend(1000.0 + PROBE_SECONDS - 1)
            second = await probed(routes, resolver, 1000.0 + PROBE_SECONDS, 4)
            assert len(second) == 4
            assert len(set(second)) == 4
            routes.stop()

    run(scenario)


def test_dns_37_who_hands_back_one_domain_is_asked_for_all_others() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver, capture_logs() as logs:
            routes = routes_of((resolver.address,), {"corp.example": [resolver.address]})
            routes.start()
            probes = await probed(routes, resolver, 1000.0, 2)
            (of_corp,) = [probe for probe in probes if probe.name.endswith(b"\4corp\7example\0")]
            assert routes.has_returned(of_corp, 1000.0)
            assert asked_by(routes.find(labels("db.corp.example"))) == []
            assert asked_by(routes.find(())) == [resolver.address]
            (told,) = [entry for entry in logs if entry["event"] == "upstream_loop_detected"]
            assert '[forward.zone."corp.example"]' in told["reason"]
            (of_all,) = set(probes) - {of_corp}
            assert routes.has_returned(of_all, 1000.0)
            assert asked_by(routes.find(())) == []
            routes.stop()

    run(scenario)


def test_dns_37_where_the_file_names_who_loops_the_file_is_told(resolv_conf: Path) -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver, capture_logs() as logs:
            name_resolvers(resolv_conf, resolver.address)
            routes = routes_of("auto")
            routes.start()
            (probe,) = await probed(routes, resolver, 1000.0, 1)
            assert routes.has_returned(probe, 1000.0)
            (told,) = [entry for entry in logs if entry["event"] == "upstream_loop_detected"]
            assert f"which {resolv_conf} names" in told["reason"]
            assert "--upstream ADDRESS" in told["reason"]
            routes.stop()

    run(scenario)


def test_without_a_secret_nobody_is_probed() -> None:
    async def scenario() -> None:
        with UpstreamServer() as resolver:
            with_secret, without = routes_of((resolver.address,)), routes_of((resolver.address,), secret=None)
            for routes in (without, with_secret):
                routes.start()
                routes.tend(1000.0)
            await until(lambda: probes_of(resolver))
            assert len(resolver.queries) == 1
            (probe,) = probes_of(resolver)
            assert not without.has_returned(probe, 1000.0)
            for routes in (without, with_secret):
                routes.stop()

    run(scenario)
