"""State of the upstreams: distance, liveness, what they support, and the order in which they are queried.

    unmeasured ──▶ alive ──▶ dead     after `MAX_FAILURES` failures in a row
                     ▲         │
                     └─────────┘      after any response, to a query or to a probe

    EDNS ──▶ no EDNS     after one question that it rejects with EDNS and answers without, or after
                         `MAX_DOUBTS` if it was only silent then, or has accepted EDNS before
    UDP ──▶ TCP          after `MAX_DOUBTS` questions in a row that it answered over TCP, but not over UDP

Both end after `DOUBT_SECONDS`; then one such question is sufficient to start again.

Thousands of answers per second change next to nothing. So an answer is recorded only if the last one was
recorded `SAMPLE_SECONDS` ago, or something else has happened since (`Upstream.settled_until`); and the plan
for the next query and the order of the upstreams are made again only after a change.

No clock here: the caller passes the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from zkdns.address import UpstreamAddress


class UdpTimes(msgspec.Struct, frozen=True):
    """Limits of the time-out of a query, in seconds. A late response is still accepted.

    Attributes:
        first: the time-out before the first measurement.
        shortest: the least time-out after measurements.
        longest: the greatest time-out after measurements.
    """

    first: float = 0.4
    shortest: float = 0.3
    longest: float = 0.8


UDP_TIMES: Final = UdpTimes()

MAX_FAILURES: Final = 3
"""An upstream is dead after this number of failures in a row."""
MAX_REFUSALS: Final = 3
"""After this number of error responses in a row an upstream ranks below the others."""

PROBE_SECONDS: Final = 3.0
"""Interval between probes of a dead upstream. The first is sent at once."""
EXPLORE_SECONDS: Final = 10.0
"""How long an upstream gets no query because others are nearer; then it is measured again."""
DOUBT_SECONDS: Final = 900.0
"""How long queries to an upstream omit EDNS, or use TCP; also how long its acceptance of EDNS is remembered.

