"""The connection pools of a transport: one for each endpoint and TLS server name.

One per endpoint, so that its limits do not depend on the number of endpoints, and a stalled endpoint cannot
use up the connections of the others. One per TLS server name, so that a connection whose certificate was
checked for one name is never used for another.

The pool of a departed endpoint is closed after its last response. The next request does that, in its own
thread or event loop, because closing may block; a change of the set does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """A pool with the number of requests and unfinished responses that use it."""

    def __init__(self, transport: T) -> None:
        self.transport = transport
        self.users = 0


class Pools(Generic[T]):
    """All pools of a transport. Thread-safe.

    Args:
        make: makes the transport of a new pool.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._pools: dict[tuple[str, str], Pool[T]] = {}
        self._departed: list[Pool[T]] = []

    def enter(self, endpoint: str, server_name: str) -> Pool[T]:
        """Use the pool of an endpoint until `leave`. `server_name` is empty without TLS."""
        with self._lock:
            pool = self._pools.get((endpoint, server_name))
            if pool is None:
                pool = Pool(self._make())
                if endpoint in self._seen:
                    self._pools[endpoint, server_name] = pool
                else:  # the endpoint has left since it was picked, or `take_departed` has not seen it yet
                    self._departed.append(pool)
            pool.users += 1
            return pool

    def leave(self, pool: Pool[T]) -> None:
        """End the use of a pool."""
        with self._lock:
            pool.users -= 1

    def take_departed(self, endpoints: tuple[str, ...]) -> Iterator[T]:
        """The transports to close, given the present endpoints.

        They are returned one at a time: if closing one fails or is cancelled, the next request takes the
        rest.
        """
        if endpoints is not self._seen:
            with self._lock:
                self._seen = endpoints
                present = set(endpoints)
                for key in [key for key in self._pools if key[0] not in present]:
                    self._departed.append(self._pools.pop(key))
        while (pool := self._pop_idle()) is not None:
            yield pool.transport

    def take_all(self) -> Iterator[T]:
        """All transports, to close them, one at a time."""
        with self._lock:
            self._departed += self._pools.values()
            self._pools.clear()
        while self._departed:
            yield self._departed.pop().transport

    def _pop_idle(self) -> Pool[T] | None:
        if not self._departed:
            return None
        with self._lock:
            for index, pool in enumerate(self._departed):
                if not pool.users:
                    return self._departed.pop(index)
            return None
