"""EDNS as people see it: `dig` with its options, asked of a whole server."""

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

from tests.support.network import ip, new_network
from tests.support.server import ZkdnsServer
from tests.support.upstream import UpstreamServer
from zkdns.dns.cookies import Cookies

pytestmark = [pytest.mark.processes, pytest.mark.punctual]

DIG = shutil.which("dig")
CLIENT = "2464c4abcf10c957"
NEIGHBOUR, LIAR = "10.1.0.1", "10.1.0.2"
SECONDS = 5.0
# Askers whose sources are as many, by which the kernel chooses one of the workers.
ASKERS = 24

needs_dig = pytest.mark.skipif(DIG is None, reason="there is no dig (apt install bind9-dnsutils)")


def dig(server: ZkdnsServer, *how: str, host: str = "127.0.0.1") -> str:
    assert DIG is not None
    port = next(port for listening, port in server.addresses if listening == host)
    command = [DIG, f"@{host}", "-p", str(port), "+tries=1", "+timeout=5", *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert not re.search("malformed|mismatch|[(]bad[)]", done.stdout), done.stdout
    return done.stdout


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
@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
@pytest.mark.parametrize(
    "name", ["web.staging.discovery", "no.staging.discovery", "www.example", "x.local", "discovery"]
)
def test_dns_23_dig_calls_our_cookies_good_whatever_it_asks(
    server: ZkdnsServer, host: str, how: str, name: str
) -> None:
    first = dig(server, name, how, f"+cookie={CLIENT}", host=host)
    found = re.search(rf"COOKIE: ({CLIENT}01000000[0-9a-f]{{24}}) \(good\)", first)
    assert found, first
    assert f"COOKIE: {CLIENT}01" in dig(server, name, how, f"+cookie={found[1]}", host=host)
    assert "COOKIE" not in dig(server, name, how, "+nocookie", host=host)


@needs_dig
def test_dns_23_dig_may_ask_for_nothing_but_a_cookie_and_is_told_of_a_wrong_one(server: ZkdnsServer) -> None:
    got = dig(server, "+header-only", f"+cookie={CLIENT}")
    assert "status: NOERROR" in got
    assert "(good)" in got
    shown = re.search(r"COOKIE: ([0-9a-f]+) ", got)
    assert shown
    assert "BADCOOKIE" not in dig(server, "+header-only", f"+cookie={shown[1]}")
    wrong = shown[1][:-1] + ("0" if shown[1][-1] != "0" else "1")
    assert "BADCOOKIE, retrying" in dig(server, "+header-only", f"+cookie={wrong}")


@needs_dig
@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
def test_dig_is_told_who_answers(server: ZkdnsServer, how: str) -> None:
    for name in ("web.staging.discovery", "www.example"):
        assert '("ns1.example")' in dig(server, name, how, "+nsid")
    assert dig(server, "CH", "TXT", "version.bind", how, "+short").startswith('"zkdns ')
    assert dig(server, "CH", "TXT", "id.server", how, "+short") == '"ns1.example"\n'
    assert "status: REFUSED" in dig(server, "CH", "TXT", "authors.bind", how)


@needs_dig
def test_dns_29_dig_is_told_for_how_long_a_connection_may_be_idle(server: ZkdnsServer) -> None:
    for name in ("web.staging.discovery", "www.example"):
        assert "TCP KEEPALIVE: 10.0 secs" in dig(server, name, "+tcp", "+keepalive")
    assert "KEEPALIVE" not in dig(server, "web.staging.discovery", "+notcp", "+keepalive")


@needs_dig
def test_nobody_is_told_who_answers_unless_that_is_set() -> None:
    with ZkdnsServer("--demo", environment={"ZKDNS_ACCESS_COOKIES": "no"}) as server:
        server.wait_ready()
        answer = dig(server, "web.staging.discovery", "+nsid", "+cookie")
        assert "NSID" not in answer
        assert "COOKIE" not in answer
        for name in ("version.bind", "version.server", "hostname.bind", "id.server"):
            assert "status: REFUSED" in dig(server, "CH", "TXT", name)


def cookie_of(server: ZkdnsServer, cookie: bytes, source: str = "127.0.0.1") -> tuple[str, bytes]:
    """The answer to who asks for nothing but a cookie, from a port of its own."""
    message = dns.message.Message()
    message.use_edns(0, 0, 1232, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)])
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.settimeout(SECONDS)
        sock.sendto(message.to_wire(), ("127.0.0.1", server.port))
        response = dns.message.from_wire(sock.recv(4096))
    (option,) = response.options
    return dns.rcode.to_text(response.rcode()), option.to_wire() or b""


def test_dns_23_each_worker_knows_the_cookies_of_all(server: ZkdnsServer) -> None:
    _, cookie = cookie_of(server, bytes.fromhex(CLIENT))
    for _ in range(ASKERS):
        assert cookie_of(server, cookie)[0] == "NOERROR"
        assert cookie_of(server, cookie, "127.0.0.2")[0] == "BADCOOKIE"


def test_dns_23_servers_with_one_secret_know_each_other_s_cookies() -> None:
    shared = {"ZKDNS_ACCESS_COOKIE_SECRET": "e5e973e5a6b2a43f48e7dc849e37bfcf"}
    with (
        ZkdnsServer("--demo", environment=shared) as one,
        ZkdnsServer("--demo", environment=shared) as two,
        ZkdnsServer("--demo") as stranger,
    ):
        for each in (one, two, stranger):
            each.wait_ready()
        _, cookie = cookie_of(one, bytes.fromhex(CLIENT))
        made = int.from_bytes(cookie[12:16])
        anybody = Cookies(bytes.fromhex(shared["ZKDNS_ACCESS_COOKIE_SECRET"]), lambda: made, is_shared=True)
        assert cookie == bytes.fromhex(CLIENT) + anybody.make(bytes.fromhex(CLIENT), b"\x7f\0\0\1")
        assert cookie_of(two, cookie)[0] == "NOERROR"
        assert cookie_of(stranger, cookie)[0] == "BADCOOKIE"
        assert shared["ZKDNS_ACCESS_COOKIE_SECRET"] not in one.log


def test_dns_23_who_shows_a_right_cookie_is_answered_over_udp_beyond_the_limit() -> None:
    with new_network() as network, network.entered():
        for address in (NEIGHBOUR, LIAR):
            ip(f"addr add {address}/32 dev lo")
        limit = {"ZKDNS_ACCESS_RATE_LIMIT": "1"}
        with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", environment=limit) as server:
            server.wait_ready()

            def ask(source: str, cookie: bytes) -> tuple[bool, bytes]:
                """Whether the answer is truncated, and its cookie."""
                option = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)
                asked = dns.message.make_query("web.staging.discovery", "A", use_edns=0, options=[option])
                response = dns.query.udp(asked, source, SECONDS, server.port, source=source)
                (found,) = response.options
                assert bool(response.answer) != bool(response.flags & dns.flags.TC)
                return not response.answer, found.to_wire() or b""

            _, cookie = ask(NEIGHBOUR, bytes.fromhex(CLIENT))
            # More than one in one of the seconds that this takes: it is no test of how fast we ask.
            assert any(ask(NEIGHBOUR, bytes.fromhex(CLIENT))[0] for _ in range(40))
            assert not any(ask(NEIGHBOUR, cookie)[0] for _ in range(40))
            assert any(ask(LIAR, cookie)[0] for _ in range(40))
