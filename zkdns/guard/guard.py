"""`Guard`: decides which changes of a source take effect, so that a failure of ZooKeeper empties no answer.

    change ──▶ admit ──┬─ members join ────────────────────────────────────────────────────▶ passed on
                       ├─ members leave, not suspicious ───────────────────────────────────▶ passed on
                       ├─ suspicious, after a disturbance ──▶ held ──expired or accepted───▶ passed on
                       └─ suspicious, no disturbance ──▶ waits 50 ms ──┬───────────────────▶ passed on
                                                                       └─ collapse ──▶ held

A *disturbance* is a sign that ZooKeeper itself has failed, for instance a lost connection. A removal is
*suspicious* if the set loses all its members, or too large a share of those that it had before. "Before" is
the start of the disturbance if there was one within a session timeout, otherwise a session timeout ago.
Without a disturbance, a suspicious removal takes effect after a short wait, unless the whole table
*collapses*: if most members of the table leave together, ZooKeeper has failed rather than the members (for
instance all sessions expired at once). A collapse counts as a disturbance.

Rules of this file:
- The table has the members that are answered. Except held and waiting ones, ZooKeeper has the same members.
- One change at a time: the caller applies the returned changes to the table before it admits the next one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable

import structlog

from zkdns.config import GuardSettings
from zkdns.guard.held_members import HeldMember, Hold, Wait
from zkdns.guard.loss_window import LossLedger, LossWindow, endpoint_of
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
)
from zkdns.serverset.member import Member
from zkdns.table import MemberSet, Table

log = structlog.get_logger("zkdns.guard")

WAIT_SECONDS = 0.05
"""Seconds that a suspicious removal waits without a disturbance, to see whether the table collapses.

