"""The transfer process comes and goes: reloads that add and remove it, crashes, and several zones at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dns.rcode
import dns.xfr
import dns.zone
import pytest

from tests.scenarios.reloadable import RELOADED, WEB, ReloadableServer, all_answered_with
from tests.serverset.sync_helpers import join
from tests.support.secondaries import Bind, Knot, Secondary
from tests.support.server import ZkdnsServer
from tests.support.steady_load import SteadyLoad
from tests.support.transfers import ALLOWED, ZONE, Primary, records_of, serial_of, transfer, transfer_stats
from tests.support.waiting import PATIENCE, eventually
from tests.support.zookeeper import ZooKeeperServer
from zkdns.daemon.ipc.child import RETIRE_SECONDS

pytestmark = pytest.mark.processes

UNCHANGED = {"db.prod": [f"10.2.0.{host}:5432" for host in range(1, 9)]}


def has_zone(server: ZkdnsServer) -> bool:
    """Whether the zone can be transferred."""
    try:
        return len(records_of(transfer(server))) > 3
    except dns.xfr.TransferError:
        return False


def wait_for_zone(server: ZkdnsServer) -> dns.zone.Zone:
    eventually(lambda: has_zone(server), PATIENCE)
    return transfer(server)


def refuses(server: ZkdnsServer) -> bool:
    return server.query(ZONE, "AXFR", tcp=True).rcode() == dns.rcode.REFUSED


def test_reloads_add_and_remove_zone_transfer(tmp_path: Path) -> None:
    """Other queries are answered meanwhile, and no process is left."""
    with ReloadableServer(tmp_path, ttl=5) as server:
        server.wait_ready()
        assert refuses(server)
        with SteadyLoad(server.addresses[0], WEB) as load:
            for _ in range(2):
                server.write(ttl=5, transfer={"allow": ["127.0.0.1"]})
                assert server.reload()["settings"] == "transfer.allow"
                eventually(lambda: has_zone(server), PATIENCE)
                assert len(server.processes("transfer")) == 1
                server.write(ttl=5)
                server.reload()
                assert refuses(server)
                server.wait_for_processes()
        assert all_answered_with(load, {5})
        assert "Traceback" not in server.log


def test_a_reload_ends_when_no_worker_relays_transfers_any_more(tmp_path: Path) -> None:
    """A worker that is stopped has not refused transfers yet, when the transfer process has ended already."""
    with ReloadableServer(tmp_path, transfer={"allow": ["127.0.0.1"]}) as server:
        server.wait_ready()
        wait_for_zone(server)
        (worker,) = server.processes("worker")
        os.kill(worker, signal.SIGSTOP)
        try:
            started_at = time.monotonic()
            server.write()
            server.send_sighup()
            eventually(lambda: not server.processes("transfer"), PATIENCE)
            is_early = bool(server.events(RELOADED)) and time.monotonic() - started_at < RETIRE_SECONDS
        finally:
            os.kill(worker, signal.SIGCONT)
        assert not is_early
        eventually(lambda: server.events(RELOADED), PATIENCE)
        assert refuses(server)
        assert server.processes("worker") == {worker}


@pytest.mark.parametrize("kind", [Knot, Bind], ids=lambda kind: kind.name)
def test_a_crash_of_the_process_costs_no_answer_and_secondaries_go_on(
    kind: type[Secondary], tmp_path: Path
) -> None:
    """The process that replaces the killed one sends NOTIFY for the changes after the crash."""
    if kind.is_missing():
        pytest.skip(f"needs {kind.program} (Debian and Ubuntu: apt install {kind.package})")
    secondary = kind(tmp_path)
    with ExitStack() as stack:
        server = stack.enter_context(Primary(tmp_path, f'{ALLOWED}notify = ["127.0.0.1:{secondary.port}"]\n'))
        server.wait_transferable()
        secondary.primary = server.port
        stack.enter_context(secondary)
        eventually(lambda: secondary.serial() == server.serial(), PATIENCE)
        with SteadyLoad(server.addresses[0], "db.prod.discovery") as load:
            for number in range(1, 3):
                os.kill(server.pid_of("transfer"), signal.SIGKILL)
                before = server.serial()
                server.write({"web.staging": [f"10.5.0.{number}:80"], "db.prod": ["10.0.1.1:5432"]})
                eventually(lambda: server.serial() != before, PATIENCE)  # noqa: B023 - called in this iteration
                eventually(lambda: secondary.serial() == server.serial(), PATIENCE)
                secondary.wait_for_records({("web.staging.discovery.", "A", 5, f"10.5.0.{number}")})
        assert (load.lost, load.failures) == (0, [])
        assert len(server.events("zone_transferable")) == 3
        assert not secondary.has_ended


def incremental_after(server: Primary, zone: dns.zone.Zone, hosts: list[str]) -> None:
    """Change a service, and check that a secondary with this zone gets the difference."""
    before = server.serial()
    server.write({"web.staging": hosts, **UNCHANGED})
    eventually(lambda: server.serial() != before, PATIENCE)
    full = wait_for_zone(server)
    assert serial_of(transfer(server, zone)) == serial_of(full) == server.serial()
    assert records_of(zone) == records_of(full)
    eventually(
        lambda: transfer_stats(server).requests["IXFR", "incremental"] == 1, PATIENCE
    )  # reported each second
    assert not transfer_stats(server).requests["IXFR", "full"]


def test_a_secondary_gets_differences_after_a_crash_and_a_restart(tmp_path: Path) -> None:
    """The stored zone is at the secondary's serial, whatever has changed since."""
    settings = f'{ALLOWED}directory = "{tmp_path}/zones"\n'
    with Primary(tmp_path, settings) as server:
        server.write({"web.staging": ["10.0.0.1:80"], **UNCHANGED})
        server.wait_transferable()
        zone = wait_for_zone(server)
        for number in range(2):
            os.kill(server.pid_of("transfer"), signal.SIGKILL)
            incremental_after(server, zone, [f"10.5.0.{number}:80"])
    server = Primary(tmp_path, settings)
    server.write({"web.staging": ["10.7.0.1:80"], **UNCHANGED})
    later = time.time() + 2  # the serial is the file's time in seconds, which must not be the stored one
    os.utime(server.static, (later, later))
    with server:
        server.wait_transferable()
        incremental_after(server, zone, ["10.8.0.1:80"])


