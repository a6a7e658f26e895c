"""What balancers share: the endpoints to choose from, followed by looking rather than by being told.

A source replaces its tuple of endpoints when the set changes, so that one comparison of identities at each
choice finds every change. Nothing is subscribed to: a balancer that is dropped leaves nothing behind in the
watch, has no `close`, and no change ever arrives in a thread of somebody else's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zkdns.address import parse_host_port
from zkdns.errors import NoEndpointsError
from zkdns.serverset.watch import EndpointSource


class Balancer:
    """Endpoints of a source as they are now, or those that were set; the base of all balancers.

    The source stays its owner's: nothing here closes it, and when it is closed, its last endpoints are used.

    Args:
        source: a watch, a fixed set, or anything like them; None: `set_endpoints` says what there is.
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
        """Choose from these from now on, whatever the source says, if there was one.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an endpoint that is none; nothing has changed then.
        """
        self._own = tuple(sorted({str(parse_host_port(endpoint)) for endpoint in endpoints}))
        self._source = None


def no_endpoints_error(tried: Collection[str]) -> NoEndpointsError:
    """What to raise where nothing can be chosen, after these were ruled out."""
    if tried:
        return NoEndpointsError(f"no other endpoint is left to choose; tried: {', '.join(tried)}")
    return NoEndpointsError("there is no endpoint to choose: the set is empty")