When all sessions expire together, ZooKeeper's leader closes them within one tick of its clock, one after the
other. So the removals arrive within a few milliseconds of each other.
"""

_REASON_AWAY = "zookeeper was out of reach"
_REASON_COLLAPSE = "most members of the table vanished at once"
_REASON_ADOPTED = "they were held before this process began"


class Guard:
    """Decides which changes pass, and when.

    Args:
        settings: the limits of suspicious losses, and how long members are held. 0 seconds: none is ever
            held.
        table: the table to which all passed changes were applied.
        session_timeout: ZooKeeper's session timeout in seconds, within which the effects of a disturbance
            arrive.
        is_served: whether a member is answered. Members that are not answered pass unchecked.
    """

    def __init__(
        self,
        settings: GuardSettings,
        table: Table,
        *,
        session_timeout: float,
        is_served: Callable[[Member], bool] = lambda _: True,
    ) -> None:
        self.holds_total = 0
        """The number of times that the guard began to hold members of a set."""
        self._settings = settings
        self._table = table
        self._is_served = is_served
        self._losses = LossWindow(settings, session_timeout)
        self._disturbance = ""
        self._holds: dict[str, Hold] = {}
        self._waits: dict[str, Wait] = {}
        # A heap of times and origins. Outdated entries are ignored.
        self._deadlines: list[tuple[float, str]] = []

    # -- the connection ------------------------------------------------------------------------------------

    def on_disturbance(self, now: float) -> list[Change]:
        """Handle a disturbance: ZooKeeper is unreachable, or its contents are out of date.

        From now on suspicious removals are held. Returns the changes that restore recent ones.
        """
        if self._settings.seconds == 0:
            return []
        self._losses.advance(now)
        if not self._losses.disturb(self._waits.keys()):
            return []
        return self._open_window(now, _REASON_AWAY)

    def on_settled(self, now: float) -> None:
        """Handle the end of a disturbance: everything was read again.

        For one more session timeout, suspicious removals are still held. Members that are held already stay
        held at least as long, because they may still return.
        """
        if self._losses.is_settled:
            return
        self._losses.settle(now)
        for origin, hold in self._holds.items():
            hold.extend(self._losses.window_until)
            self._schedule(hold, origin, hold.first_until)

    # -- decisions -----------------------------------------------------------------------------------------

    def admit(self, change: Change, now: float) -> list[Change]:
        """The changes to pass on because of this one. Apply them before the next call."""
        if self._settings.seconds == 0 or isinstance(change, HostResolved | SetUnread):
            if isinstance(change, SetUnread) and self._is_dropped(change.origin):  # the set exists again
                self._set_final_changes(change.origin, (SetDropped(change.origin), change))
            return [change]
        self._losses.advance(now)
        member_set = self._table.set_of(change.origin)
        passed: list[Change] = []
        if isinstance(change, SetPut):
            passed = self._put(member_set, change, now)
        elif member_set is None:
            passed = [change]
        elif isinstance(change, SetDropped):
            passed = self._update(member_set, (), tuple(member_set.members), now, is_dropped=True)
        elif isinstance(change, MembersHeld):
            passed = self._adopt(member_set, change, now)
        elif not self._is_dropped(member_set.origin):
            # A dropped set does not exist; if it is created again, a SetPut follows.
            passed = self._update(member_set, change.added, change.removed, now)
        return passed

    def expire(self, now: float) -> list[Change]:
        """The changes to pass on because a wait or a hold has ended by `now`."""
        self._losses.advance(now)
        changes: list[Change] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due, origin = heapq.heappop(self._deadlines)
            wait = self._waits.get(origin)
            if wait is not None and wait.deadline <= now:
                changes += self._pass_waiting(origin, wait)
            hold = self._holds.get(origin)
            if hold is None or hold.due != due or not self._losses.is_settled:
                continue
            over = [name for name, held in hold.members.items() if held.until <= now]
            changes += self._release(origin, over, "hold expired")
            if origin in self._holds:
                self._schedule(hold, origin, hold.first_until)
        return changes

    def next_deadline(self) -> float | None:
        """When to call `expire` next. None: nothing is held or waits."""
        return self._deadlines[0][0] if self._deadlines else None

    def accept(self, origin: str) -> list[Change]:
        """Release a set's held members: an operator has accepted the loss."""
        hold = self._holds.get(origin)
        return self._release(origin, list(hold.members), "accepted") if hold else []

    @property
    def held(self) -> list[HeldMember]:
        """All held members."""
        return [held for hold in self._holds.values() for held in hold.members.values()]

    def held_of(self, origin: str) -> list[HeldMember]:
        """A set's held members."""
        hold = self._holds.get(origin)
        return list(hold.members.values()) if hold else []

    # -- one set -------------------------------------------------------------------------------------------

    def _put(self, member_set: MemberSet | None, change: SetPut, now: float) -> list[Change]:
        """Admit a whole set."""
        origin = change.origin
        if member_set is not None and member_set.name == change.name and not member_set.is_unread:
            self._set_final_changes(origin, ())
            absent = self._absent(origin)
            known = member_set.members
            added = [new for new in change.members if known.get(new.name) != new or new.name in absent]
            wanted = {member.name for member in change.members}
            return self._update(member_set, added, [name for name in known if name not in wanted], now)
        if member_set is not None:  # under another name it counts as another set
            self._losses.count(-self._count_served(member_set), now)
            self._holds.pop(origin, None)
            self._waits.pop(origin, None)
        self._losses.discard_ledger(origin)
        served = [member for member in change.members if self._is_served(member)]
        self._losses.count(len(served), now)
        if self._losses.in_window:
            ledger = self._losses.start_ledger(origin, len(served), baseline=0)
            for member in served:
                ledger.join(member)
        return [change]

    def _update(
        self,
        member_set: MemberSet,
        added: Iterable[Member],
        removed: Iterable[str],
        now: float,
        *,
        is_dropped: bool = False,
    ) -> list[Change]:
        """Admit members that join and leave a set."""
        origin = member_set.origin
        absent = self._absent(origin)
        joining = {member.name: member for member in added}
        leaving = {
            name: member_set.members[name]
            for name in removed
            if name in member_set.members and name not in joining and name not in absent
        }
        lost = self._record(member_set, joining, leaving, now)
        replaced = self._end_for_returned(member_set, joining, leaving)
        others: list[Change] = []
        if lost and not self._losses.in_window and self._losses.is_collapse():
            others = self._open_window(now, _REASON_COLLAPSE, except_origin=origin)
        ledger = self._losses.ledgers.get(origin)
        restored: list[Member] = []
        if lost and ledger is not None and self._losses.is_suspicious(ledger):
            if self._losses.in_window:
                restored = self._hold_lost(member_set, ledger, now)
            else:
                self._wait_with(origin, ledger, lost, now)
        absent = self._absent(origin)
        gone = [name for name in leaving if name not in absent]
        if is_dropped and not self._keeps_dropped(origin):
            if ledger is not None and ledger.lost and not self._losses.in_window:
                ledger.set_dropped(member_set.name)  # to restore the set if the table collapses soon
            else:
                self._losses.discard_ledger(origin)
            return [*others, SetDropped(origin)]
        return [*others, *self._changes_for(member_set, (*joining.values(), *restored), (*gone, *replaced))]

    def _record(
        self, member_set: MemberSet, joining: dict[str, Member], leaving: dict[str, Member], now: float
    ) -> list[Member]:
        """Record joining and leaving members in the ledger. Returns the served ones that leave."""
        origin, absent = member_set.origin, self._absent(member_set.origin)
        lost = [member for member in leaving.values() if self._is_served(member)]
        joined = [member for member in joining.values() if self._is_served(member)]
        before = [
            member_set.members[name] for name in joining if name in member_set.members and name not in absent
        ]
        step = len(joined) - sum(map(self._is_served, before)) - len(lost)
        ledger = self._losses.ledgers.get(origin)
        if ledger is None and (lost or self._losses.in_window):
            served = self._count_served(member_set)
            ledger = self._losses.start_ledger(origin, served, baseline=served)
        if step:
            self._losses.count(step, now)
        if ledger is not None:
            ledger.count(step)
            for member in joined:
                ledger.join(member)
            for member in lost:
                self._losses.leave(origin, member, now)
        return lost

    def _end_for_returned(
        self, member_set: MemberSet, joining: dict[str, Member], leaving: Collection[str]
    ) -> list[str]:
        """Release held and waiting members that join again or are replaced.

        A member is replaced if another one joins with its endpoint. All held ones are replaced if the set has
        as many live members as before, for instance after a deployment to other hosts. Returns the names of
        replaced members.
        """
        wait, hold = self._waits.get(member_set.origin), self._holds.get(member_set.origin)
        endpoints = {found for member in joining.values() if (found := endpoint_of(member))}
        replaced: set[str] = set()
        if wait is not None:
            replaced = {name for name in wait.names if endpoint_of(member_set.members[name]) in endpoints}
            wait.names.difference_update(joining, replaced)
        if hold is not None:
            replaced |= hold.names_at(endpoints)
            self._discard_held(hold, member_set, (*joining, *replaced), "they are back")
            if hold.members and self._count_live(member_set, joining, leaving) >= hold.whole:
                replaced |= hold.members.keys()
                self._discard_held(hold, member_set, list(hold.members), "the service is whole again")
        return sorted(replaced.difference(joining))

    def _count_live(self, member_set: MemberSet, joining: dict[str, Member], leaving: Collection[str]) -> int:
        """The number of served members that a set has in ZooKeeper after this change."""
        gone = {*self._absent(member_set.origin), *leaving, *joining}
        stays = (member for name, member in member_set.members.items() if name not in gone)
        return sum(map(self._is_served, stays)) + sum(map(self._is_served, joining.values()))

    def _hold_lost(self, member_set: MemberSet, ledger: LossLedger, now: float) -> list[Member]:
        """Hold all lost members of a set. Returns those that the table has lost already, to be restored."""
        wait = self._waits.pop(member_set.origin, None)
        hold = self._holds.get(member_set.origin, Hold())
        new = ledger.take_lost()
        if wait is not None:
            new.update({name: member_set.members[name] for name in wait.names})
            hold.final_changes = hold.final_changes or wait.final_changes
        if not hold.members:
            hold.whole = ledger.remaining + len(new)
        self._start_hold(member_set, hold, new, now, self._disturbance)
        return [member for name, member in new.items() if name not in member_set.members]

    def _start_hold(
        self, member_set: MemberSet, hold: Hold, members: dict[str, Member], now: float, why: str
    ) -> None:
        """Hold these members of a set."""
        until = now + self._settings.seconds
        for member in members.values():
            hold.add(HeldMember(member_set.origin, member_set.name, member, now, until, why))
        if member_set.origin in self._holds or not hold.members:  # no members: all have been replaced
            return
        self._schedule(hold, member_set.origin, until)  # members that are added later have later ends
        self._holds[member_set.origin] = hold
        self.holds_total += 1
        log.warning(
            "members_held",
            service=str(member_set.name),
            origin=member_set.origin,
            members=len(hold.members),
            seconds=self._settings.seconds,
            reason=why,
        )

    def _wait_with(self, origin: str, ledger: LossLedger, lost: list[Member], now: float) -> None:
        """Let removals wait, except those of members that other members have replaced already."""
        names = [member.name for member in lost if member.name in ledger.lost]
        wait = self._waits.get(origin)
        if wait is None and names:
            wait = self._waits[origin] = Wait(now + WAIT_SECONDS)
            heapq.heappush(self._deadlines, (wait.deadline, origin))
        if wait is not None:
            wait.names.update(names)

    def _keeps_dropped(self, origin: str) -> bool:
        """Keep a dropped set in the table if it has held or waiting members. Returns whether it is kept."""
        self._set_final_changes(origin, (SetDropped(origin),))
        return self._is_dropped(origin)

    def _changes_for(
        self, member_set: MemberSet, added: tuple[Member, ...], removed: tuple[str, ...]
    ) -> list[Change]:
        """The changes that bring the table's set up to date, including which members are held."""
        changes: list[Change] = []
        if added or removed:
            changes.append(SetChanged(member_set.origin, added, removed))
        hold = self._holds.get(member_set.origin)
        if hold is not None:
            still_held = member_set.held - {*removed, *(member.name for member in added)}
            if new := hold.members.keys() - still_held:
                changes.append(MembersHeld(member_set.origin, tuple(sorted(new))))
        return changes

    def _adopt(self, member_set: MemberSet, change: MembersHeld, now: float) -> list[Change]:
        """Hold members that a previous process held. Their time starts again."""
        absent = self._absent(member_set.origin)
        known = member_set.members
        found = {name: known[name] for name in change.names if name in known and name not in absent}
        served = sum(map(self._is_served, found.values()))
        if served:
            self._losses.count(-served, now)
        if ledger := self._losses.ledgers.get(member_set.origin):
            ledger.exclude(served)
        hold = self._holds.get(member_set.origin, Hold())
        if not hold.members:
            hold.whole = self._count_served(member_set)
        self._start_hold(member_set, hold, found, now, _REASON_ADOPTED)
        return self._changes_for(member_set, (), ())

    # -- the end of waits and holds ------------------------------------------------------------------------

    def _pass_waiting(self, origin: str, wait: Wait) -> list[Change]:
        del self._waits[origin]
        hold = self._holds.get(origin)
        if wait.final_changes and hold is None:
            member_set, ledger = self._table.set_of(origin), self._losses.ledgers.get(origin)
            if member_set is not None and ledger is not None:
                ledger.set_dropped(member_set.name)
            return list(wait.final_changes)
        if hold is not None:
            hold.final_changes = hold.final_changes or wait.final_changes
        return [SetChanged(origin, (), tuple(sorted(wait.names)))] if wait.names else []

    def _release(self, origin: str, names: list[str], why: str) -> list[Change]:
        hold = self._holds[origin]
        member_set = self._table.set_of(origin)
        if member_set is None or not names:
            return []
        self._discard_held(hold, member_set, names, why)
        if ledger := self._losses.ledgers.get(origin):
            ledger.write_off()
        if hold.final_changes and origin not in self._holds:
            self._losses.discard_ledger(origin)
            self._waits.pop(origin, None)
            return list(hold.final_changes)
        return [SetChanged(origin, (), tuple(names))]

    def _schedule(self, hold: Hold, origin: str, due: float) -> None:
        """Check a hold at this time, in place of the time for which it was scheduled before."""
        if due != hold.due:
            hold.due = due
            heapq.heappush(self._deadlines, (due, origin))

    def _discard_held(self, hold: Hold, member_set: MemberSet, names: Iterable[str], why: str) -> None:
        for name in names:
            hold.discard(name)
        if not hold.members:
            del self._holds[member_set.origin]
            log.info("members_released", service=str(member_set.name), origin=member_set.origin, reason=why)

    # -- the whole table -----------------------------------------------------------------------------------

    def _open_window(self, now: float, why: str, except_origin: str = "") -> list[Change]:
        """Open a window, and hold the recent suspicious losses of all sets except `except_origin`."""
        self._disturbance = why
        self._losses.open(now)
        changes: list[Change] = []
        for origin, ledger in self._losses.ledgers.items():
            member_set = self._table.set_of(origin)
            if member_set is None and ledger.dropped is not None:
                changes += self._restore_dropped(origin, ledger, ledger.dropped, now)
            elif (
                origin != except_origin
                and member_set is not None
                and ledger.lost
                and self._losses.is_suspicious(ledger)
            ):
                restored = self._hold_lost(member_set, ledger, now)
                changes += self._changes_for(member_set, tuple(restored), ())
        return changes

    def _restore_dropped(
        self, origin: str, ledger: LossLedger, name: ServiceName, now: float
    ) -> list[Change]:
        """Restore a set that was dropped with its members just before the window opened, and hold them."""
        ledger.set_dropped(None)
        lost, hold = ledger.take_lost(), Hold()
        if not lost:
            return []
        hold.final_changes = (SetDropped(origin),)
        hold.whole = len(lost)
        self._start_hold(MemberSet(origin, name), hold, lost, now, self._disturbance)
        return [SetPut(origin, name, tuple(lost.values())), MembersHeld(origin, tuple(sorted(lost)))]

    def _absent(self, origin: str) -> Collection[str]:
        """Names in the table's set that ZooKeeper does not have any more: held and waiting members."""
        hold, wait = self._holds.get(origin), self._waits.get(origin)
        if hold is not None and wait is not None:
            return wait.names.union(hold.members)
        return hold.members if hold is not None else wait.names if wait is not None else ()

    def _count_served(self, member_set: MemberSet) -> int:
        """The number of served members that a set has in ZooKeeper."""
        absent = self._absent(member_set.origin)
        return sum(
            self._is_served(member) for name, member in member_set.members.items() if name not in absent
        )

    def _is_dropped(self, origin: str) -> bool:
        return any(state.final_changes for state in self._states(origin))

    def _set_final_changes(self, origin: str, changes: tuple[Change, ...]) -> None:
        for state in self._states(origin):
            state.final_changes = changes

    def _states(self, origin: str) -> list[Hold | Wait]:
        return [state for state in (self._holds.get(origin), self._waits.get(origin)) if state is not None]
