"""Recent losses of members, and whether they are suspicious: per set, and in the whole table.

A *window* opens with a disturbance and closes one session timeout after ZooKeeper was read completely again:
the sessions that a failing ZooKeeper could not hear expire within that time. In a window, losses are measured
against the number of members at its start, otherwise against that of a session timeout ago.
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
        baseline: how many members there were when the window opened.
        remaining: how many there are now.
        lost: the members that left and were not replaced, by name, with the time at which they left.
        dropped: the name of the set, if the set itself was dropped with its members.
    """

    __slots__ = ("_joined", "_lost_at", "_most", "baseline", "dropped", "lost", "remaining")

    def __init__(self, remaining: int, baseline: int) -> None:
        self.baseline = baseline
        self.remaining = self._most = remaining
        self.dropped: ServiceName | None = None
        self.lost: dict[str, tuple[Member, float]] = {}
        self._lost_at: dict[tuple[str, int], set[str]] = {}
        self._joined: dict[tuple[str, int], str] = {}

    @property
    def recent(self) -> int:
        """How many members there were before the first loss, including those that have joined since.

        At most as many as there ever were at one time, so that a member that restarts repeatedly counts once.
        """
        return min(self.remaining + len(self.lost), self._most)

    def count(self, step: int) -> None:
        """Add `step` (negative after losses) to the number of members."""
        self.remaining += step
        self._most = max(self._most, self.remaining)

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
        """Remove a member from the lost ones, if it is one: it is back, or it left too long ago."""
        member, _ = self.lost.pop(name, (None, 0.0))
        if member is not None and (endpoint := endpoint_of(member)) in self._lost_at:
            self._lost_at[endpoint].discard(name)
            if not self._lost_at[endpoint]:
                del self._lost_at[endpoint]

    def take_lost(self) -> dict[str, Member]:
        """Remove and return all lost members, which the caller holds or gives up."""
        lost = {name: member for name, (member, _) in self.lost.items()}
        self.lost.clear()
        self._lost_at.clear()
        return lost

    def write_off(self) -> None:
        """Accept the losses so far as final."""
        self.baseline = self._most = self.remaining
        self.take_lost()

    def exclude(self, count: int) -> None:
        """Remove members from the count that were held before this process started."""
        self.count(-count)
        self.baseline = max(self.baseline - count, 0)

    def set_dropped(self, name: ServiceName | None) -> None:
        """Record that the set itself was dropped. None: it was restored."""
        self.dropped = name

    def open_window(self) -> None:
        """Count the recent losses as losses of the window that opens now."""
        self.baseline = self.recent


class LossWindow:
    """The ledgers of all sets with recent changes, and the count of the whole table.

    Attributes:
        ledgers: by origin.
        in_window: whether a window is open, as of the last `advance`.
        is_settled: whether everything was read since the last disturbance.
        window_until: when the open window closes, if it is settled.
    """

    def __init__(self, settings: GuardSettings, session_timeout: float) -> None:
        self.ledgers: dict[str, LossLedger] = {}
        self.in_window = False
        self.is_settled = True
        self.window_until = 0.0
        self._settings = settings
        self._session_timeout = session_timeout
        self._quiet: deque[tuple[float, str, str]] = deque()  # losses outside of windows: time, origin, name
        self._total = 0
        self._peaks: deque[tuple[float, int]] = deque()  # totals of the last session timeout, decreasing

    def advance(self, now: float) -> None:
        """Close the window if its time is over. Outside of windows, forget old losses and peaks."""
        if self.in_window and self.is_settled and now >= self.window_until:
            self.in_window = False
            self.ledgers.clear()
            self._peaks = deque([(now, self._total)])
        begin = now - self._session_timeout
        while len(self._peaks) > 1 and self._peaks[1][0] <= begin:
            self._peaks.popleft()
        while self._quiet and self._quiet[0][0] <= begin:
            when, origin, name = self._quiet.popleft()
            ledger = self.ledgers.get(origin)
            if ledger is not None and name in ledger.lost and ledger.lost[name][1] == when:
                ledger.forget(name)
                if not ledger.lost:
                    del self.ledgers[origin]

    def disturb(self, waiting: Collection[str]) -> bool:
        """Record a disturbance. Returns whether a window has to be opened; the caller then calls `open`.

        Before that, losses that were orderly are forgotten. Those of the waiting sets are undecided, and
        stay.
        """
        self.is_settled = False
        if self.in_window:
            return False
        for origin in self.ledgers.keys() - waiting:
            del self.ledgers[origin]
        return True

    def open(self, now: float) -> None:
        """Open a window. The losses in the ledgers count as part of it."""
        self.in_window = True
        self.window_until = now + self._session_timeout
        self._quiet.clear()
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
            self._quiet.append((now, origin, member.name))

    def count(self, step: int, now: float) -> None:
        """Add `step` (negative after losses) to the number of served members in the whole table."""
        self._total += step
        while self._peaks and self._peaks[-1][1] <= self._total:
            self._peaks.pop()
        self._peaks.append((now, self._total))

    def is_suspicious(self, ledger: LossLedger) -> bool:
        """Whether a set has lost all its members, or so many that ZooKeeper may have failed."""
        before = ledger.baseline if self.in_window else ledger.recent
        return (before > 0 and not ledger.remaining) or self._is_too_much(before, before - ledger.remaining)

    def is_collapse(self) -> bool:
        """Whether the whole table has lost that many members, from several sets at about the same time."""
        peak = self._peaks[0][1] if self._peaks else 0
        gone = peak - self._total
        if gone < self._settings.minimum or not self._is_too_much(peak, gone):
            return False
        losers = (ledger for ledger in self.ledgers.values() if ledger.lost)
        return next(losers, None) is not None and next(losers, None) is not None

    def _is_too_much(self, before: int, gone: int) -> bool:
        return before >= self._settings.minimum and gone > self._settings.share * before
