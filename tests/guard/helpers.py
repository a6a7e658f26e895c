"""A guard with its table, and a model of ZooKeeper's contents."""

import itertools

from zkdns.config import GuardSettings
from zkdns.guard import Guard, Steps
from zkdns.namespace import ServiceName
from zkdns.serverset.changes import Change, MembersHeld, SetChanged, SetDropped, SetPut
from zkdns.serverset.member import Endpoint, Member, Status
from zkdns.table import Table

SESSION_TIMEOUT = 10.0
HOLD_SECONDS = 600
REASON = "zookeeper was unreachable"


def origin_of(service: str) -> str:
    return f"/discovery/staging/{service}"


def member(number: int, *, host: str | None = None, status: Status = Status.ALIVE) -> Member:
    return Member(f"member_{number:010d}", Endpoint(host or f"10.0.0.{number}", 80), status=status)


def members(*numbers: int) -> tuple[Member, ...]:
    return tuple(map(member, numbers))


def put(service: str, *entries: Member) -> SetPut:
    return SetPut(origin_of(service), ServiceName(service, "staging"), entries)


class Zookeeper:
    """ZooKeeper's contents, as the plain result of all changes.

    Attributes:
        sets: the members by name, by the origin of their set.
        left_at: when each former member left, by origin and name.
        dropped_at: when each former set was dropped, by origin.
    """

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, Member]] = {}
        self.left_at: dict[tuple[str, str], float] = {}
        self.dropped_at: dict[str, float] = {}

    def apply(self, change: Change, now: float) -> None:
        if not isinstance(change, SetPut | SetChanged | SetDropped):
            return
        before = self.sets.get(change.origin, {}).keys()
        match change:
            case SetPut():
                self.sets[change.origin] = {entry.name: entry for entry in change.members}
            case SetChanged() if change.origin in self.sets:
                known = self.sets[change.origin].copy()
                for name in change.removed:
                    known.pop(name, None)
                known.update({entry.name: entry for entry in change.added})
                self.sets[change.origin] = known
            case SetDropped() if change.origin in self.sets:
                del self.sets[change.origin]
                self.dropped_at[change.origin] = now
            case _:  # a change of a set that does not exist
                return
        for name in before - self.sets.get(change.origin, {}).keys():
            self.left_at[change.origin, name] = now


class Scenario:
    """A scenario for the guard: events, time that passes, and the resulting answers.

    Time passes only in `pass_time`, which calls the guard at its deadlines.

    Attributes:
        is_disturbed: whether a disturbance has not been settled yet.
    """

    def __init__(
        self,
        *,
        share: float = 0.5,
        minimum: int = 5,
        seconds: int = HOLD_SECONDS,
        session_timeout: float = SESSION_TIMEOUT,
    ) -> None:
        self.now = 1000.0
        self.is_disturbed = False
        self.table = Table(departed_seconds=0)
        self.zookeeper = Zookeeper()
        self.passed: list[Change] = []
        self.guard = Guard(
            GuardSettings(share, minimum, seconds),
            self.table,
            session_timeout=session_timeout,
            is_served=lambda entry: entry.status is Status.ALIVE,
        )

    # -- events --------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Apply a change of ZooKeeper."""
        self.zookeeper.apply(change, self.now)
        self._take(self.guard.admit(change, self.now))

    def put(self, service: str, *numbers: int) -> None:
        self.apply(put(service, *members(*numbers)))

    def join(self, service: str, *entries: int | Member) -> None:
        added = tuple(member(entry) if isinstance(entry, int) else entry for entry in entries)
        self.apply(SetChanged(origin_of(service), added, ()))

    def leave(self, service: str, *numbers: int) -> None:
        self.apply(SetChanged(origin_of(service), (), tuple(member(number).name for number in numbers)))

    def drop(self, service: str) -> None:
        self.apply(SetDropped(origin_of(service)))

    def disturb(self) -> None:
        self.is_disturbed = True
        self._take(self.guard.on_disturbance(self.now, REASON))

    def settle(self) -> None:
        self.is_disturbed = False
        self._take(self.guard.on_settled(self.now))

    def restore(self, *changes: Change, current_at: float) -> None:
        """Admit the changes of a saved table, which was current at that time."""
        for change in changes:
            self._take(self.guard.admit(change, self.now))
            self.zookeeper.apply(change, self.now)
        self.guard.on_restored(current_at, self.now)

    def change_ensemble(self) -> None:
        self._take(self.guard.on_other_ensemble(self.now))

    def accept(self, service: str) -> None:
        self._take(iter([self.guard.accept(origin_of(service))]))

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.guard.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self._take(self.guard.expire(self.now))
        self.now = until

    def _take(self, steps: Steps) -> None:
        for change in itertools.chain.from_iterable(steps):
            self.passed.append(change)
            self.table.apply(change)

    # -- answers -------------------------------------------------------------------------------------------

    def answered(self, service: str) -> list[int] | None:
        """The numbers of the answered members. None: there is no such service."""
        owner = self.table.set_of(origin_of(service))
        if owner is None:
            return None
        return sorted(int(name[-10:]) for name in owner.members)

    def hosts(self, service: str) -> dict[str, str]:
        """The host of each answered member, by its name."""
        owner = self.table.set_of(origin_of(service))
        return {name: one.service.host for name, one in owner.members.items() if one.service} if owner else {}

    def held(self, service: str) -> list[int]:
        owner = self.table.set_of(origin_of(service))
        by_guard = sorted(entry.member.name for entry in self.guard.held_of(origin_of(service)))
        assert by_guard == sorted(owner.held if owner else ())
        return [int(name[-10:]) for name in by_guard]

    @property
    def contents(self) -> dict[str, dict[str, Member]]:
        """All answered members, in the form of `Zookeeper.sets`."""
        return {
            origin: dict(owner.members)
            for origin in self.table.origins
            if (owner := self.table.set_of(origin)) is not None
        }

    def held_changes(self) -> list[MembersHeld]:
        return [change for change in self.passed if isinstance(change, MembersHeld)]
