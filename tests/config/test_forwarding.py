"""Settings of forwarding: upstreams, forward zones, and their errors."""

from __future__ import annotations

import pytest

from tests.config.helpers import FILE, errors_of, load
from zkdns.address import UpstreamAddress
from zkdns.config import ForwardZoneSettings

NO_UPSTREAM = (
    "is not an address to forward to; write an IP address, such as 9.9.9.9, [2620:fe::fe]:53, "
    "tls://9.9.9.9#dns.quad9.net"
)
KEYS = "upstreams, trust_ad, rebind_protection, rebind_exempt, zone"
FORMS = "ADDRESS[:PORT], tcp://ADDRESS[:PORT], tls://ADDRESS[:PORT]#NAME"
OWN = "is an address of this server; write another one, or none to refuse names"
CASE = "names the same domain as another table; names are case-insensitive (RFC 4343)"
IN_ZONE = "is in the zone discovery, and names there are never forwarded; remove this table"

AUTO = "is 'auto', which only forward.upstreams accepts; write addresses or none"
NESTED = "is a table inside a table; put a name with dots in quotes"

WRONG = [
    (
        "[forward]\nupstreams = 9",
        f"forward.upstreams: is 9; write {FORMS}, auto or none in quotes",
    ),
    (
        "[forward]\nupstreams = []",
        "forward.upstreams: is an empty list; write at least one ADDRESS[:PORT]|auto|none",
    ),
    (
        '[forward]\nupstreams = ["auto", "9.9.9.9"]',
        "forward.upstreams: has auto together with other values; write auto alone",
    ),
    (
        '[forward]\nupstreams = ["9.9.9.9", "none"]',
        "forward.upstreams: has none together with other values; write none alone",
    ),
    ('[forward]\nupstreams = ["9.9.9.9", "9.9.9.9:53"]', "forward.upstreams: 9.9.9.9:53 is given twice"),
    ('listen = "::1"\n[forward]\nupstreams = "[0::1]:53"', f"forward.upstreams: [::1]:53 {OWN}"),
    ('listen = "0.0.0.0"\n[forward]\nupstreams = "127.0.0.53"', f"forward.upstreams: 127.0.0.53:53 {OWN}"),
    ('[cache]\nstale = "1d"', "cache.stale: is '1d'; write the number of seconds: 86400"),
    (
        "forward = 5",
        f"forward: is 5; write a section, [forward] with {KEYS}",
    ),
    (
        '[forward."corp.example"]\nupstreams = "10.0.0.53"',
        f"forward: unknown key 'corp.example'; accepted: {KEYS}",
    ),
    (
        '[forward]\nrebind_exempt = "."',
        "forward.rebind_exempt: '.' is the root; write a domain, such as corp.example",
    ),
    (
        '[forward]\nrebind_protection = "yes"',
        "forward.rebind_protection: is 'yes'; write true or false, without quotes",
    ),
    ("[forward]\nzone = 5", "forward.zone: is 5; write a table"),
    ("[forward.zone]\nlab = 5", "forward.zone.lab: is 5; write a table"),
    (
        "[forward.zone.lab]",
        'forward.zone.lab: has no upstreams; write upstreams = ["10.0.0.53"], or "none" to refuse the domain',
    ),
    (
        "[forward.zone.lab]\nupstream = 5",
        "forward.zone.lab: unknown key 'upstream'; did you mean upstreams?",
    ),
    (
        "[forward.zone.lab]\nupstreams = []",
        "forward.zone.lab.upstreams: is an empty list; write at least one ADDRESS[:PORT]|none",
    ),
    (
        '[forward.zone.lab]\nupstreams = "auto"',
        f"forward.zone.lab.upstreams: {AUTO}",
    ),
    (
        '[forward.zone.lab]\nupstreams = ["localhost"]',
        f"forward.zone.lab.upstreams: 'localhost' {NO_UPSTREAM}",
    ),
    ('[forward.zone.lab]\nupstreams = "127.0.0.1"', f"forward.zone.lab.upstreams: 127.0.0.1:53 {OWN}"),
    (
        '[forward.zone."."]\nupstreams = "none"',
        'forward.zone.".": is the root; use forward.upstreams for all other names',
    ),
    (
        '[forward.zone."a..b"]\nupstreams = "none"',
        "forward.zone.\"a..b\": 'a..b' is not a domain name: it has an empty label",
    ),
    (
        '[forward.zone."a.Discovery"]\nupstreams = "none"',
        f'forward.zone."a.Discovery": {IN_ZONE}',
    ),
    (
        '[forward.zone.lab]\nupstreams = "none"\n[forward.zone."LAB."]\nupstreams = "none"',
        f'forward.zone."LAB.": {CASE}',
    ),
]


@pytest.mark.parametrize(("toml", "expected"), WRONG)
def test_a_wrong_value_in_the_file_is_an_error_with_its_key(toml: str, expected: str) -> None:
    assert errors_of(toml) == (f"{FILE}: {expected}",)


def test_an_unquoted_domain_with_dots_is_explained() -> None:
    errors = errors_of('[forward.zone.corp.example]\nupstreams = "10.0.0.53"')
    assert f"{FILE}: forward.zone.corp.example: {NESTED}" in errors


def test_upstreams_of_any_layer_replace_the_default_auto() -> None:
    expected = (UpstreamAddress("9.9.9.9", 53), UpstreamAddress("1.1.1.1", 853, "one.one.one.one"))
    assert (
        load(environment={"ZKDNS_UPSTREAM": "9.9.9.9, tls://1.1.1.1#one.one.one.one"}).forward.upstreams
        == expected
    )
    assert load(upstream=("9.9.9.9", "tls://1.1.1.1#one.one.one.one")).forward.upstreams == expected
    assert load('forward.upstreams = "9.9.9.9"').forward.upstreams == expected[:1]
    assert load('forward.upstreams = "9.9.9.9"', upstream=("none",)).forward.upstreams == ()
    assert (
        load().forward.upstreams
        == load(demo=True).forward.upstreams
        == load(upstream=("auto",)).forward.upstreams
        == "auto"
    )
    assert load(upstream=("auto",)).forward.upstreams == "auto"


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        ("127.0.0.1", "127.0.0.53"),
        ("127.0.0.1", "127.0.0.1:5353"),
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::]", "127.0.0.1"),
        ("0.0.0.0", "192.0.2.1"),
        ("0.0.0.0", "::1"),
    ],
)
def test_a_local_resolver_at_another_port_or_address_may_be_an_upstream(listen: str, upstream: str) -> None:
    assert load(listen=(listen,), upstream=(upstream,)).forward.upstreams != ()


def test_a_wrong_listen_address_causes_no_errors_about_upstreams() -> None:
    (error,) = errors_of(
        "[forward.zone.lab]\nupstreams = '127.0.0.1'", listen=("x",), upstream=("127.0.0.1",)
    )
    assert error.startswith("--listen: ")


@pytest.mark.parametrize("domain", ["example", "a.example", "overy", "sub.cov.ery"])
def test_a_domain_outside_of_the_zone_may_be_a_forward_zone(domain: str) -> None:
    config = load(f'[forward.zone."{domain}"]\nupstreams = "10.0.0.53"', zone="z.example")
    assert config.forward.zones == {domain: ForwardZoneSettings((UpstreamAddress("10.0.0.53", 53),))}
