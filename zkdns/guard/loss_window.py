"""Recent losses of members, and whether they are suspicious: per set, and in the whole table.

A *window* opens with a disturbance, and closes `WINDOW_SECONDS` after ZooKeeper was read completely again,
since sessions whose heartbeats a failing ZooKeeper has missed expire within that time. In a window, losses
are compared with the number of members when it opened, or when the last disturbance in it began. Outside of
windows they are compared with the number of a *period* ago: one session timeout of the watcher, within which
the sessions of a failed ZooKeeper expire together.

A member that left is not lost if another one has replaced it:

- by endpoint: another member joined at its endpoint, before or after it left;
- by number, one for one: another member joined after it left; or had joined before it left, and the one that
  left is older than the period or window.

The last condition is for a fleet that has just started: none of its members has replaced another one,
although they joined one after the other. A member that has replaced an old one counts as old itself, and one
that is lost does not bring back the one that it replaced. The period is not longer than a session timeout,
because a longer one would count more new members of a growing service as replacements of lost ones.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from zkdns.config import GuardSettings
from zkdns.guard.time_order import TimeOrder
from zkdns.namespace import ServiceName
from zkdns.serverset.endpoint_index import EndpointIndex, endpoint_of
from zkdns.serverset.member import Member

WINDOW_SECONDS = 40.0
"""How long a window stays open after everything was read.

It is the longest session that ZooKeeper grants by default: 20 ticks of 2 s (`maxSessionTimeout`). If the
watcher's session timeout is longer, that is used.
"""


IsTaken: TypeAlias = Callable[[tuple[str, int] | None], bool]
"""Whether an older member at an endpoint is still in the set.

