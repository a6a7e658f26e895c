"""The guard at work: between a source and the publisher, with the event loop's clock, and who commands it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from zkdns.address import HostPort
from zkdns.config import Config
from zkdns.daemon.ipc.control import AcceptLosses, LossesAccepted, Refused, ReleasedMember
from zkdns.daemon.ipc.feed import Publisher
from zkdns.errors import BadValueError
from zkdns.guard import Guard, HeldMember
from zkdns.names import Labels, lower, parse_name
from zkdns.serverset.changes import Change
from zkdns.table import Table

log = structlog.get_logger("zkdns.guard")

_SHOWN = 300  # characters of a change that help to find a mistake


class GuardedPublisher:
    """Passes changes of one source on to the publisher, as its guard says, and calls the guard in time.

    Args:
        config: says what is suspicious, and which members are answered with.
        publisher: gets what is passed on.
        on_health: told what the source tells of itself.
        session_timeout: ZooKeeper's, in seconds.
    """

    def __init__(
        self,
        config: Config,
        publisher: Publisher,
        on_health: Callable[[bool, bool], None],
        *,
        session_timeout: float,
    ) -> None:
        statuses = frozenset(config.statuses)
        self._publisher = publisher
        self._on_health = on_health
        self._timer: asyncio.TimerHandle | None = None
        self._clock = asyncio.get_running_loop().time
        self.guard = Guard(
            config.guard,
            publisher.table,
            session_timeout=session_timeout,
            is_served=lambda member: member.status in statuses,
        )

    def publish(self, changes: Iterable[Change]) -> None:
        """Take changes of the source."""
        now = self._clock()
        for change in changes:
            try:
                passed = self.guard.admit(change, now)
            except Exception:  # a mistake of ours costs no change, and not the other changes either
                log.exception(
                    "guard_failed", change=repr(change)[:_SHOWN], effect="change passed on unguarded"
                )
                passed = [change]
            self._publisher.publish(passed)
        self._set_timer()

    def heard(self, ready: bool, stale: bool) -> None:
        """Take what the source tells of itself: a stale one is disturbed until it is ready again."""
        if stale:
            self._publisher.publish(self.guard.on_disturbance(self._clock()))
        elif ready:
            self.guard.on_settled(self._clock())
        self._set_timer()
        self._on_health(ready, stale)

    def accept(self, origins: Iterable[str]) -> tuple[ReleasedMember, ...]:
        """End the limbo of these sets; return whom they lose."""
        held: list[HeldMember] = []
        for origin in origins:
            held += self.guard.held_of(origin)
            self._publisher.publish(self.guard.accept(origin))
        self._set_timer()
        return tuple(_let_go(one, self._clock()) for one in sorted(held, key=_order))

    def close(self) -> None:
        """Do nothing of oneself any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        self._publisher.publish(self.guard.expire(self._clock()))
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.guard.next_deadline()
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._expire) if due is not None else None


def _order(held: HeldMember) -> tuple[str, str]:
    return held.origin, held.member.name


def _let_go(held: HeldMember, now: float) -> ReleasedMember:
    service = held.member.service
    where = str(HostPort(service.host, service.port)) if service else None
    znode = f"{held.origin}/{held.member.name}"
    return ReleasedMember(str(held.service), znode, where, round(now - held.since, 3))


def accept_losses(
    request: AcceptLosses, guarding: GuardedPublisher | None, table: Table, zones: Iterable[Labels]
) -> LossesAccepted | Refused:
    """Do what `zkdns accept` asks for.

    Args:
        request: which service.
        guarding: what may hold its members; None: there is nothing that could.
        table: knows all services.
        zones: what may stand behind a service's name, or be left out.
    """
    wanted = request.service
    held = {one.origin for one in guarding.guard.held} if guarding else set()
    if wanted is not None:
        try:
            found = _origins(wanted, table, zones)
        except BadValueError as error:
            return Refused("mistaken", str(error))
        if not found:
            return Refused("nothing", f"there is no service {wanted}")
        held &= found
    if not held or guarding is None:
        return Refused("nothing", f"nothing is held of {wanted}" if wanted else "nothing is held")
    return LossesAccepted(guarding.accept(sorted(held)))


def _origins(wanted: str, table: Table, zones: Iterable[Labels]) -> set[str]:
    """The sets of a service, by its name with or without the zone, or by its znode's path."""
    if wanted.startswith("/"):
        return {wanted} & table.origins
    labels = lower(parse_name(wanted))
    for key in (labels, *((*labels, *zone) for zone in zones)):
        if key in table.services:
            return set(table.services[key].sets)
    return set()
