"""Real servers as secondaries: of another zkdns, in a chain, and of Knot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.edns
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import httpx2
import pytest

from tests.cli import run
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.transfers import ALLOWED, KEYS, SECRET, Primary
from tests.support.waiting import eventually
from tests.support.zookeeper import ZooKeeperServer
from tests.support.zookeeper_clients import client_of
from zkdns.admin.client import ApiClient, ServerAddress

pytestmark = pytest.mark.processes

WEB = "web.staging.discovery"
STALE = 3
RARELY = "3600"


class Secondary(ZkdnsServer):
    """A server that follows a primary, and may be the primary of others.

    Args:
        directory: for its files.
        primary: the port of its primary.
        port: its own port.
        transfer: the content of the section `[transfer]`.
        arguments: as in the base class.
    """

    def __init__(self, directory: Path, primary: int, port: int, transfer: str, *arguments: str) -> None:
        directory.mkdir()
        config = directory / "zkdns.toml"
        config.write_text(f"[transfer]\n{transfer}" if transfer else "")
        listen = {"ZKDNS_LISTEN": f"127.0.0.1:{port}"}
        source = ("--config", str(config), "--primary", f"127.0.0.1:{primary}")
        super().__init__(*source, *arguments, environment=listen)


def notify(*ports: int) -> str:
    return f"{ALLOWED}notify = {[f'127.0.0.1:{port}' for port in ports]}\n"


class Chain:
    """Root, middle and leaf. Serials are queried so rarely that only NOTIFY brings changes."""

    def __init__(self, directory: Path, stack: ExitStack, refresh: str = RARELY) -> None:
        ports = [free_port() for _ in range(3)]
        self.root = Primary(directory, notify(ports[1]))
        self.root.environment["ZKDNS_LISTEN"] = f"127.0.0.1:{ports[0]}"
        often = ("--primary-refresh", refresh)
        self.middle = Secondary(directory / "middle", ports[0], ports[1], notify(ports[2]), *often)
        self.leaf = Secondary(directory / "leaf", ports[1], ports[2], "", *often)
        stack.enter_context(self.root)
        self.root.wait_transferable()
        for server in (self.middle, self.leaf):
            stack.enter_context(server)
            server.wait_ready()
            eventually(lambda: server.lookup(WEB))  # noqa: B023 - called in this iteration
        eventually(lambda: self.middle.events("zone_transferable"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def soa_of(server: ZkdnsServer) -> int:
    (soa,) = server.query("discovery.", "SOA").answer[0]
    return int(soa.serial)


def is_stale(server: ZkdnsServer) -> bool:
    response = server.query(WEB, "A", use_edns=0)
    return any(
        option.otype == dns.edns.OptionType.EDE and option.code == STALE for option in response.options
    )


def records(server: ZkdnsServer) -> list[str]:
    """The lines of the zone file without the SOA record."""
    lines = run("dump", "--zone", "discovery", "--server", server.api).output.splitlines()
    return sorted(line for line in lines if "\tSOA\t" not in line and not line.startswith(";"))


def test_a_change_reaches_the_leaf_of_a_chain_by_notify(tmp_path: Path, stack: ExitStack) -> None:
    chain = Chain(tmp_path, stack)
    assert records(chain.root) == records(chain.middle) == records(chain.leaf)
    assert soa_of(chain.root) == soa_of(chain.middle) == soa_of(chain.leaf)
    for number in (7, 8, 9):
        chain.root.write({"web.staging": [f"10.0.0.{number}:80"], "api.prod": ["10.1.0.1:80"]})
        eventually(lambda: chain.leaf.lookup(WEB) == {f"10.0.0.{number}"})  # noqa: B023 - as above
        assert soa_of(chain.root) == soa_of(chain.middle) == soa_of(chain.leaf)
    assert chain.leaf.lookup("api.prod.discovery") == {"10.1.0.1"}
    assert chain.leaf.events("incremental_transfer_failed") == []
    assert chain.leaf.events("zone_transferred")[-1]["kind"] == "incremental"


def test_the_loss_of_middle_and_root_never_empties_an_answer(tmp_path: Path, stack: ExitStack) -> None:
    chain = Chain(tmp_path, stack, "1")
    expected = chain.leaf.lookup(WEB)
    for lost in (chain.root, chain.middle):
        lost.process.kill()
        eventually(lambda: is_stale(chain.middle if lost is chain.root else chain.leaf))  # noqa: B023 - as above
        assert chain.leaf.lookup(WEB) == expected
    (event, *_) = chain.leaf.events("zone_stale")
    assert event["zone"] == "discovery"
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        assert chain.leaf.lookup(WEB) == expected


def test_status_explain_and_metrics_name_the_primary(tmp_path: Path, stack: ExitStack) -> None:
    port = free_port()
    root = stack.enter_context(Primary(tmp_path))
    root.wait_transferable()
    leaf = stack.enter_context(Secondary(tmp_path / "leaf", root.port, port, "", "--primary-refresh", "1"))
    leaf.wait_ready()
    client = ApiClient(ServerAddress(path=leaf.api))
    eventually(lambda: (primary := client.status().primary) and primary.state == "live")
    status = client.status()
    assert status.source == "primary"
    assert status.zookeeper is None
    assert status.primary is not None
    assert (status.primary.state, status.primary.servers) == ("live", (f"127.0.0.1:{root.port}",))
    assert status.primary.zones[0].serial == soa_of(root)
    assert "primary: live" in run("explain", "web.staging", "--server", leaf.api).output
    assert 'zkdns_secondary_state{state="live",zone="discovery"} 1.0' in leaf_metrics(leaf)
    root.process.kill()
    eventually(lambda: is_stale(leaf))
    explained = run("explain", "web.staging", "--server", leaf.api).output
    assert "primary: unreachable" in explained
    assert f"problem: 127.0.0.1:{root.port}" in explained


def leaf_metrics(server: ZkdnsServer) -> str:
    return httpx2.get(f"{server.admin}/metrics").text


def test_a_snapshot_answers_before_the_primary_does(tmp_path: Path, stack: ExitStack) -> None:
    snapshot = ("--snapshot", str(tmp_path / "table"))
    with Primary(tmp_path) as root:
        root.wait_transferable()
        primary = root.port
        with Secondary(tmp_path / "leaf", primary, free_port(), "", *snapshot) as leaf:
            leaf.wait_ready()
            serial = soa_of(leaf)
            leaf.terminate()
    second = stack.enter_context(Secondary(tmp_path / "second", primary, free_port(), "", *snapshot))
    second.wait_ready()
    assert second.lookup(WEB) == {"10.0.0.1", "10.0.0.2"}
    assert soa_of(second) == serial
    eventually(lambda: is_stale(second))


def test_notify_of_strangers_and_of_other_zones(tmp_path: Path, stack: ExitStack) -> None:
    port = free_port()
    root = stack.enter_context(Primary(tmp_path))
    root.wait_transferable()
    leaf = stack.enter_context(Secondary(tmp_path / "leaf", root.port, port, ""))
    leaf.wait_ready()
    assert send_notify(leaf, "discovery.").rcode() == dns.rcode.NOERROR
    assert send_notify(leaf, "example.com.").rcode() == dns.rcode.NOTAUTH
    for _ in range(2):
        assert send_notify(leaf, "discovery.", source="127.0.0.9").rcode() == dns.rcode.REFUSED
    (refused,) = leaf.events("notify_refused")
    assert refused["client"] == "127.0.0.9"
    # A server that is no secondary responds as before.
    assert send_notify(root, "discovery.").rcode() == dns.rcode.NOTIMP


def send_notify(server: ZkdnsServer, zone: str, source: str = "127.0.0.1") -> dns.message.Message:
    query = dns.message.make_query(zone, "SOA")
    query.set_opcode(dns.opcode.NOTIFY)
    query.flags = dns.flags.AA | query.flags & 0x7800
    host, port = server.addresses[0]
    return dns.query.udp(query, host, port=port, source=source, timeout=5.0)


def test_tsig_between_servers(tmp_path: Path, stack: ExitStack) -> None:
    root = stack.enter_context(Primary(tmp_path, KEYS))
    root.wait_transferable()
    key = tmp_path / "key.toml"
    key.write_text(f'name = "transfer-key"\nalgorithm = "hmac-sha256"\nsecret = "{SECRET}"\n')
    key.chmod(0o600)
    signed = ("--primary-key", str(key))
    leaf = stack.enter_context(Secondary(tmp_path / "leaf", root.port, free_port(), "", *signed))
    leaf.wait_ready()
    assert leaf.lookup(WEB) == root.lookup(WEB)
    unsigned = stack.enter_context(Secondary(tmp_path / "unsigned", root.port, free_port(), ""))
    eventually(lambda: unsigned.events("primary_failed"))
    assert "REFUSED" in unsigned.events("primary_failed")[0]["reason"]
    assert unsigned.rcode(WEB) == "SERVFAIL"


def test_the_loss_of_zookeeper_and_then_of_the_root(
    tmp_path: Path, stack: ExitStack, own_zookeeper: ZooKeeperServer
) -> None:
    zookeeper = own_zookeeper
    with client_of(zookeeper.address) as client:
        for number in range(1, 4):
            data = f'{{"serviceEndpoint":{{"host":"10.0.0.{number}","port":80}},"status":"ALIVE"}}'
            client.create("/discovery/staging/web/member_", data.encode(), sequence=True, makepath=True)
    config = tmp_path / "root.toml"
    config.write_text(f"[transfer]\n{ALLOWED}")
    source = ("--config", str(config), "--zookeeper", zookeeper.address)
    root = stack.enter_context(ZkdnsServer(*source))
    root.wait_ready()
    leaf = stack.enter_context(
        Secondary(tmp_path / "leaf", root.port, free_port(), "", "--primary-refresh", "1")
    )
    leaf.wait_ready()
    expected = {f"10.0.0.{number}" for number in range(1, 4)}
    assert leaf.lookup(WEB) == expected
    assert records(leaf) == records(root)
    assert soa_of(leaf) == soa_of(root)
    zookeeper.kill()
    eventually(lambda: is_stale(root))
    assert leaf.lookup(WEB) == expected
    root.process.kill()
    eventually(lambda: is_stale(leaf))
    assert leaf.lookup(WEB) == expected
