"""`GuardedPublisher`: passes the changes of one namespace through its guard to the publisher.

Each namespace has a guard, a state and a history of its own, so that one that is unreachable or unreadable
does not affect the others.

    publish, disturb, set_health, set_zxid, …  ──▶ one queue of tasks ──▶ guard ──▶ table and feed

Each call is a task, and tasks are run in the order of the calls. A task is run at once if there is no other
one, but the loss of ten thousand services takes half a second. So the rest of a long task, and all later
ones, are run in pieces of `PIECE_SECONDS`, one in each round of the event loop. Meanwhile the process
responds to requests, and the source of the changes waits (`is_busy`, `on_idle`): so at most the changes of
one publication wait here, and a state or transaction is reported after the changes that it covers.

All changes of a task have the time at which it was made. So the guard decides as if it had seen them at once.
The end of a removal's wait is a task too, behind all events that have arrived by then (`run_after_arrived`):
the guard sees all of a large loss before the first part of it takes effect.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import structlog

from zkdns.address import HostPort
from zkdns.admin.api_types import ReleasedMember
from zkdns.clock import elapsed_seconds
from zkdns.config import Config
from zkdns.daemon.gc_tuning import collect_young
from zkdns.daemon.ipc.feed import Publisher, Rise
from zkdns.daemon.ipc.feed_messages import SourceHealth
from zkdns.daemon.ipc.zone_serial import version_of_zxid
from zkdns.guard import WAIT_SECONDS, Guard, HeldMember, Steps
from zkdns.namespace import Namespace
from zkdns.serverset.changes import Change, MembersHeld
from zkdns.serverset.ensemble import Ensemble, continues, merge
from zkdns.table import Table

log = structlog.get_logger("zkdns.guard")

MAX_TIMER_SECONDS = 5.0
"""Time between two checks whether held time has ended. The timers of the event loop stop during a suspend."""
PIECE_SECONDS = 0.005
"""Time of the tasks in one round of the event loop. A piece ends after the set that exceeds it."""
_BURST_SECONDS = 1.0  # time of a burst of log lines about held members
_MAX_LOGGED = 300  # characters of a change in a log event

_Task: TypeAlias = Iterator[None]
"""A task. Other work can be done between two of its steps."""


class GuardedPublisher:
    """Publishes the changes that the guard admits, and releases held members when their time ends.

    The guard and the published members have times of different clocks: the guard one that never decreases,
    and `MembersHeld` seconds since the epoch, which are valid after a restart of the machine too.

    Attributes:
        guard: decides which removed members are held.
        namespace: the namespace.
        ensemble: the ensemble that the sets were read from, with its latest known root and transaction.
            None: unknown.
        on_idle: called when all tasks have ended, if some were run later than they were made.
        run_after_arrived: runs a function after all events that have arrived from the source. Default: now.

    Args:
        config: settings of the guard, ZooKeeper's session timeout, and the statuses of members that are
            answered.
        namespace: the namespace.
        publisher: gets the admitted changes, and the health of the namespace.
        clock: returns seconds that never decrease. Held time goes on while the machine is suspended.
        wall_clock: returns the seconds since the epoch.
        max_timer_seconds: as `MAX_TIMER_SECONDS`.
        piece_seconds: as `PIECE_SECONDS`.
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
        piece_seconds: float = PIECE_SECONDS,
    ) -> None:
        statuses = frozenset(config.statuses)
        self.namespace = namespace
        self.ensemble: Ensemble | None = None
        self.on_idle: Callable[[], None] = lambda: None
        self.run_after_arrived: Callable[[Callable[[], None]], None] = lambda call: call()
        self._tasks: deque[_Task] = deque()
        self._next_piece: asyncio.Handle | None = None
        self._burst_end: asyncio.TimerHandle | None = None
        self._piece_seconds = piece_seconds
        self._publisher = publisher
        self._source = "the primary" if config.is_secondary else "zookeeper"
        self._is_ready = False
        self._current_at: float | None = None
        self._zxid: int | None = None  # that was not passed on yet
        self._timer: asyncio.TimerHandle | None = None
        self._is_expiring = False  # from the end of the timer until its task begins
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
        self.publish(_convert_times(changes, self._from_epoch))
        await self.wait_until_published()
        now = self._clock()
        self._is_ready, self.ensemble = True, health.ensemble
        self._current_at = now if health.stale_since is None else self._from_epoch(health.stale_since)
        self.guard.on_restored(self._current_at, now)
        self._publisher.set_health(self.health)

    def set_health(self, ready: bool, stale: bool) -> None:
        """Report whether all sets have been read, and whether ZooKeeper is unreachable.

        That it is unreachable starts a disturbance. It ends when everything was read again.
        """
        self._add(self._set_health(ready, stale, self._clock()))

    def _set_health(self, ready: bool, stale: bool, now: float) -> _Task:
        self._is_ready |= ready
        if stale:
            if self._current_at is None:
                self._current_at = now
            yield from self._pass_on(self.guard.on_disturbance(now, f"{self._source} was unreachable"))
        elif ready:
            self._current_at = None
            yield from self._pass_on(self.guard.on_settled(now))
        self._follow_guard()
        self._publisher.set_health(self.health)

    def disturb(self, reason: str) -> None:
        """Report a disturbance while the sets are current, or before they were read."""
        self._add(self._pass_on(self.guard.on_disturbance(self._clock(), reason)))

    def settle(self) -> None:
        """Report the end of a disturbance of `disturb`, unless ZooKeeper is unreachable or unread."""
        self._add(self._settle(self._clock()))

    def _settle(self, now: float) -> _Task:
        if self._is_ready and self._current_at is None:
            yield from self._pass_on(self.guard.on_settled(now))

    def set_ensemble(self, ensemble: Ensemble) -> None:
        """Report the ensemble behind a new connection, before its contents are published."""
        self._add(self._set_ensemble(ensemble, self._clock()))

    def _set_ensemble(self, ensemble: Ensemble, now: float) -> _Task:
        before = self.ensemble
        if before is None or continues(before, ensemble):
            self.ensemble = merge(before, ensemble)
            return
        self.ensemble = ensemble
        log.warning(
            "zookeeper_ensemble_changed",
            namespace=self.namespace.template,
            before=_describe(before),
            now=_describe(ensemble),
            effect="what only the previous one had is not held",
        )
        yield from self._pass_on(self.guard.on_other_ensemble(now))

    def update_ensemble(self, ensemble: Ensemble) -> None:
        """Report the same ensemble at a later time."""
        self._add(self._update_ensemble(ensemble))

    def _update_ensemble(self, ensemble: Ensemble) -> _Task:
        self.ensemble = merge(self.ensemble, ensemble)
        yield

    # -- changes -------------------------------------------------------------------------------------------

    def publish(self, changes: Sequence[Change]) -> None:
        """Publish changes from ZooKeeper. The guard replaces suspicious removals by held members.

        The serial rises with the next `set_zxid`.
        """
        self._add(self._publish(changes, self._clock()))

    def _publish(self, changes: Sequence[Change], now: float) -> _Task:
        rise = Rise.WITH_VERSION if self._is_ready else Rise.NEVER
        for change in changes:
            yield from self._pass_on(self._admit(change, now), rise)

    def _admit(self, change: Change, now: float) -> Steps:
        try:
            yield from self.guard.admit(change, now)
        except Exception:  # an internal error must not lose this change or the following ones
            log.exception(
                "guard_failed", change=repr(change)[:_MAX_LOGGED], effect="change passed on unguarded"
            )
            yield (change,)

    def set_zxid(self, zxid: int) -> None:
        """Report the highest transaction of the contents. It counts once no removal waits in the guard."""
        self._add(self._set_zxid(zxid))

    def _set_zxid(self, zxid: int) -> _Task:
        self._zxid = zxid
        yield

    def end_waits(self) -> None:
        """Let removals that wait take effect, because all changes that belong to them were published."""
        self._add(self._pass_on(self.guard.expire(self._clock() + WAIT_SECONDS), Rise.WITH_VERSION))

    async def release(self, origins: Iterable[str]) -> list[ReleasedMember]:
        """Remove the held members of these sets, and return them in order."""
        released: list[ReleasedMember] = []
        self._add(self._release(sorted(origins), released))
        await self.wait_until_published()
        return released

    def _release(self, origins: Sequence[str], released: list[ReleasedMember]) -> _Task:
        for origin in origins:
            held = sorted(self.guard.held_of(origin), key=lambda one: one.member.name)
            now = self._clock()
            released += [_to_released_member(one, now) for one in held]
            yield from self._pass_on([self.guard.accept(origin)])

    # -- tasks ---------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a task has not ended."""
        return bool(self._tasks)

    def call_in_order(self, function: Callable[[], object]) -> None:
        """Call a function when all tasks that were made before have ended."""
        self._add(_call(function))

    async def wait_until_published(self) -> None:
        """Wait until all tasks that were made before have ended."""
        ended = asyncio.Event()
        self.call_in_order(ended.set)
        await ended.wait()

    def close(self) -> None:
        """Run all tasks to their end, and cancel the timers."""
        self._run(float("inf"))
        for timer in (self._timer, self._next_piece, self._burst_end):
            if timer is not None:
                timer.cancel()
        self.guard.log.end_burst()

    def _add(self, task: _Task) -> None:
        """Run a task after all earlier ones: at once if there is none, otherwise later."""
        self._tasks.append(task)
        if len(self._tasks) == 1:
            self._run(self._piece_seconds)

    def _run(self, seconds: float) -> None:
        """Run tasks for this time, and the rest in the next rounds of the event loop."""
        end = time.perf_counter() + seconds
        while self._tasks:
            if not self._run_task(self._tasks[0], end):
                self._next_piece = asyncio.get_running_loop().call_soon(self._run_piece)
                return
            self._tasks.popleft()

    def _run_piece(self) -> None:
        self._next_piece = None
        self._run(self._piece_seconds)
        collect_young()  # otherwise one collection may take 65 ms (measured with 10,000 services)
        if not self._tasks:
            self.on_idle()

    def _run_task(self, task: _Task, end: float) -> bool:
        """Run a task until it ends or the time is over; return whether it has ended."""
        try:
            for _ in task:
                if time.perf_counter() >= end:
                    return False
            self._follow_guard()
        except Exception:  # an internal error must not prevent the later tasks
            log.exception("publication_failed", changes="")
        return True

    def _pass_on(self, steps: Iterable[Sequence[Change]], rise: Rise = Rise.NOW) -> _Task:
        """Publish changes of the guard, with the times of held members since the epoch."""
        for changes in steps:
            try:
                if changes:
                    self._publisher.publish(_convert_times(changes, self._to_epoch), rise)
            except Exception:  # an internal error must not lose the changes of other sets
                log.exception("publication_failed", changes=repr(changes)[:_MAX_LOGGED])
            yield

    def _to_epoch(self, when: float) -> float:
        return when - self._clock() + self._wall_clock()

    def _from_epoch(self, when: float) -> float:
        """A time of the clock, not in the future. The machine's time may have been set back since then."""
        return self._clock() - max(0.0, self._wall_clock() - when)

    def _end_time(self) -> None:
        """Let the removals and held members pass whose time is over, after all that has arrived."""
        self._timer, self._is_expiring = None, True
        now = self._clock()
        self.run_after_arrived(lambda: self._add(self._expire(now)))

    def _expire(self, now: float) -> _Task:
        self._is_expiring = False
        rise = Rise.NOW if self._zxid is None else Rise.WITH_VERSION
        yield from self._pass_on(self.guard.expire(now), rise)

    def _follow_guard(self) -> None:
        """Pass on the version, and set the timer, after the state of the guard has changed."""
        if self._zxid is not None and not self.guard.is_waiting:
            self._publisher.set_version(self.namespace.template, version_of_zxid(self._zxid))
            self._zxid = None
        if self.guard.log.has_burst and self._burst_end is None:
            self._burst_end = asyncio.get_running_loop().call_later(_BURST_SECONDS, self._end_burst)
        due = self.guard.next_deadline()
        if self._timer is not None:
            if self._due == due:
                return
            self._timer.cancel()
        self._timer, self._due = None, due
        if due is not None and not self._is_expiring:
            wait = min(max(0.0, due - self._clock()), self._max_timer_seconds)
            self._timer = asyncio.get_running_loop().call_later(wait, self._end_time)

    def _end_burst(self) -> None:
        self._burst_end = None
        self.guard.log.end_burst()


def _call(function: Callable[[], object]) -> _Task:
    """A task that calls a function."""
    function()
    yield


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


def _to_released_member(held: HeldMember, now: float) -> ReleasedMember:
    service = held.member.service
    endpoint = str(HostPort(service.host, service.port)) if service else None
    znode = f"{held.origin}/{held.member.name}"
    return ReleasedMember(str(held.service), znode, endpoint, round(now - held.since, 3))
