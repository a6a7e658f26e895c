"""`LeastRequest`: chooses the endpoint with the fewest active requests.

Theory of operation: the load of an endpoint is its number of active requests, divided by its weight. The
endpoints of one weight are in one `Levels`, so a choice compares the first endpoints of a few weights: a
choice and a release take constant time, whatever the number of endpoints. Only a change of the set visits all
of them. Among equal loads, endpoints take turns, and weights in proportion to their sum.

An endpoint that joins a busy set has the least load. It would receive all next requests, until it has as many
as the others: a hundred in a row, all to a process with cold caches. So a newcomer receives its share of the
requests, in proportion to its weight, until it has received as many as the others had when it joined, or has
no less load than they.
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
from collections.abc import Collection, Iterator

from zkdns.balance.balancer import Balancer
from zkdns.balance.levels import Levels
from zkdns.errors import BadValueError
from zkdns.serverset import forking
from zkdns.serverset.watch import EndpointSource

_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it


class LeastRequest(Balancer):
    """Chooses the endpoint with the fewest active requests; equal ones take turns. Thread-safe.

    The number of requests counts in proportion to the endpoint's weight. An endpoint that joins receives its
    share of the requests, not all of them until it has as many as the others. An endpoint that leaves or is
    drained (weight 0) is no longer chosen. Its requests are counted until they are released, even if it
    returns before that. The initial order is random, so that a thousand processes do not all start with the
    same endpoint. A forked child process counts its own requests only.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        super().__init__(source)
        self._of_parent: dict[str, int] = {}  # active requests at the fork of this process
        self._reset()
        forking.add(self)

    def after_fork(self) -> None:
        """Forget the requests of the parent in a forked child."""
        for endpoint, count in self._active.items():
            self._of_parent[endpoint] = self._of_parent.get(endpoint, 0) + count
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._active: dict[str, int] = {}  # including endpoints that left with active requests
        self._weights: dict[str, float] = {}  # of the endpoints that can be chosen
        self._settled = _Weighted()
        self._newcomers = _Weighted()
        self._to_receive: dict[str, int] = {}  # requests until a newcomer is settled
        self._credit = 0.0  # of the newcomers, in units of weight

    def acquire(self, without: Collection[str] = ()) -> str:
        """Choose an endpoint (`host:port`) and count a request for it until `release`.

        Args:
            without: endpoints to exclude, for instance those that were tried before.

        Raises:
            NoEndpointsError: there is no endpoint, or all are excluded.
        """
        endpoint = self._acquire(without, math.inf)
        if endpoint is None:
            raise self.no_endpoints_error(without)
        return endpoint

    def acquire_below(self, limit: float, without: Collection[str] = ()) -> str | None:
        """As `acquire`, among the endpoints with fewer active requests than `limit`.

        Returns None if all that are not excluded have that many.

        Raises:
            NoEndpointsError: there is no endpoint, or all are excluded.
        """
        endpoint = self._acquire(without, limit)
        if endpoint is None and all(one in without for one in self._weights):
            raise self.no_endpoints_error(without)
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
            if not count and self._of_parent.get(endpoint):  # it was acquired before the fork
                self._of_parent[endpoint] -= 1
                return
            if not count:
                raise BadValueError(
                    f"{endpoint!r} has no active request; release each result of acquire() once"
                )
            if endpoint in self._weights:
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

    def _acquire(self, without: Collection[str], limit: float) -> str | None:
        with self._lock:
            self._follow()
            endpoint = self._choose(without, limit)
            if endpoint is not None:
                self._move(endpoint, 1)
                if endpoint in self._to_receive:
                    self._to_receive[endpoint] -= 1
                    if not self._to_receive[endpoint]:
                        self._settle(endpoint)
            return endpoint

    def _choose(self, without: Collection[str], limit: float) -> str | None:
        if not self._to_receive:
            return self._settled.choose(without, limit)
        if self._newcomers.load >= self._settled.load:
            self._settle_all()
            return self._settled.choose(without, limit)
        settled = self._settled.choose(without, limit)
        newcomer = self._newcomers.choose(without, limit)
        if settled is None or newcomer is None:
            return newcomer or settled
        self._credit += self._newcomers.weight
        total = self._newcomers.weight + self._settled.weight
        if self._credit < total:
            return settled
        self._credit -= total
        return newcomer

    def _move(self, endpoint: str, by: int) -> None:
        count = self._active[endpoint]
        group = self._newcomers if endpoint in self._to_receive else self._settled
        group.levels[self._weights[endpoint]].move(endpoint, count, by)
        self._active[endpoint] = count + by

    def _settle_all(self) -> None:
        for endpoint in tuple(self._to_receive):
            self._settle(endpoint)

    def _settle(self, endpoint: str) -> None:
        del self._to_receive[endpoint]
        self._newcomers.remove(endpoint, self._active[endpoint], self._weights[endpoint])
        self._settled.add(endpoint, self._active[endpoint], self._weights[endpoint])

    def _follow(self) -> None:
        endpoints = self.endpoints
        if endpoints is self._seen:
            return
        self._seen = endpoints
        weights = self.usable()
        for endpoint, weight in list(self._weights.items()):
            if weights.get(endpoint) != weight:
                self._leave(endpoint)
                if endpoint in weights:  # its weight has changed
                    self._join(endpoint, weights[endpoint], is_new=False)
        newcomers = sorted(weights.keys() - self._weights.keys())
        _random.shuffle(newcomers)
        is_new = bool(self._settled.weight)
        for endpoint in newcomers:
            self._join(endpoint, weights[endpoint], is_new=is_new)
        if not self._settled.weight:
            self._settle_all()

    def _leave(self, endpoint: str) -> None:
        group = self._settled if self._to_receive.pop(endpoint, None) is None else self._newcomers
        group.remove(endpoint, self._active[endpoint], self._weights.pop(endpoint))
        if not self._active[endpoint]:
            del self._active[endpoint]

    def _join(self, endpoint: str, weight: float, *, is_new: bool) -> None:
        self._weights[endpoint] = weight
        count = self._active.setdefault(endpoint, 0)
        lacking = math.ceil(self._settled.load * weight) - count if is_new else 0
        if lacking > 0:
            if not self._to_receive:  # random, so that a thousand processes do not choose it at the same time
                self._credit = _random.random() * (self._settled.weight + weight)
            self._to_receive[endpoint] = lacking
            self._newcomers.add(endpoint, count, weight)
        else:
            self._settled.add(endpoint, count, weight)


