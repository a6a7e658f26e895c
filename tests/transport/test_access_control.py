"""Access control: by the client's address, and by the query rate of its network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence

import pytest

from tests.transport.helpers import DatagramAnswers, StreamAnswers, echo, serving
from tests.transport.tcp_client import framed, read_messages
from tests.transport.udp_client import SECONDS, Serve, udp_client
from zkdns.address import HostPort
from zkdns.transport.access_control import PRIVATE, AccessControl, AccessCounters, Allowlist, RateLimit
from zkdns.transport.contract import ResponseLookup
from zkdns.transport.local_addresses import LocalAddresses
from zkdns.transport.rate_counters import RateCounters


class WordLookup:
    """Answers everything with one word."""

    def __init__(self, word: bytes, form: type[DatagramAnswers | StreamAnswers] = DatagramAnswers) -> None:
        self._answers = form(lambda _, stream: b"id" + word)  # noqa: ARG005 - its name is the protocol's

    def __getitem__(self, key: bytes) -> Iterator[bytes]:
        return self._answers[key]


REFUSALS, TRUNCATIONS = WordLookup(b"refused"), WordLookup(b"truncated")


def packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed


def contains_address(query: bytes, address: bytes) -> bool:
    """A stand-in for a cookie: a query that contains the client's address."""
    return address in query


class OtherMachine(LocalAddresses):
    """No address is one of this machine, so that clients over loopback are clients of the network."""

    def __contains__(self, address: bytes) -> bool:
        return False


def access(
    *networks: str,
    rate_limit: int = 0,
    refused: ResponseLookup = REFUSALS,
    local: LocalAddresses | None = None,
    counters: RateCounters | None = None,
) -> AccessControl:
    local = local or LocalAddresses()
    limit = RateLimit(rate_limit, counters or RateCounters(b"key"), local) if rate_limit else None
    return AccessControl(
        Allowlist(networks, local), refused, TRUNCATIONS, contains_address, limit, AccessCounters()
    )


def at(
    made: AccessControl, hosts: Sequence[str], now: float = 0.5, queries: Sequence[bytes] = (b"anything",) * 8
) -> list[ResponseLookup | None] | None:
    return made.check_datagrams([packed(host) for host in hosts], queries.__getitem__, now)


@pytest.mark.parametrize(
    ("host", "is_private"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.255.0.1", True),
        ("172.16.0.1", True),
        ("172.32.0.1", False),
        ("192.168.9.9", True),
        ("100.127.255.255", True),
        ("100.128.0.0", False),
        ("169.254.1.1", True),
        ("fe80::1", True),
        ("fd00::1", True),
        ("2001:db8::1", False),
        ("203.0.113.1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:203.0.113.1", False),
    ],
)
def test_dns_25_private_networks_and_loopback_are_allowed_by_default(host: str, is_private: bool) -> None:
    for _ in range(2):  # the second time it is cached
        assert Allowlist(PRIVATE, LocalAddresses())[packed(host)] is is_private


def test_the_number_of_cached_addresses_is_limited() -> None:
    allowed = Allowlist(("2001:db8::/32",), LocalAddresses(), max_cached=100)
    for number in range(1000):
        assert allowed[packed("2001:db8::")[:12] + number.to_bytes(4)]
        assert len(allowed) <= 100


def test_dns_25_a_refused_client_does_not_affect_its_batch() -> None:
    made = access("203.0.113.0/24")
    assert at(made, ["203.0.113.9", "127.0.0.1"]) is None
    assert at(made, ["203.0.113.9", "203.0.114.1", "127.0.0.1"]) == [None, REFUSALS, None]
    assert made.counters.refused == 1


def test_dns_25_a_network_over_the_limit_is_truncated_until_the_next_second() -> None:
    made = access("203.0.113.0/24", "198.51.100.0/24", rate_limit=3)
    assert at(made, ["203.0.113.1", "203.0.113.2", "198.51.100.1"]) is None
    assert at(made, ["203.0.113.3", "198.51.100.1"]) is None
    assert at(made, ["203.0.113.1", "198.51.100.1"]) == [TRUNCATIONS, None]
    assert at(made, ["203.0.113.200"], now=1.1) is None
    assert made.counters.rate_limited == 1


def test_dns_25_an_ipv6_network_is_a_customers_prefix() -> None:
    made = access("2001:db8::/32", rate_limit=2)
    assert at(made, ["2001:db8:0:1::1", "2001:db8:0:ff::1", "2001:db8:0:100::1"]) is None
    assert at(made, ["2001:db8:0:2::1", "2001:db8:0:100::1"]) == [TRUNCATIONS, None]


def test_dns_25_an_ipv4_mapped_client_has_its_ipv4_network() -> None:
    made = access("10.0.0.0/8", rate_limit=1)
    assert at(made, ["::ffff:10.0.0.1", "::ffff:10.0.1.1"]) is None
    assert at(made, ["::ffff:10.0.0.9", "::ffff:10.0.2.1"]) == [TRUNCATIONS, None]


