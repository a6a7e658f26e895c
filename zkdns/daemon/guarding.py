"""The guard at work: between a source and the publisher, with the event loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from zkdns.config import Config
from zkdns.daemon.feed import Publisher
from zkdns.guard import Guard, HeldMember
from zkdns.serverset.changes import Change


class Guarding:
    """Passes changes of one source on to the publisher, as its guard says, and calls the guard in time.

    Args:
        config: says what is suspicious, and which members are answered with.
        publisher: gets what is passed on.
        on_health: told what the source tells of itself.
        session_timeout: ZooKeeper's, in seconds.
    """

    def __init__(
        self,
        config: Config,
        publisher: Publisher,
        on_health: Callable[[bool, bool], None],
        *,
        session_timeout: float,
    ) -> None:
        statuses = frozenset(config.statuses)
        self._publisher = publisher
        self._on_health = on_health
        self._timer: asyncio.TimerHandle | None = None
        self._clock = asyncio.get_running_loop().time
        self.guard = Guard(
            config.guard,
            publisher.table,
            session_timeout=session_timeout,
            is_served=lambda member: member.status in statuses,
        )

    def publish(self, changes: Iterable[Change]) -> None:
        """Take changes of the source."""
        now = self._clock()
        for change in changes:
            self._publisher.publish(self.guard.admit(change, now))
        self._set_timer()

    def heard(self, ready: bool, stale: bool) -> None:
        """Take what the source tells of itself: a stale one is disturbed until it is ready again."""
        if stale:
            self._publisher.publish(self.guard.disturbed(self._clock()))
        elif ready:
            self.guard.settled(self._clock())
        self._set_timer()
        self._on_health(ready, stale)

    def accept(self, origins: Iterable[str]) -> list[HeldMember]:
        """End the limbo of these sets; return whom they lose."""
        held: list[HeldMember] = []
        for origin in origins:
            held += self.guard.held_of(origin)
            self._publisher.publish(self.guard.accept(origin))
        self._set_timer()
        return held

    def close(self) -> None:
        """Do nothing of oneself any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        self._publisher.publish(self.guard.expire(self._clock()))
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.guard.next_deadline()
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._expire) if due is not None else None
