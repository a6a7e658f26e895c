"""Access control of a server that listens on all addresses: allowed clients and the rate limit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.network import ip, new_network
from tests.support.server import ZkdnsServer

pytestmark = pytest.mark.processes

NEIGHBOUR, STRANGER = "10.1.0.1", "203.0.113.7"
SECONDS = 5.0


@pytest.fixture(autouse=True)
def _client_addresses() -> Iterator[None]:
    """A network with additional addresses for clients."""
    with new_network() as network, network.entered():
        for address in (NEIGHBOUR, STRANGER):
            ip(f"addr add {address}/32 dev lo")
        yield


def query(port: int, source: str, *, tcp: bool = False) -> dns.message.Message:
    message = dns.message.make_query("web.staging.discovery", "A", use_edns=0)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(message, source, SECONDS, port, source=source)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("arguments", "answered"),
    [
        ((), {"127.0.0.1", NEIGHBOUR}),
        (("--allow", "203.0.113.0/24"), {"127.0.0.1", STRANGER}),
        (("--allow", STRANGER, "--allow", "10.0.0.0/8"), {"127.0.0.1", STRANGER, NEIGHBOUR}),
    ],
    ids=["private", "one", "both"],
)
def test_dns_25_other_clients_are_refused(arguments: tuple[str, ...], answered: set[str], tcp: bool) -> None:
    with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", *arguments) as server:
        port = server.wait_ready().port
        for source in ("127.0.0.1", NEIGHBOUR, STRANGER):
            response = query(port, source, tcp=tcp)
            if source in answered:
                assert response.rcode() == dns.rcode.NOERROR
                assert len(response.answer[0]) == 3
            else:
                assert (response.rcode(), response.answer) == (dns.rcode.REFUSED, [])
                (error,) = response.options
                assert isinstance(error, dns.edns.EDEOption)
                assert error.code == dns.edns.EDECode.PROHIBITED


def test_dns_25_rate_limited_clients_are_directed_to_tcp() -> None:
    limit = {"ZKDNS_ACCESS_RATE_LIMIT": "5"}
    with ZkdnsServer("--demo", "--listen", "0.0.0.0:0", environment=limit) as server:
        port = server.wait_ready().port
        responses = [query(port, NEIGHBOUR) for _ in range(60)]
        truncated = [response for response in responses if response.flags & dns.flags.TC]
        # At least one second has more than 5 queries, however slow the machine is.
        assert truncated
        assert all(not response.answer for response in truncated)
        assert len(responses) - len(truncated) >= 5
        assert len(query(port, NEIGHBOUR, tcp=True).answer[0]) == 3
        assert not any(query(port, "127.0.0.1").flags & dns.flags.TC for _ in range(4))


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
