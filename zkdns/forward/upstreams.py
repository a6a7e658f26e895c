"""State of the upstreams: distance, liveness, and the order in which they are queried.

    unmeasured ──▶ alive ──▶ dead     after `MAX_FAILURES` failures in a row
                     ▲         │
                     └─────────┘      after any response, to a query or to a probe

No clock here: the caller passes the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from zkdns.address import UpstreamAddress

# Seconds after which the next upstream is queried as well. A late response is still accepted.
MIN_TIMEOUT: Final = 0.3
MAX_TIMEOUT: Final = 0.8
_FIRST_TIMEOUT = 0.4  # before the first measurement

MAX_FAILURES: Final = 3
"""An upstream is dead after this number of failures in a row."""
MAX_REFUSALS: Final = 3
"""After this number of error responses in a row an upstream ranks below the others."""

PROBE_SECONDS: Final = 3.0
"""Interval between probes of a dead upstream. The first is sent at once."""
EXPLORE_SECONDS: Final = 10.0
"""How long an upstream gets no query because others are nearer; then it is measured again."""
NO_EDNS_SECONDS: Final = 3600.0
"""How long queries to an upstream without EDNS support omit EDNS; it may be replaced or updated later."""

# Weights of a new measurement (RFC 6298 §2).
_RTT_GAIN = 1 / 8
_VARIATION_GAIN = 1 / 4

_NEVER = float("-inf")


class Upstream:
    """State of one upstream.

    Attributes:
        address: its address.
        rtt: smoothed round-trip time in seconds; None: not measured since it was last dead.
        failures: queries without a response in a row.
        refusals: error responses in a row.
        queried_at: time of the last query.
        sent: queries so far.
        timed_out: queries without a response in time; it may have arrived later.
        bad_messages: messages that do not answer their query: forged or malformed ones.

    Args:
        address: see above.
        probe_seconds: interval between probes while it is dead.
    """

    def __init__(self, address: UpstreamAddress, probe_seconds: float = PROBE_SECONDS) -> None:
        self.address = address
        self.rtt: float | None = None
        self.failures = self.refusals = 0
        self.queried_at = _NEVER
        self.sent = self.timed_out = self.bad_messages = 0
        self._probe_seconds = probe_seconds
        self._variation = 0.0
        self._probe_at = _NEVER
        self._no_edns_until = _NEVER

    @property
    def is_dead(self) -> bool:
        """Whether it has failed too many times in a row."""
        return self.failures >= MAX_FAILURES

    @property
    def timeout(self) -> float:
        """Seconds to wait for a response before the next upstream is queried as well."""
        if self.rtt is None:
            return _FIRST_TIMEOUT
        return min(max(self.rtt + 4 * self._variation, MIN_TIMEOUT), MAX_TIMEOUT)

    def uses_edns(self, now: float) -> bool:
        """Return whether queries to it have an OPT record."""
        return now >= self._no_edns_until

    def disable_edns(self, now: float) -> None:
        """Omit EDNS for some time, because it answers only queries without EDNS."""
        self._no_edns_until = now + NO_EDNS_SECONDS

    def on_response(self, seconds: float | None = None) -> None:
        """Record a response of any kind.

        Args:
            seconds: the round-trip time; None: it was not measured.
        """
        self.failures = 0
        if seconds is not None:
            self._measure(seconds)

    def on_failure(self, seconds: float | None = None) -> None:
        """Record a query without a response.

        Args:
            seconds: how long ago it was sent; None: it could not be sent. Counts as a round-trip time, so
                that an upstream which has become slow soon ranks below the others.
        """
        was_dead = self.is_dead
        self.failures += 1
        if self.is_dead:
            self.rtt = None
            if not was_dead:
                self._probe_at = _NEVER
        elif seconds is not None:
            self._measure(seconds)

    def start_probe_if_due(self, now: float) -> bool:
        """Return whether to send a probe now: it is dead, and the last probe is old enough."""
        if not self.is_dead or now < self._probe_at:
            return False
        self._probe_at = now + self._probe_seconds
        return True

    def _measure(self, seconds: float) -> None:
        if self.rtt is None:
            self.rtt, self._variation = seconds, seconds / 2
            return
        self._variation += (abs(seconds - self.rtt) - self._variation) * _VARIATION_GAIN
        self.rtt += (seconds - self.rtt) * _RTT_GAIN


class Upstreams:
    """A group of upstreams that can answer the same questions.

    Attributes:
        all: the current upstreams.

    Args:
        addresses: in order of preference as long as nothing has been measured.
        probe_seconds: interval between probes of a dead upstream.
    """

    def __init__(self, addresses: Iterable[UpstreamAddress], *, probe_seconds: float = PROBE_SECONDS) -> None:
        self.all: Sequence[Upstream] = ()
        self._probe_seconds = probe_seconds
        self._explore_at = _NEVER
        self.replace(addresses)

    def replace(self, addresses: Iterable[UpstreamAddress]) -> None:
        """Replace the upstreams; an upstream in both groups keeps its state."""
        current = {upstream.address: upstream for upstream in self.all}
        self.all = [
            current.get(address) or Upstream(address, self._probe_seconds)
            for address in dict.fromkeys(addresses)
        ]
        self._explore_at = _NEVER

    def ranked(self) -> Sequence[Upstream]:
        """Return the living upstreams, or all if none is alive, the best first."""
        if len(self.all) == 1:
            return self.all
        alive = [upstream for upstream in self.all if not upstream.is_dead]
        return sorted(alive or self.all, key=_rank)

    def to_explore(self, first: Upstream, now: float) -> Upstream | None:
        """Return an upstream to measure again: the one that was queried least recently, if that is long ago.

        The caller sends it the question that it sends to `first`. So upstreams are compared by the same
        questions. No client waits for this response, so a slow upstream delays none.
        """
        if now < self._explore_at:
            return None
        others = [upstream for upstream in self.all if upstream is not first and not upstream.is_dead]
        oldest = min(others, key=_queried_at, default=None)
        if oldest is None or now < oldest.queried_at + EXPLORE_SECONDS:
            self._explore_at = now + 1.0 if oldest is None else oldest.queried_at + EXPLORE_SECONDS
            return None
        return oldest


def _rank(upstream: Upstream) -> tuple[bool, float]:
    rtt = float("inf") if upstream.rtt is None else upstream.rtt
    return upstream.refusals >= MAX_REFUSALS, rtt


def _queried_at(upstream: Upstream) -> float:
    return upstream.queried_at
