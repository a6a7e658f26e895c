"""Recent losses of members, and whether they are suspicious: per set, and in the whole table.

A *window* opens with a disturbance and closes one session timeout after ZooKeeper was read completely again,
since sessions whose heartbeats a failing ZooKeeper has missed expire within that time. In a window, losses
are compared with the number of members when it opened, otherwise with that of a session timeout ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from zkdns.config import GuardSettings
from zkdns.namespace import ServiceName
from zkdns.serverset.member import Member


def endpoint_of(member: Member) -> tuple[str, int] | None:
    """A member's service endpoint. Members with equal endpoints replace each other."""
    return (member.service.host, member.service.port) if member.service else None


class LossLedger:
    """The recent losses among the served members of one set.

    Attributes:
        baseline: the number of members when the window opened.
        remaining: the present number of members.
        lost: the members that left and were not replaced, by name, with the times at which they left.
        dropped: the name of the set, if the set itself was dropped with its members.
    """

    __slots__ = ("_joined", "_lost_at", "_max_remaining", "baseline", "dropped", "lost", "remaining")

    def __init__(self, remaining: int, baseline: int) -> None:
        self.baseline = baseline
        self.remaining = self._max_remaining = remaining
        self.dropped: ServiceName | None = None
        self.lost: dict[str, tuple[Member, float]] = {}
        self._lost_at: dict[tuple[str, int], set[str]] = {}
        self._joined: dict[tuple[str, int], str] = {}

    @property
    def recent(self) -> int:
        """The number of members before the first loss, plus those that have joined since.

        It is limited to the maximum at any one time, so that a member that restarts repeatedly counts once.
        """
        return min(self.remaining + len(self.lost), self._max_remaining)

    def count(self, step: int) -> None:
        """Add `step` (negative after losses) to the number of members."""
        self.remaining += step
        self._max_remaining = max(self._max_remaining, self.remaining)

    def join(self, member: Member) -> None:
        """Record a new member. It replaces the lost members with its endpoint."""
        self.forget(member.name)
        if endpoint := endpoint_of(member):
            self._joined[endpoint] = member.name
            for name in self._lost_at.pop(endpoint, ()):
                if name in self.lost and endpoint_of(self.lost[name][0]) == endpoint:
                    del self.lost[name]

    def leave(self, member: Member, now: float) -> None:
        """Record a member that left. It is not lost if another one has joined at its endpoint before."""
        endpoint = endpoint_of(member)
        if endpoint is not None and self._joined.get(endpoint) == member.name:
            del self._joined[endpoint]
        if endpoint in self._joined:
            return
        self.lost[member.name] = member, now
        if endpoint is not None:
            self._lost_at.setdefault(endpoint, set()).add(member.name)

    def forget(self, name: str) -> None:
        """Remove a member from the lost ones, if it is one, because it is back or left too long ago."""
        member, _ = self.lost.pop(name, (None, 0.0))
        if member is not None and (endpoint := endpoint_of(member)) in self._lost_at:
            self._lost_at[endpoint].discard(name)
            if not self._lost_at[endpoint]:
                del self._lost_at[endpoint]

    def take_lost(self) -> dict[str, Member]:
        """Remove and return all lost members."""
        lost = {name: member for name, (member, _) in self.lost.items()}
        self.lost.clear()
        self._lost_at.clear()
        return lost

    def write_off(self) -> None:
        """Accept the losses so far as final."""
        self.baseline = self._max_remaining = self.remaining
        self.take_lost()

    def exclude(self, count: int) -> None:
        """Do not count members that a previous process held."""
        self.count(-count)
        self.baseline = max(self.baseline - count, 0)

    def set_dropped(self, name: ServiceName | None) -> None:
        """Record that the set itself was dropped. None: it was restored."""
        self.dropped = name

    def open_window(self) -> None:
        """Count the recent losses as losses of the window that opens now."""
        self.baseline = self.recent


