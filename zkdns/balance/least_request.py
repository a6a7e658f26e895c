"""`LeastRequest`: chooses the endpoint with the fewest active requests.

Theory of operation: the endpoints are grouped by their number of active requests; each number is a level. A
request moves its endpoint one level up when it starts and one down when it ends. So the lowest level that has
endpoints changes by at most one, and is known without a search: a choice and a release take constant time,
whatever the number of endpoints. Only a change of the set visits all of them.

Each level is a queue, so that endpoints with the same number of requests take turns.
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
    """Chooses the endpoint with the fewest active requests; equal ones take turns. Thread-safe.

    An endpoint that leaves with active requests is no longer chosen. Its requests are counted until they are
    released, even if it returns before that. The initial order is random, so that a thousand processes do not
    all start with the same endpoint.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        super().__init__(source)
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._members: set[str] = set()
        self._active: dict[str, int] = {}  # including endpoints that left with active requests
        # Members only. An OrderedDict finds its first key in constant time; a plain dict does not.
        self._levels: dict[int, OrderedDict[str, None]] = {}
        self._lowest = 0

    def acquire(self, without: Collection[str] = ()) -> str:
        """Choose an endpoint (`host:port`) and count a request for it until `release`.

        Args:
            without: endpoints to exclude, for instance those that were tried before.

        Raises:
            NoEndpointsError: there is no endpoint, or all are excluded.
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
        """End a request. The endpoint may have left the set in the meantime.

        Args:
            endpoint: a result of `acquire`. Each result is released once.

        Raises:
            BadValueError: the endpoint has no active request.
        """
        with self._lock:
            count = self._active.get(endpoint, 0)
            if not count:
                raise BadValueError(
                    f"{endpoint!r} has no active request; release each result of acquire() once"
                )
            if endpoint in self._members:
                self._move(endpoint, -1)
            elif count > 1:
                self._active[endpoint] = count - 1
            else:
                del self._active[endpoint]

    @contextlib.contextmanager
    def request(self, without: Collection[str] = ()) -> Iterator[str]:
        """Choose an endpoint for a `with` block.

        Raises:
            NoEndpointsError: as in `acquire`.
        """
        endpoint = self.acquire(without)
        try:
            yield endpoint
        finally:
            self.release(endpoint)

    def active(self, endpoint: str) -> int:
        """The number of active requests of an endpoint. 0 if it is unknown."""
        return self._active.get(endpoint, 0)

    def _in_order(self) -> Iterator[str]:
        """The members in order of their active requests."""
        yield from self._levels.get(self._lowest, ())
        for level in sorted(self._levels):  # reached only if the whole lowest level is excluded
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
