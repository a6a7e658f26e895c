"""Messages between the fleet benchmark and its processes of simulated hosts, of either kind."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Leave:
    """End all connections and remove the hosts. All messages but `Observe` have the reply None."""


@dataclass(frozen=True)
class Forget:
    """Begin a new measurement."""


@dataclass(frozen=True)
class Observe:
    """The reply is an `Observed`."""

    is_complete: bool = False
    """Whether its lists are wanted, which may be long."""


@dataclass
class Observed:
    """The measurements of a process since `Forget`. Times are monotonic, in seconds."""

    hosts: int = 0
    """Hosts that have not left."""
    current: int = 0
    """Hosts that have read everything."""
    reads: int = 0
    """Reads of new members: one for each member and host."""
    requests: int = 0
    """Requests for new members. Fewer than reads, if a request had several."""
    notifies: int = 0
    """NOTIFY messages that secondaries have received."""
    expired: int = 0
    """Sessions that had expired when the host returned."""
    longest_heartbeat: float = 0.0
    """Longest time from a heartbeat to its reply, or until now if there is none."""
    attempts: list[float] = field(default_factory=list)
    """Times of the attempts to connect."""
    connected: list[float] = field(default_factory=list)
    """Times when a server accepted a session."""
    returned: list[float] = field(default_factory=list)
    """Times when a host had read everything over a new connection."""
    seen: dict[str, array[float]] = field(default_factory=dict)
    """By path or address of a new member: the times when hosts have read it."""

    def add_read(self, member: str, at: float) -> None:
        """Record that a host has read a new member."""
        self.reads += 1
        times = self.seen.get(member)
        if times is None:
            times = self.seen[member] = array("d")
        times.append(at)

    def summary(self) -> Observed:
        """The numbers, without the lists."""
        return Observed(
            self.hosts,
            self.current,
            self.reads,
            self.requests,
            self.notifies,
            self.expired,
            self.longest_heartbeat,
        )


def merge(parts: Sequence[Observed]) -> Observed:
    """The measurements of several processes as those of one."""
    whole = Observed()
    for part in parts:
        whole.hosts += part.hosts
        whole.current += part.current
        whole.reads += part.reads
        whole.requests += part.requests
        whole.notifies += part.notifies
        whole.expired += part.expired
        whole.longest_heartbeat = max(whole.longest_heartbeat, part.longest_heartbeat)
        whole.attempts += part.attempts
        whole.connected += part.connected
        whole.returned += part.returned
        for member, times in part.seen.items():
            whole.seen.setdefault(member, array("d")).extend(times)
    return whole
