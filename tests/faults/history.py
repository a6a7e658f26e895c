"""The history of members and services in ZooKeeper, recorded by a test while it changes them.

A change happens at an unknown moment between its request and the response of ZooKeeper. Therefore a lifetime
has four times: the object cannot exist before `create_sent`, certainly exists from `created` to
`delete_sent`, and cannot exist after `deleted`.
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
class Lifetime:
    """When a member or a service existed, in seconds of `time.monotonic`."""

    create_sent: float
    created: float = math.inf
    delete_sent: float = math.inf
    deleted: float = math.inf
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Intervals in which it may have been absent, for instance until a member has registered again."""

    def may_exist_in(self, begin: float, end: float) -> bool:
        """Whether it may have existed at some moment of this interval."""
        return self.create_sent <= end and begin <= self.deleted

    def exists_throughout(self, begin: float, end: float) -> bool:
        """Whether it certainly existed in the whole interval."""
        return (
            self.created <= begin
            and end < self.delete_sent
            and not any(gap <= end and begin <= gap_end for gap, gap_end in self.gaps)
        )


@dataclass(eq=False)
class MemberLifetime(Lifetime):
    """A member, with a unique address and port.

    One that loses its session through a fault, and registers again, lives on: its znode is another one.
    """

    service: str = ""
    number: int = 0
    path: str = ""
    is_held: bool = False
    """Whether responses contain it after its deletion, because it was deleted by a failure."""
    held_until: float = math.inf
    """From then on responses need not contain it any more, although it is held."""
    released: float = math.inf
    """From then on responses must not contain it any more, although it was held."""

    @property
    def address(self) -> str:
        """The IPv4 address; the first member has 10.0.0.1."""
        return f"10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}"

    @property
    def port(self) -> int:
        return _FIRST_PORT + self.number % _PORTS

    def data(self, **more: Any) -> bytes:
        """The znode data in the format of go.serversets, with additional fields."""
        endpoint = {"host": self.address, "port": self.port}
        member = {"serviceEndpoint": endpoint, "additionalEndpoints": {}, "status": "ALIVE", **more}
        return json.dumps(member, separators=(",", ":")).encode()


@dataclass
class Fault:
    """A fault. Responses between `begin` and `end` may be as old as `begin`."""

    begin: float
    end: float = math.inf
    stale_from: float = math.inf
    """From here until `repaired`, responses with EDNS must be marked as stale."""
    repaired: float = math.inf
    confirmed: float = -math.inf
    """Before it began, responses were at least as new as this: the test has checked it."""


