"""What transport and adapter show of the set behind them."""

from __future__ import annotations

from collections.abc import Iterable

from zkdns.balance.round_robin import RoundRobin


class Balanced:
    """Something that goes round a set of endpoints."""

    _balancer: RoundRobin

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where requests go: `host:port` each, sorted."""
        return self._balancer.endpoints

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Send to these from now on (`host:port` each), whatever the source says, if there was one.

        Raises:
            BadValueError: an endpoint that is none; nothing has changed then.
        """
        self._balancer.set_endpoints(endpoints)
