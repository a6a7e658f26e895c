"""Stands between sync and publisher, and lets no failure of ZooKeeper empty an answer.

    change ──▶ admit ──┬─ adding ─────────────────────────────────────────────────▶ passed on
                       ├─ removing, not suspicious ───────────────────────────────▶ passed on
                       ├─ suspicious, after a disturbance ──▶ limbo ──time, accept──▶ passed on
                       └─ suspicious, all is quiet ──▶ waits 50 ms ──▶ passed on, or limbo if the table falls

Suspicious is a removal that leaves a set without members, or with too few of those that it had before: at the
disturbance, where there was one within a session timeout; else a session timeout ago. In a quiet table such a
removal is an orderly one, unless most members of the whole table go with it: then not they have failed but
ZooKeeper (all sessions expired together), which is a disturbance as well.

Rules of this file:
- The table says what is answered; without those that are held or wait, it is what ZooKeeper says.
- One change at a time, each applied to the table before the next one comes.
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
"""How long a suspicious removal waits in a quiet table, to see whether the whole table falls.

When all sessions expire together ZooKeeper's leader closes them within one tick of its clock, one after the
other in one stream of events: the next one is there within a few milliseconds.
"""

_AWAY = "zookeeper was out of reach"
_COLLAPSE = "most members of the table vanished at once"
_BEFORE = "they were held before this process began"


class Guard:
    """Decides which removals are passed on, and when.

    Args:
        settings: what is suspicious, and how long limbo lasts; 0 seconds: nothing is ever held.
        table: has everything that was passed on before.
        session_timeout: ZooKeeper's, in seconds: how long after a disturbance its effects arrive.
        is_served: whether a member is answered with; the others come and go as they please.
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
        """How often a set's members began to be held."""
        self._settings = settings
        self._table = table
        self._is_served = is_served
        self._losses = LossWindow(settings, session_timeout)
        self._why = ""
        self._holds: dict[str, Hold] = {}
        self._waits: dict[str, Wait] = {}
        self._agenda: list[tuple[float, str]] = []  # a heap: when to look at which set; looking is harmless

    # -- what the connection does --------------------------------------------------------------------------

    def disturbed(self, now: float) -> list[Change]:
        """What ZooKeeper says cannot be trusted from now on: it is out of reach, or what we have is old."""
        if self._settings.seconds == 0:
            return []
        self._losses.advance(now)
        self._losses.is_settled = False
        if self._losses.in_window:
            return []
        # What left before in good order is no loss; what waits to be judged is.
        for origin in self._losses.ledgers.keys() - self._waits.keys():
            del self._losses.ledgers[origin]
        return self._open(now, _AWAY)

    def settled(self, now: float) -> None:
        """Everything has been read again; what is lost within one session timeout is still suspicious.

        Limbo does not end while nobody can know who is back, nor at once thereafter.
        """
        if self._losses.is_settled:
            return
        self._losses.settle(now)
        for origin, hold in self._holds.items():
            for name, held in hold.members.items():
                hold.members[name] = held._replace(until=max(held.until, self._losses.window_until))
            self._look_at(hold, origin, hold.first_until)

    # -- what is asked -------------------------------------------------------------------------------------

    def admit(self, change: Change, now: float) -> list[Change]:
        """What to pass on of a change, or because of it; to be applied before the next one is admitted."""
        if self._settings.seconds == 0 or isinstance(change, HostResolved | SetUnread):
            if isinstance(change, SetUnread) and self._is_dropped(change.origin):  # it is there again
                self._set_end(change.origin, (SetDropped(change.origin), change))
            return [change]
        self._losses.advance(now)
        owner = self._table.set_of(change.origin)
        passed: list[Change] = []
        if isinstance(change, SetPut):
            passed = self._put(owner, change, now)
        elif owner is None:
            passed = [change]
        elif isinstance(change, SetDropped):
            passed = self._exchange(owner, (), tuple(owner.members), now, is_dropped=True)
        elif isinstance(change, MembersHeld):
            passed = self._adopt(owner, change, now)
        elif not self._is_dropped(owner.origin):  # else it is not there, and will come as a whole
            passed = self._exchange(owner, change.added, change.removed, now)
        return passed

    def expire(self, now: float) -> list[Change]:
        """What to pass on because of the time."""
        self._losses.advance(now)
        changes: list[Change] = []
        while self._agenda and self._agenda[0][0] <= now:
            due, origin = heapq.heappop(self._agenda)
            wait = self._waits.get(origin)
            if wait is not None and wait.deadline <= now:
                changes += self._pass_waiting(origin, wait)
            hold = self._holds.get(origin)
            if hold is None or hold.due != due or not self._losses.is_settled:
                continue
            over = [name for name, held in hold.members.items() if held.until <= now]
            changes += self._release(origin, over, "limbo is over")
            if origin in self._holds:
                self._look_at(hold, origin, hold.first_until)
        return changes

    def next_deadline(self) -> float | None:
        """When `expire` wants to be called, at the latest; None: time changes nothing."""
        return self._agenda[0][0] if self._agenda else None

    def accept(self, origin: str) -> list[Change]:
        """Let a set's held members go: the loss is real."""
        hold = self._holds.get(origin)
        return self._release(origin, list(hold.members), "accepted") if hold else []

    @property
    def held(self) -> list[HeldMember]:
        """All members in limbo."""
        return [held for hold in self._holds.values() for held in hold.members.values()]

    def held_of(self, origin: str) -> list[HeldMember]:
        """A set's members in limbo."""
        hold = self._holds.get(origin)
        return list(hold.members.values()) if hold else []

    # -- one set -------------------------------------------------------------------------------------------

    def _put(self, owner: MemberSet | None, change: SetPut, now: float) -> list[Change]:
        """A set as it was read as a whole."""
        origin = change.origin
        if owner is not None and owner.name == change.name and not owner.is_unread:
            self._set_end(origin, ())
            absent = self._absent(origin)
            known = owner.members
            added = [new for new in change.members if known.get(new.name) != new or new.name in absent]
            wanted = {member.name for member in change.members}
            return self._exchange(owner, added, [name for name in known if name not in wanted], now)
        if owner is not None:  # under another name it is another set
            self._losses.count(-self._served(owner), now)
            self._holds.pop(origin, None)
            self._waits.pop(origin, None)
        self._losses.ledgers.pop(origin, None)
        served = [member for member in change.members if self._is_served(member)]
        self._losses.count(len(served), now)
        if self._losses.in_window:
            ledger = self._losses.ledgers[origin] = LossLedger(len(served), baseline=0)
            for member in served:
                ledger.join(member)
        return [change]

    def _exchange(
        self,
        owner: MemberSet,
        added: Iterable[Member],
        removed: Iterable[str],
        now: float,
        *,
        is_dropped: bool = False,
    ) -> list[Change]:
        """Members join and leave, as ZooKeeper says."""
        origin = owner.origin
        absent = self._absent(origin)
        joining = {member.name: member for member in added}
        leaving = {
            name: owner.members[name]
            for name in removed
            if name in owner.members and name not in joining and name not in absent
        }
        lost = self._book(owner, joining, leaving, now)
        replaced = self._come_back(owner, joining)
        others: list[Change] = []
        if lost and not self._losses.in_window and self._losses.is_collapse():
            others = self._open(now, _COLLAPSE, but=origin)
        ledger = self._losses.ledgers.get(origin)
        restored: list[Member] = []
        if lost and ledger is not None and self._losses.is_suspicious(ledger):
            if self._losses.in_window:
                restored = self._hold(owner, ledger, now)
            else:
                self._wait(origin, ledger, lost, now)
        absent = self._absent(origin)
        gone = [name for name in leaving if name not in absent]
        if is_dropped and not self._stays(origin):
            if ledger is not None and ledger.lost and not self._losses.in_window:
                ledger.dropped = owner.name  # should the others follow, it was no orderly end
            else:
                self._losses.ledgers.pop(origin, None)
            return [*others, SetDropped(origin)]
        return [*others, *self._tell(owner, (*joining.values(), *restored), (*gone, *replaced))]

    def _book(
        self, owner: MemberSet, joining: dict[str, Member], leaving: dict[str, Member], now: float
    ) -> list[Member]:
        """Keep account of who joins and leaves; return the served ones that leave."""
        origin, absent = owner.origin, self._absent(owner.origin)
        lost = [member for member in leaving.values() if self._is_served(member)]
        joined = [member for member in joining.values() if self._is_served(member)]
        before = [owner.members[name] for name in joining if name in owner.members and name not in absent]
        step = len(joined) - sum(map(self._is_served, before)) - len(lost)
        ledger = self._losses.ledgers.get(origin)
        if ledger is None and (lost or self._losses.in_window):
            served = self._served(owner)
            ledger = self._losses.ledgers[origin] = LossLedger(served, baseline=served)
        if step:
            self._losses.count(step, now)
        if ledger is not None:
            ledger.count(step)
            for member in joined:
                ledger.join(member)
            for member in lost:
                self._losses.leave(origin, member, now)
        return lost

    def _come_back(self, owner: MemberSet, joining: dict[str, Member]) -> list[str]:
        """End limbo for those who join; return the names of others at whose endpoints they are."""
        wait, hold = self._waits.get(owner.origin), self._holds.get(owner.origin)
        where = {found for member in joining.values() if (found := endpoint_of(member))}
        replaced: set[str] = set()
        if wait is not None:
            replaced = {name for name in wait.names if endpoint_of(owner.members[name]) in where}
            wait.names.difference_update(joining, replaced)
        if hold is not None:
            replaced |= hold.at(where)
            self._forget(hold, owner, (*joining, *replaced), "they are back")
        return sorted(replaced.difference(joining))

    def _hold(self, owner: MemberSet, ledger: LossLedger, now: float) -> list[Member]:
        """Put all that a set has lost into limbo; return those of them that the table must be given back."""
        wait = self._waits.pop(owner.origin, None)
        hold = self._holds.get(owner.origin, Hold())
        new = ledger.take_lost()
        if wait is not None:
            new.update({name: owner.members[name] for name in wait.names})
            hold.end = hold.end or wait.end
        self._begin(owner, hold, new, now, self._why)
        return [member for name, member in new.items() if name not in owner.members]

    def _begin(self, owner: MemberSet, hold: Hold, members: dict[str, Member], now: float, why: str) -> None:
        """Limbo begins for these members of a set."""
        until = now + self._settings.seconds
        for member in members.values():
            hold.add(HeldMember(owner.origin, owner.name, member, now, until, why))
        if owner.origin in self._holds or not hold.members:  # none: all have been replaced
            return
        self._look_at(hold, owner.origin, until)  # who comes later leaves later
        self._holds[owner.origin] = hold
        self.holds_total += 1
        log.warning(
            "members held: they have left, and are answered all the same",
            service=str(owner.name),
            origin=owner.origin,
            members=len(hold.members),
            seconds=self._settings.seconds,
            reason=why,
        )

    def _wait(self, origin: str, ledger: LossLedger, lost: list[Member], now: float) -> None:
        """Let removals wait, but those of members that have been replaced already."""
        names = [member.name for member in lost if member.name in ledger.lost]
        wait = self._waits.get(origin)
        if wait is None and names:
            wait = self._waits[origin] = Wait(now + WAIT_SECONDS)
            heapq.heappush(self._agenda, (wait.deadline, origin))
        if wait is not None:
            wait.names.update(names)

    def _stays(self, origin: str) -> bool:
        """Whether a set whose znode is gone stays in the table, for those that are held or wait."""
        self._set_end(origin, (SetDropped(origin),))
        return self._is_dropped(origin)

    def _tell(self, owner: MemberSet, added: tuple[Member, ...], removed: tuple[str, ...]) -> list[Change]:
        """The changes that make the table's set what it is to be."""
        changes: list[Change] = []
        if added or removed:
            changes.append(SetChanged(owner.origin, added, removed))
        hold = self._holds.get(owner.origin)
        if hold is not None:
            stay = owner.held - {*removed, *(member.name for member in added)}
            if new := hold.members.keys() - stay:
                changes.append(MembersHeld(owner.origin, tuple(sorted(new))))
        return changes

    def _adopt(self, owner: MemberSet, change: MembersHeld, now: float) -> list[Change]:
        """Members that were in limbo before this process began; their time begins anew."""
        absent = self._absent(owner.origin)
        known = owner.members
        found = {name: known[name] for name in change.names if name in known and name not in absent}
        served = sum(map(self._is_served, found.values()))
        if served:
            self._losses.count(-served, now)
        if ledger := self._losses.ledgers.get(owner.origin):
            ledger.count(-served)
            ledger.baseline = max(ledger.baseline - served, 0)
        self._begin(owner, self._holds.get(owner.origin, Hold()), found, now, _BEFORE)
        return self._tell(owner, (), ())

    # -- the end of waiting, and of limbo ------------------------------------------------------------------

    def _pass_waiting(self, origin: str, wait: Wait) -> list[Change]:
        del self._waits[origin]
        hold = self._holds.get(origin)
        if wait.end and hold is None:
            owner, ledger = self._table.set_of(origin), self._losses.ledgers.get(origin)
            if owner is not None and ledger is not None:
                ledger.dropped = owner.name
            return list(wait.end)
        if hold is not None:
            hold.end = hold.end or wait.end
        return [SetChanged(origin, (), tuple(sorted(wait.names)))] if wait.names else []

    def _release(self, origin: str, names: list[str], why: str) -> list[Change]:
        hold = self._holds[origin]
        owner = self._table.set_of(origin)
        if owner is None or not names:
            return []
        self._forget(hold, owner, names, why)
        if ledger := self._losses.ledgers.get(origin):
            ledger.write_off()
        if hold.end and origin not in self._holds:
            self._losses.ledgers.pop(origin, None)
            self._waits.pop(origin, None)
            return list(hold.end)
        return [SetChanged(origin, (), tuple(names))]

    def _look_at(self, hold: Hold, origin: str, due: float) -> None:
        """Look at a hold when this time has come, and no more when it was to be looked at before."""
        if due != hold.due:
            hold.due = due
            heapq.heappush(self._agenda, (due, origin))

    def _forget(self, hold: Hold, owner: MemberSet, names: Iterable[str], why: str) -> None:
        for name in names:
            hold.discard(name)
        if not hold.members:
            del self._holds[owner.origin]
            log.info("members held no more", service=str(owner.name), origin=owner.origin, reason=why)

    # -- the whole table -----------------------------------------------------------------------------------

    def _open(self, now: float, why: str, but: str = "") -> list[Change]:
        """Begin to suspect: hold what has just been lost, of every set but one."""
        self._why = why
        self._losses.open(now)
        changes: list[Change] = []
        for origin, ledger in self._losses.ledgers.items():
            owner = self._table.set_of(origin)
            if owner is None and ledger.dropped is not None:
                changes += self._bring_back(origin, ledger, ledger.dropped, now)
            elif origin != but and owner is not None and ledger.lost and self._losses.is_suspicious(ledger):
                restored = self._hold(owner, ledger, now)
                changes += self._tell(owner, tuple(restored), ())
        return changes

    def _bring_back(self, origin: str, ledger: LossLedger, name: ServiceName, now: float) -> list[Change]:
        """Hold the members of a set that went with them a moment ago, before the others did."""
        ledger.dropped = None
        lost, hold = ledger.take_lost(), Hold()
        if not lost:
            return []
        hold.end = (SetDropped(origin),)
        self._begin(MemberSet(origin, name), hold, lost, now, self._why)
        return [SetPut(origin, name, tuple(lost.values())), MembersHeld(origin, tuple(sorted(lost)))]

    def _absent(self, origin: str) -> Collection[str]:
        """Those members of the table's set that ZooKeeper does not have any more."""
        hold, wait = self._holds.get(origin), self._waits.get(origin)
        if hold is not None and wait is not None:
            return wait.names.union(hold.members)
        return hold.members if hold is not None else wait.names if wait is not None else ()

    def _served(self, owner: MemberSet) -> int:
        """How many members that are answered with a set has, as ZooKeeper says."""
        absent = self._absent(owner.origin)
        return sum(self._is_served(member) for name, member in owner.members.items() if name not in absent)

    def _is_dropped(self, origin: str) -> bool:
        return any(state.end for state in self._states(origin))

    def _set_end(self, origin: str, end: tuple[Change, ...]) -> None:
        for state in self._states(origin):
            state.end = end

    def _states(self, origin: str) -> list[Hold | Wait]:
        return [state for state in (self._holds.get(origin), self._waits.get(origin)) if state is not None]
