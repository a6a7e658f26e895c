"""EDNS options of a real server, queried by `dig`."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator

import dns.edns
import dns.flags
import dns.message
import dns.query
import pytest

from tests.support.network import ip, link_twice, new_network
from tests.support.server import ZkdnsServer
from tests.support.udp_query import query_udp
from tests.support.upstream import UpstreamServer
from tests.support.waiting import PATIENCE
from zkdns.dns.cookies import Cookies

pytestmark = pytest.mark.processes

DIG = shutil.which("dig")
CLIENT = "2464c4abcf10c957"
NEIGHBOUR, SPOOFER = "10.1.0.1", "10.1.0.2"
SECONDS = PATIENCE
# The number of client ports: the kernel selects the worker by the source port.
PORTS = 24

needs_dig = pytest.mark.skipif(DIG is None, reason="needs dig (apt install bind9-dnsutils)")


def dig(server: ZkdnsServer, *arguments: str, host: str = "127.0.0.1") -> str:
    assert DIG is not None
    port = next(port for listening, port in server.addresses if listening == host)
    command = [DIG, f"@{host}", "-p", str(port), "+tries=1", "+timeout=5", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert not re.search("malformed|mismatch|[(]bad[)]", ended.stdout), ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[ZkdnsServer]:
    environment = {"ZKDNS_IDENTITY": "ns1.example", "ZKDNS_SHOW_VERSION": "true"}
    with UpstreamServer() as resolver:
        arguments = (
            "--demo", "--workers", "3", "--upstream", str(resolver.address),
            "--listen", "127.0.0.1:0", "--listen", "[::1]:0",
        )  # fmt: skip
        with ZkdnsServer(*arguments, environment=environment) as running:
            yield running.wait_ready()


@needs_dig
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize(
    "name", ["web.staging.discovery", "no.staging.discovery", "www.example", "x.local", "discovery"]
)
def test_dns_23_dig_accepts_server_cookies_for_all_names(
    server: ZkdnsServer, host: str, transport: str, name: str
) -> None:
    first = dig(server, name, transport, f"+cookie={CLIENT}", host=host)
    # Version 240: for private use (RFC 9018 §4.1), since no other server shares the secret.
    found = re.search(rf"COOKIE: ({CLIENT}f0000000[0-9a-f]{{24}}) \(good\)", first)
    assert found, first
    assert f"COOKIE: {CLIENT}f0" in dig(server, name, transport, f"+cookie={found[1]}", host=host)
    assert "COOKIE" not in dig(server, name, transport, "+nocookie", host=host)


@needs_dig
def test_dns_23_dig_gets_a_cookie_without_a_question_or_badcookie(server: ZkdnsServer) -> None:
    response = dig(server, "+header-only", f"+cookie={CLIENT}")
    assert "status: NOERROR" in response
    assert "(good)" in response
    shown = re.search(r"COOKIE: ([0-9a-f]+) ", response)
    assert shown
    assert "BADCOOKIE" not in dig(server, "+header-only", f"+cookie={shown[1]}")
    wrong = shown[1][:-1] + ("0" if shown[1][-1] != "0" else "1")
    assert "BADCOOKIE, retrying" in dig(server, "+header-only", f"+cookie={wrong}")


@needs_dig
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_gets_the_server_identity(server: ZkdnsServer, transport: str) -> None:
    for name in ("web.staging.discovery", "www.example"):
        assert '("ns1.example")' in dig(server, name, transport, "+nsid")
    assert dig(server, "CH", "TXT", "version.bind", transport, "+short").startswith('"zkdns ')
    assert dig(server, "CH", "TXT", "id.server", transport, "+short") == '"ns1.example"\n'
    assert "status: REFUSED" in dig(server, "CH", "TXT", "authors.bind", transport)


@needs_dig
def test_dns_29_dig_gets_the_idle_timeout_of_connections(server: ZkdnsServer) -> None:
    for name in ("web.staging.discovery", "www.example"):
        assert "TCP KEEPALIVE: 10.0 secs" in dig(server, name, "+tcp", "+keepalive")
    assert "KEEPALIVE" not in dig(server, "web.staging.discovery", "+notcp", "+keepalive")


@needs_dig
def test_identity_and_cookies_can_be_disabled() -> None:
    with ZkdnsServer("--demo", environment={"ZKDNS_ACCESS_COOKIES": "no"}) as server:
        server.wait_ready()
        answer = dig(server, "web.staging.discovery", "+nsid", "+cookie")
        assert "NSID" not in answer
        assert "COOKIE" not in answer
        for name in ("version.bind", "version.server", "hostname.bind", "id.server"):
            assert "status: REFUSED" in dig(server, "CH", "TXT", name)


def exchange_cookie(server: ZkdnsServer, cookie: bytes, source: str = "127.0.0.1") -> tuple[str, bytes]:
    """Send a query with only a cookie from a new port; returns the response code and the cookie."""
    message = dns.message.Message()
    message.use_edns(0, 0, 1232, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)])
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.settimeout(SECONDS)
        sock.sendto(message.to_wire(), ("127.0.0.1", server.port))
        response = dns.message.from_wire(sock.recv(4096))
    (option,) = response.options
    return dns.rcode.to_text(response.rcode()), option.to_wire() or b""


def test_dns_23_each_worker_accepts_the_cookies_of_the_others(server: ZkdnsServer) -> None:
    _, cookie = exchange_cookie(server, bytes.fromhex(CLIENT))
    for _ in range(PORTS):
        assert exchange_cookie(server, cookie)[0] == "NOERROR"
        assert exchange_cookie(server, cookie, "127.0.0.2")[0] == "BADCOOKIE"


def test_dns_23_servers_with_the_same_secret_accept_each_others_cookies() -> None:
    shared = {"ZKDNS_ACCESS_COOKIE_SECRET": "e5e973e5a6b2a43f48e7dc849e37bfcf"}
    with (
        ZkdnsServer("--demo", environment=shared) as one,
        ZkdnsServer("--demo", environment=shared) as two,
        ZkdnsServer("--demo") as other,
    ):
        for each in (one, two, other):
            each.wait_ready()
        _, cookie = exchange_cookie(one, bytes.fromhex(CLIENT))
        created = int.from_bytes(cookie[12:16])
        expected = Cookies(
            bytes.fromhex(shared["ZKDNS_ACCESS_COOKIE_SECRET"]), lambda: created, is_shared=True
        )
        assert cookie == bytes.fromhex(CLIENT) + expected.make(bytes.fromhex(CLIENT), b"\x7f\0\0\1")
        assert exchange_cookie(two, cookie)[0] == "NOERROR"
        assert exchange_cookie(other, cookie)[0] == "BADCOOKIE"
        assert shared["ZKDNS_ACCESS_COOKIE_SECRET"] not in one.log


def test_dns_23_valid_cookie_bypasses_the_rate_limit_over_udp() -> None:
    with new_network() as machine, new_network() as clients, machine.entered():
        link_twice(clients)  # own addresses of the server's machine have no limit
        for address in (NEIGHBOUR, SPOOFER):
            with clients.entered():
                ip(f"addr add {address}/32 dev lo")
            ip(f"route add {address} via 192.0.0.2")
        limit = {"ZKDNS_ACCESS_RATE_LIMIT": "1"}
        with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", environment=limit) as server:
            server.wait_ready()

            def query(source: str, cookie: bytes) -> tuple[bool, bytes]:
                """Returns whether the response is truncated, and its cookie."""
                option = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)
                message = dns.message.make_query("web.staging.discovery", "A", use_edns=0, options=[option])
                with clients.entered():
                    response = query_udp(message, "192.0.0.1", server.port, source=source)
                (found,) = response.options
                assert bool(response.answer) != bool(response.flags & dns.flags.TC)
                return not response.answer, found.to_wire() or b""

            _, cookie = query(NEIGHBOUR, bytes.fromhex(CLIENT))
            # At least one second has more than one query, however slow the machine is.
            assert any(query(NEIGHBOUR, bytes.fromhex(CLIENT))[0] for _ in range(40))
            assert not any(query(NEIGHBOUR, cookie)[0] for _ in range(40))
            assert any(query(SPOOFER, cookie)[0] for _ in range(40))
