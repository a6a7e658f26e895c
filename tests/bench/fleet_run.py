"""Measures a fleet of simulated hosts at rest and during changes, whatever the hosts read from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.fleet_control import Simulators
from tests.bench.fleet_messages import Forget, Leave, Observe, Observed, merge
from tests.bench.fleet_model import HOSTS, Point
from tests.bench.fleet_writer import Writer, Written
from tests.bench.table import ShowStep

JOIN_TIMEOUT, DRAIN_TIMEOUT = 90.0, 15.0
_POLL_SECONDS = 0.02
_WARM_RATE = 5.0


@dataclass
class FleetRun:
    """Running simulated hosts, and a writer of changes."""

    simulators: Simulators
    writer: Writer
    servers_cpu: Callable[[], Mapping[str, float]]
    """Returns the CPU seconds of the servers so far, by role."""
    member_key: Callable[[Written], str]
    """Returns the key of a member in `Observed.seen`."""
    show_step: ShowStep

    def join(self, messages: Sequence[object], hosts: int) -> None:
        """Add hosts, one message for each process, and wait until they have read everything.

        Raises:
            RuntimeError: not all of them have within a minute and a half.
        """
        self.simulators.request(*messages)
        if not self.wait(lambda observed: observed.current == hosts, JOIN_TIMEOUT):
            read = self.observe().current
            raise RuntimeError(f"{read:,} of {hosts:,} hosts have read everything after {JOIN_TIMEOUT:g} s")

    def leave(self) -> None:
        """Remove all hosts, and the members that were written."""
        self.simulators.request(Leave())
        if not self.wait(lambda observed: observed.hosts == 0, JOIN_TIMEOUT):
            raise RuntimeError(f"{self.observe().hosts:,} connections did not end in {JOIN_TIMEOUT:g} s")
        self.writer.remove()

    def wait(self, condition: Callable[[Observed], bool], timeout: float) -> bool:
        """Wait until the hosts meet a condition. Returns whether they do."""
        deadline = time.monotonic() + timeout
        while not condition(self.observe()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def observe(self, *, is_complete: bool = False) -> Observed:
        """The measurements of the hosts since the last `forget`."""
        return merge(self.simulators.request(Observe(is_complete)))

    def forget(self) -> None:
        """Begin a new measurement."""
        self.simulators.request(Forget())

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        return {**self.servers_cpu(), HOSTS: self.simulators.cpu_seconds()}

    def cpu_since(self, before: Mapping[str, float]) -> dict[str, float]:
        """CPU seconds since then, by role."""
        return {role: max(0.0, seconds - before[role]) for role, seconds in self.cpu().items()}

    def measure_and_leave(
        self, setting: str, hosts: int, rates: Iterable[float], seconds: float, *, warm_seconds: float
    ) -> list[Point]:
        """Measure the hosts, which have joined, at rest and at each rate, and remove them.

        Changes before that warm everything up.
        """
        self.measure(setting, hosts, [_WARM_RATE], min(warm_seconds, seconds))
        points = self.measure(setting, hosts, [0.0, *rates], seconds)
        self.leave()
        return points

    def measure(self, setting: str, hosts: int, rates: Iterable[float], seconds: float) -> list[Point]:
        """Measure the hosts, which have joined, at each rate; 0 is at rest."""
        points = []
        for rate in rates:
            doing = f"{rate:g} changes/s" if rate else "at rest"
            self.show_step(f"{hosts:,} hosts, {setting}: {doing} for {seconds:g} s")
            measure = self._changes if rate else self._rest
            points.append(measure(setting, hosts, rate, seconds))
        return points

    def _rest(self, setting: str, hosts: int, rate: float, seconds: float) -> Point:
        started_at, before = time.monotonic(), self.cpu()
        time.sleep(seconds)
        return Point(setting, hosts, rate, time.monotonic() - started_at, self.cpu_since(before))

    def _changes(self, setting: str, hosts: int, rate: float, seconds: float) -> Point:
        self.forget()
        started_at, before = time.monotonic(), self.cpu()
        written = self.writer.write(rate, seconds)
        wanted = hosts * len(written)
        self.wait(lambda observed: observed.reads >= wanted, DRAIN_TIMEOUT)
        took, cpu = time.monotonic() - started_at, self.cpu_since(before)
        observed = self.observe(is_complete=True)
        delays = [
            at - one.acknowledged_at for one in written for at in observed.seen.get(self.member_key(one), ())
        ]
        last_read = max((max(times) for times in observed.seen.values()), default=started_at + took)
        return Point(
            setting,
            hosts,
            rate,
            took,
            cpu,
            changes=len(written),
            requests=observed.requests,
            notifies=observed.notifies,
            delays=delays,
            missing=wanted - len(delays),
            drain=max(0.0, last_read - max(one.acknowledged_at for one in written)),
        )


def split(count: int, parts: int) -> list[int]:
    """Parts of a number that differ by at most 1."""
    return [count // parts + (part < count % parts) for part in range(parts)]
