"""Protection against DNS rebinding."""

from __future__ import annotations

import ipaddress

import pytest

from tests.dns.helpers import put
from tests.forward.forwarder_helpers import data_of, extended_errors, forwarding, has, queries_to, rcode_of
from tests.forward.helpers import NAME, question, read, reply, rrset
from tests.forward.resolution_helpers import run
from tests.support.upstream import UpstreamServer
from zkdns.dns.message import parse_query
from zkdns.forward.message import build_query
from zkdns.forward.rebinding import RebindProtection, is_private
from zkdns.names import parse_name

BLOCKED = 15
PROTECTION = RebindProtection([parse_name("corp.example"), parse_name("plex.direct")])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("0.0.0.0", True),
        ("100.63.255.255", False),
        ("100.64.0.1", True),
        ("127.0.0.2", True),
        ("169.254.169.254", True),
        ("172.15.255.255", False),
        ("172.16.0.1", True),
        ("172.32.0.0", False),
        ("192.0.2.1", False),
        ("192.168.1.1", True),
        ("255.255.255.255", True),
        ("8.8.8.8", False),
        ("::", True),
        ("::1", True),
        ("::2", False),
        ("2001:db8::1", False),
        ("fbff::1", False),
        ("fc00::1", True),
        ("fdff::1", True),
        ("fe80::1", True),
        ("::ffff:10.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::10.0.0.1", True),
        ("64:ff9b::8.8.8.8", False),
    ],
)
def test_private_addresses(address: str, *, expected: bool) -> None:
    assert is_private(ipaddress.ip_address(address)) == expected


@pytest.mark.parametrize(
    ("qtype", "data", "kept"),
    [
        ("A", ["192.0.2.1"], ["192.0.2.1"]),
        ("A", ["192.0.2.1", "10.0.0.1"], ["192.0.2.1"]),
        ("A", ["10.0.0.1", "192.0.2.1", "127.0.0.1"], ["192.0.2.1"]),
        ("A", ["10.0.0.1"], []),
        ("AAAA", ["2001:db8::1", "fd00::1", "::ffff:192.168.0.1"], ["2001:db8::1"]),
        ("TXT", ['"10.0.0.1"'], ['"10.0.0.1"']),
        ("HTTPS", ["1 . alpn=h2 ipv4hint=192.0.2.1,10.0.0.1"], []),
        ("HTTPS", ["1 . alpn=h2 ipv6hint=fd00::1"], []),
        ("HTTPS", ["1 . ipv4hint=192.0.2.1"], ['1 . ipv4hint="192.0.2.1"']),
        ("SVCB", ["1 svc.example.com. port=53 ipv4hint=10.0.0.1"], []),
    ],
)
def test_records_with_private_addresses_are_left_out(qtype: str, data: list[str], kept: list[str]) -> None:
    found, address = PROTECTION.filter(reply(qtype, [rrset(qtype, NAME, *data)]), question(qtype))
    rendered = read(found.render(parse_query(build_query(question(qtype), 1)), 1232, 0))
    assert data_of(rendered) == kept
    assert (address is None) == (len(kept) == len(data))
    assert extended_errors(rendered) == ([] if address is None else [BLOCKED])
    assert found.is_negative == (not kept)
    assert found.ttl


def test_additional_addresses_are_left_out_too() -> None:
    private = rrset("A", "mail.example.com.", "10.0.0.1", "192.0.2.1")
    found, address = PROTECTION.filter(reply("MX", [rrset("MX")], [], [private]), question("MX"))
    assert (found.counts, address) == ((1, 0, 1), "10.0.0.1")
    assert not found.is_negative


def test_domains_and_the_names_below_them_are_exempt() -> None:
    for name, expected in (
        ("corp.example", True),
        ("a.b.corp.example", True),
        ("xcorp.example", False),
        ("example", False),
    ):
        assert PROTECTION.is_exempt(parse_name(name)) == expected


def test_private_addresses_do_not_reach_clients() -> None:
    async def scenario() -> None:
        act = has("60 A 10.0.0.1", "60 A 192.0.2.1")
        with UpstreamServer(act) as upstream, UpstreamServer(has("60 A 10.0.0.2")) as internal:
            options = {"rebind_protection": True, "rebind_exempt": ("exempt.example",)}
            async with forwarding(upstream, domains={"lab.example": [internal]}, forward=options) as scene:
                for _ in range(3):  # from the upstream, and from the caches
                    response = await scene.query(size=1232)
                    assert data_of(response) == ["192.0.2.1"]
                    assert extended_errors(response) == [BLOCKED]
                assert queries_to(upstream) == 1
                assert await scene.data("www.exempt.example") == ["10.0.0.1", "192.0.2.1"]
                assert await scene.data("www.lab.example") == ["10.0.0.2"]
                upstream.set_behaviour(has("60 A 10.0.0.1"), "only.example")
                for _ in range(2):
                    response = await scene.query("only.example", size=1232)
                    assert (rcode_of(response), data_of(response)) == ("NOERROR", [])
                    assert extended_errors(response) == [BLOCKED]
                assert queries_to(upstream, "only.example") == 1
                assert scene.forwarder.counters.filtered == 2

    run(scenario)


def test_addresses_of_services_are_not_left_out() -> None:
    async def scenario() -> None:
        with UpstreamServer(has("60 CNAME web.staging.discovery.")) as upstream:
            async with forwarding(upstream, forward={"rebind_protection": True}) as scene:
                scene.authority.refresh(scene.table.apply(put("web.staging.discovery", ["10.0.0.1:80"])))
                assert await scene.data() == ["web.staging.discovery.", "10.0.0.1"]
                assert await scene.data("web.staging.discovery") == ["10.0.0.1"]

    run(scenario)


def test_without_protection_private_addresses_pass() -> None:
    async def scenario() -> None:
        with UpstreamServer(has("60 A 10.0.0.1")) as upstream:
            async with forwarding(upstream) as scene:
                assert await scene.data() == ["10.0.0.1"]

    run(scenario)