@dataclass
class History:
    """All changes of a test, by service (`web` is `/discovery/staging/web`)."""

    all_members: list[MemberLifetime] = field(default_factory=list)
    services: dict[str, list[Lifetime]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    """Between these times the server was disconnected, by its log: also without a fault of the test, as on a
    busy machine. Then responses are marked as stale."""
    excused: list[tuple[float, float]] = field(default_factory=list)
    """Queries sent in these intervals may get no response: their worker may have been killed."""
    undetected: list[tuple[float, float]] = field(default_factory=list)
    """Responses in these intervals need not be complete: zkdns restores the members that it removed before it
    detected that many more were deleted."""
    unread_until: float = -math.inf
    """Before this time ZooKeeper cannot have been read, so that only SERVFAIL is correct."""
    read_by: float = -math.inf
    """At this time ZooKeeper had been read, so that SERVFAIL is wrong afterwards."""
    root: str = ROOT
    """The path of the environment."""

    # -- changes -------------------------------------------------------------------------------------------

    def new_member(self, service: str) -> MemberLifetime:
        """Add a member that is about to be registered."""
        member = MemberLifetime(time.monotonic(), service=service, number=len(self.all_members) + 1)
        self.all_members.append(member)
        return member

    def add_service(self, service: str) -> Lifetime:
        """Add a service before its znode is created."""
        lifetime = Lifetime(time.monotonic())
        self.services.setdefault(service, []).append(lifetime)
        return lifetime

    def create_service(self, zk: Any, service: str) -> None:
        """Create the znode of a service, and its parents."""
        lifetime = self.add_service(service)
        zk.ensure_path(f"{self.root}/{service}")
        lifetime.created = time.monotonic()

    def register(self, zk: Any, service: str, *, ephemeral: bool = False, **more: Any) -> MemberLifetime:
        """Register a member of an existing service, with additional fields."""
        member = self.new_member(service)
        member.path = zk.create(
            f"{self.root}/{service}/member_", member.data(**more), sequence=True, ephemeral=ephemeral
        )
        member.created = time.monotonic()
        return member

    def delete(self, zk: Any, member: MemberLifetime) -> None:
        """Deregister a member."""
        member.delete_sent = time.monotonic()
        zk.delete(member.path)
        member.deleted = time.monotonic()

    def change_in_place(self, zk: Any, member: MemberLifetime) -> MemberLifetime:
        """Change the endpoint of a member in its znode. It counts as another member from then on."""
        changed = self.new_member(member.service)
        changed.path = member.path
        member.delete_sent = changed.create_sent
        zk.set(member.path, changed.data())
        changed.created = member.deleted = time.monotonic()
        return changed

    def reappeared(self, member: MemberLifetime) -> None:
        """Record that a deleted member exists again, with the same znode."""
        member.gaps.append((member.delete_sent, time.monotonic()))
        member.delete_sent = member.deleted = math.inf

    @contextmanager
    def absence(self, lifetimes: Iterable[Lifetime]) -> Iterator[None]:
        """Record that these members or services may be absent during the block, and exist after it."""
        begin, absent = time.monotonic(), list(lifetimes)
        for lifetime in absent:
            lifetime.gaps.append((begin, math.inf))
        yield
        for lifetime in absent:
            lifetime.gaps[-1] = (begin, time.monotonic())

    @contextmanager
    def deletion(
        self, lifetimes: Iterable[Lifetime], *, held: bool = False, may_be_held: bool = False
    ) -> Iterator[None]:
        """Record that the block deletes these members or services.

        Args:
            lifetimes: the members and services.
            held: responses must have the members as held ones.
            may_be_held: responses may have the members as held ones.
        """
        existing = [lifetime for lifetime in lifetimes if lifetime.delete_sent == math.inf]
        now = time.monotonic()
        for lifetime in existing:
            lifetime.delete_sent = now
            if isinstance(lifetime, MemberLifetime):
                lifetime.is_held = held or may_be_held
                lifetime.held_until = math.inf if held else -math.inf
        yield
        now = time.monotonic()
        for lifetime in existing:
            lifetime.deleted = now

    def members(self, service: str) -> list[MemberLifetime]:
        """The current members, ordered by creation."""
        return [
            member
            for member in self.all_members
            if member.service == service and member.created < math.inf and member.delete_sent == math.inf
        ]

    def lifetimes(self, service: str) -> list[Lifetime]:
        """The lifetimes that end when the znode of the service is deleted."""
        return [*self.services.get(service, ()), *self.members(service)]

    def present(self, service: str) -> set[str]:
        """The addresses of the current members."""
        return {member.address for member in self.members(service)}

    def held(self, service: str) -> set[str]:
        """The addresses of the held members."""
        now = time.monotonic()
        return {
            member.address
            for member in self.all_members
            if member.service == service and member.is_held and now < member.released
        }

    # -- queries -------------------------------------------------------------------------------------------

    def oldest(self, sent: float, lag: float) -> float:
        """The oldest moment that a response may reflect: `sent - lag`, or earlier during a fault.

        That is `lag` before the begin of the fault, unless the test has confirmed newer responses.
        """
        oldest = sent - lag
        for fault in sorted(self.faults, key=lambda each: each.begin, reverse=True):
            if fault.begin <= sent and oldest <= fault.end:
                oldest = min(oldest, max(fault.begin - lag, fault.confirmed))
        return oldest

    def is_near_fault(self, begin: float, end: float) -> bool:
        """Whether there was a fault in this interval. In a fault, members that exist may be held."""
        return any(fault.begin <= end and begin <= fault.end for fault in self.faults)

    def had_member_throughout(self, service: str, begin: float, end: float) -> bool:
        """Whether the service certainly had a member at each moment of this interval."""
        reached = begin
        spans = sorted(
            (member.created, member.delete_sent)
            for member in self.all_members
            if member.service == service and not member.gaps
        )
        for created, delete_sent in spans:
            if created <= reached < delete_sent:
                reached = delete_sent
        return reached > end
