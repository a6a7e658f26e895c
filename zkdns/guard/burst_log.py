"""`BurstLog`: logs which sets have held members, with few lines if thousands of sets change at once.

A collapse of the table concerns all sets. A line about each takes 40 to 80 µs (measured).
"""

from __future__ import annotations

from collections import Counter

import structlog

from zkdns.namespace import ServiceName

log = structlog.get_logger("zkdns.guard")

MAX_LINES = 20
"""Lines of a burst about single sets, for each event."""


class BurstLog:
    """Logs the first sets of a burst one by one, and the number of the others at its end."""

    def __init__(self) -> None:
        self._lines: Counter[str] = Counter()  # of this burst, by event
        self._held: Counter[str] = Counter()  # the sets without a line, by reason
        self._members: Counter[str] = Counter()  # their members, by reason
        self._released: Counter[str] = Counter()  # the sets without a line, by reason

    @property
    def has_burst(self) -> bool:
        """Whether there were events since the last `end_burst`."""
        return bool(self._lines)

    def held(self, name: ServiceName, origin: str, members: int, seconds: int, reason: str) -> None:
        """Log that members of a set are held, for this time."""
        if self._has_line("members_held"):
            log.warning(
                "members_held",
                service=str(name),
                origin=origin,
                members=members,
                seconds=seconds,
                reason=reason,
            )
        else:
            self._held[reason] += 1
            self._members[reason] += members

    def released(self, name: ServiceName, origin: str, reason: str) -> None:
        """Log that no member of a set is held any more."""
        if self._has_line("members_released"):
            log.info("members_released", service=str(name), origin=origin, reason=reason)
        else:
            self._released[reason] += 1

    def end_burst(self) -> None:
        """Log the number of the sets without a line, and begin with lines again."""
        for reason, sets in self._held.items():
            log.warning("more_members_held", sets=sets, members=self._members[reason], reason=reason)
        for reason, sets in self._released.items():
            log.info("more_members_released", sets=sets, reason=reason)
        for counter in (self._lines, self._held, self._members, self._released):
            counter.clear()

    def _has_line(self, event: str) -> bool:
        """Count an event. Returns whether it gets a line of its own."""
        self._lines[event] += 1
        return self._lines[event] <= MAX_LINES
