"""Passes ZooKeeper's changes through the guard to the publisher, with the clock of `zkdns.clock`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from zkdns.address import HostPort
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.daemon.ipc.control_messages import ReleasedMember
from zkdns.daemon.ipc.feed import Publisher
from zkdns.guard import Guard, HeldMember
from zkdns.serverset.changes import Change

log = structlog.get_logger("zkdns.guard")

MAX_TIMER_SECONDS = 5.0
"""Time between two checks whether held time has ended. The timers of the event loop stop during a suspend."""
_MAX_LOGGED = 300  # characters of a change in a log event


class GuardedPublisher:
    """Publishes the changes that the guard admits, and releases held members when their time ends.

    Attributes:
        guard: decides which removed members are held.

    Args:
        config: settings of the guard, and the statuses of members that are answered.
        publisher: gets the admitted changes.
        on_health: called with the health of ZooKeeper (ready, stale) after the guard has noted it.
        session_timeout: ZooKeeper's session timeout in seconds.
        clock: returns seconds that never decrease. Held time goes on while the machine is suspended.
        max_timer_seconds: as `MAX_TIMER_SECONDS`.
    """

    def __init__(
        self,
        config: Config,
        publisher: Publisher,
        on_health: Callable[[bool, bool], None],
        *,
        session_timeout: float,
        clock: Callable[[], float] = elapsed_seconds,
        max_timer_seconds: float = MAX_TIMER_SECONDS,
    ) -> None:
        statuses = frozenset(config.statuses)
        self._publisher = publisher
        self._on_health = on_health
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._clock = clock
        self._max_timer_seconds = max_timer_seconds
        self.guard = Guard(
            config.guard,
            publisher.table,
            session_timeout=session_timeout,
            is_served=lambda member: member.status in statuses,
        )

    def publish(self, changes: Iterable[Change]) -> None:
        """Publish changes from ZooKeeper. The guard replaces suspicious removals by held members."""
        now = self._clock()
        for change in changes:
            try:
                admitted = self.guard.admit(change, now)
            except Exception:  # an internal error must not lose this change or the following ones
                log.exception(
                    "guard_failed", change=repr(change)[:_MAX_LOGGED], effect="change passed on unguarded"
                )
                admitted = [change]
            self._publisher.publish(admitted)
        self._set_timer()

    def set_health(self, ready: bool, stale: bool) -> None:
        """Report the health of ZooKeeper. Stale starts a disturbance that ends when it is ready again."""
        if stale:
            self._publisher.publish(self.guard.on_disturbance(self._clock()))
        elif ready:
            self.guard.on_settled(self._clock())
        self._set_timer()
        self._on_health(ready, stale)

    def release(self, origins: Iterable[str]) -> tuple[ReleasedMember, ...]:
        """Remove the held members of these sets, and return them in order."""
        held: list[HeldMember] = []
        for origin in origins:
            held += self.guard.held_of(origin)
            self._publisher.publish(self.guard.accept(origin))
        self._set_timer()
        return tuple(_to_released_member(one, self._clock()) for one in sorted(held, key=_sort_key))

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        self._publisher.publish(self.guard.expire(self._clock()))
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.guard.next_deadline()
        if self._timer is not None:
            if self._due == due:
                return
            self._timer.cancel()
        self._timer, self._due = None, due
        if due is not None:
            wait = min(max(0.0, due - self._clock()), self._max_timer_seconds)
            self._timer = asyncio.get_running_loop().call_later(wait, self._expire)


def _sort_key(held: HeldMember) -> tuple[str, str]:
    return held.origin, held.member.name


def _to_released_member(held: HeldMember, now: float) -> ReleasedMember:
    service = held.member.service
    endpoint = str(HostPort(service.host, service.port)) if service else None
    znode = f"{held.origin}/{held.member.name}"
    return ReleasedMember(str(held.service), znode, endpoint, round(now - held.since, 3))
