"""`RoundRobin`: chooses one endpoint after the other.

Theory of operation: endpoints of equal weight are a sorted list with the place of the next one. With
different weights, each endpoint has a time at which it is due, and the next one is that with the earliest
time, which is due again after a time of 1/weight (stride scheduling). So the choices of an endpoint are
evenly spread, and a choice takes logarithmic time.
"""

from __future__ import annotations

import heapq
import random
import threading
from bisect import bisect_right
from collections.abc import Collection

from zkdns.balance.balancer import Balancer
from zkdns.serverset import forking
from zkdns.serverset.watch import EndpointSource

_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it


class RoundRobin(Balancer):
    """Chooses each endpoint in turn. Thread-safe.

    While a set of n endpoints of equal weight does not change, n choices in a row return each of them once,
    in sorted order. After a change the rotation continues after the last choice, even if that endpoint has
    left, so that no remaining endpoint is skipped or chosen twice. With different weights, an endpoint is
    chosen in proportion to its weight. The first choice is random, so that a thousand processes do not start
    with the same endpoint; so is the first choice of a forked child process.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        super().__init__(source)
        self._reset()
        forking.add(self)

    def after_fork(self) -> None:
        """Start at a random endpoint in a forked child."""
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._ring: list[str] = []  # all endpoints, if their weights are equal
        self._next = 0
        self._last: str | None = None
        self._weights: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []  # a heap of all endpoints, if their weights differ
        self._now = 0.0  # the time at which the last choice was due

    def pick(self, without: Collection[str] = ()) -> str:
        """The next endpoint, `host:port`.

        Args:
            without: endpoints to exclude, for instance those that were tried before.

        Raises:
            NoEndpointsError: there is no endpoint, or all are excluded.
        """
        with self._lock:
            self._follow()
            endpoint = self._next_due(without) if self._due else self._next_in_ring(without)
            if endpoint is not None:
                self._last = endpoint
                return endpoint
        raise self.no_endpoints_error(without)

    def _next_in_ring(self, without: Collection[str]) -> str | None:
        for _ in self._ring:
            endpoint = self._ring[self._next]
            self._next = (self._next + 1) % len(self._ring)
            if endpoint not in without:
                return endpoint
        return None

    def _next_due(self, without: Collection[str]) -> str | None:
        excluded = []
        while self._due and self._due[0][1] in without:
            excluded.append(heapq.heappop(self._due))
        found = None
        if self._due:
            due, found = self._due[0]
            # An endpoint that was excluded for a while is not chosen more often afterwards.
            self._now = max(self._now, due)
            heapq.heapreplace(self._due, (self._now + 1 / self._weights[found], found))
        for entry in excluded:
            heapq.heappush(self._due, entry)
        return found

    def _follow(self) -> None:
        endpoints = self.endpoints
        if endpoints is self._seen:
            return
        self._seen = endpoints
        before, self._weights = self._weights, self.usable()
        if len(set(self._weights.values())) > 1:
            due = {
                endpoint: time
                for time, endpoint in self._due
                if before[endpoint] == self._weights.get(endpoint)
            }
            self._ring = []
            self._due = [
                (due.get(endpoint, self._now + _random.random() / weight), endpoint)
                for endpoint, weight in self._weights.items()
            ]
            heapq.heapify(self._due)
            return
        self._due = []
        self._ring = sorted(self._weights)
        if not self._ring:
            return
        if self._last is None:
            self._next = _random.randrange(len(self._ring))
        else:
            self._next = bisect_right(self._ring, self._last) % len(self._ring)