class _Weighted:
    """Endpoints with weights above 0, in `levels` by weight."""

    def __init__(self) -> None:
        self.levels: dict[float, Levels] = {}
        self._sizes: dict[float, int] = {}
        self._credits: dict[float, float] = {}

    @property
    def weight(self) -> float:
        """The sum of the weights. 0 if there is no endpoint."""
        return sum(weight * size for weight, size in self._sizes.items())

    @property
    def load(self) -> float:
        """The least load of any endpoint. Infinite if there is none."""
        return min((levels.lowest / weight for weight, levels in self.levels.items()), default=math.inf)

    def add(self, endpoint: str, count: int, weight: float) -> None:
        """Add an endpoint."""
        self.levels.setdefault(weight, Levels()).add(endpoint, count)
        self._sizes[weight] = self._sizes.get(weight, 0) + 1

    def remove(self, endpoint: str, count: int, weight: float) -> None:
        """Remove an endpoint."""
        self.levels[weight].remove(endpoint, count)
        self._sizes[weight] -= 1
        if not self._sizes[weight]:
            del self.levels[weight], self._sizes[weight]

    def choose(self, without: Collection[str], limit: float) -> str | None:
        """An endpoint with the least load, among those not excluded and below `limit` requests."""
        if len(self.levels) == 1:  # the usual case
            (levels,) = self.levels.values()
            first = levels.first(without)
            return first[0] if first and first[1] < limit else None
        least = math.inf
        found: dict[float, str] = {}  # by weight
        for weight, levels in self.levels.items():
            first = levels.first(without)
            if first is None or first[1] >= limit:
                continue
            load = first[1] / weight
            if load < least:
                least, found = load, {}
            if load == least:
                found[weight] = first[0]
        return self._in_turn(found) if len(found) > 1 else next(iter(found.values()), None)

    def _in_turn(self, found: dict[float, str]) -> str:
        """One of several endpoints with the same load: each weight in proportion to its sum."""
        shares = {weight: weight * self.levels[weight].lowest_size for weight in found}
        earned = {weight: self._credits.get(weight, 0.0) + share for weight, share in shares.items()}
        chosen = max(earned, key=earned.__getitem__)
        earned[chosen] -= sum(shares.values())
        self._credits = earned
        return found[chosen]
