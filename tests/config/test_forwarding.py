"""Settings of forwarding: how upstreams are written, and what must not be said together."""

from __future__ import annotations

import pytest

from tests.config.helpers import FILE, load, mistakes
from zkdns.address import UpstreamAddress
from zkdns.config import ForwardSettings

NO_UPSTREAM = (
    "is not an address to forward to; write an IP address, such as 9.9.9.9, [2620:fe::fe]:53, "
    "tls://9.9.9.9#dns.quad9.net"
)
FORMS = "ADDRESS[:PORT], tls://ADDRESS[:PORT]#NAME"
OWN = "is where this server itself listens; name another one, or none to refuse names"
CASE = "is one domain with another table; names that differ only in case are equal (RFC 4343)"
IN_ZONE = "lies in the zone discovery, whose names are never forwarded; leave this table out"

WRONG = [
    (
        "upstream = 9",
        f"upstream: is 9; write {FORMS}, auto or none in quotes",
    ),
    ("upstream = []", "upstream: is an empty list; write at least one ADDRESS[:PORT]|auto|none"),
    ('upstream = ["auto", "9.9.9.9"]', "upstream: has auto beside others; it stands alone"),
    ('upstream = ["9.9.9.9", "none"]', "upstream: has none beside others; it stands alone"),
    ('upstream = ["9.9.9.9", "9.9.9.9:53"]', "upstream: 9.9.9.9:53 is given twice"),
    ('listen = "::1"\nupstream = "[0::1]:53"', f"upstream: [::1]:53 {OWN}"),
    ('listen = "0.0.0.0"\nupstream = "127.0.0.53"', f"upstream: 127.0.0.53:53 {OWN}"),
    ('cache_stale = "1d"', "cache_stale: is '1d'; write a whole number from 0 to 259200"),
    (
        "cache_min_ttl = 61\ncache_max_ttl = 60",
        f"cache_min_ttl: 61 is more than {FILE}: cache_max_ttl, which is 60",
    ),
    ("forward = 5", "forward: is 5; write a table"),
    ("[forward]\nlab = 5", "forward.lab: is 5; write a table"),
    (
        "[forward.lab]",
        'forward.lab: has no upstreams; write them as ["10.0.0.53"], or none to refuse the domain',
    ),
    (
        "[forward.lab]\nupstream = 5",
        "forward.lab.upstream: is unknown; did you mean upstreams?",
    ),
    (
        "[forward.lab]\nupstreams = []",
        "forward.lab.upstreams: is an empty list; write at least one ADDRESS[:PORT]|none",
    ),
    (
        '[forward.lab]\nupstreams = "auto"',
        "forward.lab.upstreams: is 'auto', which is for upstream alone; write addresses or none",
    ),
    ('[forward.lab]\nupstreams = ["localhost"]', f"forward.lab.upstreams: 'localhost' {NO_UPSTREAM}"),
    ('[forward.lab]\nupstreams = "127.0.0.1"', f"forward.lab.upstreams: 127.0.0.1:53 {OWN}"),
    (
        '[forward."."]\nupstreams = "none"',
        'forward.".": is the root, and where all names go is what upstream says',
    ),
    (
        '[forward."a..b"]\nupstreams = "none"',
        "forward.\"a..b\": 'a..b' is not a domain name: it has an empty label",
    ),
    (
        '[forward."a.Discovery"]\nupstreams = "none"',
        f'forward."a.Discovery": {IN_ZONE}',
    ),
    (
        '[forward.lab]\nupstreams = "none"\n[forward."LAB."]\nupstreams = "none"',
        f'forward."LAB.": {CASE}',
    ),
]


@pytest.mark.parametrize(("toml", "sentence"), WRONG)
def test_what_is_wrong_in_the_file_is_told_in_one_sentence_with_its_key(toml: str, sentence: str) -> None:
    assert mistakes(toml) == (f"{FILE}: {sentence}",)


def test_a_domain_with_dots_outside_quotes_is_explained() -> None:
    told = mistakes('[forward.corp.example]\nupstreams = "10.0.0.53"')
    assert (
        f"{FILE}: forward.corp.example: is a table inside a table; a name that holds dots stands in quotes"
        in told
    )


def test_upstreams_are_many_in_every_layer_and_what_is_written_takes_the_place_of_auto() -> None:
    wanted = (UpstreamAddress("9.9.9.9", 53), UpstreamAddress("1.1.1.1", 853, "one.one.one.one"))
    assert load(environment={"ZKDNS_UPSTREAM": "9.9.9.9, tls://1.1.1.1#one.one.one.one"}).upstream == wanted
    assert load(upstream=("9.9.9.9", "tls://1.1.1.1#one.one.one.one")).upstream == wanted
    assert load('upstream = "9.9.9.9"').upstream == wanted[:1]
    assert load('upstream = "9.9.9.9"', upstream=("none",)).upstream == ()
    assert load().upstream == load(demo=True).upstream == load(upstream=("auto",)).upstream == "auto"


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
def test_a_resolver_at_another_port_or_address_of_this_machine_may_be_an_upstream(
    listen: str, upstream: str
) -> None:
    assert load(listen=(listen,), upstream=(upstream,)).upstream != ()


def test_what_is_wrong_with_listening_brings_no_mistakes_about_upstreams() -> None:
    (mistake,) = mistakes("[forward.lab]\nupstreams = '127.0.0.1'", listen=("x",), upstream=("127.0.0.1",))
    assert mistake.startswith("--listen: ")


@pytest.mark.parametrize("domain", ["example", "a.example", "overy", "sub.cov.ery"])
def test_a_domain_above_the_zone_or_beside_it_may_be_forwarded(domain: str) -> None:
    config = load(f'[forward."{domain}"]\nupstreams = "10.0.0.53"', zone="z.example")
    assert config.forward == {domain: ForwardSettings((UpstreamAddress("10.0.0.53", 53),))}
