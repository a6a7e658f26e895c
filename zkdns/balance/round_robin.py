"""`RoundRobin`: one endpoint after the other."""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections.abc import Collection

from zkdns.balance.balancer import Balancer, no_endpoints_error
from zkdns.serverset.watch import EndpointSource


class RoundRobin(Balancer):
    """Each endpoint in its turn, in sorted order; safe to use from any thread.

    In a set that does not change, n choices in a row are n different endpoints. When it changes, the turn
    goes on behind the endpoint that was chosen last, even if that one has left: whoever stays is neither
    skipped nor chosen twice. The first turn is random, so that a thousand processes do not start together.

    Args:
        source: a watch, a fixed set, or anything like them; None: `set_endpoints` says what there is.
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
            without: endpoints that are of no use this time, such as those that were just tried.

        Raises:
            NoEndpointsError: there is none, or none but those.
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
