"""`Balanced`: the public interface that the httpx2 transports and the requests adapter share.

It is a file of its own, since each of the two must work without the package of the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from zkdns.balance.round_robin import RoundRobin


class Balanced:
    """A client that distributes requests over a set of endpoints."""

    _balancer: RoundRobin

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that receive requests: `host:port` each, sorted."""
        return self._balancer.endpoints

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the source, if there was one, by these endpoints (`host:port` each).

        Raises:
            BadValueError: an invalid endpoint. Nothing has changed then.
        """
        self._balancer.set_endpoints(endpoints)
