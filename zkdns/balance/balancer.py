"""The base of the balancers: the endpoints to choose from, read from the source at each choice.

A source replaces its tuple of endpoints when the set changes, so one identity comparison per choice detects
every change. A balancer therefore needs no subscription to the watch, no `close`, and never runs in another
thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zkdns.errors import BadValueError, NoEndpointsError
from zkdns.fixedset import FixedSet
from zkdns.serverset.member import Member
from zkdns.serverset.watch import EndpointSource, endpoint_text


class Balancer:
    """The base of all balancers: the endpoints of a source, or those given to `set_endpoints`.

    The balancer never closes its source. After the source is closed, its last endpoints stay in use.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        self._own: FixedSet | None = None  # the endpoints of `set_endpoints`
        if source is None:
            source = self._own = FixedSet()
        self._source: EndpointSource = source

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted, each once; IPv6 in brackets."""
        return self._source.endpoints

    @property
    def members(self) -> tuple[Member, ...] | None:
        """The members of the set, if the source has them, as a `Watch` does."""
        return getattr(self._source, "members", None)

    @property
    def event_count(self) -> int | None:
        """How often the endpoints have changed, including the first set. None: the source does not count."""
        return getattr(self._source, "event_count", None)

    @property
    def last_event(self) -> float | None:
        """The time of the last change, in seconds since the epoch. None: no change yet, or not recorded."""
        return getattr(self._source, "last_event", None)

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints of a balancer without a source.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an invalid endpoint, or the endpoints come from a source. Nothing has changed then.
        """
        if self._own is None:
            raise BadValueError(
                "the endpoints come from a watch or another source, so they cannot be set; "
                "use a balancer without a source, or replace the endpoints of the source"
            )
        self._own.set_endpoints(endpoints)

    def usable(self) -> dict[str, float]:
        """The weight of each endpoint that can be chosen, which is above 0.

        A weight below 0 drops a member. A weight of 0 drains it: it is chosen only if there is no other. An
        endpoint of several members has the greatest of their weights. Without members, all weights are 1.
        """
        endpoints = self.endpoints  # before the members, which the source replaces first
        found: dict[str, float] = {}
        for member in self.members or ():
            endpoint = endpoint_text(member)
            found[endpoint] = max(member.weight, found.get(endpoint, member.weight))
        weights = {endpoint: found.get(endpoint, 1.0) for endpoint in endpoints}
        positive = {endpoint: weight for endpoint, weight in weights.items() if weight > 0}
        return positive or {endpoint: 1.0 for endpoint, weight in weights.items() if weight == 0}

    def no_endpoints_error(self, tried: Collection[str]) -> NoEndpointsError:
        """Make the exception for a choice without an endpoint. `tried` are the excluded endpoints."""
        if not tried and self.endpoints:
            return NoEndpointsError("there is no endpoint to choose: all have weights below 0")
        return no_endpoints_error(tried)


def no_endpoints_error(tried: Collection[str]) -> NoEndpointsError:
    """Make the exception for a choice without an endpoint. `tried` are the excluded endpoints."""
    if tried:
        return NoEndpointsError(f"no other endpoint is left to choose; tried: {', '.join(tried)}")
    return NoEndpointsError("there is no endpoint to choose: the set is empty")
