"""UDP on wildcard addresses: a response leaves from the address of the query, or the client drops it."""

import contextlib
import itertools
import select
import socket
from collections.abc import Sequence

import pytest

from tests.support.network import Network, ip, link_twice, new_network, nft, skip_without_nft, wait_until_up
from tests.support.waiting import eventually
from tests.transport.helpers import Running, echo
from tests.transport.udp_client import SECONDS, Serve, ask, udp_client
from zkdns.address import HostPort

IPV4, IPV6 = HostPort("0.0.0.0", 0), HostPort("::", 0)


_MAX_REPEATED = 10


def each_client_gets_its_responses(server: Running, clients: Sequence[tuple[socket.socket, str]]) -> None:
    """Each client sends queries several times, in turn with the others and all at once.

    A connected socket drops datagrams from other addresses. On a busy machine, datagrams may overtake each
    other even on the loopback interface, if the sending thread moves to another processor. The first query
    makes the kernel find the neighbour, for which it lets only some of the following ones wait. It is
    repeated, because the kernel may give up on a busy machine.
    """
    repeated = 0
    for sock, host in clients:
        scope = host.partition("%")[2]
        address = (host, server.address.port)
        sock.connect((*address, 0, socket.if_nametoindex(scope)) if scope else address)
        sock.send(b"first")
        while not select.select([sock], [], [], 3.0)[0] and repeated < _MAX_REPEATED:
            repeated += 1
            sock.send(b"first")
        assert sock.recv(100) == b"first:udp"
    messages = [b"%3d" % number for number in range(200 // len(clients))]
    with server.udp_stopped():
        for message in messages:
            for sock, _ in clients:
                sock.send(message)
    for sock, _ in clients:
        received = (sock.recv(100) for _ in itertools.count())
        others = (message for message in received if message != b"first:udp")
        assert sorted(itertools.islice(others, len(messages))) == [each + b":udp" for each in messages]
    assert 0 <= server.udp.received - (1 + len(messages)) * len(clients) <= repeated
    assert server.udp.lost == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "127.1.2.3"])
def test_dns_24_on_the_ipv4_wildcard_responses_leave_from_the_right_address(serve: Serve, host: str) -> None:
    with serve(echo, IPV4) as server:
        assert ask(host, server.address.port, b"question") == (b"question:udp", host)


def test_dns_24_on_the_ipv6_wildcard_responses_leave_from_the_right_address(serve: Serve) -> None:
    with serve(echo, IPV6) as server:
        for host in ("::1", *_ipv6_addresses()):
            assert ask(host, server.address.port, b"question") == (b"question:udp", host)


def _ipv6_addresses() -> list[str]:
    """Other IPv6 addresses of this machine, without link-local ones."""
    with open("/proc/net/if_inet6") as lines:  # noqa: PTH123 - proc is no file tree
        packed = [bytes.fromhex(line.split()[0]) for line in lines]
    found = [socket.inet_ntop(socket.AF_INET6, address) for address in packed]
    return [address for address in found if address != "::1" and not address.startswith("fe80")]


def test_dns_24_one_batch_may_have_several_local_addresses(serve: Serve) -> None:
    with serve(echo, IPV4) as server, contextlib.ExitStack() as stack:
        hosts = [f"127.0.0.{number}" for number in range(1, 10)]
        each_client_gets_its_responses(
            server, [(stack.enter_context(udp_client()), address) for address in hosts]
        )


def test_dns_24_a_machine_with_addresses_on_several_links(serve: Serve, own_network: Network) -> None:
    del own_network
    ip("link add v0 type veth peer name v1")
    for link, addresses in {
        "v0": [
            "192.0.2.1/24",
            "192.0.2.2/24",
            "2001:db8::1/64",
            "2001:db8::2/64",
            "fe80::1/64",
            "fe80::2/64",
        ],
        "v1": ["198.51.100.1/24", "2001:db8:1::1/64", "fe80::1/64"],
    }.items():
        for address in addresses:
            ip(f"address add {address} dev {link}{' nodad' if ':' in address else ''}")
        ip(f"link set {link} up")
    wait_until_up("v0", "v1")
    own = {
        IPV4: ["127.0.0.1", "127.0.0.9", "192.0.2.1", "192.0.2.2", "198.51.100.1"],
        IPV6: [
            "::1",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8:1::1",
            "fe80::1%v0",
            "fe80::2%v0",
            "fe80::1%v1",
        ],
    }
    for wildcard, hosts in own.items():
        with serve(echo, wildcard) as server, contextlib.ExitStack() as stack:
            each_client_gets_its_responses(
                server, [(stack.enter_context(udp_client(wildcard.host)), address) for address in hosts]
            )


def test_dns_24_responses_to_other_networks_follow_the_route(serve: Serve, own_network: Network) -> None:
    """Even if that is another interface than the query's; a link-local address keeps its interface."""
    del own_network
    with new_network() as theirs:
        link_twice(theirs)
        for wildcard, source, hosts in (
            (IPV4, "203.0.113.9", ["192.0.0.1", "192.0.1.1"]),
            (IPV6, "2001:db8:9::9", ["2001:db8::1", "2001:db8:1::1"]),
            (IPV6, "", ["fe80::1%here", "fe80::1%back"]),
            (IPV6, "2001:db8::2", ["fe80::1%here"]),
        ):
            with serve(echo, wildcard) as server, contextlib.ExitStack() as stack, theirs.entered():
                clients = [(stack.enter_context(udp_client(wildcard.host)), address) for address in hosts]
                for sock, _ in clients:
                    if source:
                        sock.bind((source, 0))
                each_client_gets_its_responses(server, clients)


def test_dns_24_a_connected_client_gets_the_wildcards_response(serve: Serve) -> None:
    with serve(echo, IPV4) as server, udp_client() as sock:
        sock.connect(("127.0.0.9", server.address.port))  # drops datagrams from other addresses
        sock.send(b"question")
        assert sock.recv(100) == b"question:udp"


@pytest.mark.parametrize("wildcard", [IPV4, HostPort("127.0.0.1", 0)], ids=str)
def test_an_unreachable_client_costs_no_other_a_response(
    serve: Serve, own_network: Network, wildcard: HostPort
) -> None:
    """One that a firewall rule blocks, and one without a route."""
    del own_network
    skip_without_nft()
    ip("address add 192.0.2.1/32 dev lo")
    ip("address add 192.0.2.2/32 dev lo")
    with serve(echo, wildcard) as server, contextlib.ExitStack() as stack:
        socks = {name: stack.enter_context(udp_client()) for name in ("", "192.0.2.1", "192.0.2.2")}
        for source, sock in socks.items():
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", server.address.port))
        forbidden = f"ip daddr 192.0.2.1 udp sport {server.address.port} drop"
        nft(f"table inet fault {{ chain out {{ type filter hook output priority 0\n{forbidden}\n}}\n}}\n")
        order = [*socks.values()] * 30
        with server.udp_stopped():
            for number, sock in enumerate(order):
                sock.send(b"%3d" % number)
            ip("address del 192.0.2.2/32 dev lo")
        expected = [b"%3d:udp" % number for number in range(0, len(order), 3)]
        assert [socks[""].recv(100) for _ in expected] == expected
        eventually(lambda: server.udp.received == len(order), SECONDS)
        assert server.call(lambda: server.udp.lost) == 2 * len(expected)