class LossWindow:
    """The ledgers of all sets with recent changes, and the number of members in the whole table.

    Attributes:
        ledgers: by origin.
        in_window: whether a window is open, as of the last `advance`.
        is_settled: whether everything was read since the last disturbance.
        window_until: when the open window closes, once `is_settled`.
    """

    def __init__(self, settings: GuardSettings, session_timeout: float) -> None:
        self.ledgers: dict[str, LossLedger] = {}
        self.in_window = False
        self.is_settled = True
        self.window_until = 0.0
        self._settings = settings
        self._session_timeout = session_timeout
        self._losses_outside_windows: deque[tuple[float, str, str]] = deque()  # time, origin and name
        self._total = 0
        # Times and totals within a session timeout. Only the totals above all later ones, so that they
        # decrease.
        self._peaks: deque[tuple[float, int]] = deque()

    def advance(self, now: float) -> None:
        """Close the window if its time is over. Outside of windows, forget old losses and peaks."""
        if self.in_window and self.is_settled and now >= self.window_until:
            self.in_window = False
            self.ledgers.clear()
            self._peaks = deque([(now, self._total)])
        begin = now - self._session_timeout
        while len(self._peaks) > 1 and self._peaks[1][0] <= begin:
            self._peaks.popleft()
        while self._losses_outside_windows and self._losses_outside_windows[0][0] <= begin:
            when, origin, name = self._losses_outside_windows.popleft()
            ledger = self.ledgers.get(origin)
            if ledger is not None and name in ledger.lost and ledger.lost[name][1] == when:
                ledger.forget(name)
                if not ledger.lost:
                    del self.ledgers[origin]

    def disturb(self, waiting: Collection[str]) -> bool:
        """Record a disturbance. Returns whether the caller has to open a window with `open`.

        Earlier losses are forgotten, since they have taken effect. Only those of sets in `waiting` have not,
        and stay.
        """
        self.is_settled = False
        if self.in_window:
            return False
        for origin in self.ledgers.keys() - waiting:
            del self.ledgers[origin]
        return True

    def open(self, now: float) -> None:
        """Open a window. It includes the losses that are in the ledgers already."""
        self.in_window = True
        self.window_until = now + self._session_timeout
        self._losses_outside_windows.clear()
        for ledger in self.ledgers.values():
            ledger.open_window()

    def settle(self, now: float) -> None:
        """Record that everything was read. The window stays open for one more session timeout."""
        self.is_settled = True
        self.window_until = now + self._session_timeout

    def start_ledger(self, origin: str, remaining: int, *, baseline: int) -> LossLedger:
        """Make the ledger of a set, in place of the one it may have."""
        ledger = self.ledgers[origin] = LossLedger(remaining, baseline)
        return ledger

    def discard_ledger(self, origin: str) -> None:
        """Forget the losses of a set."""
        self.ledgers.pop(origin, None)

    def leave(self, origin: str, member: Member, now: float) -> None:
        """Record that a served member left a set that has a ledger."""
        self.ledgers[origin].leave(member, now)
        if not self.in_window:
            self._losses_outside_windows.append((now, origin, member.name))

    def count(self, step: int, now: float) -> None:
        """Add `step` (negative after losses) to the number of served members in the whole table."""
        self._total += step
        while self._peaks and self._peaks[-1][1] <= self._total:
            self._peaks.pop()
        self._peaks.append((now, self._total))

    def is_suspicious(self, ledger: LossLedger) -> bool:
        """Whether a set has lost all its members, or too large a share of them."""
        before = ledger.baseline if self.in_window else ledger.recent
        gone = before - ledger.remaining
        return (before > 0 and not ledger.remaining) or self._is_large_share(before, gone)

    def is_collapse(self) -> bool:
        """Whether the whole table has lost too large a share of its members, from at least two sets."""
        peak = self._peaks[0][1] if self._peaks else 0
        gone = peak - self._total
        if gone < self._settings.minimum or not self._is_large_share(peak, gone):
            return False
        losers = (ledger for ledger in self.ledgers.values() if ledger.lost)
        return next(losers, None) is not None and next(losers, None) is not None

    def _is_large_share(self, before: int, gone: int) -> bool:
        return before >= self._settings.minimum and gone > self._settings.share * before
