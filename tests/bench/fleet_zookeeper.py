"""The half of the fleet benchmark in which all hosts are ZooKeeper clients."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.fleet_control import simulators
from tests.bench.fleet_hosts import HostFleet, Jitter, Join, SetJitter
from tests.bench.fleet_model import Point, Theory
from tests.bench.fleet_run import FleetRun, split
from tests.bench.fleet_writer import Writer
from tests.bench.processes import cpu_seconds, thread_cpu_seconds
from tests.bench.table import ROOT, ShowStep, populate_at
from tests.support.zookeeper import Ensemble, ZooKeeperServer

VOTERS, OBSERVER = "on the voters", "on the observer"

_JVM_FLAGS = ("-Xmx384m", "-XX:TieredStopAtLevel=4", "-XX:-UseDynamicNumberOfCompilerThreads")
"""Heap for thousands of connections, and both compilers, as in production."""
_COMPILERS = ("C1 Compiler", "C2 Compiler")
"""Threads of a JVM that are busy in its first minutes only. Their time is not counted."""
_JOIN_RATE = 500
"""Hosts that connect per second."""
_WARM_SECONDS = 2.0
_STORM_TIMEOUT = 60.0
_DOWN_SECONDS = 1.0
_MIN_REQUESTS = 0.95


def causes_per_second(hosts: int, rate: float) -> dict[str, float]:
    """The causes of CPU time in a second."""
    return {"host and second": float(hosts), "change and host": hosts * rate}


ZOOKEEPER_CPU = Theory(
    lambda point: {
        "host and second": point.hosts * point.seconds,
        "change and host": float(point.hosts * point.changes),
    },
    lambda point: point.counted_cpu,
    causes_per_second,
)
"""The heartbeats of the hosts, and their reads."""


def is_linear(point: Point) -> bool:
    """Whether the hosts have read each change with a request of its own, so that all of them cost the same.

    When changes come faster than the servers pass them on, hosts read several with one request.
    """
    return not point.rate or (not point.missing and point.request_share >= _MIN_REQUESTS)


@dataclass(frozen=True)
class Storm:
    """How all hosts return after a restart of their server."""

    jitter: Jitter
    hosts: int
    serving: float
    """Seconds from the start of the server until it served a client."""
    returned: Sequence[float]
    """For each host that has returned: seconds from then until it had read everything again."""
    cpu: Mapping[str, float]
    """CPU seconds by role, from the start of the server until the last host had returned."""
    attempts: int
    """Attempts of the hosts to connect, also while the server was down."""
    peak: int
    """The largest number of accepted connections in a second."""
    longest_heartbeat: float
    expired: int
    """Sessions that expired."""


class ZooKeeperFleet:
    """An ensemble with one observer, and simulated hosts. `zookeeper_fleet` starts it."""

    def __init__(self, ensemble: Ensemble, run: FleetRun, roles: Mapping[str, list[ZooKeeperServer]]) -> None:
        self._ensemble = ensemble
        self._run = run
        self._roles = roles

    def measure(self, setting: str, hosts: int, rates: Sequence[float], seconds: float) -> list[Point]:
        """Connect hosts to the voters or the observer; measure them at rest and at each rate; remove them."""
        self._join(setting, hosts)
        return self._run.measure_and_leave(setting, hosts, rates, seconds, warm_seconds=_WARM_SECONDS)

    def storms(self, hosts: int, jitters: Sequence[Jitter]) -> Iterator[Storm]:
        """Connect hosts to the observer, and restart it once with each jitter."""
        self._join(OBSERVER, hosts)
        for jitter in jitters:
            yield self._storm(hosts, jitter)
        self._run.leave()

    def _join(self, setting: str, hosts: int) -> None:
        self._run.show_step(f"{hosts:,} hosts, {setting}: connecting")
        roles = ("observer",) if setting == OBSERVER else ("leader", "followers")
        addresses = tuple(("127.0.0.1", server.port) for role in roles for server in self._roles[role])
        shares = split(hosts, len(self._run.simulators))
        self._run.join([Join(ROOT, addresses, share, hosts / _JOIN_RATE) for share in shares], hosts)

    def _storm(self, hosts: int, jitter: Jitter) -> Storm:
        (server,) = self._roles["observer"]
        self._run.show_step(f"{hosts:,} hosts: restart of the observer, {jitter}")
        self._run.simulators.request(SetJitter(jitter))
        self._run.forget()
        server.kill()
        time.sleep(_DOWN_SECONDS)
        launched_at = time.monotonic()
        server.launch()
        before = {**self._run.cpu(), "observer": 0.0}
        server.wait_until_serving()
        serving_at = time.monotonic()
        self._run.wait(lambda observed: observed.current == hosts, _STORM_TIMEOUT)
        cpu = self._run.cpu_since(before)
        observed = self._run.observe(is_complete=True)
        return Storm(
            jitter,
            hosts,
            serving_at - launched_at,
            sorted(max(0.0, at - serving_at) for at in observed.returned),
            cpu,
            len(observed.attempts),
            busiest_second(observed.connected),
            observed.longest_heartbeat,
            observed.expired,
        )


@contextlib.contextmanager
def zookeeper_fleet(
    voters: int, services: int, members: int, processes: int, show_step: ShowStep
) -> Iterator[ZooKeeperFleet]:
    """Start an ensemble with one observer and this tree, and processes for simulated hosts."""
    show_step(f"starting {voters} voters and 1 observer")
    with contextlib.ExitStack() as stack:
        ensemble = stack.enter_context(Ensemble(voters, observers=1, jvm_flags=_JVM_FLAGS))
        leader = ensemble.leader()
        roles = {"leader": [leader], "followers": ensemble.followers(), "observer": ensemble.observers()}
        show_step(f"creating {services:,} services of {members} members")
        populate_at(leader.address, services, members)
        writer = Writer(leader.address, services)
        stack.callback(writer.remove)
        running = stack.enter_context(simulators(HostFleet, processes))

        def servers_cpu() -> dict[str, float]:
            return {role: sum(map(server_cpu, servers)) for role, servers in roles.items()}

        run = FleetRun(running, writer, servers_cpu, lambda one: one.path, show_step)
        yield ZooKeeperFleet(ensemble, run, roles)


def server_cpu(server: ZooKeeperServer) -> float:
    """CPU seconds of a JVM so far, without its compilers."""
    return cpu_seconds([server.pid]) - thread_cpu_seconds(server.pid, _COMPILERS)


def busiest_second(times: Sequence[float]) -> int:
    """The largest number of these times within one second."""
    ordered = sorted(times)
    first = most = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
