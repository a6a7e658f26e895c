"""`Guard`: decides which changes of a source take effect, so that a failure of ZooKeeper empties no answer.

    change ──▶ admit ──┬─ members join ────────────────────────────────────────────────────▶ passed on
                       ├─ members leave, not suspicious ──┬─ no window ────────────────────▶ passed on
                       │                                  └─ in a window ─▶ waits 50 ms ─┬─▶ passed on
                       │                                   the set loses more: suspicious └─▶ held
                       ├─ suspicious, in a window ──▶ held ──expired or accepted───────────▶ passed on
                       └─ suspicious, no window ──▶ waits 50 ms ──┬────────────────────────▶ passed on
                                                                  └─ collapse ──▶ held

A *disturbance* is a sign that ZooKeeper itself has failed, for instance a lost connection or a late reply. It
opens a *window*, which closes `WINDOW_SECONDS` after everything was read again. A removal is *suspicious* if
the set loses all its members or too large a share of them, or in a window all but one (`loss_window` has the
rules). In a window, suspicious removals are held, and all others wait, because the first members of a set
that fails are too few to be suspicious. Without one, suspicious ones take effect after a short wait, unless
the whole table *collapses*: if most members of the table leave together, ZooKeeper has failed rather than the
members (for instance all sessions expired at once). A collapse opens a window too.

Losses that have taken effect before a disturbance stay. Removals that wait when it begins are held, with the
recent losses of the same sets. A collapse includes the recent losses of all sets.

The first read of ZooKeeper after a start from a restored table shows what happened in between:
- If the table was current less than a session timeout ago, a window is open: the previous process may have
  been in a disturbance.
- Otherwise the read is the truth, and its removals take effect at once, unless a disturbance begins before
  the read is complete.
- Members that are held because of it have left when the table was last current, so that no restart extends
  the time of a held member. Until the read is complete none is released because its time is over.

If ZooKeeper has other contents (another ensemble, or an older state), nothing is held until everything was
read.

Rules of this file:
- The table has the members that are answered. Except held and waiting ones, ZooKeeper has the same members.
- One set at a time: the caller applies the changes of a step to the table before it takes the next step, and
  all steps of one call before the next call. Between two steps it may do other work, such as answer requests,
  because one call may concern all sets of the table.
- All times are seconds of one clock of the caller, which never decreases.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from zkdns.config import GuardSettings
from zkdns.guard.burst_log import BurstLog
from zkdns.guard.held_members import NONE_ABSENT, Absent, HeldMember, Hold, Wait
from zkdns.guard.loss_window import IsTaken, LossLedger, LossWindow, Lost
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import (
    Change,
    DirectoryUnread,
    HostResolved,
    MembersHeld,
    SetChanged,
    SetDropped,
    SetPut,
    SetUnread,
    held_changes,
)
from zkdns.serverset.endpoint_index import endpoint_of
from zkdns.serverset.member import Member
from zkdns.table import MemberSet, Table

Steps: TypeAlias = Iterator[Sequence[Change]]
"""The changes of one set in each step; a step may have none."""

WAIT_SECONDS = 0.05
"""Seconds that a removal waits: without a window, to see whether the table collapses; in a window, to see
whether the set loses more members.

