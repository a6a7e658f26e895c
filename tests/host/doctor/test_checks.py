"""The checks of the doctor, with facts as arguments."""

from __future__ import annotations

import pytest

from zkdns.address import HostPort, UpstreamAddress
from zkdns.forward.system_upstreams import NameServers
from zkdns.host.doctor.checks import (
    NameResolution,
    check_hosts_line,
    check_nscd,
    check_open_files,
    check_port,
    check_primaries,
    check_receive_buffer,
    check_resolv_conf,
    check_response,
    check_search,
    check_services,
    check_snapshot,
    check_upstream_responses,
    check_upstreams,
    check_zookeeper,
)
from zkdns.host.doctor.processes import BindRights, Listener
from zkdns.host.resolver_config import parse_hosts_line
from zkdns.resolv_conf import parse_resolv_conf
from zkdns.serverset.probe import ProbeResult, RootListing
from zkdns.serverset.service_counts import Listing, ServiceCount

OWN = HostPort("127.0.0.1", 53)
ROOT, USER = BindRights(is_privileged=True), BindRights(is_privileged=False)


def levels(findings: object) -> list[str]:
    return [finding.level for finding in findings]  # type: ignore[attr-defined]


def sentences(findings: object) -> str:
    return "\n".join(f"{finding.found}; {finding.cure}" for finding in findings)  # type: ignore[attr-defined]


def listening(host: str, name: str, *, is_zkdns: bool = False, pid: int | None = 7) -> list[Listener]:
    at = HostPort(host, 53)
    return [Listener("udp", at, pid, name, is_zkdns), Listener("tcp", at, pid, name, is_zkdns)]


@pytest.mark.parametrize(
    ("taken", "rights", "level", "sentence"),
    [
        (listening("127.0.0.1", "dnsmasq"), ROOT, "wrong", "dnsmasq (pid 7), which listens on 127.0.0.1:53"),
        (listening("0.0.0.0", "named"), ROOT, "wrong", "named (pid 7)"),
        (listening("::", "named"), ROOT, "wrong", "named (pid 7), which listens on [::]:53"),
        (listening("127.0.0.1", "systemd", pid=1), ROOT, "warning", "systemd has it open for a socket unit"),
        (listening("127.0.0.1", "", pid=None), USER, "wrong", "another user's program"),
        (
            listening("127.0.0.53", "systemd-resolve"),
            ROOT,
            "warning",
            "is free",
        ),  # the stub does not conflict
        (listening("::1", "named"), ROOT, "warning", "is free"),
        (listening("127.0.0.1", "zkdns", is_zkdns=True), ROOT, "ok", "zkdns has it (pid 7)"),
        ([], ROOT, "warning", "start it"),
        ([], USER, "warning", "may not bind ports below 1024"),
        ([], USER, "warning", "let systemd bind it (zkdns.socket)"),  # its unit drops the capability
        (
            [],
            BindRights(is_privileged=False, first_free_port=53),
            "warning",
            "is free: no zkdns listens there",
        ),
    ],
)
def test_a_port(taken: list[Listener], rights: BindRights, level: str, sentence: str) -> None:
    found = list(check_port(OWN, taken, rights))
    assert levels(found) == [level, level]  # over UDP and TCP
    assert sentences(found).count(sentence) == 2


def test_one_transport_in_use_is_an_error() -> None:
    found = list(check_port(OWN, listening("127.0.0.1", "avahi")[:1], ROOT))
    assert levels(found) == ["wrong", "warning"]


@pytest.mark.parametrize(
    ("conf", "forwards", "expected", "sentence"),
    [
        ("nameserver 127.0.0.1\nnameserver 10.0.0.1\n", {}, ["ok"], "127.0.0.1 first, which is zkdns"),
        ("nameserver 10.0.0.1\n", {}, ["wrong"], "which does not lead to zkdns"),
        ("nameserver 10.0.0.1\nnameserver 127.0.0.1\n", {}, ["wrong"], "names 10.0.0.1 before zkdns"),
        ("nameserver 127.0.0.53\n", {"127.0.0.53": True}, ["ok"], "which forwards discovery to"),
        ("nameserver 127.0.0.53\n", {"127.0.0.53": False}, ["wrong"], "does not lead to zkdns"),
        ("nameserver 127.0.0.1\n", {"127.0.0.1": False}, ["wrong"], "does not lead"),  # another program
        ("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 127.0.0.1\n", {},
         ["wrong", "warning"], "names zkdns after 3 others"),
        ("nameserver 127.0.0.1\nnameserver 10.0.0.1\noptions rotate\n", {}, ["ok", "wrong"], "every other"),
        ("nameserver 127.0.0.1\noptions rotate\n", {}, ["ok"], "first"),
        ("", {}, ["warning"], "programs query 127.0.0.1, which is zkdns"),
        ("", {"127.0.0.1": False}, ["wrong"], "has no nameserver"),
    ],
)  # fmt: skip
def test_resolv_conf(conf: str, forwards: dict[str, bool | None], expected: list[str], sentence: str) -> None:
    resolution = NameResolution(
        conf=parse_resolv_conf(conf), own=frozenset({"127.0.0.1"}), forwards=forwards, zones=("discovery",)
    )
    found = list(check_resolv_conf(resolution))
    assert levels(found) == expected
    assert sentence in sentences(found)