SEVERAL_ZONES = """
zookeeper.hosts = "{hosts}"
transfer.allow = ["127.0.0.1"]
[[namespace]]
path = "/discovery/{{environment}}/{{service}}"
[[namespace]]
path = "/aurora/{{role}}/{{environment}}/{{job}}"
zone = "aurora"
[[namespace]]
path = "/inner/{{service}}"
zone = "inner.discovery"
"""


@pytest.fixture
def several_zones(zookeeper: ZooKeeperServer, zk: Any, zk_root: str, tmp_path: Path) -> Iterator[ZkdnsServer]:
    for path in ("discovery", "aurora", "inner"):
        zk.ensure_path(f"{zk_root}/{path}")
    config = tmp_path / "zkdns.toml"
    config.write_text(SEVERAL_ZONES.format(hosts=f"{zookeeper.address}{zk_root}"))
    with ZkdnsServer("--config", str(config)) as server:
        yield server.wait_ready()


def zone_of(server: ZkdnsServer, apex: str, known: dns.zone.Zone | None = None) -> dns.zone.Zone:
    zone = dns.zone.Zone(apex, relativize=False) if known is None else known
    return transfer(server, zone)


def hosts_in(zone: dns.zone.Zone, name: str) -> set[str]:
    found = zone.get_rdataset(name, "A")
    return {rdata.to_text() for rdata in found or ()}


def test_several_zones_are_followed_at_different_rates(
    several_zones: ZkdnsServer, zk: Any, zk_root: str
) -> None:
    """Each zone has its own journal; a change in one is an empty difference in the others."""
    server = several_zones
    apexes = ("discovery.", "aurora.", "inner.discovery.")
    join(zk, f"{zk_root}/inner/web", "10.3.0.1")
    join(zk, f"{zk_root}/aurora/www/prod/hello", "10.2.0.1")
    join(zk, f"{zk_root}/discovery/staging/web", "10.1.0.1")
    eventually(lambda: server.lookup("web.staging.discovery") == {"10.1.0.1"}, PATIENCE)
    eventually(lambda: len(server.events("zone_transferable")) == len(apexes), PATIENCE)
    zones = {apex: zone_of(server, apex) for apex in apexes}
    for number in range(2, 8):
        join(zk, f"{zk_root}/discovery/staging/web", f"10.1.0.{number}")
        if number % 3 == 0:
            join(zk, f"{zk_root}/aurora/www/prod/hello", f"10.2.0.{number}")
        expected = {
            ("discovery.", "web.staging.discovery."): {f"10.1.0.{n}" for n in range(1, number + 1)},
            ("aurora.", "hello.prod.www.aurora."): {f"10.2.0.{n}" for n in (1, 3, 6) if n <= number},
            ("inner.discovery.", "web.inner.discovery."): {"10.3.0.1"},
        }

        def is_followed(apex: str, name: str, hosts: set[str]) -> bool:
            return hosts_in(zone_of(server, apex, zones[apex]), name) == hosts

        for (apex, name), hosts in expected.items():
            eventually(partial(is_followed, apex, name, hosts), PATIENCE)
    serials = {serial_of(zone_of(server, apex, zones[apex])) for apex in apexes}
    assert serials == {int(server.query(apex, "SOA").answer[0][0].serial) for apex in apexes}
    for apex in apexes:
        assert records_of(zones[apex]) == records_of(zone_of(server, apex))