A new member at the same endpoint takes the place of that one, not of another one.
"""

_SETS_PER_STEP = 200  # each takes up to 5 µs (measured)
_order = itertools.count()


class Lost(NamedTuple):
    """A member that left and was not replaced.

    `is_old`: whether it had joined before the period or window, or had replaced such a member.
    `is_counted`: whether the baseline counts it.
    """

    member: Member
    left_at: float
    is_old: bool = True
    is_counted: bool = True


class _Joined:
    """A member that joined in the period or window. `is_old`: whether it has replaced an old one."""

    __slots__ = ("endpoint", "is_old", "joined_at", "order")

    def __init__(self, endpoint: tuple[str, int] | None, joined_at: float, order: int) -> None:
        self.endpoint = endpoint
        self.joined_at = joined_at
        self.order = order
        self.is_old = False


class LossLedger:
    """The recent losses and new members among the served members of one set.

    Attributes:
        baseline: the number of members when the window opened.
        remaining: the present number of members.
        lost: the members that left and were not replaced, by name, the one that left first at the beginning.
        dropped: the name of the set, if the set itself was dropped with its members.
    """

    __slots__ = (
        "_additional",
        "_former",
        "_free",
        "_in_baseline",
        "_joined",
        "_joined_at",
        "_lost_at",
        "_returned",
        "baseline",
        "dropped",
        "lost",
        "remaining",
    )

    def __init__(self, remaining: int, baseline: int) -> None:
        self.baseline = baseline
        self.remaining = remaining
        self._returned: set[tuple[str, int]] = set()
        self.dropped: ServiceName | None = None
        self.lost: dict[str, Lost] = {}
        self._lost_at = EndpointIndex()
        self._joined: dict[str, _Joined] = {}
        self._joined_at = EndpointIndex()
        # When members left at endpoints, if their losses are final. A member that returns replaces no other.
        self._former: TimeOrder[tuple[str, int]] = TimeOrder()
        # New members that have not replaced any other, the oldest first. Dictionaries keep that order.
        self._free: dict[str, None] = {}
        # New members that `baseline` counts although the members that they replace may still be counted too.
        self._in_baseline: set[str] = set()
        # New members that have not replaced any other, and that `baseline` does not count.
        self._additional: set[str] = set()

    @property
    def recent(self) -> int:
        """The number of members before the losses, plus those that have joined since."""
        return self.remaining + len(self.lost)

    @property
    def stayed(self) -> int:
        """How many members of `baseline` are there, or were replaced by others at other endpoints.

        Not those that have left and joined again at the same endpoint, and not additional members.
        """
        return self.remaining - len(self._returned) - len(self._additional)

    @property
    def is_empty(self) -> bool:
        """Whether there is no recent loss or new member."""
        return not self.lost and not self._joined and not self._former

    def count(self, step: int) -> None:
        """Add `step` (negative after losses) to the number of members."""
        self.remaining += step

    def join(self, member: Member, now: float) -> None:
        """Record a new member. It replaces the lost members with its endpoint."""
        self._remove_joined(member.name)
        endpoint = endpoint_of(member)
        replaced = set(self._lost_at.at(endpoint))
        if endpoint and any(self.lost[name].is_counted for name in replaced):
            self._returned.add(endpoint)
        if member.name in self.lost:
            replaced.add(member.name)
        joined = _Joined(endpoint, now, next(_order))
        for name in replaced:
            joined.is_old |= self._remove_lost(name).is_old
        if not replaced and endpoint not in self._joined_at and endpoint not in self._former:
            self._free[member.name] = None
            self._additional.add(member.name)
        self._joined[member.name] = joined
        self._joined_at.add(member.name, endpoint)

    def discard(self, names: Iterable[str]) -> None:
        """Forget the losses of these names: ZooKeeper has them again, though perhaps not as served ones."""
        for name in names:
            if name in self.lost:
                self._remove_lost(name)

    def leave(
        self,
        members: Collection[Member],
        is_taken: IsTaken,
        now: float,
        *,
        by_number: bool = True,
    ) -> None:
        """Record members that left together.

        Args:
            members: the members.
            is_taken: see `IsTaken`.
            now: when they left.
            by_number: whether new members at other endpoints can have replaced them.
        """
        others: list[tuple[Member, int, bool, bool]] = []
        for member in members:
            is_counted = member.name not in self._joined or member.name in self._in_baseline
            joined = self._remove_joined(member.name)
            order, is_old = (joined.order, joined.is_old) if joined else (-1, True)
            endpoint = endpoint_of(member)
            successors = self._joined_at.at(endpoint)
            if endpoint and successors:
                if is_counted:
                    self._returned.add(endpoint)
                free = (name for name in successors if name in self._free)
                self._use(next(free, min(successors)), is_old)
            else:
                others.append((member, order, is_old, is_counted))
        for member, order, is_old, is_counted in others:
            successor = self._free_after(order, is_taken) if by_number and is_old else None
            if successor is not None:
                self._use(successor, is_old)
                continue
            self.lost[member.name] = Lost(member, now, is_old, is_counted)
            self._lost_at.add(member.name, endpoint_of(member))

    def match(self, names: Collection[str], is_taken: IsTaken) -> list[str]:
        """Let new members replace lost ones, one for one, the one that left first at the beginning.

        Args:
            names: the new members.
            is_taken: see `IsTaken`.

        Returns:
            the names of the lost members that were replaced.
        """
        replaced: list[str] = []
        # All at once: to find the first entry of a dictionary again and again takes quadratic time.
        oldest = deque(itertools.islice(self.lost, len(names)))
        for name in names:
            if not oldest:
                break
            if name in self._free and not is_taken(self._joined[name].endpoint):
                replaced.append(oldest.popleft())
                self._discard_free(name)
                self._joined[name].is_old |= self._remove_lost(replaced[-1]).is_old
        return replaced

    def use(self, names: Iterable[str]) -> None:
        """Record that new members are the replacements of held or waiting ones."""
        for name in names:
            self._discard_free(name)
            self._joined[name].is_old = True

    def is_new(self, name: str) -> bool:
        """Whether a member that is in the set joined in the period or window."""
        return name in self._joined

    def forget(self, name: str, when: float) -> None:
        """Forget that a member left or joined at this time, since that is too long ago.

        Final losses until then are forgotten too, also without a name.
        """
        self._former.discard_until(when)
        if name in self.lost and self.lost[name].left_at == when:
            self._remove_lost(name)
        if name in self._joined and self._joined[name].joined_at == when:
            self._remove_joined(name)

    def take_lost(self) -> dict[str, Lost]:
        """Remove and return all lost members."""
        lost = dict(self.lost)
        self.lost.clear()
        self._lost_at.clear()
        return lost

    def write_off(self, held: Iterable[Lost] = ()) -> None:
        """Accept the losses so far, and those of these held members, as final."""
        self._start_baseline(self.remaining)
        for lost in (*self.take_lost().values(), *held):
            if endpoint := endpoint_of(lost.member):
                self._former.set(endpoint, lost.left_at)

    def set_dropped(self, name: ServiceName | None) -> None:
        """Record that the set itself was dropped. None: it was restored."""
        self.dropped = name

    def start_disturbance(self) -> None:
        """Compare losses with the present number of members and the recent losses, if that is more."""
        if self.recent > self.baseline:
            self._start_baseline(self.recent)

    def open_window(self) -> None:
        """Count the recent losses as losses of the window that opens now."""
        self._start_baseline(self.recent)

    def close_window(self, begin: float) -> list[tuple[float, str]]:
        """Accept the losses as final, and forget what happened before `begin`.

        Returns when to forget which of the others (see `forget`).
        """
        self.write_off()
        self.forget("", begin)
        self.dropped = None
        for name in [name for name, joined in self._joined.items() if joined.joined_at <= begin]:
            self._remove_joined(name)
        recent = [(joined.joined_at, name) for name, joined in self._joined.items()]
        return recent + [(left_at, "") for left_at in self._former.times]

    def _start_baseline(self, count: int) -> None:
        """Compare later losses with this number of members, which includes all new ones."""
        self.baseline = count
        self._returned.clear()
        self._in_baseline = set(self._joined)
        self._additional.clear()

    def _free_after(self, order: int, is_taken: IsTaken) -> str | None:
        """The first new member after this place in the order of joining that can replace another one."""
        free = ((name, self._joined[name]) for name in self._free)
        found = (name for name, one in free if one.order > order and not is_taken(one.endpoint))
        return next(found, None)

    def _discard_free(self, name: str) -> None:
        self._free.pop(name, None)
        self._additional.discard(name)

    def _use(self, name: str, is_old: bool) -> None:
        """Record that a new member has replaced one that leaves now, and whether that one is old."""
        self._discard_free(name)
        self._joined[name].is_old |= is_old
        if name in self._in_baseline:  # the baseline has counted both
            self._in_baseline.discard(name)
            self.baseline -= 1

    def _remove_lost(self, name: str) -> Lost:
        lost = self.lost.pop(name)
        self._lost_at.discard(name, endpoint_of(lost.member))
        return lost

    def _remove_joined(self, name: str) -> _Joined | None:
        joined = self._joined.pop(name, None)
        self._discard_free(name)
        self._in_baseline.discard(name)
        if joined is not None:
            self._joined_at.discard(name, joined.endpoint)
        return joined


class LossWindow:
    """The ledgers of all sets with recent changes, and the number of members in the whole table.

    `advance` and `open` work in steps, because they may concern all ledgers. The caller may do other work
    between two steps, and runs all of them before it calls another method.

    Attributes:
        ledgers: by origin.
        in_window: whether a window is open, as of the last `advance`.
        is_disturbed: whether a disturbance lasts: not everything was read since it began.
        is_reading: whether the first read is not complete. A window does not close before.
        window_until: when the open window closes, unless `is_disturbed` or `is_reading`.
    """

    def __init__(self, settings: GuardSettings, session_timeout: float) -> None:
        self.ledgers: dict[str, LossLedger] = {}
        self.in_window = False
        self.is_disturbed = False
        self.is_reading = True
        self.window_until = 0.0
        self._settings = settings
        self._period = session_timeout
        self._window_seconds = max(WINDOW_SECONDS, session_timeout)
        # Outside of windows: when which members of which sets left or joined.
        self._recent: deque[tuple[float, str, str]] = deque()
        self._total = 0
        # Times and totals within a period. Only the totals above all later ones, so that they decrease.
        self._peaks: deque[tuple[float, int]] = deque()

    def advance(self, now: float) -> Iterator[None]:
        """Close the window if its time is over. Outside of windows, forget old losses and peaks."""
        begin = now - self._period
        if self.in_window and not self.is_disturbed and not self.is_reading and now >= self.window_until:
            yield from self._close(begin, now)
        while len(self._peaks) > 1 and self._peaks[1][0] <= begin:
            self._peaks.popleft()
        while self._recent and self._recent[0][0] <= begin:
            when, origin, name = self._recent.popleft()
            ledger = self.ledgers.get(origin)
            if ledger is not None:
                ledger.forget(name, when)
                if ledger.is_empty:
                    del self.ledgers[origin]

    def disturb(self, waiting: Collection[str]) -> bool:
        """Record a disturbance. Returns whether the caller has to open a window with `open`.

        Losses that have taken effect before it stay: they are forgotten. The losses of sets in `waiting` have
        not all taken effect, and count as losses of the window.
        """
        self.is_disturbed = True
        if self.in_window:
            for ledger in self.ledgers.values():
                ledger.start_disturbance()
            return False
        for origin in self.ledgers.keys() - waiting:
            self.ledgers[origin].write_off()
        return True

    def open(self, now: float) -> Iterator[None]:
        """Open a window. It includes the losses that are in the ledgers already."""
        self.in_window = True
        self.window_until = now + self._window_seconds
        self._recent.clear()
        for number, ledger in enumerate(self.ledgers.values()):
            ledger.open_window()
            if number % _SETS_PER_STEP == 0:
                yield

    def open_restored(self, current_at: float) -> None:
        """Open the window of a table that equalled ZooKeeper's contents at `current_at`."""
        self.reset(current_at)
        self.in_window = True
        self.window_until = current_at + self._window_seconds

    def reset(self, now: float) -> None:
        """Close the window, and forget everything but the number of members."""
        self.in_window = self.is_disturbed = False
        self.ledgers.clear()
        self._recent.clear()
        self._peaks = deque([(now, self._total)])

    def settle(self, now: float) -> None:
        """Record that everything was read. The window of a disturbance stays open for its time."""
        self.is_reading = False
        if self.is_disturbed:
            self.is_disturbed = False
            self.window_until = now + self._window_seconds

    def start_ledger(self, origin: str, remaining: int, *, baseline: int) -> LossLedger:
        """Make the ledger of a set, in place of the one it may have."""
        ledger = self.ledgers[origin] = LossLedger(remaining, baseline)
        return ledger

    def discard_ledger(self, origin: str) -> None:
        """Forget the losses of a set."""
        self.ledgers.pop(origin, None)

    def join(self, origin: str, members: Collection[Member], now: float) -> None:
        """Record that served members joined a set that has a ledger."""
        for member in members:
            self.ledgers[origin].join(member, now)
        self._add_recent(origin, members, now)

    def leave(self, origin: str, members: Collection[Member], is_taken: IsTaken, now: float) -> None:
        """Record that served members left a set that has a ledger (see `LossLedger.leave`).

        Several that leave together, and are too many, have not been replaced by members that joined before.
        """
        ledger = self.ledgers[origin]
        by_number = not (self.in_window and self.is_suspicious(ledger))
        ledger.leave(members, is_taken, now, by_number=by_number)
        self._add_recent(origin, members, now)

    def count(self, step: int, now: float) -> None:
        """Add `step` (negative after losses) to the number of served members in the whole table."""
        self._total += step
        while self._peaks and self._peaks[-1][1] <= self._total:
            self._peaks.pop()
        self._peaks.append((now, self._total))

    def is_suspicious(self, ledger: LossLedger) -> bool:
        """Whether a set has lost too many of its members.

        That is: all of them, or a large share of a set that is not small. In a window also all but one: the
        last one would then have the clients of all others. There it counts how many members have
        stayed. One that has returned had lost its session, as others that have not returned yet.
        """
        if not self.in_window:
            before, stayed = ledger.recent, ledger.remaining
            return (before > 0 and not stayed) or self._is_large_share(before, before - stayed)
        before, stayed = ledger.baseline, ledger.stayed
        if ledger.remaining >= before:
            return False
        if (before > 0 and stayed <= 0) or (before > 1 and stayed == 1):
            return True
        return self._is_large_share(before, before - stayed)

    def is_collapse(self) -> bool:
        """Whether the whole table has lost too large a share of its members, from at least two sets."""
        peak = self._peaks[0][1]
        gone = peak - self._total
        if gone < self._settings.minimum or not self._is_large_share(peak, gone):
            return False
        losers = (ledger for ledger in self.ledgers.values() if ledger.lost)
        return next(losers, None) is not None and next(losers, None) is not None

    def _is_large_share(self, before: int, gone: int) -> bool:
        return before >= self._settings.minimum and gone > self._settings.share * before

    def _add_recent(self, origin: str, members: Collection[Member], now: float) -> None:
        if not self.in_window:
            self._recent.extend((now, origin, member.name) for member in members)

    def _close(self, begin: float, now: float) -> Iterator[None]:
        self.in_window = False
        self._peaks = deque([(now, self._total)])
        recent: list[tuple[float, str, str]] = []
        for number, (origin, ledger) in enumerate(list(self.ledgers.items())):
            recent += [(when, origin, name) for when, name in ledger.close_window(begin)]
            if ledger.is_empty:
                del self.ledgers[origin]
            if number % _SETS_PER_STEP == 0:
                yield
        self._recent = deque(sorted(recent))
