"""A simulated ZooKeeper with processes that register, and a watcher with a guard, on a simulated clock.

Time passes only in `World.pass_time`. Nothing in this file knows the rules of the guard: `World` calls it as
the watcher does, and records what `test_model` needs to check the answers.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.guard.helpers import SESSION_TIMEOUT, origin_of
from zkdns.config import GuardSettings
from zkdns.guard import WINDOW_SECONDS, Guard, Steps
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import Endpoint, Member
from zkdns.table import Table

HOLD_SECONDS = 120
MOMENT = 0.001
LATE_SECONDS = 1.0
"""After this time without a reply the watcher reports a disturbance."""
LOST_SECONDS = 6.0
"""After this time without a reply the watcher's connection is lost."""

Znode = tuple[str, str]
"""A service and the name of a member."""


@dataclass(eq=False)
class Process:
    """A process that registers in a service. It runs until `is_running` is False."""

    service: str
    host: str
    session_timeout: float
    backoff: float
    is_running: bool = True
    znode: str | None = None
    stopped_at: float = 0.0


@dataclass
class Saved:
    """A saved table: what a snapshot, or the copy of a worker, has."""

    changes: list[Change]
    current_at: float
    ensemble: int

    @property
    def members(self) -> dict[str, dict[str, Member]]:
        """The members by name, by service."""
        return {
            service_of(change.origin): {member.name: member for member in change.members}
            for change in self.changes
            if isinstance(change, SetPut)
        }


@dataclass
class Loss:
    """The sessions that one pause has ended, while the watcher was connected and had read everything.

    Attributes:
        began_at: when the pause began.
        before: the number of hosts of each service at that time. A restarted process may have two members.
        is_noticed_late: whether the watcher noticed it only some ms after the removals.
        expired: the running processes whose sessions expired since, by their former znodes.
    """

    began_at: float
    before: dict[str, int]
    is_noticed_late: bool
    expired: dict[Znode, Process] = field(default_factory=dict)


class Watcher:
    """The watcher process: a guard, its table, and the state of its connection.

    Attributes:
        ensemble: the ensemble that the table is of. None: not read yet.
        is_connected: whether it has a connection, over which ZooKeeper's changes arrive.
        has_read: whether everything was read over this connection, and no disturbance lasts.
        current_at: when the table last equalled ZooKeeper, unless `has_read`.
        read_at: when everything was last read.
        window_began_at: when the window of the disturbances that it has seen began.
        window_until: when that window closes. Infinite: the disturbance lasts.
    """

    def __init__(self, now: float) -> None:
        self.table = Table(departed_seconds=0)
        self.guard = Guard(GuardSettings(seconds=HOLD_SECONDS), self.table, session_timeout=SESSION_TIMEOUT)
        self.ensemble: int | None = None
        self.is_connected = False
        self.has_read = False
        self.current_at = now
        self.read_at = -math.inf
        self.window_began_at = now
        self.window_until = -1.0

    def take(self, steps: Steps) -> None:
        for change in itertools.chain.from_iterable(steps):
            self.table.apply(change)

    def admit(self, change: Change, now: float) -> None:
        self.take(self.guard.admit(change, now))

    def disturb(self, now: float) -> None:
        if self.has_read:
            self.current_at = now
        if now >= self.window_until:
            self.window_began_at = now
        self.window_until = float("inf")
        self.has_read = False
        self.take(self.guard.on_disturbance(now, "a disturbance"))

    def settle(self, now: float) -> None:
        self.take(self.guard.on_settled(now))
        while (due := self.guard.next_deadline()) is not None and due <= now:
            self.take(self.guard.expire(now))
        if self.window_until == float("inf"):
            self.window_until = now + WINDOW_SECONDS
        self.has_read = True
        self.read_at = now

    @property
    def members(self) -> dict[Znode, Member]:
        """All members in the table."""
        return {
            (service_of(origin), name): member
            for origin in self.table.origins
            if (member_set := self.table.set_of(origin)) is not None
            for name, member in member_set.members.items()
        }

    @property
    def held(self) -> dict[Znode, float]:
        """Since when each held member is held."""
        return {(service_of(held.origin), held.member.name): held.since for held in self.guard.held}


def host_of(member: Member) -> str:
    assert member.service is not None
    return member.service.host


def service_of(origin: str) -> str:
    return origin.rpartition("/")[2]