def test_dns_25_this_machine_is_allowed_and_not_limited() -> None:
    local = LocalAddresses()
    local.current = frozenset({packed("203.0.113.5"), packed("2001:db8::5")})
    made = access("203.0.113.9", rate_limit=1, local=local)
    own = [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "203.0.113.5",
        "::ffff:203.0.113.5",
        "2001:db8::5",
        "::ffff:127.0.0.1",
    ]
    assert at(made, own * 3, queries=[b"anything"] * 21) is None
    assert at(made, ["203.0.113.9", *own], queries=[b"anything"] * 8) is None  # own queries do not count
    assert at(made, ["203.0.113.9", "203.0.113.5"]) == [TRUNCATIONS, None]


def test_the_number_of_cached_slots_is_limited() -> None:
    limit = RateLimit(1, RateCounters(b"key"), LocalAddresses(), max_cached=100)
    for number in range(1000):
        assert limit[packed("2001:db8::")[:4] + number.to_bytes(4) + bytes(8)] >= 0
        assert len(limit) <= 100


def test_a_refused_client_is_not_truncated() -> None:
    made = access(rate_limit=1)
    assert at(made, ["203.0.113.1", "203.0.113.1"]) == [REFUSALS, REFUSALS]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])
def test_over_udp_each_client_gets_its_own_response(serve: Serve, address: str) -> None:
    made = access("::/0")
    host = "127.0.0.1" if "." in address else "::1"
    with (
        serve(echo, HostPort(address, 0), access=made) as server,
        udp_client(host) as one,
        udp_client(host) as other,
    ):
        if "." in address:
            other.bind(("127.0.0.7", 0))
            made.allowed[packed("127.0.0.7")] = False
        for sock in (one, other):
            sock.connect((host, server.address.port))
        with server.udp_stopped():
            for number, sock in enumerate((one, other) * 10):
                sock.send(b"%2dquery" % number)
            other.send(b"xx" + b"long" * 100)
        for number, sock in enumerate((one, other) * 10):
            is_refused = sock is other and "." in address
            assert sock.recv(100) == b"%2d" % number + (b"refused" if is_refused else b"query:udp")
        assert other.recv(1000) == b"xx" + (b"refused" if "." in address else b"long" * 100 + b":udp")


def test_dns_25_over_udp_a_network_over_the_limit_gets_short_responses(serve: Serve) -> None:
    made = access("127.0.0.0/8", rate_limit=5, local=OtherMachine())
    with serve(echo, access=made) as server, udp_client() as sock:
        sock.connect(server.at)
        with server.udp_stopped():
            for number in range(60):
                sock.send(b"%2dq" % number)
        received = [sock.recv(100)[2:] for _ in range(60)]
    # All queries of a batch are counted before any is answered; with single datagrams, the first five pass.
    assert received.count(b"truncated") >= 50
    assert made.counters.rate_limited == received.count(b"truncated")


def test_dns_25_over_tcp_a_refused_client_is_refused_each_query() -> None:
    made = access(refused=WordLookup(b"refused", StreamAnswers))
    made.allowed[packed("127.0.0.7")] = False
    with serving(echo, access=made) as server:
        for source, word in (("127.0.0.7", b"refused"), ("127.0.0.1", b"q:tcp")):
            with socket.create_connection(server.at, SECONDS, source_address=(source, 0)) as sock:
                sock.sendall(framed(b"a1q", b"b2q"))
                assert read_messages(sock, 2) == [b"a1" + word, b"b2" + word]
    assert made.counters.refused == 1


def test_dns_23_a_valid_cookie_bypasses_the_rate_limit() -> None:
    made = access("203.0.113.0/24", rate_limit=1)
    hosts = ["203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.114.1"]
    queries = [packed("203.0.113.1"), packed("203.0.113.1"), b"", packed("203.0.114.1")]
    assert at(made, hosts, queries=queries) == [None, TRUNCATIONS, TRUNCATIONS, REFUSALS]
    assert (made.counters.rate_limited, made.counters.refused) == (2, 1)


def test_dns_23_over_udp_a_cookie_is_found_in_queries_of_any_length(serve: Serve) -> None:
    made = access("127.0.0.0/8", rate_limit=1, local=OtherMachine())
    proof = packed("127.0.0.1")
    with serve(echo, access=made) as server, udp_client() as sock:
        sock.connect(server.at)
        with server.udp_stopped():
            for number in range(30):
                sock.send(b"%2d" % number + (b"!" * 8 * number + proof if number % 2 else b"q"))
        for _ in range(30):
            received = sock.recv(1000)
            if int(received[:2]) % 2:
                assert received == received[:2] + b"!" * 8 * int(received[:2]) + proof + b":udp"
    assert 14 <= made.counters.rate_limited <= 15
