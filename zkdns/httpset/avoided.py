"""`Avoided`: the endpoints to which connections have failed lately.

A connection to a machine that is gone fails only after the connect timeout. Without this, each request that
begins at that endpoint would wait for the timeout, until ZooKeeper removes the member.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from zkdns.errors import BadValueError


class Avoided:
    """Endpoints that get no requests for a while after a failed connection.

    After that time, one request tries the endpoint again, and others do so only if it succeeds.

    Args:
        seconds: the time after a failed connection. 0: no endpoint is avoided.

    Raises:
        BadValueError: the time is negative or no number.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise BadValueError(f"retry_after is {seconds!r}; it is 0 s (avoid none) or more")
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def at(self, now: float) -> Collection[str]:
        """The endpoints to avoid at a time."""
        if not self._until:
            return ()
        return {endpoint for endpoint, until in tuple(self._until.items()) if until > now}

    def tried(self, endpoint: str, now: float) -> None:
        """Record that a request uses the endpoint, which may connect to it again."""
        if endpoint in self._until:
            self._until[endpoint] = now + self._seconds

    def failed(self, endpoint: str, now: float, endpoints: Collection[str]) -> bool:
        """Record a failed connection. Returns whether the last one was successful.

        Args:
            endpoint: to which it failed.
            now: the time.
            endpoints: those of the set; others are forgotten.
        """
        was_known = endpoint in self._until
        if self._seconds:
            self._until[endpoint] = now + self._seconds
        for departed in set(self._until).difference(endpoints):
            self._until.pop(departed, None)
        return not was_known

    def responded(self, endpoint: str) -> bool:
        """Record that the endpoint works. Returns whether its last connection had failed."""
        return bool(self._until) and self._until.pop(endpoint, None) is not None