@pytest.mark.parametrize(
    ("conf", "expected", "sentence"),
    [
        ("search corp.example staging.discovery", ["ok"], "web resolves as web.staging.discovery"),
        ("search corp.example", ["ok"], "only below corp.example"),
        ("search mydiscovery", ["ok"], "only below mydiscovery"),
        ("", ["ok"], "do not resolve"),
        ("search a.example b.example\noptions ndots:5", ["ok", "warning"], "are tried in a.example"),
        ("options ndots:5", ["ok"], "do not resolve"),
    ],
)  # fmt: skip
def test_short_names(conf: str, expected: list[str], sentence: str) -> None:
    found = list(check_search(parse_resolv_conf(conf), ("discovery",)))
    assert levels(found) == expected
    assert sentence in sentences(found)


@pytest.mark.parametrize(
    ("line", "zone", "leads", "expected", "sentence"),
    [
        ("files dns", "discovery", True, ["ok"], "hosts: files dns"),
        ("files", "discovery", True, ["wrong"], "programs do not query name servers"),
        ("files [NOTFOUND=return] dns", "discovery", True, ["wrong", "ok"], "files ends the lookup"),
        ("files mdns4_minimal [NOTFOUND=return] dns", "discovery", True, ["ok"], "hosts:"),
        ("files mdns4_minimal [NOTFOUND=return] dns", "services.local", True, ["wrong", "ok"], "RFC 6762"),
        ("files resolve [!UNAVAIL=return] dns", "discovery", True, ["ok"], "hosts:"),
        (
            "files resolve [!UNAVAIL=return] dns",
            "discovery",
            False,
            ["wrong", "ok"],
            "does not forward the zone",
        ),
        ("files resolve", "discovery", True, ["ok"], "hosts:"),
    ],
)
def test_nsswitch_conf(line: str, zone: str, leads: bool, expected: list[str], sentence: str) -> None:
    sources = parse_hosts_line(f"hosts: {line}\n")
    found = list(check_hosts_line(sources, (zone,), resolved_leads=leads))
    assert levels(found) == expected
    assert sentence in sentences(found)


_STUB, _OTHER, _SELF = (UpstreamAddress(host, 53) for host in ("127.0.0.53", "10.0.0.1", "127.0.0.1"))


@pytest.mark.parametrize(
    ("chosen", "own", "asks_us", "level", "sentence"),
    [
        (
            NameServers((_OTHER,), "/etc/resolv.conf"),
            [],
            False,
            "ok",
            "10.0.0.1:53 (from /etc/resolv.conf)",
        ),
        (NameServers(), [_SELF], False, "wrong", "zkdns is the only server in the files of this machine"),
        (NameServers(), [], False, "wrong", "there are none"),
        (NameServers((_STUB,), "/etc/resolv.conf"), [], True, "wrong", "a loop"),
        (NameServers((_STUB,), "/etc/resolv.conf"), [], False, "ok", "127.0.0.53"),
        (NameServers((_OTHER,), "/run/systemd/resolve/resolv.conf"), [_SELF], True, "ok", "10.0.0.1"),
    ],
)
def test_upstreams(
    chosen: NameServers, own: list[UpstreamAddress], asks_us: bool, level: str, sentence: str
) -> None:
    found = list(check_upstreams(chosen, own, resolved_asks_us=asks_us))
    assert levels(found) == [level]
    assert sentence in sentences(found)


def test_silent_upstreams_are_an_error_only_if_none_responds() -> None:
    silent = "did not respond within 2 s"
    assert levels(check_upstream_responses({_OTHER: None, _STUB: None})) == ["ok"]
    assert levels(check_upstream_responses({_OTHER: silent, _STUB: None})) == ["warning"]
    assert levels(check_upstream_responses({_OTHER: silent, _STUB: silent})) == ["wrong", "wrong"]
    assert list(check_upstream_responses({})) == []


