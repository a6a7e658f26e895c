"""A model-based test of guard, table and saved tables, against a simulated ZooKeeper.

The properties are checked after each event, while the watcher is connected and has read everything:

P1  The table without held members equals ZooKeeper, except members whose removal waits for a moment.
P2  No running member is missing because a pause that the watcher noticed ended its session, if its service
    lost all members, all but one, or more than the share. If the removals came before the watcher noticed
    the pause, "all but one" does not count. The member is answered until it is back, its time is over, the
    service is whole again, or an operator accepts the loss. The service must not have grown before, since new
    members may count as replacements. The same holds for a pause while the watcher was down for a short time.
P3  No member is answered longer than `seconds` after the watcher read that it had left, or after the time of
    the restored table. The window of a disturbance that this watcher noticed extends that time to its end.
P4  A member that a rolling deploy has replaced is never answered again. One that left while the watcher was
    down for longer than a session timeout is not answered after the read, unless there was a disturbance.
P5  Each held member was once registered in the present ensemble.
P6  A restart does not extend the time of a held member.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.guard.helpers import SESSION_TIMEOUT, origin_of
from tests.guard.world import HOLD_SECONDS, MOMENT, Process, Saved, World, Znode, held_in, host_of
from zkdns.guard import WAIT_SECONDS, WINDOW_SECONDS

SHARE, MINIMUM = 0.5, 5
SERVICES = {"web": 6, "api": 3, "db": 1}

services = st.sampled_from(list(SERVICES))
session_timeouts = st.sampled_from([2.0, 5.0, 5.0, 10.0, 16.0, 40.0])
backoffs = st.sampled_from([0.0, 0.5, 3.0, 20.0, 60.0])
pauses = st.sampled_from([0.5, 1.5, 3.0, 5.6, 8.0, 12.0, 45.0, 200.0])
times = st.sampled_from([0.0, 0.02, WAIT_SECONDS, 1.0, 4.0, SESSION_TIMEOUT, WINDOW_SECONDS, HOLD_SECONDS])


class GuardModel(RuleBasedStateMachine):
    """The rules are what happens to ZooKeeper, the processes and the watcher."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.on_step = self.check
        # By znode: the process, until when it has to be answered, and the size of its whole service.
        self.wanted: dict[Znode, tuple[Process, float, int]] = {}
        self.replaced: set[Znode] = set()
        self.known_gone_at: dict[Znode, float] = {}

    # -- the world -----------------------------------------------------------------------------------------

    @initialize(
        timeouts=st.lists(session_timeouts, min_size=1, max_size=3),
        delays=st.lists(backoffs, min_size=1, max_size=2),
        is_restored=st.booleans(),
    )
    def start(self, timeouts: list[float], delays: list[float], is_restored: bool) -> None:
        world = self.world
        limits = zip(itertools.cycle(timeouts), itertools.cycle(delays), strict=True)
        for service, count in SERVICES.items():
            world.start(*(world.new_process(service, *next(limits)) for _ in range(count)))
        world.pass_time(100.0)
        world.start_watcher(None)
        world.pass_time(100.0)
        if is_restored:
            world.save()

    @rule(seconds=times)
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(service=services, count=st.integers(1, 4), timeout=session_timeouts, backoff=backoffs)
    def grow(self, service: str, count: int, timeout: float, backoff: float) -> None:
        world = self.world
        if len(world.running(service)) < 12:
            world.start(*(world.new_process(service, timeout, backoff) for _ in range(count)))

    @rule(service=services, count=st.integers(1, 6), is_orderly=st.booleans())
    def shrink(self, service: str, count: int, is_orderly: bool) -> None:
        found = self.world.running(service)[:count]
        if found and is_orderly:
            self.world.stop(*found)
        elif found:
            for process in found:
                self.world.crash(process)

    @rule(service=services)
    def restart_process(self, service: str) -> None:
        for process in self.world.running(service)[:1]:
            self.world.restart(process)

    @rule(service=services)
    def drop(self, service: str) -> None:
        self.world.drop_if_empty(service)

    @rule(
        service=services,
        at_once=st.integers(1, 3),
        gap=st.sampled_from([0.0, 0.01, 2.0, 8.0]),
        is_surge=st.booleans(),
    )
    def deploy(self, service: str, at_once: int, gap: float, is_surge: bool) -> None:
        """Replace all processes of a service, some at a time. With surge the new ones start first."""
        world = self.world
        is_clean = self._is_quiet(service)
        old = world.running(service)
        znodes = {(service, process.znode) for process in old if process.znode}
        for start in range(0, len(old), at_once):
            batch = [
                process for process in old[start : start + at_once] if process.znode and process.is_running
            ]
            if not batch:
                continue
            new = [world.new_process(service, one.session_timeout, one.backoff) for one in batch]
            if is_surge:
                world.start(*new)
            else:
                world.stop(*batch)
            self.check()
            world.pass_time(gap)
            if is_surge:
                batch = [process for process in batch if process.znode]
                if batch:
                    world.stop(*batch)
            else:
                world.start(*new)
            world.pass_time(MOMENT)
            is_clean = is_clean and world.paused_at is None and self._is_calm()
        if is_clean:
            self.replaced |= znodes
            self.check()

    def _is_calm(self) -> bool:
        """Whether there is no window: neither of a disturbance nor of a collapse that holds members."""
        watcher = self.world.watcher
        if watcher is None or not watcher.has_read or watcher.guard.held:
            return False
        return self.world.now >= watcher.window_until

    def _is_quiet(self, service: str) -> bool:
        """Whether a deploy of a service that starts now is the only change of this service that counts."""
        world = self.world
        if not self._is_calm():
            return False
        if any(one.service == service and one.is_running and not one.znode for one in world.processes):
            return False
        if any(owner is not None and not owner.is_running for owner in world.owners.values()):
            return False  # a session is going to expire
        return world.changed_at[service] < world.now - SESSION_TIMEOUT

    # -- failures ------------------------------------------------------------------------------------------

    @rule(
        seconds=pauses,
        notice=st.sampled_from(["before", "before", "before", "after", "never"]),
        are_clients_slow=st.sampled_from([False, False, True]),
    )
    def pause(self, seconds: float, notice: str, are_clients_slow: bool) -> None:
        world = self.world
        world.pause(notice)
        world.pass_time(seconds)
        world.resume(are_clients_slow=are_clients_slow)
        self.check()

    @rule(service=st.none() | services)
    def expire_all(self, service: str | None) -> None:
        self.world.expire_all(service)

    @rule()
    def cut(self) -> None:
        self.world.cut()

    @precondition(lambda self: self.world.is_cut)
    @rule(is_interrupted=st.booleans())
    def connect(self, is_interrupted: bool) -> None:
        self.world.connect(is_interrupted=is_interrupted)
        self.check()

    @rule(backup=st.none() | st.integers(0, 5))
    def replace_ensemble(self, backup: int | None) -> None:
        self.world.replace_ensemble(backup)
        self.wanted.clear()
        self.replaced.clear()
        self.known_gone_at.clear()
        self.check()

    # -- the watcher ---------------------------------------------------------------------------------------

    @rule()
    def save(self) -> None:
        self.world.save()

    @rule(
        seconds=times | st.just(6.0),
        source=st.sampled_from(["snapshot", "copy", "copy", "nothing"]),
        is_cut=st.sampled_from([False, False, True]),
        is_paused=st.booleans(),
    )
    def restart_watcher(self, seconds: float, source: str, is_cut: bool, is_paused: bool) -> None:
        world = self.world
        if source == "copy":
            world.save()
        saved = world.saved if source != "nothing" else None
        world.kill_watcher()
        if is_paused:
            world.pause("never")
        world.pass_time(seconds)
        world.resume()
        world.is_cut = is_cut
        world.start_watcher(saved)
        self._check_restart(saved)
        self.check()

    @rule(count=st.integers(2, 6), seconds=st.sampled_from([1.0, 9.0, 30.0]))
    def crash_loop(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.restart_watcher(seconds, "copy", False, False)

    def _check_restart(self, saved: Saved | None) -> None:
        world, watcher = self.world, self.world.watcher
        assert watcher is not None
        held = {} if saved is None else held_in(saved)
        for znode, since in watcher.held.items():  # P6
            assert saved is not None
            assert since <= held.get(znode, saved.current_at)
        if saved is None or saved.ensemble != world.ensemble:
            self.wanted.clear()
            self.replaced.clear()
            self.known_gone_at.clear()
            return
        restored = {(service, name) for service, members in saved.members.items() for name in members}
        self.replaced -= restored
        for znode in restored:
            known = held.get(znode, saved.current_at)
            self.known_gone_at[znode] = min(self.known_gone_at.get(znode, known), known)
        self.wanted = {
            znode: (process, min(until, held[znode] + HOLD_SECONDS), whole)
            for znode, (process, until, whole) in self.wanted.items()
            if znode in held
        }
        if not watcher.has_read:
            return
        if world.now - saved.current_at >= SESSION_TIMEOUT:  # P4
            assert watcher.held.keys() <= held.keys()
            return
        processes = {(one.service, one.host): one for one in world.processes if one.is_running}
        for service, members in saved.members.items():
            before = len({host_of(one) for name, one in members.items() if (service, name) not in held})
            for name, member in members.items():
                process = processes.get((service, host_of(member)))
                if process is None or process.znode is not None or (service, name) in held:
                    continue
                if self._is_too_much(service, before):  # P2
                    self.wanted[service, name] = (process, saved.current_at + HOLD_SECONDS, before)

    @rule(service=services)
    def accept(self, service: str) -> None:
        watcher = self.world.watcher
        if watcher is None:
            return
        watcher.take(iter([watcher.guard.accept(origin_of(service))]))
        assert not watcher.guard.held_of(origin_of(service))
        self.wanted = {znode: found for znode, found in self.wanted.items() if znode[0] != service}
        if self.world.loss is not None:
            self.world.loss.before.pop(service, None)

    # -- properties ----------------------------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        world, watcher = self.world, self.world.watcher
        if watcher is None:
            return
        members, held = watcher.members, watcher.held
        assert {
            (origin.rpartition("/")[2], name)
            for origin in watcher.table.origins
            if (member_set := watcher.table.set_of(origin)) is not None
            for name in member_set.held
        } == held.keys()
        if watcher.ensemble is not None:  # P5
            for service, name in held:
                assert (watcher.ensemble, service, name, host_of(members[service, name])) in world.ever
        if not watcher.has_read or not watcher.is_connected or world.paused_at is not None:
            return
        present = {
            (service, name): member
            for service, known in world.services.items()
            for name, member in known.items()
        }
        gone = members.keys() - present.keys()
        # P1
        assert present.items() <= members.items()
        assert not held.keys() & present.keys()
        for znode in gone - held.keys():
            assert max(world.left_at[znode], watcher.read_at) + WAIT_SECONDS > world.now
        for znode in gone:  # P3
            known = self.known_gone_at.setdefault(znode, world.now)
            until = max(known + HOLD_SECONDS, watcher.window_until, known + WAIT_SECONDS)
            assert world.now <= until
        for znode in present:
            self.known_gone_at.pop(znode, None)
        assert not self.replaced & held.keys()  # P4
        self._want()
        self._check_wanted(members)

    def _want(self) -> None:
        """Note the members that P2 is about."""
        world, loss = self.world, self.world.loss
        assert world.watcher is not None
        if loss is None:
            return
        if world.now >= world.watcher.window_until:
            world.loss = None
            return
        if loss.is_noticed_late:  # losses that have taken effect before are final
            world.loss = None
        # A collapse that the watcher has not reported may have opened a window before.
        begin = min(world.watcher.window_began_at, loss.began_at) - WINDOW_SECONDS - SESSION_TIMEOUT
        for znode, process in loss.expired.items():
            service = znode[0]
            if not process.is_running or process.znode is not None or service not in loss.before:
                continue
            before = loss.before[service]
            if world.foreign_join_at.get(service, 0.0) < begin and self._is_too_much(
                service, before, is_small_too=not loss.is_noticed_late
            ):
                self.wanted.setdefault(znode, (process, world.left_at[znode] + HOLD_SECONDS, before))

    def _is_too_much(self, service: str, before: int, *, is_small_too: bool = True) -> bool:
        remaining = len(self.world.services.get(service, ()))
        return (
            (before > 0 and not remaining)
            or (is_small_too and before > 1 and remaining == 1)
            or (before >= MINIMUM and before - remaining > SHARE * before)
        )

    def _check_wanted(self, members: Mapping[Znode, object]) -> None:  # P2
        world = self.world
        for znode, (process, until, whole) in list(self.wanted.items()):
            is_whole = len(world.services.get(znode[0], ())) >= whole
            if not process.is_running or process.znode is not None or world.now >= until or is_whole:
                del self.wanted[znode]
                continue
            assert znode in members


_EXAMPLES = os.environ.get("ZKDNS_MODEL_EXAMPLES")
"""The number of examples, for a long run with other ones each time."""

TestGuardModel = GuardModel.TestCase
TestGuardModel.settings = settings(
    max_examples=int(_EXAMPLES or 250),
    stateful_step_count=30,
    derandomize=_EXAMPLES is None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
