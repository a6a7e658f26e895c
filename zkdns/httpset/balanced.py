"""`Balanced`: the common part of the transports of httpx and httpx2 and of the adapter of requests.

It is a file of its own, since each must work without the packages of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from zkdns.balance.round_robin import RoundRobin
from zkdns.errors import NoEndpointsError
from zkdns.httpset.avoided import Avoided
from zkdns.serverset.logs import Log
from zkdns.serverset.watch import EndpointSource

log = Log("zkdns.httpset")

RETRY_AFTER: Final = 5.0  # seconds


class Balanced:
    """A client that distributes requests over a set of endpoints.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
        retry_after: seconds for which an endpoint gets no requests after a failed connection, if there are
            others. 0: it keeps its turn.
        clock: returns the time in seconds, for `retry_after`.

    Raises:
        BadValueError: `retry_after` is out of range.
    """

    def __init__(
        self,
        source: EndpointSource | None,
        *,
        retry_after: float = RETRY_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._balancer = RoundRobin(source)
        self._retry_after = retry_after
        self._avoided = Avoided(retry_after)
        self._clock = clock

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that receive requests: `host:port` each, sorted."""
        return self._balancer.endpoints

    @property
    def event_count(self) -> int | None:
        """How often the endpoints have changed, including the first set. None: the source does not count."""
        return self._balancer.event_count

    @property
    def last_event(self) -> float | None:
        """The time of the last change, in seconds since the epoch. None: no change yet, or not recorded."""
        return self._balancer.last_event

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints, if there is no source.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an invalid endpoint, or the endpoints come from a source. Nothing has changed then.
        """
        self._balancer.set_endpoints(endpoints)

    def rotate(self) -> str:
        """The next endpoint, for a request that this object does not send. It takes its turn.

        Raises:
            NoEndpointsError: the set is empty.
        """
        return self._next_endpoint(())

    def _next_endpoint(self, tried: Collection[str]) -> str:
        """The next endpoint that was not tried yet. Endpoints with a recent failed connection come last.

        Raises:
            NoEndpointsError: the set is empty, or all were tried.
        """
        now = self._clock()
        endpoint = None
        avoided = self._avoided.at(now)
        if avoided:
            try:
                endpoint = self._balancer.pick(without={*tried, *avoided})
            except NoEndpointsError:
                endpoint = None
        endpoint = endpoint or self._balancer.pick(without=tried)
        self._avoided.tried(endpoint, now)
        return endpoint

    def _connection_failed(self, endpoint: str, reason: str) -> None:
        is_first = self._avoided.failed(endpoint, self._clock(), self.endpoints)
        if is_first and self._retry_after:
            log.warning("endpoint_avoided", endpoint=endpoint, reason=reason, seconds=self._retry_after)

    def _responded(self, endpoint: str) -> None:
        if self._avoided.responded(endpoint):
            log.info("endpoint_recovered", endpoint=endpoint)
