"""The base of the balancers: the endpoints to choose from, read from the source at each choice.

A source replaces its tuple of endpoints when the set changes, so one identity comparison per choice detects
every change. A balancer therefore needs no subscription to the watch, no `close`, and never runs in another
thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zkdns.address import parse_host_port
from zkdns.errors import NoEndpointsError
from zkdns.serverset.watch import EndpointSource


class Balancer:
    """The base of all balancers: the endpoints of a source, or those given to `set_endpoints`.

    The balancer never closes its source. After the source is closed, its last endpoints stay in use.

    Args:
        source: a watch, a fixed set, or any `EndpointSource`. None: only `set_endpoints` provides endpoints.
    """

    def __init__(self, source: EndpointSource | None = None) -> None:
        self._source = source
        self._own: tuple[str, ...] = ()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted, each once; IPv6 in brackets."""
        source = self._source
        return self._own if source is None else source.endpoints

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the source, if there was one, by these endpoints.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an invalid endpoint. Nothing has changed then.
        """
        self._own = tuple(sorted({str(parse_host_port(endpoint)) for endpoint in endpoints}))
        self._source = None


def no_endpoints_error(tried: Collection[str]) -> NoEndpointsError:
    """Make the exception for a choice without an endpoint. `tried` are the excluded endpoints."""
    if tried:
        return NoEndpointsError(f"no other endpoint is left to choose; tried: {', '.join(tried)}")
    return NoEndpointsError("there is no endpoint to choose: the set is empty")