def test_primaries_of_a_secondary() -> None:
    refused = {"discovery": "it responds with REFUSED"}
    assert levels(check_primaries({"10.0.0.53:53": {"discovery": 7}})) == ["ok"]
    assert levels(check_primaries({"10.0.0.53:53": {"discovery": 7}, "10.0.0.54:53": refused})) == [
        "ok",
        "warning",
    ]
    assert levels(check_primaries({"10.0.0.54:53": refused})) == ["wrong"]
    assert "permit transfers to this host" in sentences(check_primaries({"10.0.0.54:53": refused}))


def test_zookeeper_servers() -> None:
    healthy = ProbeResult(
        HostPort("zk01", 2181), roots=(RootListing("/discovery", 2), RootListing("/aurora", 1))
    )
    away = ProbeResult(HostPort("zk02", 2181), "cannot be connected to: Connection refused")
    found = list(check_zookeeper([healthy, away]))
    assert levels(found) == ["ok", "warning"]
    assert "/discovery has 2 znodes, /aurora has 1 znode;" in sentences(found)
    assert levels(check_zookeeper([away])) == ["wrong"]
    assert 'write hosts = "HOST:PORT" in [zookeeper]' in sentences(check_zookeeper([away]))
    lonely = ProbeResult(HostPort("zk03", 2181), is_read_only=True, roots=(RootListing("/discovery", 1),))
    assert levels(check_zookeeper([lonely])) == ["warning"]
    chrooted = ProbeResult(HostPort("zk05", 2181), missing_chroot="/services")
    assert sentences(check_zookeeper([chrooted])).startswith("the chroot /services does not exist; create it")
    assert levels(check_zookeeper([chrooted])) == ["wrong"]
    missing = RootListing("/aurora", refusal="does not exist")
    denied = RootListing("/secret", refusal="may not be listed: its ACL denies it")
    found = list(
        check_zookeeper(
            [ProbeResult(HostPort("zk04", 2181), roots=(RootListing("/discovery", 1), missing, denied))]
        )
    )
    assert [finding.found.partition(" ")[0] for finding in found] == ["/aurora", "/secret"]
    assert levels(found) == ["wrong", "wrong"]
    assert ["register" in finding.cure for finding in found] == [True, False]
    assert "zookeeper.credentials" in found[1].cure


def test_services_with_other_children_only() -> None:
    def listing(*rows: ServiceCount, exists: bool = True) -> Listing:
        return Listing(rows, (), (), exists)

    good = ServiceCount("prod", "web", 2, "/prod/web", passed_over=1, examples=("leader",))
    idle = ServiceCount("prod", "idle", 0, "/prod/idle")
    denied = ServiceCount("prod", "secret", None, "/prod/secret")
    (found,) = check_services(listing(good, idle, denied), "/{environment}/{service}")
    assert (found.level, found.found) == ("ok", "/{environment}/{service} has 3; members: 2")
    bad = ServiceCount(
        "prod",
        "api",
        0,
        "/prod/api",
        passed_over=2,
        examples=("i-1_0000000001", "i-2_0000000002"),
        format="nerve",
    )
    (found,) = check_services(listing(good, bad), "/{environment}/{service}")
    assert (found.about, found.level) == ("services", "warning")
    assert found.found == (
        "/prod/api has no members, but 2 other children: i-1_0000000001, i-2_0000000002 (nerve)"
    )
    assert "member_prefix" in found.cure
    found_many = list(check_services(listing(*[bad] * 8), "/{environment}/{service}"))
    assert levels(found_many) == ["warning"] * 6
    assert found_many[-1].found == "3 more services of /{environment}/{service} have other children only"
    assert list(check_services(listing(exists=False), "/{environment}/{service}")) == []


def test_responses_limits_and_the_snapshot() -> None:
    responses = [
        ("NOERROR", True),
        ("NOERROR", False),
        ("SERVFAIL", False),
        ("REFUSED", False),
        ("NXDOMAIN", True),
    ]
    found = [check_response("", rcode, is_authoritative=aa) for rcode, aa in responses]
    assert levels(found) == ["ok", "wrong", "warning", "wrong", "wrong"]
    assert levels(check_open_files((1024, 1024), 4000)) == ["warning"]
    assert levels(check_open_files((1024, 1 << 20), 4000)) == ["ok"]
    assert list(check_open_files(None, 4000)) == []
    assert levels(check_receive_buffer(212_992)) == ["warning"]
    assert levels(check_receive_buffer(1 << 20)) == ["ok"]
    assert list(check_receive_buffer(None)) == []
    assert levels(check_snapshot(None, None, is_configured=False)) == ["warning"]
    assert levels(check_snapshot(None, "there is none", is_configured=True)) == ["warning"]
    (snapshot,) = check_snapshot(7300.0, None, is_configured=True)
    assert (snapshot.level, snapshot.found) == ("ok", "is 2h old")
    assert levels(check_nscd(is_running=True)) == ["warning"]
    assert list(check_nscd(is_running=False)) == []
