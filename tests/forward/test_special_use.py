"""Special-use names: responses without forwarding, and names that are forwarded."""

from __future__ import annotations

from collections.abc import Callable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.reversename
import pytest

from tests.forward.helpers import query, read
from zkdns.forward.special_use import special_use_answer
from zkdns.names import Labels, parse_name

EMPTY_SOA = "nobody.invalid. 1 3600 1200 604800 10800"
LONGEST = ".".join([63 * "a", 63 * "b", 63 * "c", 53 * "d"])


def nothing(_domain: Labels) -> bool:
    return False


def only(*domains: str) -> Callable[[Labels], bool]:
    """Return a predicate: forward zones exist for these domains only."""
    return frozenset(map(parse_name, domains)).__contains__


def answer(
    name: str, qtype: str = "A", configured: Callable[[Labels], bool] = nothing, *, edns: bool = True
) -> dns.message.Message | None:
    """Return the response, read and checked for the properties of all responses; None: it is forwarded."""
    received = query(qtype, name, edns=edns)
    response = special_use_answer(received, configured)
    if response is None:
        return None
    parsed = read(response.pack(512))
    assert not response.truncated
    assert parsed.id == received.id
    assert parsed.flags & ~0xF == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert parsed.question[0].name == dns.name.from_text(name)
    assert (parsed.edns >= 0) == edns
    return parsed


def denial(name: str, qtype: str = "A", configured: Callable[[Labels], bool] = nothing) -> tuple[str, str]:
    """Return the RCODE of a response without answer records, and the owner of its SOA record."""
    parsed = answer(name, qtype, configured)
    assert parsed is not None
    assert not parsed.answer
    (soa,) = parsed.authority
    assert soa.to_text() == f"{soa.name} 10800 IN SOA {soa.name} {EMPTY_SOA}"
    return dns.rcode.to_text(parsed.rcode()), soa.name.to_text().lower()


def data(name: str, qtype: str) -> list[str]:
    """Return the data of the answer records."""
    parsed = answer(name, qtype)
    assert parsed is not None
    assert parsed.rcode() == dns.rcode.NOERROR
    assert all(record.name == dns.name.from_text(name) for record in parsed.answer)
    return [record[0].to_text() for record in parsed.answer]


@pytest.mark.parametrize("name", ["localhost.", "LocalHost.", "a.b.localhost."])
def test_dns_36_localhost_is_the_loopback_address(name: str) -> None:
    assert data(name, "A") == ["127.0.0.1"]
    assert data(name, "AAAA") == ["::1"]
    assert data(name, "ANY") == ["127.0.0.1"]
    for qtype in ("MX", "SOA", "NS", "TXT", "HTTPS", "TYPE65400"):
        assert denial(name, qtype) == ("NOERROR", "localhost.")


def test_dns_36_localhost_is_never_forwarded() -> None:
    assert answer("localhost.", "A", only("localhost", "a.localhost")) is not None


@pytest.mark.parametrize("domain", ["alt", "invalid", "local", "onion", "test"])
def test_dns_36_special_use_top_level_domains_are_nxdomain(domain: str) -> None:
    for name in (f"{domain}.", f"www.example.{domain.upper()}.", f"{LONGEST[: 250 - len(domain)]}.{domain}."):
        for qtype in ("A", "SOA", "NS", "DS", "TYPE65400"):
            assert denial(name, qtype) == ("NXDOMAIN", f"{domain}.")


