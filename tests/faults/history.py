"""What was true in ZooKeeper, and when: kept by a test as it makes things true.

A change that a test asks for happens somewhere between the asking and the answer. So whatever comes or goes
has four times: until `born` it cannot be there, from `certain` to `leaving` it is, after `gone` it cannot be.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

ROOT = "/discovery/staging"
_FIRST_PORT, _PORTS = 10_000, 50_000


@dataclass(eq=False)
class Life:
    """When something was there; times of `time.monotonic`."""

    born: float
    certain: float = math.inf
    leaving: float = math.inf
    gone: float = math.inf

    def may_be_in(self, begin: float, end: float) -> bool:
        """Whether it can have been there at some moment of these."""
        return self.born <= end and begin <= self.gone

    def is_throughout(self, begin: float, end: float) -> bool:
        """Whether it was there at all of them, without a doubt."""
        return self.certain <= begin and end < self.leaving


@dataclass(eq=False)
class Entry(Life):
    """A member: no other one ever has its address or its port."""

    service: str = ""
    number: int = 0
    path: str = ""
    is_held: bool = False
    """Whether it may still be answered when it is gone, since it went with a failure."""

    @property
    def address(self) -> str:
        """10.0.0.1 is the first."""
        return f"10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}"

    @property
    def port(self) -> int:
        return _FIRST_PORT + self.number % _PORTS

    def data(self, **more: Any) -> bytes:
        """What go.serversets would write, and more fields."""
        endpoint = {"host": self.address, "port": self.port}
        member = {"serviceEndpoint": endpoint, "additionalEndpoints": {}, "status": "ALIVE", **more}
        return json.dumps(member, separators=(",", ":")).encode()


@dataclass
class Disturbance:
    """A fault: from `begin` on answers may be as old as that, until `end`."""

    begin: float
    end: float = math.inf
    told_from: float = math.inf
    """From when on until `repaired` those who can be told are told that answers are stale."""
    repaired: float = math.inf


@dataclass
class History:
    """Everything that a test made true, by service (`web` is `/discovery/staging/web`)."""

    entries: list[Entry] = field(default_factory=list)
    services: dict[str, list[Life]] = field(default_factory=dict)
    disturbances: list[Disturbance] = field(default_factory=list)
    excused: list[tuple[float, float]] = field(default_factory=list)
    """Queries sent between these may be lost, since a process was killed that had read them."""
    unread_until: float = -math.inf
    """Until this nothing can have been read: SERVFAIL, and nothing else."""
    read_by: float = -math.inf
    """From this on everything had been: no SERVFAIL any more."""

    # -- making things true --------------------------------------------------------------------------------

    def new_entry(self, service: str) -> Entry:
        """A member that is about to be registered."""
        entry = Entry(time.monotonic(), service=service, number=len(self.entries) + 1)
        self.entries.append(entry)
        return entry

    def make_service(self, zk: Any, service: str) -> None:
        """Create the service's znode, and those above it."""
        life = Life(time.monotonic())
        self.services.setdefault(service, []).append(life)
        zk.ensure_path(f"{ROOT}/{service}")
        life.certain = time.monotonic()

    def register(self, zk: Any, service: str, *, ephemeral: bool = False, **more: Any) -> Entry:
        """Register one more member of a service that exists; with more fields than it needs."""
        entry = self.new_entry(service)
        entry.path = zk.create(
            f"{ROOT}/{service}/member_", entry.data(**more), sequence=True, ephemeral=ephemeral
        )
        entry.certain = time.monotonic()
        return entry

    def delete(self, zk: Any, entry: Entry) -> None:
        """Deregister a member."""
        entry.leaving = time.monotonic()
        zk.delete(entry.path)
        entry.gone = time.monotonic()

    @contextmanager
    def leaving(self, entries: Iterable[Life], *, held: bool = False) -> Iterator[None]:
        """These members or services go within the block, all of them; `held`: they are answered on."""
        lives = [life for life in entries if life.leaving == math.inf]
        now = time.monotonic()
        for life in lives:
            life.leaving = now
            if isinstance(life, Entry):
                life.is_held = held
        yield
        now = time.monotonic()
        for life in lives:
            life.gone = now

    def members(self, service: str) -> list[Entry]:
        """The members that are there now, the oldest first."""
        return [
            entry
            for entry in self.entries
            if entry.service == service and entry.certain < math.inf and entry.leaving == math.inf
        ]

    def lives_of(self, service: str) -> list[Life]:
        """All that goes when the service's znode is deleted."""
        return [*self.services.get(service, ()), *self.members(service)]

    def present(self, service: str) -> set[str]:
        """The addresses of the members that are there now."""
        return {entry.address for entry in self.members(service)}

    def held(self, service: str) -> set[str]:
        """The addresses of those that went with a failure, and may be answered on."""
        return {entry.address for entry in self.entries if entry.service == service and entry.is_held}

    # -- what was true -------------------------------------------------------------------------------------

    def oldest(self, sent: float, lag: float) -> float:
        """How old the truth may be that an answer tells; in calm times as old as the lag."""
        oldest = sent - lag
        for disturbance in sorted(self.disturbances, key=lambda each: each.begin, reverse=True):
            if disturbance.begin <= sent and oldest <= disturbance.end:
                oldest = min(oldest, disturbance.begin - lag)
        return oldest

    def had_members(self, service: str, begin: float, end: float) -> bool:
        """Whether at each of these moments some member was there without a doubt."""
        reached = begin
        spans = sorted((entry.certain, entry.leaving) for entry in self.entries if entry.service == service)
        for certain, leaving in spans:
            if certain <= reached < leaving:
                reached = leaving
        return reached > end