When all sessions expire together, ZooKeeper's leader closes them within one tick of its clock, one after the
other. So the removals arrive within a few milliseconds of each other.
"""

_REASON_COLLAPSE = "most members of the table vanished at once"
_REASON_ADOPTED = "they were held before this process began"
_REASON_RESTORED = "they left while this process started"


class Guard:
    """Decides which changes pass, and when.

    Args:
        settings: the limits of suspicious losses, and how long members are held. 0 seconds: none is ever
            held.
        table: the table to which all passed changes were applied.
        session_timeout: the watcher's ZooKeeper session timeout in seconds: the period of a collapse.
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
        self.log = BurstLog()
        """Logs which members are held and released. The caller ends its bursts."""
        self._settings = settings
        self._table = table
        self._is_served = is_served
        self._session_timeout = session_timeout
        self._losses = LossWindow(settings, session_timeout)
        self._disturbance = ""
        # When the restored table was last current, until the first read is complete.
        self._restored_at: float | None = None
        # Whether all removals pass until the read is complete.
        self._trusts_read = False
        self._holds: dict[str, Hold] = {}
        self._waits: dict[str, Wait] = {}
        # A heap of times and origins. Outdated entries are ignored.
        self._deadlines: list[tuple[float, str]] = []

    # -- the connection ------------------------------------------------------------------------------------

    def on_restored(self, current_at: float, now: float) -> None:
        """Handle a restored table, whose changes were all admitted. Nothing was read from ZooKeeper yet.

        Args:
            current_at: when this table was last known to equal ZooKeeper's contents.
            now: the present time.
        """
        self._restored_at = min(current_at, now)
        if self._losses.is_disturbed:
            return
        if now - self._restored_at < self._session_timeout:
            self._disturbance = _REASON_RESTORED
            self._losses.open_restored(self._restored_at)
        else:
            self._trusts_read = True
            self._losses.reset(now)

    def on_disturbance(self, now: float, reason: str) -> Steps:
        """Handle a disturbance: ZooKeeper is unreachable or slow, or its contents are out of date.

        From now on suspicious removals are held. The changes restore recent ones.

        Args:
            now: the present time.
            reason: a short text for `HeldMember.why` and the log.
        """
        yield from self._advance(now)
        self._disturbance = reason
        if self._trusts_read and self._restored_at is None:
            # Another ensemble is being read: the window opens after that.
            self._losses.is_disturbed = True
            return
        self._trusts_read = False
        if self._losses.disturb(self._waits.keys()):
            yield from self._open_window(now)

    def on_settled(self, now: float) -> Steps:
        """Handle the end of a disturbance, and of the first read: everything was read.

        The window of a disturbance stays open for `WINDOW_SECONDS` more. Members that are held already stay
        held at least as long, because they may still return. Without a disturbance nothing is extended. There
        are no changes.
        """
        yield from self._advance(now)
        is_disturbed = self._losses.is_disturbed
        if self._trusts_read:
            self._losses.reset(now)
            if is_disturbed:
                yield from self._open_losses(now)
        self._trusts_read, self._restored_at = False, None
        self._losses.settle(now)
        for origin, hold in self._holds.items():
            if is_disturbed:
                hold.extend(self._losses.window_until)
            self._schedule(hold, origin, hold.first_until)
            yield ()

    def on_other_ensemble(self, now: float) -> Steps:
        """Handle a ZooKeeper with other contents: another ensemble, or an older state of the same one.

        Until everything was read (`on_settled`), all removals pass. The changes release all held and waiting
        members.
        """
        for origin, hold in list(self._holds.items()):
            yield self._release(origin, list(hold.members), "zookeeper has other contents")
        for origin, wait in list(self._waits.items()):
            yield self._pass_waiting(origin, wait)
        self._restored_at = None
        self._trusts_read = True
        self._losses.reset(now)

    # -- decisions -----------------------------------------------------------------------------------------

    def admit(self, change: Change, now: float) -> Steps:
        """The changes to pass on because of this one."""
        if self._settings.seconds == 0 or isinstance(change, HostResolved | DirectoryUnread):
            yield (change,)
            return
        if isinstance(change, SetUnread):
            if self._is_dropped(change.origin):  # the set exists again
                self._set_final_changes(change.origin, (SetDropped(change.origin), change))
            yield (change,)
            return
        yield from self._advance(now)
        member_set = self._table.set_of(change.origin)
        if isinstance(change, SetPut):
            yield from self._put(member_set, change, now)
        elif member_set is None:
            yield (change,)
        elif isinstance(change, SetDropped):
            yield from self._update(member_set, (), tuple(member_set.members), now, is_dropped=True)
        elif isinstance(change, MembersHeld):
            yield self._adopt(member_set, change, now)
        elif not self._is_dropped(member_set.origin):
            # A dropped set does not exist; if it is created again, a SetPut follows.
            yield from self._update(member_set, change.added, change.removed, now)

    def expire(self, now: float) -> Steps:
        """The changes to pass on because a wait or a hold has ended by `now`.

        `now` may be before the last change: what has ended since then is passed on by the next call.
        """
        yield from self._advance(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            due, origin = heapq.heappop(self._deadlines)
            wait = self._waits.get(origin)
            if wait is not None and wait.deadline <= now:
                yield self._pass_waiting(origin, wait)
            hold = self._holds.get(origin)
            if hold is None or hold.due != due:
                yield ()
            elif self._losses.is_disturbed or self._restored_at is not None:
                hold.due = math.inf  # `on_settled` schedules it again
                yield ()
            else:
                yield self._release(origin, hold.over(now), "hold expired")
                if origin in self._holds:
                    self._schedule(hold, origin, hold.first_until)

    def next_deadline(self) -> float | None:
        """When to call `expire` next. None: nothing is held or waits."""
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def is_waiting(self) -> bool:
        """Whether any removal waits, so that ZooKeeper's latest contents were not passed on yet."""
        return bool(self._waits)

    def is_in_window(self, now: float) -> bool:
        """Whether suspicious removals are held now."""
        losses = self._losses
        is_lasting = losses.is_disturbed or losses.is_reading or now < losses.window_until
        return losses.in_window and is_lasting

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

    def _put(self, member_set: MemberSet | None, change: SetPut, now: float) -> Steps:
        """Admit a whole set."""
        origin = change.origin
        if member_set is not None and member_set.name == change.name and not member_set.is_unread:
            self._set_final_changes(origin, ())
            absent = self._absent(origin)
            known = member_set.members
            added = [new for new in change.members if known.get(new.name) != new or new.name in absent]
            wanted = {member.name for member in change.members}
            yield from self._update(member_set, added, [name for name in known if name not in wanted], now)
            return
        if member_set is not None:  # under another name it counts as another set
            self._losses.count(-self._count_served(member_set), now)
            self._holds.pop(origin, None)
            self._waits.pop(origin, None)
        self._losses.discard_ledger(origin)
        served = [member for member in change.members if self._is_served(member)]
        self._losses.count(len(served), now)
        # A set that appears in a read may be old. Otherwise it has just been created, and its members too.
        if not self._losses.is_reading and not self._losses.is_disturbed and not self._trusts_read:
            self._losses.start_ledger(origin, len(served), baseline=0)
            self._losses.join(origin, served, now)
        yield (change,)

    def _update(
        self,
        member_set: MemberSet,
        added: Iterable[Member],
        removed: Iterable[str],
        now: float,
        *,
        is_dropped: bool = False,
    ) -> Steps:
        """Admit members that join and leave a set."""
        origin = member_set.origin
        absent = self._absent(origin)
        joining = {member.name: member for member in added}
        leaving = {
            name: member_set.members[name]
            for name in removed
            if name in member_set.members and name not in joining and name not in absent
        }
        is_holding = origin in self._holds
        new = self._new_members(member_set, joining)
        # Of a secondary, the primary holds some members: their removal is its decision.
        lost = [
            member
            for name, member in leaving.items()
            if self._is_served(member) and name not in member_set.held
        ]
        ledger = self._ledger_for(member_set, joining, leaving, now, has_news=bool(new or lost))
        if ledger is not None:
            self._losses.leave(origin, lost, self._is_taken(member_set, ledger, leaving), now)
            self._losses.join(origin, new.values(), now)
            ledger.discard(joining)
        renamed = self._rename_held(member_set, joining)
        replaced = self._end_for_returned(member_set, joining)
        restored = [member for member in renamed if member.name not in replaced]
        if lost and not self._losses.in_window and self._losses.is_collapse():
            self._disturbance = _REASON_COLLAPSE
            yield from self._open_window(now, except_origin=origin)
        if ledger is not None and lost and self._losses.is_suspicious(ledger):
            ledger.use(new)  # which of the lost ones they replace is unknown
            restored += self._keep_lost(member_set, ledger, lost, now)
        elif ledger is not None:
            replaced += self._match(member_set, ledger, new, leaving)
            if is_holding:  # they have replaced a held member, or will when the service is whole again
                ledger.use(new)
            if lost and self._losses.in_window:
                self._wait_with(origin, ledger, lost, now)
        absent = self._absent(origin)
        gone = [name for name in leaving if name not in absent]
        if is_dropped and not self._keeps_dropped(origin):
            self._end_ledger(member_set, ledger)
            yield (SetDropped(origin),)
            return
        yield self._changes_for(member_set, (*joining.values(), *restored), (*gone, *replaced))

    def _end_ledger(self, member_set: MemberSet, ledger: LossLedger | None) -> None:
        """Forget the losses of a set that is dropped now, unless the table may still collapse."""
        if ledger is not None and ledger.lost and not self._losses.in_window:
            ledger.set_dropped(member_set.name)  # to restore the set
        else:
            self._losses.discard_ledger(member_set.origin)

    def _new_members(self, member_set: MemberSet, joining: dict[str, Member]) -> dict[str, Member]:
        """The served ones of these members that the set did not have in ZooKeeper, or not as served ones."""
        absent, known = self._absent(member_set.origin), member_set.members
        return {
            name: member
            for name, member in joining.items()
            if self._is_served(member)
            and (name not in known or name in absent or not self._is_served(known[name]))
        }

    def _ledger_for(
        self,
        member_set: MemberSet,
        joining: dict[str, Member],
        leaving: dict[str, Member],
        now: float,
        *,
        has_news: bool,
    ) -> LossLedger | None:
        """Count joining and leaving members. Returns the ledger in which to record them, if any."""
        origin, absent = member_set.origin, self._absent(member_set.origin)
        before = [
            member_set.members[name]
            for name in (*joining, *leaving)
            if name in member_set.members and name not in absent
        ]
        step = sum(map(self._is_served, joining.values())) - sum(map(self._is_served, before))
        ledger = self._losses.ledgers.get(origin)
        if ledger is None and not self._trusts_read and (has_news or self._losses.in_window):
            served = self._count_served(member_set)
            ledger = self._losses.start_ledger(origin, served, baseline=served)
        if step:
            self._losses.count(step, now)
        if ledger is not None:
            ledger.count(step)
        if (hold := self._holds.get(origin)) is not None:
            hold.live += step
        return ledger

    def _is_taken(self, member_set: MemberSet, ledger: LossLedger, leaving: Collection[str]) -> IsTaken:
        """A test whether a member at an endpoint stays, other than those that have joined recently."""
        absent = self._absent(member_set.origin)

        def test(endpoint: tuple[str, int] | None) -> bool:
            return any(
                name not in leaving and name not in absent and not ledger.is_new(name)
                for name in member_set.names_at(endpoint)
            )

        return test

    def _match(
        self,
        member_set: MemberSet,
        ledger: LossLedger,
        new: Collection[str],
        leaving: Collection[str],
    ) -> list[str]:
        """Let new members replace lost ones by number. Returns those whose removal waited, and passes now."""
        matched = ledger.match(new, self._is_taken(member_set, ledger, leaving))
        wait = self._waits.get(member_set.origin)
        if wait is None:
            return []
        replaced = sorted(name for name in matched if name in wait.members)
        for name in replaced:
            wait.discard(name)
        return replaced

    def _may_hold(self, now: float) -> bool:
        """Whether the time of members that are lost now is not over already (see `_since`)."""
        if self._restored_at is None or self._losses.is_disturbed:
            return True
        return self._restored_at + self._settings.seconds > now

    def _since(self, left_at: float) -> float:
        """When a member left: for a restored table at the latest when it was last current."""
        return left_at if self._restored_at is None else self._restored_at

    def _rename_held(self, member_set: MemberSet, joining: dict[str, Member]) -> list[Member]:
        """Give another name to held members whose names others take, and return them with these names.

        If a set is deleted and created again, ZooKeeper counts its members from 0. So a member at another
        endpoint may have the name of one that is held and has not returned yet.
        """
        hold = self._holds.get(member_set.origin)
        endpoints = {endpoint_of(member) for member in joining.values()}
        renamed: list[Member] = []
        for name in joining if hold is not None else ():
            held = hold.members.get(name) if hold is not None else None
            if hold is None or held is None or endpoint_of(held.member) in endpoints:
                continue
            taken = member_set.members.keys() | joining.keys() | hold.members.keys()
            other = next(one for n in itertools.count(1) if (one := f"{name}-{n}") not in taken)
            member = msgspec.structs.replace(held.member, name=other)
            hold.discard(name)
            hold.add(held._replace(member=member))
            renamed.append(member)
        return renamed

    def _end_for_returned(self, member_set: MemberSet, joining: dict[str, Member]) -> list[str]:
        """Release held and waiting members that join again or are replaced.

        A member is replaced if another one joins with its endpoint. All held ones are replaced if the set has
        as many live members as before, for instance after a deployment to other hosts. Returns the names of
        replaced members.
        """
        wait, hold = self._waits.get(member_set.origin), self._holds.get(member_set.origin)
        ledger = self._losses.ledgers.get(member_set.origin)
        endpoints = {found for member in joining.values() if (found := endpoint_of(member))}
        replaced: set[str] = set()
        if wait is not None:
            replaced = wait.at.at_any(endpoints)
            for name in (*joining, *replaced):
                wait.discard(name)
            if ledger is not None:
                ledger.discard(replaced)  # also by members that are not served yet
        if hold is not None:
            if ledger is not None:
                back = [name for name, member in joining.items() if hold.has_replacement(member)]
                ledger.use([name for name in back if ledger.is_new(name)])
            replaced |= hold.at.at_any(endpoints)
            self._discard_held(hold, member_set, (*joining, *replaced), "they are back")
            if hold.members and hold.live >= hold.whole:
                replaced |= hold.members.keys()
                self._discard_held(hold, member_set, list(hold.members), "the service is whole again")
        return sorted(replaced.difference(joining))

    def _keep_lost(
        self, member_set: MemberSet, ledger: LossLedger, lost: list[Member], now: float
    ) -> list[Member]:
        """Hold suspicious losses, or let them wait. Returns the members that have to be restored."""
        if not self._losses.in_window:
            self._wait_with(member_set.origin, ledger, lost, now)
        elif self._may_hold(now):
            return self._hold_lost(member_set, ledger, now)
        else:
            ledger.write_off()
        return []

    def _hold_lost(self, member_set: MemberSet, ledger: LossLedger, now: float) -> list[Member]:
        """Hold all lost members of a set. Returns those that the table has lost already, to be restored."""
        wait = self._waits.pop(member_set.origin, None)
        hold = self._holds.get(member_set.origin, Hold())
        new = ledger.take_lost()
        if wait is not None:
            for name in wait.members.keys() - new.keys():
                new[name] = Lost(wait.members[name], wait.deadline - WAIT_SECONDS)
            hold.final_changes = hold.final_changes or wait.final_changes
        if not hold.members:
            hold.whole = min(ledger.remaining + len(new), ledger.baseline)
            hold.live = ledger.remaining
        self._start_hold(member_set, hold, new.values(), now, self._disturbance)
        return [one.member for name, one in new.items() if name not in member_set.members]

    def _start_hold(
        self, member_set: MemberSet, hold: Hold, members: Collection[Lost], now: float, why: str
    ) -> None:
        """Hold these members of a set."""
        origin, seconds = member_set.origin, self._settings.seconds
        if not members:  # all have been replaced
            return
        for one in members:
            since = self._since(one.left_at)
            hold.add(HeldMember(origin, member_set.name, one.member, since, since + seconds, why))
        first = min(hold.members[one.member.name].until for one in members)
        if first < hold.due:
            self._schedule(hold, origin, first)
        if origin in self._holds:
            return
        self._holds[origin] = hold
        self.holds_total += 1
        self.log.held(member_set.name, origin, len(hold.members), max(0, round(first - now)), why)

    def _wait_with(self, origin: str, ledger: LossLedger, lost: list[Member], now: float) -> None:
        """Let removals wait, except those of members that other members have replaced already."""
        waiting = [member for member in lost if member.name in ledger.lost]
        if not waiting:
            return
        wait = self._waits.get(origin)
        if wait is None:
            wait = self._waits[origin] = Wait(now + WAIT_SECONDS)
            heapq.heappush(self._deadlines, (wait.deadline, origin))
        for member in waiting:
            wait.add(member)

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
        if hold is not None and (since := hold.take_new()):
            changes += held_changes(member_set.origin, since, hold.whole)
        return changes

    def _adopt(self, member_set: MemberSet, change: MembersHeld, now: float) -> list[Change]:
        """Hold members that a previous process held, until the time at which it would have released them."""
        absent = self._absent(member_set.origin)
        known = member_set.members
        found = {name: known[name] for name in change.names if name in known and name not in absent}
        served = sum(map(self._is_served, found.values()))
        self._losses.count(-served, now)
        hold = self._holds.get(member_set.origin, Hold())
        if not hold.members:
            hold.live = self._count_served(member_set)
            hold.whole = change.whole or hold.live
        hold.live -= served
        since = min(change.since, now)
        held = [Lost(member, since) for member in found.values()]
        self._start_hold(member_set, hold, held, now, _REASON_ADOPTED)
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
        return [SetChanged(origin, (), tuple(sorted(wait.members)))] if wait.members else []

    def _release(self, origin: str, names: list[str], why: str) -> list[Change]:
        hold = self._holds[origin]
        member_set = self._table.set_of(origin)
        if member_set is None or not names:
            return []
        released = [Lost(held.member, held.since) for name in names if (held := hold.members.get(name))]
        self._discard_held(hold, member_set, names, why)
        if ledger := self._losses.ledgers.get(origin):
            ledger.write_off(released if self._losses.in_window else ())
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
            self.log.released(member_set.name, member_set.origin, why)

    # -- the whole table -----------------------------------------------------------------------------------

    def _open_window(self, now: float, except_origin: str = "") -> Steps:
        """Open a window, and hold the recent suspicious losses of all sets except `except_origin`."""
        yield from self._open_losses(now)
        for origin, ledger in list(self._losses.ledgers.items()):
            member_set = self._table.set_of(origin)
            if member_set is None and ledger.dropped is not None:
                yield self._restore_dropped(origin, ledger, ledger.dropped, now)
            elif (
                origin != except_origin
                and member_set is not None
                and ledger.lost
                and self._losses.is_suspicious(ledger)
            ):
                restored = self._hold_lost(member_set, ledger, now)
                yield self._changes_for(member_set, tuple(restored), ())

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
        self._start_hold(MemberSet(origin, name), hold, lost.values(), now, self._disturbance)
        members = tuple(one.member for one in lost.values())
        return [SetPut(origin, name, members), *held_changes(origin, hold.take_new(), hold.whole)]

    def _advance(self, now: float) -> Steps:
        for _ in self._losses.advance(now):
            yield ()

    def _open_losses(self, now: float) -> Steps:
        for _ in self._losses.open(now):
            yield ()

    def _absent(self, origin: str) -> Absent:
        hold, wait = self._holds.get(origin), self._waits.get(origin)
        return Absent(hold, wait) if hold or wait else NONE_ABSENT

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
