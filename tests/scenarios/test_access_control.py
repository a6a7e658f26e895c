"""Access control of a server that listens on all addresses: allowed clients and the rate limit."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.network import Network, ip, link_twice, new_network
from tests.support.server import ZkdnsServer
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.processes

OWN, NEIGHBOUR, STRANGER = "192.0.0.1", "10.1.0.1", "203.0.113.7"
SECONDS = PATIENCE


@pytest.fixture(autouse=True)
def clients() -> Iterator[Network]:
    """Two machines: the server's, which this thread has entered, and one with the clients' addresses."""
    with new_network() as machine, new_network() as clients, machine.entered():
        link_twice(clients)
        for address in (NEIGHBOUR, STRANGER):
            with clients.entered():
                ip(f"addr add {address}/32 dev lo")
            ip(f"route add {address} via 192.0.0.2")
        yield clients


def query(
    port: int, source: str, clients: Network | None = None, *, tcp: bool = False
) -> dns.message.Message:
    """Query the server from an address of the clients' machine; None: from the server's machine."""
    message = dns.message.make_query("web.staging.discovery", "A", use_edns=0)
    send = dns.query.tcp if tcp else dns.query.udp
    with clients.entered() if clients is not None else contextlib.nullcontext():
        return send(message, source if clients is None else OWN, SECONDS, port, source=source)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("arguments", "answered"),
    [
        ((), {NEIGHBOUR}),
        (("--allow", "203.0.113.0/24"), {STRANGER}),
        (("--allow", STRANGER, "--allow", "10.0.0.0/8"), {STRANGER, NEIGHBOUR}),
    ],
    ids=["private", "one", "both"],
)
def test_dns_25_other_clients_are_refused(
    arguments: tuple[str, ...], answered: set[str], tcp: bool, clients: Network
) -> None:
    with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", *arguments) as server:
        port = server.wait_ready().port
        for source in ("127.0.0.1", OWN):  # this machine is always allowed
            assert len(query(port, source, tcp=tcp).answer[0]) == 3
        for source in (NEIGHBOUR, STRANGER):
            response = query(port, source, clients, tcp=tcp)
            if source in answered:
                assert response.rcode() == dns.rcode.NOERROR
                assert len(response.answer[0]) == 3
            else:
                assert (response.rcode(), response.answer) == (dns.rcode.REFUSED, [])
                (error,) = response.options
                assert isinstance(error, dns.edns.EDEOption)
                assert error.code == dns.edns.EDECode.PROHIBITED


def test_dns_25_rate_limited_clients_are_directed_to_tcp(clients: Network) -> None:
    limit = {"ZKDNS_ACCESS_RATE_LIMIT": "5"}
    with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", environment=limit) as server:
        port = server.wait_ready().port
        responses = [query(port, NEIGHBOUR, clients) for _ in range(60)]
        truncated = [response for response in responses if response.flags & dns.flags.TC]
        # At least one second has more than 5 queries, however slow the machine is.
        assert truncated
        assert all(not response.answer for response in truncated)
        assert len(responses) - len(truncated) >= 5
        assert len(query(port, NEIGHBOUR, clients, tcp=True).answer[0]) == 3


def test_dns_25_this_machine_is_not_limited_at_any_of_its_addresses() -> None:
    limit = {"ZKDNS_ACCESS_RATE_LIMIT": "5"}
    with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", environment=limit) as server:
        port = server.wait_ready().port
        for source in ("127.0.0.1", OWN):
            assert not any(query(port, source).flags & dns.flags.TC for _ in range(60))
        ip("addr add 10.9.9.9/32 dev lo")
        eventually(lambda: not any(query(port, "10.9.9.9").flags & dns.flags.TC for _ in range(60)))


def test_dns_25_all_workers_have_one_rate_limit(clients: Network) -> None:
    """The kernel distributes the queries of a client with many ports over the workers."""
    limit, count, group = 40, 400, 10
    environment = {"ZKDNS_ACCESS_RATE_LIMIT": str(limit), "ZKDNS_WORKERS": "4"}
    message = dns.message.make_query("web.staging.discovery", "A", use_edns=0).to_wire()
    with (
        ZkdnsServer("--demo", "--listen", "0.0.0.0:0", environment=environment) as server,
        contextlib.ExitStack() as stack,
    ):
        port = server.wait_ready().port
        with clients.entered():
            sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(count)]
        for sock in sockets:
            sock.bind((NEIGHBOUR, 0))
            sock.settimeout(SECONDS)
        started = time.monotonic()
        responses: list[dns.message.Message] = []
        for start in range(0, count, group):  # a batch that exceeds the limit is truncated as a whole
            for sock in sockets[start : start + group]:
                sock.sendto(message, (OWN, port))
            received = [sock.recv(4096) for sock in sockets[start : start + group]]
            responses += map(dns.message.from_wire, received)
        seconds = int(time.monotonic() - started) + 2  # that these queries may have been counted in
    answered = sum(not response.flags & dns.flags.TC for response in responses)
    # Two workers may count a query each before either sees that of the other.
    assert limit - group <= answered <= (limit + 4) * seconds


@pytest.mark.parametrize(("source", "port"), [("demo", 5300), ("services", 53)])
def test_dns_25_by_default_only_loopback_addresses_are_served(tmp_path: Path, source: str, port: int) -> None:
    """The default ports are free in the separate network."""
    services = tmp_path / "services.toml"
    services.write_text('[services."web.staging"]\nmembers = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]\n')
    arguments = ["--demo"] if source == "demo" else ["--static", str(services)]
    with ZkdnsServer(*arguments, environment={"ZKDNS_LISTEN": "", "ZKDNS_ADMIN": ""}) as server:
        assert server.wait_ready().addresses == [("127.0.0.1", port)]
        for tcp in (False, True):
            assert len(query(port, "127.0.0.1", tcp=tcp).answer[0]) == 3
        listening = subprocess.run(["ss", "-Hltun"], check=True, capture_output=True, text=True).stdout
        addresses = {line.split()[4].rpartition(":")[0] for line in listening.splitlines()}
        assert addresses == {"127.0.0.1"}
