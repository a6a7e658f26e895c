"""`GuardedPublisher`: passes the changes of one namespace through its guard to the publisher.

Each namespace has a guard, a state and a history of its own, so that one that is unreachable or unreadable
does not affect the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.admin.api_types import ReleasedMember
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.daemon.ipc.feed import Publisher, Rise, SourceHealth
from zkdns.daemon.ipc.zone_serial import version_of_zxid
from zkdns.guard import WAIT_SECONDS, Guard, HeldMember
from zkdns.namespace import Namespace
from zkdns.serverset.changes import Change, MembersHeld
from zkdns.serverset.ensemble import Ensemble, continues, merge
from zkdns.table import Table

log = structlog.get_logger("zkdns.guard")

MAX_TIMER_SECONDS = 5.0
"""Time between two checks whether held time has ended. The timers of the event loop stop during a suspend."""
_CHANGES_PER_ROUND = 500  # restored changes that are published in one round of the event loop
_MAX_LOGGED = 300  # characters of a change in a log event


class GuardedPublisher:
    """Publishes the changes that the guard admits, and releases held members when their time ends.

    The guard and the published members have times of different clocks: the guard one that never decreases,
    and `MembersHeld` seconds since the epoch, which are valid after a restart of the machine too.

    Attributes:
        guard: decides which removed members are held.
        namespace: the namespace.
        ensemble: the ensemble that the sets were read from, with its latest known root and transaction.
            None: unknown.

    Args:
        config: settings of the guard, ZooKeeper's session timeout, and the statuses of members that are
            answered.
        namespace: the namespace.
        publisher: gets the admitted changes, and the health of the namespace.
        clock: returns seconds that never decrease. Held time goes on while the machine is suspended.
        wall_clock: returns the seconds since the epoch.
        max_timer_seconds: as `MAX_TIMER_SECONDS`.
    """

    def __init__(
        self,
        config: Config,
        namespace: Namespace,
        publisher: Publisher,
        *,
        clock: Callable[[], float] = elapsed_seconds,
        wall_clock: Callable[[], float] = time.time,
        max_timer_seconds: float = MAX_TIMER_SECONDS,
    ) -> None:
        statuses = frozenset(config.statuses)
        self.namespace = namespace
        self.ensemble: Ensemble | None = None
        self._publisher = publisher
        self._source = "the primary" if config.is_secondary else "zookeeper"
        self._is_ready = False
        self._current_at: float | None = None
        self._zxid: int | None = None  # that was not passed on yet
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._clock = clock
        self._wall_clock = wall_clock
        self._max_timer_seconds = max_timer_seconds
        self.guard = Guard(
            config.guard,
            publisher.table,
            session_timeout=config.zookeeper.session_timeout,
            is_served=lambda member: member.status in statuses,
        )

    # -- the state of the namespace ------------------------------------------------------------------------

    @property
    def stale_since(self) -> float | None:
        """When the sets were last known to be current, by the clock. None: they are, or were never read."""
        return self._current_at

    @property
    def health(self) -> SourceHealth:
        """The state of the namespace."""
        since = self._current_at
        return SourceHealth(
            self._is_ready,
            None if since is None else self._to_epoch(since),
            self.namespace.template,
            self.ensemble,
        )

    @property
    def table(self) -> Table:
        """The table of the publisher."""
        return self._publisher.table

    @property
    def is_in_window(self) -> bool:
        """Whether the guard holds suspicious removals now."""
        return self.guard.is_in_window(self._clock())

    async def restore(self, changes: Sequence[Change], health: SourceHealth) -> None:
        """Publish the sets of a snapshot or of another process. They are stale until ZooKeeper is read.

        Args:
            changes: the sets.
            health: the state of the namespace there. Without `stale_since` they were current just now.
        """
        for start in range(0, len(changes), _CHANGES_PER_ROUND):
            self.publish(_convert_times(changes[start : start + _CHANGES_PER_ROUND], self._from_epoch))
            await asyncio.sleep(0)  # the workers apply these while the rest is restored
        now = self._clock()
        self._is_ready, self.ensemble = True, health.ensemble
        self._current_at = now if health.stale_since is None else self._from_epoch(health.stale_since)
        self.guard.on_restored(self._current_at, now)
        self._publisher.set_health(self.health)

    def set_health(self, ready: bool, stale: bool) -> None:
        """Report whether all sets have been read, and whether ZooKeeper is unreachable.

        That it is unreachable starts a disturbance. It ends when everything was read again.
        """
        self._is_ready |= ready
        if stale:
            if self._current_at is None:
                self._current_at = self._clock()
            self._pass_on(self.guard.on_disturbance(self._clock(), f"{self._source} was unreachable"))
        elif ready:
            self._current_at = None
            self.guard.on_settled(self._clock())
        self._follow_guard()
        self._publisher.set_health(self.health)

    def disturb(self, reason: str) -> None:
        """Report a disturbance while the sets are current, or before they were read."""
        self._pass_on(self.guard.on_disturbance(self._clock(), reason))
        self._follow_guard()

    def settle(self) -> None:
        """Report the end of a disturbance of `disturb`, unless ZooKeeper is unreachable or unread."""
        if self._is_ready and self._current_at is None:
            self.guard.on_settled(self._clock())
            self._follow_guard()

    def set_ensemble(self, ensemble: Ensemble) -> None:
        """Report the ensemble behind a new connection, before its contents are published."""
        before = self.ensemble
        if before is None or continues(before, ensemble):
            self.update_ensemble(ensemble)
            return
        self.ensemble = ensemble
        log.warning(
            "zookeeper_ensemble_changed",
            namespace=self.namespace.template,
            before=_describe(before),
            now=_describe(ensemble),
            effect="what only the previous one had is not held",
        )
        self._pass_on(self.guard.on_other_ensemble(self._clock()))
        self._follow_guard()

    def update_ensemble(self, ensemble: Ensemble) -> None:
        """Report the same ensemble at a later time."""
        self.ensemble = merge(self.ensemble, ensemble)

    # -- changes -------------------------------------------------------------------------------------------

    def publish(self, changes: Iterable[Change]) -> None:
        """Publish changes from ZooKeeper. The guard replaces suspicious removals by held members.

        The serial rises with the next `set_zxid`.
        """
        now = self._clock()
        rise = Rise.WITH_VERSION if self._is_ready else Rise.NEVER
        for change in changes:
            try:
                admitted = self.guard.admit(change, now)
            except Exception:  # an internal error must not lose this change or the following ones
                log.exception(
                    "guard_failed", change=repr(change)[:_MAX_LOGGED], effect="change passed on unguarded"
                )
                admitted = [change]
            self._pass_on(admitted, rise)
        self._follow_guard()

    def set_zxid(self, zxid: int) -> None:
        """Report the highest transaction of the contents. It counts once no removal waits in the guard."""
        self._zxid = zxid
        self._follow_guard()

    def end_waits(self) -> None:
        """Let removals that wait take effect, because all changes that belong to them were published."""
        self._pass_on(self.guard.expire(self._clock() + WAIT_SECONDS), Rise.WITH_VERSION)
        self._follow_guard()

    def release(self, origins: Iterable[str]) -> tuple[ReleasedMember, ...]:
        """Remove the held members of these sets, and return them in order."""
        held: list[HeldMember] = []
        for origin in origins:
            held += self.guard.held_of(origin)
            self._pass_on(self.guard.accept(origin))
        self._follow_guard()
        return tuple(_to_released_member(one, self._clock()) for one in sorted(held, key=_sort_key))

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _pass_on(self, changes: Iterable[Change], rise: Rise = Rise.NOW) -> None:
        """Publish changes of the guard, with the times of held members since the epoch."""
        self._publisher.publish(_convert_times(changes, self._to_epoch), rise)

    def _to_epoch(self, when: float) -> float:
        return when - self._clock() + self._wall_clock()

    def _from_epoch(self, when: float) -> float:
        """A time of the clock, not in the future. The machine's time may have been set back since then."""
        return self._clock() - max(0.0, self._wall_clock() - when)

    def _expire(self) -> None:
        self._timer = None
        rise = Rise.NOW if self._zxid is None else Rise.WITH_VERSION
        self._pass_on(self.guard.expire(self._clock()), rise)
        self._follow_guard()

    def _follow_guard(self) -> None:
        """Pass on the version, and set the timer, after the state of the guard has changed."""
        if self._zxid is not None and not self.guard.is_waiting:
            self._publisher.set_version(self.namespace.template, version_of_zxid(self._zxid))
            self._zxid = None
        due = self.guard.next_deadline()
        if self._timer is not None:
            if self._due == due:
                return
            self._timer.cancel()
        self._timer, self._due = None, due
        if due is not None:
            wait = min(max(0.0, due - self._clock()), self._max_timer_seconds)
            self._timer = asyncio.get_running_loop().call_later(wait, self._expire)


def _convert_times(changes: Iterable[Change], convert: Callable[[float], float]) -> list[Change]:
    """The changes, with the times of held members in those of another clock."""
    return [
        msgspec.structs.replace(change, since=convert(change.since))
        if isinstance(change, MembersHeld)
        else change
        for change in changes
    ]


def _describe(ensemble: Ensemble) -> str:
    return f"root {ensemble.root_czxid:#x}, transaction {ensemble.zxid:#x}"


def _sort_key(held: HeldMember) -> tuple[str, str]:
    return held.origin, held.member.name


def _to_released_member(held: HeldMember, now: float) -> ReleasedMember:
    service = held.member.service
    endpoint = str(HostPort(service.host, service.port)) if service else None
    znode = f"{held.origin}/{held.member.name}"
    return ReleasedMember(str(held.service), znode, endpoint, round(now - held.since, 3))
