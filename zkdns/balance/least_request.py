"""`LeastRequest`: the endpoint with the least to do.

Theory of operation: endpoints stand in levels, one for each number of active requests, and a request moves
its endpoint by one level up when it begins and down when it ends. So the lowest level changes by at most one
at a time too and never has to be searched for: a choice and a release take the same few steps whatever the
number of endpoints. Only a change of the set looks at all of them.

A level is a queue: whoever came to it first is chosen first. Among equals that is a rotation.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator

from zkdns.balance.balancer import Balancer, no_endpoints_error
from zkdns.errors import BadValueError
from zkdns.serverset.watch import EndpointSource


class LeastRequest(Balancer):
    """The endpoint with the least active requests; among equals one after the other. Safe from any thread.

    An endpoint that leaves while it is active is not chosen any more; its requests are counted until they
    are released, and still count should it come back before. The first order is random, so that a thousand
    processes do not start together.

    Args:
        source: a watch, a fixed set, or anything like them; None: `set_endpoints` says what there is.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        super().__init__(source)
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._members: set[str] = set()
        self._active: dict[str, int] = {}  # members, and those that left with requests
        # Members only. Not plain dicts: the first of one is found in constant time only in an OrderedDict.
        self._levels: dict[int, OrderedDict[str, None]] = {}
        self._lowest = 0

    def acquire(self, without: Collection[str] = ()) -> str:
        """Choose an endpoint, `host:port`; it has one more active request until that is released.

        Args:
            without: endpoints that are of no use this time, such as those that were just tried.

        Raises:
            NoEndpointsError: there is none, or none but those.
        """
        with self._lock:
            self._follow()
            for endpoint in self._in_order():
                if endpoint not in without:
                    break
            else:
                raise no_endpoints_error(without)
            self._move(endpoint, 1)
            return endpoint

    def release(self, endpoint: str) -> None:
        """End a request at an endpoint; it may have left since.

        Args:
            endpoint: what `acquire` returned, once for each time.

        Raises:
            BadValueError: it has no active request.
        """
        with self._lock:
            count = self._active.get(endpoint, 0)
            if not count:
                raise BadValueError(
                    f"{endpoint!r} has no active request; release what acquire() returned, once for each"
                )
            if endpoint in self._members:
                self._move(endpoint, -1)
            elif count > 1:
                self._active[endpoint] = count - 1
            else:
                del self._active[endpoint]

    @contextlib.contextmanager
    def request(self, without: Collection[str] = ()) -> Iterator[str]:
        """Choose an endpoint for the time of a `with` block.

        Raises:
            NoEndpointsError: as with `acquire`.
        """
        endpoint = self.acquire(without)
        try:
            yield endpoint
        finally:
            self.release(endpoint)

    def active(self, endpoint: str) -> int:
        """How many requests this endpoint has now; 0 where it is unknown."""
        return self._active.get(endpoint, 0)

    def _in_order(self) -> Iterator[str]:
        """Members by their active requests."""
        yield from self._levels.get(self._lowest, ())
        for level in sorted(self._levels):  # reached only when the lowest level is ruled out
            if level != self._lowest:
                yield from self._levels[level]

    def _move(self, endpoint: str, by: int) -> None:
        count = self._active[endpoint]
        self._leave_level(endpoint, count)
        self._enter_level(endpoint, count + by)
        if by < 0:
            self._lowest = min(self._lowest, count + by)
        elif count == self._lowest and count not in self._levels:
            self._lowest = count + by

    def _enter_level(self, endpoint: str, count: int) -> None:
        self._active[endpoint] = count
        self._levels.setdefault(count, OrderedDict())[endpoint] = None

    def _leave_level(self, endpoint: str, count: int) -> None:
        level = self._levels[count]
        del level[endpoint]
        if not level:
            del self._levels[count]

    def _follow(self) -> None:
        endpoints = self.endpoints
        if endpoints is self._seen:
            return
        self._seen = endpoints
        members = set(endpoints)
        for endpoint in self._members - members:
            self._leave_level(endpoint, self._active[endpoint])
            if not self._active[endpoint]:
                del self._active[endpoint]
        newcomers = sorted(members - self._members)
        random.shuffle(newcomers)
        for endpoint in newcomers:
            self._enter_level(endpoint, self._active.get(endpoint, 0))
        self._members = members
        self._lowest = min(self._levels, default=0)
