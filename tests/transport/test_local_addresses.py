"""The addresses of this machine, as the kernel has them now."""

import ipaddress

from tests.support.network import Network, ip
from zkdns.transport.local_addresses import LocalAddresses


def packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed


def test_loopback_is_local_before_the_first_read() -> None:
    local = LocalAddresses()
    for host in ("127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"):
        assert packed(host) in local
    for host in ("128.0.0.1", "126.0.0.1", "::2", "10.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1"):
        assert packed(host) not in local


def test_addresses_of_all_interfaces_are_local(own_network: Network) -> None:  # noqa: ARG001 - entered
    hosts = ["10.1.2.3", "203.0.113.5", "2001:db8::5"]
    local = LocalAddresses()
    local.refresh()
    assert not any(packed(host) in local for host in hosts)
    ip("link add other type veth peer name far")
    ip("link set other up")
    ip("addr add 10.1.2.3/8 dev lo")
    ip("addr add 203.0.113.5/24 dev other")
    ip("addr add 2001:db8::5/64 dev other nodad")
    assert local.refresh()
    assert all(packed(host) in local for host in hosts)
    assert packed("::ffff:203.0.113.5") in local
    assert packed("203.0.113.6") not in local
    assert not local.refresh()
    ip("addr del 203.0.113.5/24 dev other")
    assert local.refresh()
    assert [packed(host) in local for host in hosts] == [True, False, True]


def test_any_number_of_addresses_is_read(own_network: Network) -> None:  # noqa: ARG001 - entered
    for number in range(1, 101):
        ip(f"addr add 10.0.1.{number}/32 dev lo")
    local = LocalAddresses()
    local.refresh()
    assert all(packed(f"10.0.1.{number}") in local for number in range(1, 101))
