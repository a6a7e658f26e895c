from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkdns.address import (
    HostPort,
    UpstreamAddress,
    parse_host_port,
    parse_listen,
    parse_network,
    parse_upstream,
)
from zkdns.errors import BadValueError

HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-zA-Z0-9_-]{1,20}\.[a-z]{1,9}", fullmatch=True),
)

READ = [
    ("10.0.0.1:53", None, "10.0.0.1", 53),
    ("zk01:2181", None, "zk01", 2181),
    ("zk01", 2181, "zk01", 2181),
    (" zk01:2182 ", 2181, "zk01", 2182),
    ("zk-01.example.com.:2181", None, "zk-01.example.com.", 2181),
    ("my_host:1", None, "my_host", 1),
    ("[::1]:53", None, "::1", 53),
    ("[::1]", 53, "::1", 53),
    ("::1", 53, "::1", 53),
    ("::", 53, "::", 53),
    ("2001:db8::", 53, "2001:db8::", 53),
    ("[fe80::1%eth0]:53", None, "fe80::1%eth0", 53),
    ("127.0.0.1:65535", None, "127.0.0.1", 65535),
]

REFUSED = [
    ("", "no usable host"),
    ("   ", "no usable host"),
    (":53", "no usable host"),
    ("a b:53", "no usable host"),
    ("a\tb:53", "no usable host"),
    ("a,b:53", "no usable host"),
    ("user@host:53", "no usable host"),
    ("http://host:53", "too many colons"),
    ("host/path", "no usable host"),
    ("-.-..x:1", "no usable host"),
    ("a" * 64 + ":1", "no usable host"),
    (".".join(["a" * 60] * 5) + ":1", "no usable host"),
    ("hôte:1", "no usable host"),
    ("[::1:53", "no usable host"),
    ("[127.0.0.1]:53", "only an IPv6 address"),
    ("[fe80::1% ]:53", "only an IPv6 address"),
    ("1:2:3:4:5:6:7:8:53", "as [1:2:3:4:5:6:7:8]"),
    ("a:b:53", "too many colons"),
    ("300.0.0.1:53", "not an IPv4 address"),
    ("10.0.0:53", "not an IPv4 address"),
    ("host:", "has no port"),
    ("[::1]:", "has no port"),
    ("host:x", "a port is 1 to 65535"),
    ("host:0", "a port is 1 to 65535"),
    ("host:65536", "a port is 1 to 65535"),
    ("host:-1", "a port is 1 to 65535"),
    ("host:٣", "a port is 1 to 65535"),
    ("host:" + "9" * 5000, "a port is 1 to 65535"),
]


@pytest.mark.parametrize(("text", "default", "host", "port"), READ)
def test_a_host_and_its_port_are_parsed(text: str, default: int | None, host: str, port: int) -> None:
    assert parse_host_port(text, default_port=default) == HostPort(host, port)


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_an_invalid_host_and_port_is_rejected_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        parse_host_port(text, default_port=53)
    assert why in str(refusal.value)


@pytest.mark.parametrize("text", ["zk01", "::1", "[::1]", "10.0.0.1"])
def test_without_a_default_the_port_is_required(text: str) -> None:
    with pytest.raises(BadValueError, match="has no port"):
        parse_host_port(text)


@given(HOSTS, st.integers(1, 65535))
def test_the_text_form_parses_to_the_same_address(host: str, port: int) -> None:
    address = HostPort(host, port)
    assert parse_host_port(str(address)) == address


@given(st.text(st.characters()), st.none() | st.just(53))
def test_any_text_is_a_valid_address_or_an_error(text: str, default: int | None) -> None:
    try:
        address = parse_host_port(text, default_port=default)
    except BadValueError:
        return
    assert parse_host_port(str(address)) == address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1", "127.0.0.1:53"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("::1", "[::1]:53"),
        ("[0:0:0:0:0:0:0:1]:5300", "[::1]:5300"),
        ("[2001:DB8::1]:53", "[2001:db8::1]:53"),
        ("0.0.0.0:53", "0.0.0.0:53"),
    ],
)
def test_a_listen_address_is_canonical_and_may_have_port_0(text: str, shown: str) -> None:
    assert str(parse_listen(text, default_port=53)) == shown


@pytest.mark.parametrize("text", ["fe80::1", "[FE80::1]:53"])
def test_a_link_local_listen_address_needs_its_interface(text: str) -> None:
    with pytest.raises(BadValueError, match="write its interface too, as in fe80::1%eth0"):
        parse_listen(text, default_port=53)


