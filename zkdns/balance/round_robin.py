"""`RoundRobin`: chooses one endpoint after the other."""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections.abc import Collection

from zkdns.balance.balancer import Balancer, no_endpoints_error
from zkdns.serverset.watch import EndpointSource


class RoundRobin(Balancer):
    """Chooses each endpoint in turn, in sorted order. Thread-safe.

    While a set of n endpoints does not change, n choices in a row return each of them once. After a change
    the rotation continues after the last choice, even if that endpoint has left, so that no remaining
    endpoint is skipped or chosen twice. The first choice is random, so that a thousand processes do not start
    with the same endpoint.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        super().__init__(source)
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._ring: list[str] = []
        self._next = 0
        self._last: str | None = None

    def pick(self, without: Collection[str] = ()) -> str:
        """The next endpoint, `host:port`.

        Args:
            without: endpoints to exclude, for instance those that were tried before.

        Raises:
            NoEndpointsError: there is no endpoint, or all are excluded.
        """
        with self._lock:
            self._follow()
            for _ in self._ring:
                endpoint = self._ring[self._next]
                self._next = (self._next + 1) % len(self._ring)
                if endpoint not in without:
                    self._last = endpoint
                    return endpoint
        raise no_endpoints_error(without)

    def _follow(self) -> None:
        endpoints = self.endpoints
        if endpoints is self._seen:
            return
        self._seen = endpoints
        self._ring = sorted(set(endpoints))
        if not self._ring:
            return
        if self._last is None:
            self._next = random.randrange(len(self._ring))
        else:
            self._next = bisect_right(self._ring, self._last) % len(self._ring)
