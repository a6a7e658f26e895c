"""The half of the fleet benchmark in which the hosts are DNS secondaries of zkdns."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.fleet_control import Simulators, simulators
from tests.bench.fleet_model import Point, Theory
from tests.bench.fleet_run import FleetRun
from tests.bench.fleet_secondaries import Follow, SecondaryFleet
from tests.bench.fleet_writer import Writer
from tests.bench.processes import cpu_seconds
from tests.bench.table import ShowStep, populate_at
from tests.bench.zkdns_process import ZkdnsProcess
from tests.support.loopback import free_port
from tests.support.zookeeper import ZooKeeperServer

LEVEL_2 = 4
"""Secondaries between the primary and the hosts in the second setting."""
ONE_LEVEL, TWO_LEVELS = "behind the primary", f"behind {LEVEL_2} secondaries"

_ZONE = "discovery"
_NAME = f"service0.staging.{_ZONE}"
_START_TIMEOUT = 30.0
_QUIET = ("--log-level", "error")
"""Without a warning for each host that does not acknowledge the first NOTIFY, since it has not joined yet."""
_JOIN_RATE = 150
"""Hosts that copy the zone for the first time per second."""
_WARM_SECONDS = 1.0
_HOSTS_PER_NETWORK = 250
_VERSIONS_PER_SECOND = 5.0
"""Changes within 0.2 s share a version of the zone, and so a request of each host."""

Address = tuple[str, int]


def causes_per_second(hosts: int, rate: float) -> dict[str, float]:
    """The causes of CPU time in a second."""
    each = hosts * min(rate, _VERSIONS_PER_SECOND)
    return {"host and second": float(hosts), "NOTIFY": each, "transfer": each, "change": rate}


TRANSFER_CPU = Theory(
    lambda point: {
        "host and second": point.hosts * point.seconds,
        "NOTIFY": float(point.notifies),
        "transfer": float(point.requests),
        "change": float(point.changes),
    },
    lambda point: point.counted_cpu,
    causes_per_second,
)
"""The SOA queries of the hosts, their NOTIFY messages and transfers, and the work for a change itself."""


class TransferFleet:
    """A ZooKeeper with services, and processes for simulated secondaries. `transfer_fleet` starts them."""

    def __init__(
        self,
        zookeeper: ZooKeeperServer,
        writer: Writer,
        running: Simulators,
        directory: Path,
        show_step: ShowStep,
    ) -> None:
        self._zookeeper = zookeeper
        self._writer = writer
        self._simulators = running
        self._directory = directory
        self._show_step = show_step

    def measure(self, setting: str, hosts: int, rates: Sequence[float], seconds: float) -> list[Point]:
        """Start the servers, let hosts follow them, and measure these at rest and at each rate."""
        self._show_step(f"{hosts:,} hosts, {setting}: starting zkdns")
        addresses = host_addresses(hosts)
        with self._servers(setting, addresses) as roles:
            processes = {
                role: [pid for server in servers for pid in server.processes()]
                for role, servers in roles.items()
            }

            def servers_cpu() -> dict[str, float]:
                return {role: cpu_seconds(pids) for role, pids in processes.items()}

            run = FleetRun(
                self._simulators, self._writer, servers_cpu, lambda one: one.address, self._show_step
            )
            self._show_step(f"{hosts:,} hosts, {setting}: first transfers")
            last = [("127.0.0.1", server.port) for server in [*roles.values()][-1]]
            primaries = [last[number % len(last)] for number in range(hosts)]
            parts = len(self._simulators)
            seconds_to_join = hosts / _JOIN_RATE
            follows = [
                Follow(_ZONE, primaries[part::parts], addresses[part::parts], seconds_to_join)
                for part in range(parts)
            ]
            run.join(follows, hosts)
            return run.measure_and_leave(setting, hosts, rates, seconds, warm_seconds=_WARM_SECONDS)

    @contextlib.contextmanager
    def _servers(self, setting: str, hosts: Sequence[Address]) -> Iterator[dict[str, list[ZkdnsProcess]]]:
        """Run the primary and, if the setting has them, secondaries, until all of them answer."""
        files = [
            self._directory / f"{number}.toml" for number in range(1 + LEVEL_2 * (setting == TWO_LEVELS))
        ]
        primary, *secondaries = servers = [ZkdnsProcess("--config", str(file), *_QUIET) for file in files]
        own = [("127.0.0.1", server.port) for server in servers]
        write_settings(files[0], f'[zookeeper]\nhosts = "{self._zookeeper.address}"', own[1:] or hosts)
        for number, file in enumerate(files[1:]):
            source = f'[primary]\nservers = ["127.0.0.1:{primary.port}"]'
            write_settings(file, source, hosts[number :: len(secondaries)])
        with contextlib.ExitStack() as stack:
            for server in servers:
                stack.enter_context(server)
            for server in servers:
                server.wait_for_answer(_NAME, timeout=_START_TIMEOUT)
            yield {"primary": [primary]} | ({"secondaries": secondaries} if secondaries else {})


@contextlib.contextmanager
def transfer_fleet(
    services: int, members: int, processes: int, show_step: ShowStep
) -> Iterator[TransferFleet]:
    """Start a ZooKeeper with this tree, and processes for simulated secondaries."""
    show_step("starting ZooKeeper")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="zkdns-fleet-"))
        zookeeper = stack.enter_context(ZooKeeperServer())
        populate_at(zookeeper.address, services, members)
        writer = Writer(zookeeper.address, services)
        stack.callback(writer.remove)
        running = stack.enter_context(simulators(SecondaryFleet, processes))
        yield TransferFleet(zookeeper, writer, running, Path(directory), show_step)


def write_settings(file: Path, source: str, notified: Sequence[Address]) -> None:
    """Write the settings of a server that permits transfers to this machine, and notifies these addresses."""
    targets = json.dumps([f"{host}:{port}" for host, port in notified])
    file.write_text(f'{source}\n[transfer]\nallow = ["127.0.0.0/8"]\nnotify = {targets}\n')


def host_addresses(hosts: int) -> list[Address]:
    """A loopback address for each host, all with the same port."""
    port = free_port()
    return [
        (f"127.77.{number // _HOSTS_PER_NETWORK}.{number % _HOSTS_PER_NETWORK + 1}", port)
        for number in range(hosts)
    ]