It may be replaced or updated later. The same as `infra-host-ttl` of unbound.
"""
MAX_DOUBTS: Final = 3
"""Number of questions in a row after which packet loss is an unlikely reason for silence."""

SAMPLE_SECONDS: Final = 0.01
"""How long further answers of an upstream are not recorded after an answer."""

# Weights of a new measurement (RFC 6298 §2).
_RTT_GAIN = 1 / 8
_VARIATION_GAIN = 1 / 4

_NEVER, _ALWAYS = float("-inf"), float("inf")


class Plan(msgspec.Struct, frozen=True, gc=False):
    """How to send a query to an upstream.

    Attributes:
        timeout: seconds to wait for a response before the next upstream is queried as well.
        uses_tcp: whether to send it over TCP or TLS.
        uses_edns: whether to add an OPT record.
    """

    timeout: float
    uses_tcp: bool
    uses_edns: bool


class Upstream:
    """State of one upstream.

    Attributes:
        address: its address.
        is_dead: whether it has failed too many times in a row.
        rtt: smoothed round-trip time in seconds; None: not measured since it was last dead.
        failures: queries without a response in a row.
        recoveries: how often a response followed failures.
        refusals: error responses in a row.
        edns_doubts: questions in a row that it answered only without EDNS.
        udp_doubts: questions in a row that it answered only over TCP.
        settled_until: until this time, another answer to a first query over UDP changes nothing.
        queried_at: time of the last query.
        sent: queries so far.
        timed_out: queries without a response in time; it may have arrived later.
        bad_messages: messages that do not answer their query: forged or malformed ones.

    Args:
        address: see above.
        probe_seconds: interval between probes while it is dead.
        times: limits of the time-out of a query.
        on_change: called after its rank among other upstreams may have changed.
    """

    def __init__(
        self,
        address: UpstreamAddress,
        probe_seconds: float = PROBE_SECONDS,
        times: UdpTimes = UDP_TIMES,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self._on_change = on_change
        self._times = times
        self._is_stream = address.is_stream
        self.rtt: float | None = None
        self.is_dead = False
        self.failures = self.recoveries = self.refusals = 0
        self.queried_at = _NEVER
        self.sent = self.timed_out = self.bad_messages = 0
        self._probe_seconds = probe_seconds
        self._variation = self._timeout = 0.0
        self._probe_at = _NEVER
        self.edns_doubts = self.udp_doubts = 0
        self._no_edns_until = self._edns_accepted_until = self._tcp_until = _NEVER
        self.settled_until = _NEVER
        self._plan: Plan
        self._plan_until = _NEVER  # a change ends it at once

    def plan(self, now: float) -> Plan:
        """Return how to send the next query to it."""
        if now >= self._plan_until:
            timeout = self._times.first if self.rtt is None else self._timeout
            uses_tcp, uses_edns = now < self._tcp_until, now >= self._no_edns_until
            self._plan = Plan(timeout, self._is_stream or uses_tcp, uses_edns)
            ends = (end for end in (self._tcp_until, self._no_edns_until) if end > now)
            self._plan_until = min(ends, default=_ALWAYS)
        return self._plan

    def _change(self) -> None:
        """End everything that is remembered about the present state."""
        self.settled_until = self._plan_until = _NEVER
        self._on_change()

    def accepts_edns(self, now: float) -> bool:
        """Return whether it has answered a query with EDNS not long ago."""
        return now < self._edns_accepted_until

    def on_edns_accepted(self, now: float) -> None:
        """Record an answer to a query with EDNS."""
        self.edns_doubts = 0
        self._edns_accepted_until = now + DOUBT_SECONDS

    def on_edns_rejected(self, now: float, *, is_certain: bool) -> None:
        """Record that it has answered a question without EDNS, but not the same one with EDNS.

        Args:
            now: the current time.
            is_certain: whether it rejected EDNS by its response code; otherwise it was silent, or had failed.
        """
        self._change()
        self.edns_doubts += 1
        if self.edns_doubts >= MAX_DOUBTS or (is_certain and not self.accepts_edns(now)):
            self.edns_doubts = max(self.edns_doubts, MAX_DOUBTS - 1)
            self._no_edns_until = now + DOUBT_SECONDS

    def on_udp_ignored(self, now: float) -> None:
        """Record that it has answered a question over TCP, but not the same one over UDP."""
        self._change()
        self.udp_doubts += 1
        if self.udp_doubts >= MAX_DOUBTS:
            self._tcp_until = now + DOUBT_SECONDS

    def on_tcp_failed(self) -> None:
        """Record that it does not answer over TCP: the next query may use UDP."""
        self._change()
        self._tcp_until = _NEVER

    def on_response(self, seconds: float | None = None) -> None:
        """Record a response of any kind.

        Args:
            seconds: the round-trip time; None: it was not measured.
        """
        if self.failures:
            self.failures = 0
            self.is_dead = False
            self.recoveries += 1
            self._change()
        if seconds is not None:
            self._measure(seconds)

    def on_refusal(self) -> None:
        """Record an error response."""
        self.refusals += 1
        self._change()

    def on_conclusive_reply(self) -> None:
        """Record a reply that is no error response."""
        if self.refusals:
            self.refusals = 0
            self._change()

    def on_answer(self, seconds: float, now: float) -> None:
        """Record an answer over UDP to the first query of a question, which had EDNS.

        This is nearly every answer. The caller may omit it until `settled_until`.
        """
        self.on_response(seconds)
        self.on_conclusive_reply()
        self.on_edns_accepted(now)
        self.udp_doubts = 0
        self.settled_until = now + SAMPLE_SECONDS

    def on_failure(self, seconds: float | None = None) -> None:
        """Record a query without a response.

        Args:
            seconds: how long ago it was sent; None: it could not be sent. Counts as a round-trip time, so
                that an upstream which has become slow soon ranks below the others.
        """
        self._change()
        was_dead = self.is_dead
        self.failures += 1
        self.is_dead = self.failures >= MAX_FAILURES
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
        rtt, variation, times = self.rtt, self._variation, self._times
        if rtt is None:
            rtt, variation = seconds, seconds / 2
        else:
            error = seconds - rtt
            rtt += error * _RTT_GAIN
            variation += (abs(error) - variation) * _VARIATION_GAIN
        self.rtt, self._variation = rtt, variation
        timeout = rtt + 4 * variation
        self._timeout = times.shortest if timeout < times.shortest else min(timeout, times.longest)
        self._change()


class Upstreams:
    """A group of upstreams that can answer the same questions.

    Attributes:
        all: the current upstreams.

    Args:
        addresses: in order of preference as long as nothing has been measured.
        probe_seconds: interval between probes of a dead upstream.
        times: limits of the time-out of a query.
    """

    def __init__(
        self,
        addresses: Iterable[UpstreamAddress],
        *,
        probe_seconds: float = PROBE_SECONDS,
        times: UdpTimes = UDP_TIMES,
    ) -> None:
        self.all: Sequence[Upstream] = ()
        self._times = times
        self._probe_seconds = probe_seconds
        self._explore_at = _NEVER
        self._ranking: Sequence[Upstream] | None = None
        self.replace(addresses)

    def replace(self, addresses: Iterable[UpstreamAddress]) -> None:
        """Replace the upstreams; an upstream in both groups keeps its state."""
        current = {upstream.address: upstream for upstream in self.all}
        self.all = [
            current.get(address) or Upstream(address, self._probe_seconds, self._times, self._forget_ranking)
            for address in dict.fromkeys(addresses)
        ]
        self._explore_at = _NEVER
        self._ranking = None

    def _forget_ranking(self) -> None:
        self._ranking = None

    @property
    def recoveries(self) -> int:
        """A number that changes when one of them responds again."""
        return sum(upstream.recoveries for upstream in self.all)

    @property
    def have_failed(self) -> bool:
        """Whether none of them has responded after its last failure."""
        return all(upstream.failures for upstream in self.all)

    def ranked(self) -> Sequence[Upstream]:
        """Return the living upstreams, or all if none is alive, the best first."""
        if self._ranking is None:
            alive = [upstream for upstream in self.all if not upstream.is_dead]
            self._ranking = sorted(alive or self.all, key=_rank)
        return self._ranking

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