PRIVATE = [
    *(f"{octet}.1.2.3" for octet in (0, 10, 127)),
    *(f"172.{octet}.2.3" for octet in (16, 17, 23, 30, 31)),
    *(f"100.{octet}.2.3" for octet in (64, 65, 99, 100, 126, 127)),
    "169.254.7.7",
    "192.168.0.1",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "255.255.255.255",
    *("::", "::1", "fd00::1", "fdff::1", "fe80::1", "fe90::1", "fea0::1", "febf::1", "2001:db8::1"),
]
PUBLIC = [
    *("9.1.2.3", "11.1.2.3", "1.1.1.1", "126.1.2.3", "128.1.2.3", "255.255.255.254", "254.169.0.1"),
    *("172.15.2.3", "172.32.2.3", "172.1.2.3", "100.63.2.3", "100.128.2.3", "100.6.2.3"),
    *("169.253.7.7", "192.167.0.1", "192.169.0.1", "192.0.3.1", "198.51.101.1", "203.0.112.1"),
    *("::2", "1::1", "fc00::1", "fec0::1", "ff02::1", "2001:db9::1", "2606:4700::1111"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_dns_36_reverse_names_of_private_addresses_are_not_forwarded(address: str) -> None:
    name = dns.reversename.from_address(address).to_text()
    parsed = answer(name, "PTR")
    assert parsed is not None
    assert not parsed.answer
    # The zones of these three addresses contain no other address.
    is_apex = address in ("255.255.255.255", "::", "::1")
    assert parsed.rcode() == (dns.rcode.NOERROR if is_apex else dns.rcode.NXDOMAIN)
    assert dns.name.from_text(name).is_subdomain(parsed.authority[0].name)


@pytest.mark.parametrize("address", PUBLIC)
def test_dns_36_reverse_names_of_other_addresses_are_forwarded(address: str) -> None:
    assert answer(dns.reversename.from_address(address).to_text(), "PTR") is None


@pytest.mark.parametrize("zone", ["10.in-addr.arpa.", "31.172.in-addr.arpa.", "d.f.ip6.arpa.", "home.arpa."])
def test_dns_36_empty_zone_has_only_soa_and_ns(zone: str) -> None:
    """RFC 6303 §3."""
    assert data(zone, "SOA") == data(zone, "ANY") == [f"{zone} {EMPTY_SOA}"]
    assert data(zone, "NS") == [zone]
    assert denial(zone, "A") == denial(zone, "PTR") == ("NOERROR", zone)
    assert denial(f"a.{zone}", "PTR") == denial(f"a.{zone}", "SOA") == ("NXDOMAIN", zone)


def test_dns_36_names_above_an_empty_zone_are_forwarded() -> None:
    """The DS record of the zone itself too: it proves that the zone is unsigned (RFC 8375 §4)."""
    for name in ("arpa.", "in-addr.arpa.", "ip6.arpa.", "172.in-addr.arpa.", "f.ip6.arpa.", "e.f.ip6.arpa."):
        assert answer(name, "SOA") is None
    assert answer("home.arpa.", "DS") is None
    assert answer("10.in-addr.arpa.", "DS") is None
    assert denial("a.home.arpa.", "DS") == ("NXDOMAIN", "home.arpa.")


@pytest.mark.parametrize("name", ["resolver.arpa.", "_dns.resolver.arpa.", "a.b.resolver.arpa."])
def test_resolver_arpa_is_nodata(name: str) -> None:
    for qtype in ("SVCB", "A", "SOA"):
        assert denial(name, qtype) == ("NOERROR", "resolver.arpa.")


@pytest.mark.parametrize(
    "name",
    [
        *(".", "com.", "www.example.com.", "example.", "www.example.", "ipv4only.arpa.", "as112.arpa."),
        *(
            "localhost.example.com.",
            "local.example.com.",
            "invalid.com.",
            "xlocalhost.",
            "mylocal.",
            "onion.net.",
        ),
        *("10.in-addr.arpa.com.", "home.arpa.example.", "xhome.arpa.", "10.ip6.arpa.", "d.f.in-addr.arpa."),
        *("a\\.localhost.", "10\\.in-addr.arpa.", "www\\.local.", "home\\.arpa."),
    ],
)
def test_other_names_are_forwarded(name: str) -> None:
    for qtype in ("A", "PTR", "SOA", "DS"):
        assert answer(name, qtype) is None


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("host.local.", "local"),
        ("local.", "local"),
        ("host.corp.local.", "corp.local"),
        ("hidden.onion.", "onion"),
        ("a.test.", "test"),
        ("a.invalid.", "invalid"),
        ("a.alt.", "alt"),
        ("printer.home.arpa.", "home.arpa"),
        ("_dns.resolver.arpa.", "resolver.arpa"),
        ("4.3.2.10.in-addr.arpa.", "10.in-addr.arpa"),
        ("4.3.2.10.in-addr.arpa.", "2.10.in-addr.arpa"),
        ("4.3.2.10.in-addr.arpa.", "in-addr.arpa"),
        ("4.3.2.10.in-addr.arpa.", "4.3.2.10.in-addr.arpa"),
        ("1.d.f.ip6.arpa.", "d.f.ip6.arpa"),
    ],
)
def test_dns_36_name_in_a_forward_zone_is_forwarded(name: str, domain: str) -> None:
    assert answer(name, "A", only(domain)) is None
    assert answer(name, "A", only("other", "corp.example", "x." + domain, "3.10.in-addr.arpa")) is not None


def test_dns_36_default_upstreams_do_not_get_special_use_names() -> None:
    checked: list[Labels] = []

    def configured(domain: Labels) -> bool:
        checked.append(domain)
        return domain == ()

    assert answer("host.corp.local.", "A", configured) is not None
    assert checked == [(b"host", b"corp", b"local"), (b"corp", b"local"), (b"local",)]


def test_other_classes_are_forwarded() -> None:
    chaos = query("TXT", "localhost.")
    assert special_use_answer(chaos, nothing) is not None
    chaos = type(chaos)(chaos.id, chaos.rd, chaos.name, chaos.qtype, 3, chaos.question, chaos.edns)
    assert special_use_answer(chaos, nothing) is None


def test_query_without_edns_gets_a_response_without_edns() -> None:
    assert answer("localhost.", edns=False) is not None
    assert answer(f"{LONGEST[:240]}.local.", edns=False) is not None
