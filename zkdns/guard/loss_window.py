"""What was lost lately, and whether that is suspicious: of one set, and of the whole table.

A *window* opens with a disturbance, and ends one session timeout after ZooKeeper has been read again: that
long the sessions live that a failing ZooKeeper could not hear. Within it losses are measured against what
there was at its begin; in a quiet table against what there was a session timeout ago.
"""

from __future__ import annotations

from collections import deque

from zkdns.config import GuardSettings
from zkdns.namespace import ServiceName
from zkdns.serverset.member import Member


def endpoint_of(member: Member) -> tuple[str, int] | None:
    """Where a member serves; equal ones are one member to whoever connects."""
    return (member.service.host, member.service.port) if member.service else None


class LossLedger:
    """What became lately of those members of a set that are answered with.

    `baseline` is how many there were when the window opened, `remaining` how many there are. `lost` are those
    that left, when, and have not been replaced. Of a set that is gone with them, `dropped` is the name.
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
        """How many there were before the first of the lost left; those that joined since count as well.

        But no more than there ever were at one time: who is replaced again and again is one member.
        """
        return min(self.remaining + len(self.lost), self._most)

    def count(self, step: int) -> None:
        """So many more, or fewer, are there now."""
        self.remaining += step
        self._most = max(self._most, self.remaining)

    def join(self, member: Member) -> None:
        """A member came; it replaces whoever was lost at its endpoint."""
        self.forget(member.name)
        if where := endpoint_of(member):
            self._joined[where] = member.name
            for name in self._lost_at.pop(where, ()):
                if name in self.lost and endpoint_of(self.lost[name][0]) == where:
                    del self.lost[name]

    def leave(self, member: Member, now: float) -> None:
        """A member left; it is not lost if another has come to its endpoint before."""
        where = endpoint_of(member)
        if where is not None and self._joined.get(where) == member.name:
            del self._joined[where]
        if where in self._joined:
            return
        self.lost[member.name] = member, now
        if where is not None:
            self._lost_at.setdefault(where, set()).add(member.name)

    def forget(self, name: str) -> None:
        """A member is lost no more, if it was: it is back, or it was too long ago."""
        member, _ = self.lost.pop(name, (None, 0.0))
        if member is not None and (where := endpoint_of(member)) in self._lost_at:
            self._lost_at[where].discard(name)
            if not self._lost_at[where]:
                del self._lost_at[where]

    def take_lost(self) -> dict[str, Member]:
        """Hand over all that are lost; somebody else takes care of them."""
        lost = {name: member for name, (member, _) in self.lost.items()}
        self.lost.clear()
        self._lost_at.clear()
        return lost

    def write_off(self) -> None:
        """What is lost is lost; what is lost from now on is another matter."""
        self.baseline = self._most = self.remaining
        self.take_lost()


class LossWindow:
    """The ledgers of all sets that have changed lately, and the account of the whole table.

    Attributes:
        ledgers: by origin.
        in_window: whether ZooKeeper was disturbed lately, as of the last `advance`.
        is_settled: whether everything has been read since the last disturbance.
    """

    def __init__(self, settings: GuardSettings, session_timeout: float) -> None:
        self.ledgers: dict[str, LossLedger] = {}
        self.in_window = False
        self.is_settled = True
        self.window_until = 0.0
        self._settings = settings
        self._session_timeout = session_timeout
        self._quiet: deque[tuple[float, str, str]] = deque()  # losses outside of windows: when, origin, name
        self._total = 0
        self._peaks: deque[tuple[float, int]] = deque()  # totals of the last session timeout, ever smaller

    def advance(self, now: float) -> None:
        """Forget what is over: the window, or losses of a quiet table and its peaks."""
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

    def open(self, now: float) -> None:
        """Begin to suspect; what the ledgers hold by now counts as lost since."""
        self.in_window = True
        self.window_until = now + self._session_timeout
        self._quiet.clear()
        for ledger in self.ledgers.values():
            ledger.baseline = ledger.recent

    def settle(self, now: float) -> None:
        """Everything has been read; the window lasts one more session timeout."""
        self.is_settled = True
        self.window_until = now + self._session_timeout

    def leave(self, origin: str, member: Member, now: float) -> None:
        """A served member of a set that has a ledger left."""
        self.ledgers[origin].leave(member, now)
        if not self.in_window:
            self._quiet.append((now, origin, member.name))

    def count(self, step: int, now: float) -> None:
        """So many served members more, or fewer, does the whole table have."""
        self._total += step
        while self._peaks and self._peaks[-1][1] <= self._total:
            self._peaks.pop()
        self._peaks.append((now, self._total))

    def is_suspicious(self, ledger: LossLedger) -> bool:
        """Whether a set has lost so many of its members that it may be a failure of ZooKeeper."""
        before = ledger.baseline if self.in_window else ledger.recent
        return (before > 0 and not ledger.remaining) or self._is_too_much(before, before - ledger.remaining)

    def is_collapse(self) -> bool:
        """Whether the whole table has, and several sets at about one time."""
        peak = self._peaks[0][1] if self._peaks else 0
        gone = peak - self._total
        if gone < self._settings.minimum or not self._is_too_much(peak, gone):
            return False
        losers = (ledger for ledger in self.ledgers.values() if ledger.lost)
        return next(losers, None) is not None and next(losers, None) is not None

    def _is_too_much(self, before: int, gone: int) -> bool:
        return before >= self._settings.minimum and gone > self._settings.share * before