class World:
    """ZooKeeper, processes and the watcher.

    Attributes:
        ensemble: the number of the present ensemble or state.
        services: the members by name, by service, in ZooKeeper.
        owners: the process of each znode.
        ever: ensemble, service, name and host of all members that were ever registered.
        left_at: when each znode left.
        left_at_endpoint: when a znode last left, by service and host.
        foreign_join_at: when a member that may count as the replacement of another one last joined a service.
        changed_at: when a service last changed.
        loss: the effects of the last pause, if the watcher notices it.
        saved: the last snapshot.
        on_step: called after each event.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.ensemble = 1
        self.services: dict[str, dict[str, Member]] = {}
        self.owners: dict[Znode, Process] = {}
        self.processes: list[Process] = []
        self.ever: set[tuple[int, str, str, str]] = set()
        self.left_at: dict[Znode, float] = {}
        self.left_at_endpoint: dict[tuple[str, str], float] = {}
        self.foreign_join_at: dict[str, float] = {}
        self.changed_at: dict[str, float] = {}
        self.paused_at: float | None = None
        self.is_cut = False
        self.watcher: Watcher | None = None
        self.saved: Saved | None = None
        self.loss: Loss | None = None
        self.on_step: Callable[[], None] = lambda: None
        self._waiting: list[Process] = []
        self._sequence = itertools.count(1)
        self._hosts = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()
        self._backups: list[tuple[dict[str, dict[str, Member]], dict[Znode, Process]]] = []

    # -- time ----------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            due = self._events[0][0] if self._events else until
            deadline = self.watcher.guard.next_deadline() if self.watcher else None
            if deadline is not None and deadline <= min(due, until):
                self.now = max(self.now, deadline)
                assert self.watcher is not None
                self.watcher.take(self.watcher.guard.expire(self.now))
            elif self._events and due <= until:
                self.now = max(self.now, due)
                heapq.heappop(self._events)[2]()
            else:
                break
            self.on_step()
        self.now = until

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ties), action))

    # -- processes -----------------------------------------------------------------------------------------

    def new_process(
        self, service: str, session_timeout: float, backoff: float, host: str | None = None
    ) -> Process:
        host = host or f"10.0.{(number := next(self._hosts)) // 250}.{number % 250 + 1}"
        process = Process(service, host, session_timeout, backoff)
        self.processes.append(process)
        return process

    def running(self, service: str) -> list[Process]:
        """The processes of a service that run and are registered."""
        return [one for one in self.processes if one.service == service and one.is_running and one.znode]

    def register(self, *processes: Process) -> None:
        """Register processes of one service with one change. During a pause they wait for its end."""
        if self.paused_at is not None:
            self._waiting += processes
            return
        service, added = processes[0].service, []
        is_new_set = service not in self.services
        znodes = self.services.setdefault(service, {})
        for process in processes:
            process.znode = f"member_{next(self._sequence):010d}"
            member = Member(process.znode, Endpoint(process.host, 80))
            znodes[process.znode] = member
            self.owners[service, process.znode] = process
            self.ever.add((self.ensemble, service, process.znode, process.host))
            added.append(member)
        self.changed_at[service] = self.now
        if is_new_set:
            self._deliver(SetPut(origin_of(service), ServiceName(service, "staging"), tuple(added)))
        else:
            self._deliver(SetChanged(origin_of(service), tuple(added), ()))

    def start(self, *processes: Process) -> None:
        """Register processes at endpoints that their service did not have."""
        self.foreign_join_at[processes[0].service] = self.now
        self.register(*processes)

    def stop(self, *processes: Process) -> None:
        """Stop processes of one service in good order. In a pause it is as if they had crashed."""
        if self.paused_at is not None:
            for process in processes:
                self.crash(process)
            return
        names = []
        for process in processes:
            process.is_running = False
            assert process.znode is not None
            names.append(process.znode)
        self._delete(processes[0].service, *names)

    def crash(self, process: Process) -> None:
        """Kill a process. Its session expires later."""
        process.is_running, process.stopped_at = False, self.now
        self.after(process.session_timeout, lambda: self._expire_stopped(process))

    def restart(self, process: Process) -> Process:
        """Kill a process, and start another one at its endpoint, while the old session lasts."""
        self.crash(process)
        new = self.new_process(process.service, process.session_timeout, process.backoff, process.host)
        self.register(new)
        return new

    def _expire_stopped(self, process: Process) -> None:
        if process.znode is None or self.owners.get((process.service, process.znode)) is not process:
            return
        if self.paused_at is None:  # otherwise at its end
            self._delete(process.service, process.znode)

    def _register_again(self, process: Process) -> None:
        if process.is_running and process.znode is None:
            if self.loss is not None:
                back = [znode for znode, one in self.loss.expired.items() if one is process]
                for znode in back:
                    del self.loss.expired[znode]
            left = self.left_at_endpoint.get((process.service, process.host))
            watcher = self.watcher
            is_return = left is not None and (
                self.now - left < SESSION_TIMEOUT
                or (
                    watcher is not None
                    and watcher.window_began_at <= left
                    and self.now < watcher.window_until
                )
            )
            if not is_return or watcher is None or not watcher.has_read:
                self.foreign_join_at[process.service] = self.now
            self.register(process)

    # -- ZooKeeper -----------------------------------------------------------------------------------------

    def drop_if_empty(self, service: str) -> None:
        if self.paused_at is None and self.services.get(service) == {}:
            del self.services[service]
            self._deliver(SetDropped(origin_of(service)))

    def pause(self, notice: str) -> None:
        """Pause the ensemble, until `resume`.

        The watcher notices it "before" the removals that it causes, some ms "after" them, or "never".
        """
        if self.paused_at is not None:
            return
        began_at = self.paused_at = self.now
        self.loss = None
        if notice != "never" and self.watcher is not None and self.watcher.has_read:
            before = {
                service: len(set(map(host_of, known.values()))) for service, known in self.services.items()
            }
            self.loss = Loss(began_at, before, notice == "after")
        if notice == "before":
            self.after(LATE_SECONDS, lambda: self._miss_reply(began_at, is_lost=False))
            self.after(LOST_SECONDS, lambda: self._miss_reply(began_at, is_lost=True))

    def resume(self, *, are_clients_slow: bool = False) -> None:
        """Resume the ensemble. The sessions that were silent for too long have expired.

        If clients are slow, the other sessions expire too, because the processes reconnect too late.
        """
        if self.paused_at is None:
            return
        seconds, self.paused_at = self.now - self.paused_at, None
        watcher = self.watcher
        if seconds < LATE_SECONDS:
            self.loss = None
        for process in list(self.owners.values()):
            is_over = not process.is_running and process.stopped_at + process.session_timeout <= self.now
            if is_over or process.session_timeout <= seconds:
                self._expire(process, process.znode)
            elif process.is_running and are_clients_slow:
                rest = process.session_timeout - MOMENT
                self.after(rest, lambda process=process, znode=process.znode: self._expire(process, znode))  # type: ignore[misc]
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            self.after(MOMENT, lambda process=process: self._register_again(process))  # type: ignore[misc]
        if watcher is not None and not self.is_cut:
            self._notice_end(watcher)

    def _notice_end(self, watcher: Watcher) -> None:
        """Let the watcher notice that a pause is over."""
        if self.loss is not None and self.loss.is_noticed_late and watcher.is_connected:
            self.pass_time(MOMENT)
            watcher.disturb(self.now)
        if not watcher.is_connected:
            self.connect()
        elif not watcher.has_read:
            watcher.settle(self.now)

    def expire_all(self, service: str | None) -> None:
        """End all sessions, or all of a service. The watcher does not notice the cause."""
        if self.paused_at is None:
            for process in list(self.owners.values()):
                if service in (None, process.service):
                    self._expire(process, process.znode)

    def _expire(self, process: Process, name: str | None) -> None:
        """End the session of a process. If it runs, it registers again."""
        service = process.service
        if name is None or self.owners.get((service, name)) is not process or self.paused_at is not None:
            return
        self._delete(service, name)
        if process.is_running:
            if self.loss:
                self.loss.expired[service, name] = process
            self.after(process.backoff, lambda: self._register_again(process))

    def replace_ensemble(self, backup: int | None) -> None:
        """Wipe ZooKeeper, or restore an older state. The watcher's connection is lost."""
        self.paused_at = None
        self._waiting.clear()
        self._backups.append(
            ({name: dict(known) for name, known in self.services.items()}, dict(self.owners))
        )
        self.cut()
        self.ensemble += 1
        self.loss = None
        self.services, self.owners = {}, {}
        if backup is None:
            self._sequence = itertools.count(1)
        else:
            services, owners = self._backups[backup % len(self._backups)]
            self.services = {name: dict(known) for name, known in services.items()}
            self.owners = dict(owners)
        for service, known in self.services.items():
            self.ever.update(
                (self.ensemble, service, name, host_of(member)) for name, member in known.items()
            )
        for process in self.processes:
            if process.znode is None or self.owners.get((process.service, process.znode)) is process:
                continue
            process.znode = None  # its session does not exist
            if process.is_running:
                self.after(min(process.backoff, 2.0), lambda process=process: self._register_again(process))  # type: ignore[misc]
        for (_, name), process in list(self.owners.items()):
            if process.znode != name or not process.is_running:  # a session that no process has any more
                ghost = Process(process.service, process.host, process.session_timeout, 0.0, False, name)
                self.owners[process.service, name] = ghost
                self.after(ghost.session_timeout, lambda ghost=ghost: self._expire_stopped(ghost))  # type: ignore[misc]
        self.connect()

    def _delete(self, service: str, *names: str) -> None:
        for name in names:
            member = self.services[service].pop(name)
            process = self.owners.pop((service, name))
            if process.znode == name:
                process.znode = None
            self.left_at[service, name] = self.now
            self.left_at_endpoint[service, host_of(member)] = self.now
        self.changed_at[service] = self.now
        self._deliver(SetChanged(origin_of(service), (), names))

    # -- the watcher ---------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Cut the watcher's connection."""
        self.is_cut = True
        if self.watcher is not None:
            self.watcher.is_connected = False
            self.watcher.disturb(self.now)

    def connect(self, *, is_interrupted: bool = False) -> None:
        """Connect the watcher, and read everything, or a half of it before the connection is lost again."""
        self.is_cut, watcher = False, self.watcher
        if watcher is None or watcher.is_connected:
            return
        if self.paused_at is not None:
            watcher.disturb(self.now)
            return
        watcher.is_connected = True
        if watcher.ensemble not in (None, self.ensemble):
            watcher.take(watcher.guard.on_other_ensemble(self.now))
            watcher.window_until = -1.0
        watcher.ensemble = self.ensemble
        origins = {origin_of(service): service for service in self.services}
        reads: list[Change] = [
            SetDropped(origin) for origin in sorted(watcher.table.origins - origins.keys())
        ]
        reads += [
            SetPut(origin, ServiceName(service, "staging"), tuple(self.services[service].values()))
            for origin, service in sorted(origins.items())
        ]
        for change in reads[: len(reads) // 2] if is_interrupted else reads:
            watcher.admit(change, self.now)
        if is_interrupted:
            self.cut()
        else:
            watcher.settle(self.now)

    def save(self) -> None:
        """Save the watcher's table."""
        watcher = self.watcher
        if watcher is None or watcher.ensemble is None:
            return
        current_at = self.now if watcher.has_read else watcher.current_at
        self.saved = Saved(list(watcher.table.contents()), current_at, watcher.ensemble)

    def kill_watcher(self) -> None:
        self.watcher = None
        self.loss = None

    def start_watcher(self, saved: Saved | None) -> None:
        """Start the watcher with a saved table, and connect it, or report that this is impossible."""
        watcher = self.watcher = Watcher(self.now)
        if saved is not None:
            for change in saved.changes:
                watcher.admit(change, self.now)
            watcher.ensemble = saved.ensemble
            watcher.current_at = saved.current_at
            watcher.guard.on_restored(saved.current_at, self.now)
        if self.is_cut or self.paused_at is not None:
            watcher.disturb(self.now)
        else:
            self.connect()

    def _miss_reply(self, paused_at: float, *, is_lost: bool) -> None:
        watcher = self.watcher
        if self.paused_at != paused_at or watcher is None or not watcher.is_connected:
            return
        watcher.is_connected = not is_lost
        watcher.disturb(self.now)

    def _deliver(self, change: Change) -> None:
        watcher = self.watcher
        if watcher is not None and watcher.is_connected:
            watcher.admit(change, self.now)


def held_in(saved: Saved) -> dict[Znode, float]:
    """Since when the held members of a saved table are held."""
    return {
        (service_of(change.origin), name): change.since
        for change in saved.changes
        if isinstance(change, MembersHeld)
        for name in change.names
    }