@pytest.mark.parametrize("text", ["localhost", "localhost:53", "eth0:53"])
def test_a_host_name_is_not_a_listen_address(text: str) -> None:
    with pytest.raises(BadValueError, match="not an address to listen on"):
        parse_listen(text, default_port=53)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("9.9.9.9", UpstreamAddress("9.9.9.9", 53), "9.9.9.9:53"),
        (" 9.9.9.9:5353 ", UpstreamAddress("9.9.9.9", 5353), "9.9.9.9:5353"),
        ("2620:FE:0::fe", UpstreamAddress("2620:fe::fe", 53), "[2620:fe::fe]:53"),
        ("[2620:fe::fe]:54", UpstreamAddress("2620:fe::fe", 54), "[2620:fe::fe]:54"),
        ("::ffff:9.9.9.9", UpstreamAddress("9.9.9.9", 53), "9.9.9.9:53"),
        ("fe80::1%eth0", UpstreamAddress("fe80::1%eth0", 53), "[fe80::1%eth0]:53"),
        ("127.0.0.53", UpstreamAddress("127.0.0.53", 53), "127.0.0.53:53"),
        ("tls://9.9.9.9", UpstreamAddress("9.9.9.9", 853, "9.9.9.9"), "tls://9.9.9.9:853#9.9.9.9"),
        (
            "TLS://9.9.9.9#DNS.Quad9.net.",
            UpstreamAddress("9.9.9.9", 853, "dns.quad9.net"),
            "tls://9.9.9.9:853#dns.quad9.net",
        ),
        (
            "tls://[2620:fe::fe]:8853#dns.quad9.net",
            UpstreamAddress("2620:fe::fe", 8853, "dns.quad9.net"),
            "tls://[2620:fe::fe]:8853#dns.quad9.net",
        ),
        (
            "tls://fe80::1%eth0#2001:DB8::1",
            UpstreamAddress("fe80::1%eth0", 853, "2001:db8::1"),
            "tls://[fe80::1%eth0]:853#2001:db8::1",
        ),
        ("TCP://9.9.9.9", UpstreamAddress("9.9.9.9", 53, tcp=True), "tcp://9.9.9.9:53"),
        ("tcp://[2001:db8::1]:54", UpstreamAddress("2001:db8::1", 54, tcp=True), "tcp://[2001:db8::1]:54"),
        (
            "tls://fe80::1%eth0",
            UpstreamAddress("fe80::1%eth0", 853, "fe80::1"),
            "tls://[fe80::1%eth0]:853#fe80::1",
        ),
    ],
)
def test_an_upstream_is_parsed_and_shown(text: str, address: UpstreamAddress, shown: str) -> None:
    assert parse_upstream(text) == address
    assert str(address) == shown
    assert parse_upstream(shown) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no usable host"),
        ("localhost", "is not an address to forward to; write an IP address, such as 9.9.9.9"),
        ("dns.quad9.net:53", "is not an address to forward to"),
        ("tls://dns.quad9.net", "is not an address to forward to"),
        ("9.9.9.9:", "has no port"),
        ("9.9.9.9:0", "a port is 1 to 65535"),
        ("9.9.9.9#53", "write a port after a colon"),
        (
            "9.9.9.9#dns.quad9.net",
            "contains a #, which is allowed only before the certificate name",
        ),
        ("https://9.9.9.9/dns-query", "starts with https://; write ADDRESS[:PORT], tcp://ADDRESS[:PORT] for"),
        ("tls://", "no usable host"),
        ("tls://9.9.9.9#", "has '' after its #"),
        (
            "tls://9.9.9.9#a b",
            "has 'a b' after its #; write the name in the certificate, such as dns.quad9.net",
        ),
        ("tls://9.9.9.9#1.2.3", "has '1.2.3' after its #"),
        ("tls://9.9.9.9/#x", "no usable host"),
        ("tcp://9.9.9.9#dns.quad9.net", "contains a #, which is allowed only before the certificate name"),
        ("0.0.0.0", "is not the address of a single host"),
        ("::", "is not the address of a single host"),
        ("224.0.0.251:5353", "is not the address of a single host"),
        ("ff02::fb", "is not the address of a single host"),
        ("255.255.255.255", "is not the address of a single host"),
        ("::ffff:0.0.0.0", "is not the address of a single host"),
        ("fe80::1", "write its interface too, as in fe80::1%eth0"),
    ],
)
def test_an_invalid_upstream_is_rejected_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadValueError) as refusal:
        parse_upstream(text)
    assert why in str(refusal.value)
    assert len(str(refusal.value)) < 250


@given(
    st.text(st.characters())
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "tcp://", "tls://"]),
        HOSTS,
        st.sampled_from(["", "#a.b", "#::1"]),
    )
)
def test_any_text_is_a_valid_upstream_or_an_error(text: str) -> None:
    try:
        upstream = parse_upstream(text)
    except BadValueError:
        return
    assert parse_upstream(str(upstream)) == upstream


NO_NETWORK = "is not a network; write an address, or a network such as 10.0.0.0/8 or fd00::/8"


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 192.0.2.1 ", "192.0.2.1/32"),
        ("FD00::/8", "fd00::/8"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_is_returned_in_canonical_spelling(text: str, network: str) -> None:
    assert parse_network(text) == network


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' has bits set after its prefix; the network is 10.0.0.0/8"),
        (
            "10.0.0.0/33",
            "'10.0.0.0/33' is not a network; write an address, or a network such as 10.0.0.0/8 or fd00::/8",
        ),
        ("lan", "'lan' is not a network; write an address, or a network such as 10.0.0.0/8 or fd00::/8"),
        ("", "'' is not a network; write an address, or a network such as 10.0.0.0/8 or fd00::/8"),
    ],
)
def test_an_invalid_network_is_rejected_with_the_probable_one(text: str, sentence: str) -> None:
    with pytest.raises(BadValueError) as caught:
        parse_network(text)
    assert str(caught.value) == sentence
