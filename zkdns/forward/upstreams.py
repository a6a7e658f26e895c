"""Upstreams: how far away each is, whether it lives, and which one a question goes to first.

    not known ──▶ alive ──▶ dead      `MOST_FAILURES` times in a row without an answer
                    ▲         │
                    └─────────┘       any answer, to a question or to a probe

No clock in here: who calls says what time it is, in seconds of one that only goes forwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from zkdns.address import UpstreamAddress

LEAST_TIMEOUT: Final = 0.3
MOST_TIMEOUT: Final = 0.8
_FIRST_TIMEOUT = 0.4  # of an upstream that has not answered yet; a late answer counts all the same

MOST_FAILURES: Final = 3
"""So many times in a row may a living upstream leave a question unanswered."""
MOST_REFUSALS: Final = 3
"""After so many errors in a row an upstream is asked after those that answer."""

PROBE_SECONDS: Final = 3.0
"""Between probes of a dead upstream. The first goes out at once: it may just have been unlucky."""
EXPLORE_SECONDS: Final = 10.0
"""So old may the measure of an upstream become that is not asked because others are nearer."""
PLAIN_SECONDS: Final = 3600.0
"""So long an upstream is asked without EDNS that did not know it; it may have been replaced by then."""

# RFC 6298 §2: how fast the measures follow.
_RTT_GAIN = 1 / 8
_VARIATION_GAIN = 1 / 4

_NEVER = float("-inf")


class Upstream:
    """One upstream, and what is known of it.

    Attributes:
        address: where it is.
        rtt: smoothed seconds from a query to its answer; None: not measured since it came to life.
        refusals: errors in a row that it gave to questions.
        asked_at: when a query was last sent to it.
        sent: queries so far.
        answered: queries to which an answer came.
        timed_out: queries whose answer did not come in time (it may have come later).
        bad: messages that were no answer to what was asked: forged ones, or garbage.
    """

    def __init__(self, address: UpstreamAddress) -> None:
        self.address = address
        self.rtt: float | None = None
        self.refusals = 0
        self.asked_at = _NEVER
        self.sent = self.answered = self.timed_out = self.bad = 0
        self._variation = 0.0
        self._failures = 0
        self._probe_at = _NEVER
        self._plain_until = _NEVER

    @property
    def is_dead(self) -> bool:
        """Whether it has left too many questions in a row unanswered."""
        return self._failures >= MOST_FAILURES

    @property
    def timeout(self) -> float:
        """So many seconds are waited for it before another one is asked."""
        if self.rtt is None:
            return _FIRST_TIMEOUT
        return min(max(self.rtt + 4 * self._variation, LEAST_TIMEOUT), MOST_TIMEOUT)

    def has_edns(self, now: float) -> bool:
        """Whether it is asked with EDNS."""
        return now >= self._plain_until

    def plain(self, now: float) -> None:
        """It answers what is asked without EDNS, and only that."""
        self._plain_until = now + PLAIN_SECONDS

    def lives(self, seconds: float | None = None) -> None:
        """An answer came, whatever it says, after so many seconds (None: they say not how far it is)."""
        self._failures = 0
        if seconds is not None:
            self._measure(seconds)

    def fails(self, seconds: float | None = None) -> None:
        """No answer came; or none yet, after so many seconds.

        Those count as if it had come then, so that who has become slow is soon asked after others.
        """
        was_dead = self.is_dead
        self._failures += 1
        if self.is_dead:
            self.rtt = None
            if not was_dead:
                self._probe_at = _NEVER
        elif seconds is not None:
            self._measure(seconds)

    def is_to_be_probed(self, now: float) -> bool:
        """Whether it is dead, and the last probe was long enough ago; if so, that is one."""
        if not self.is_dead or now < self._probe_at:
            return False
        self._probe_at = now + PROBE_SECONDS
        return True

    def _measure(self, seconds: float) -> None:
        if self.rtt is None:
            self.rtt, self._variation = seconds, seconds / 2
            return
        self._variation += (abs(seconds - self.rtt) - self._variation) * _VARIATION_GAIN
        self.rtt += (seconds - self.rtt) * _RTT_GAIN


class Upstreams:
    """A group of upstreams that know the same.

    Attributes:
        all: those that there are now.
        bad: messages that were no answer to what was asked, of all that ever were in the group.

    Args:
        addresses: the first is asked first, as long as nothing is known of any.
    """

    def __init__(self, addresses: Iterable[UpstreamAddress]) -> None:
        self.all: Sequence[Upstream] = ()
        self.bad = 0
        self._explore_at = _NEVER
        self.change(addresses)

    def change(self, addresses: Iterable[UpstreamAddress]) -> None:
        """Let these be the upstreams; of those that stay everything is still known."""
        known = {upstream.address: upstream for upstream in self.all}
        self.all = [known.get(address) or Upstream(address) for address in dict.fromkeys(addresses)]
        self._explore_at = _NEVER

    def ranked(self) -> Sequence[Upstream]:
        """Those to be asked, the best first: the living ones, or all where none lives."""
        if len(self.all) == 1:
            return self.all
        alive = [upstream for upstream in self.all if not upstream.is_dead]
        return sorted(alive or self.all, key=_rank)

    def to_explore(self, first: Upstream, now: float) -> Upstream | None:
        """An upstream of which too little is known, to be asked what `first` is asked, and for that alone.

        With the same questions all are measured alike; and since nobody waits for the answer, it does no harm
        if that one is slow.
        """
        if now < self._explore_at:
            return None
        others = [upstream for upstream in self.all if upstream is not first and not upstream.is_dead]
        stalest = min(others, key=_asked_at, default=None)
        if stalest is None or now < stalest.asked_at + EXPLORE_SECONDS:
            self._explore_at = now + 1.0 if stalest is None else stalest.asked_at + EXPLORE_SECONDS
            return None
        return stalest


def _rank(upstream: Upstream) -> tuple[bool, float]:
    rtt = float("inf") if upstream.rtt is None else upstream.rtt
    return upstream.refusals >= MOST_REFUSALS, rtt


def _asked_at(upstream: Upstream) -> float:
    return upstream.asked_at
