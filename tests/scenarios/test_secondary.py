"""Real servers as secondaries of another zkdns, and in a chain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.edns
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.tsig
import httpx2
import pytest

from tests.cli import run
from tests.scenarios.reloadable import ReloadableServer, distinct_answers
from tests.serverset.sync_helpers import join
from tests.support.loopback import free_port
from tests.support.server import ZkdnsServer
from tests.support.steady_load import SteadyLoad
from tests.support.transfers import ALLOWED, KEY, KEY_NAME, KEYS, SECRET, Primary
from tests.support.udp_query import query_udp
from tests.support.waiting import eventually
from tests.support.zookeeper_clients import client_of
from zkdns.admin.client import ApiClient, ServerAddress
from zkdns.admin.status import Status

pytestmark = pytest.mark.processes

WEB = "web.staging.discovery"
SERVICES = ("web.staging", "api.staging", "db.prod")
STALE = 3
RARELY = ("--primary-refresh", "3600")


class Secondary(ZkdnsServer):
    """A server that follows a primary, and may be the primary of others.

    Args:
        directory: for its files.
        primary: the port of its primary.
        port: its own port.
        transfer: the content of the section `[transfer]`, which other sections may follow.
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

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        ports = [free_port() for _ in range(3)]
        self.root = Primary(directory, notify(ports[1]))
        self.root.environment["ZKDNS_LISTEN"] = f"127.0.0.1:{ports[0]}"
        self.middle = Secondary(directory / "middle", ports[0], ports[1], notify(ports[2]), *RARELY)
        self.leaf = Secondary(directory / "leaf", ports[1], ports[2], "", *RARELY)
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


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Its last test kills the middle."""
    with ExitStack() as opened:
        yield Chain(tmp_path_factory.mktemp("chain"), opened)


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


def test_a_change_reaches_the_leaf_of_a_chain_by_notify(chain: Chain) -> None:
    assert records(chain.root) == records(chain.middle) == records(chain.leaf)
    assert soa_of(chain.root) == soa_of(chain.middle) == soa_of(chain.leaf)
    for number in (7, 8, 9):
        chain.root.write({"web.staging": [f"10.0.0.{number}:80"], "api.prod": ["10.1.0.1:80"]})
        eventually(lambda: chain.leaf.lookup(WEB) == {f"10.0.0.{number}"})  # noqa: B023 - as above
        assert soa_of(chain.root) == soa_of(chain.middle) == soa_of(chain.leaf)
    assert chain.leaf.lookup("api.prod.discovery") == {"10.1.0.1"}
    assert chain.leaf.events("incremental_transfer_failed") == []
    assert chain.leaf.events("zone_transferred")[-1]["kind"] == "incremental"


def test_notify_of_strangers_and_of_other_zones(chain: Chain) -> None:
    leaf = chain.leaf
    assert send_notify(leaf, "discovery.").rcode() == dns.rcode.NOERROR
    assert send_notify(leaf, "example.com.").rcode() == dns.rcode.NOTAUTH
    for _ in range(2):
        assert send_notify(leaf, "discovery.", source="127.0.0.9").rcode() == dns.rcode.REFUSED
    (refused,) = leaf.events("notify_refused")
    assert refused["client"] == "127.0.0.9"
    # A server that is no secondary responds as before.
    assert send_notify(chain.root, "discovery.").rcode() == dns.rcode.NOTIMP


def test_status_explain_and_metrics_name_the_primary(chain: Chain) -> None:
    leaf, primary = chain.leaf, f"127.0.0.1:{chain.middle.port}"
    serial = soa_of(leaf)

    def current() -> Status | None:  # reported each second
        found = ApiClient(ServerAddress(path=leaf.api)).status()
        return found if found.primary is not None and found.primary.zones[0].serial == serial else None

    status = eventually(current)
    assert (status.source, status.zookeeper) == ("primary", None)
    assert status.primary is not None
    assert (status.primary.state, status.primary.servers) == ("live", (primary,))
    assert "primary: live" in run("explain", "web.staging", "--server", leaf.api).output
    metrics = httpx2.get(f"{leaf.admin}/metrics").text
    assert 'zkdns_secondary_state{state="live",zone="discovery"} 1.0' in metrics
    chain.middle.process.kill()
    eventually(lambda: send_notify(leaf, "discovery.") and is_stale(leaf))  # it queries the serial at once
    explained = run("explain", "web.staging", "--server", leaf.api).output
    assert "primary: unreachable" in explained
    assert f"problem: {primary}" in explained


def test_a_snapshot_answers_before_the_primary_does(chain: Chain, tmp_path: Path, stack: ExitStack) -> None:
    snapshot = ("--snapshot", str(tmp_path / "table"))
    with Secondary(tmp_path / "first", chain.root.port, free_port(), "", *snapshot) as first:
        first.wait_ready()
        serial, expected = soa_of(first), first.lookup(WEB)
        first.terminate()
    absent = free_port()
    second = stack.enter_context(Secondary(tmp_path / "second", absent, free_port(), "", *snapshot))
    second.wait_ready()
    assert second.lookup(WEB) == expected
    assert soa_of(second) == serial
    eventually(lambda: is_stale(second))


def send_notify(
    server: ZkdnsServer, zone: str, source: str = "127.0.0.1", key: dns.tsig.Key | None = None
) -> dns.message.Message:
    query = dns.message.make_query(zone, "SOA")
    query.set_opcode(dns.opcode.NOTIFY)
    query.flags = dns.flags.AA | query.flags & 0x7800
    if key is not None:
        query.use_tsig(key)
    host, port = server.addresses[0]
    return query_udp(query, host, port, source=source)


def test_tsig_between_servers(tmp_path: Path, stack: ExitStack) -> None:
    """Transfers and NOTIFY. The serial is queried so rarely that only a NOTIFY brings the change."""
    port = free_port()
    signed = f'notify = ["127.0.0.1:{port}#{KEY_NAME}"]\n'
    root = stack.enter_context(Primary(tmp_path, signed + KEYS))
    root.wait_transferable()
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text(SECRET)
    key = f'[primary.key]\nname = "{KEY_NAME}"\nsecret_file = "{file}"\n'
    leaf = stack.enter_context(Secondary(tmp_path / "leaf", root.port, port, key, *RARELY))
    leaf.wait_ready()
    assert leaf.lookup(WEB) == root.lookup(WEB) == {"10.0.0.1", "10.0.0.2"}
    root.write({"web.staging": ["10.0.0.3:80"], "db.prod": ["10.0.1.1:5432"]})
    eventually(lambda: leaf.lookup(WEB) == {"10.0.0.3"})
    # The key permits a NOTIFY from any address, and another secret or none does not.
    assert send_notify(leaf, "discovery.", "127.0.0.9", KEY).rcode() == dns.rcode.NOERROR
    wrong = dns.tsig.Key(KEY_NAME, b"another secret", "hmac-sha256")
    with pytest.raises(dns.tsig.PeerBadSignature):
        send_notify(leaf, "discovery.", "127.0.0.9", wrong)
    assert send_notify(leaf, "discovery.", "127.0.0.9").rcode() == dns.rcode.REFUSED


def test_reloads_from_zookeeper_to_a_primary_and_back(hosts: str, tmp_path: Path, stack: ExitStack) -> None:
    """The primary follows a part of the services, and the secondary a part of these."""
    client = stack.enter_context(client_of(hosts))
    for name in SERVICES:
        service, _, environment = name.partition(".")
        join(client, f"/discovery/{environment}/{service}", "10.0.0.1")
    config = tmp_path / "root.toml"
    config.write_text(f'only = ["*.staging"]\n[transfer]\n{ALLOWED}')
    root = stack.enter_context(ZkdnsServer("--config", str(config), "--zookeeper", hosts))
    of_zookeeper: dict[str, object] = {"static": None, "zookeeper": {"hosts": hosts}}
    server = stack.enter_context(ReloadableServer(tmp_path, **of_zookeeper))
    for each in (root, server):
        each.wait_ready()
    eventually(lambda: root.events("zone_transferable"))
    primary = {"servers": [f"127.0.0.1:{root.port}"], "refresh": 1}
    of_primary: dict[str, object] = {"static": None, "primary": primary, "only": ["web.*", "*.prod"]}
    steps: list[tuple[dict[str, object], str, set[str]]] = [
        (of_primary, "primary", {"web.staging"}),
        (of_zookeeper, "zookeeper", set(SERVICES)),
    ]
    with SteadyLoad(server.addresses[0], WEB) as load:
        for number, (settings, source, services) in enumerate(steps, 2):
            server.write(**settings)
            server.reload()
            server.wait_for_processes()
            assert ApiClient(ServerAddress(path=server.api)).status().source == source
            join(client, "/discovery/staging/api", f"10.0.0.{number}")
            join(client, "/discovery/staging/web", f"10.0.0.{number}")
            eventually(lambda: f"10.0.0.{number}" in server.lookup(WEB))  # noqa: B023 - called in this iteration
            answered = {name for name in SERVICES if server.rcode(f"{name}.discovery") == "NOERROR"}
            assert answered == services
    assert all("10.0.0.1" in addresses for _, addresses in distinct_answers(load))
    assert not server.events("zone_digest_differs")
