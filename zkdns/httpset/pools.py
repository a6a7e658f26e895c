"""The connection pools of a transport: one for each endpoint and TLS server name.

One for each endpoint, so that its limits do not depend on how many endpoints there are, and one stalled
endpoint cannot take the connections of the others. One for each TLS server name, so that a connection whose
certificate was checked for one name is never used for another.

A pool whose endpoint has left is closed once its last response is; not by a change of the set but by the
next request, in that one's thread or loop, since closing may have to wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """A pool, and how many requests and unfinished responses use it."""

    def __init__(self, transport: T) -> None:
        self.transport = transport
        self.users = 0


class Pools(Generic[T]):
    """The pools there are; safe to use from any thread.

    Args:
        make: makes a pool's transport.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._seen: tuple[str, ...] = ()
        self._pools: dict[tuple[str, str], Pool[T]] = {}
        self._departed: list[Pool[T]] = []

    def enter(self, endpoint: str, server_name: str) -> Pool[T]:
        """Use the pool of an endpoint, until `leave`; `server_name` is empty without TLS."""
        with self._lock:
            pool = self._pools.get((endpoint, server_name))
            if pool is None:
                pool = self._pools[endpoint, server_name] = Pool(self._make())
            pool.users += 1
            return pool

    def leave(self, pool: Pool[T]) -> None:
        """Use it no more."""
        with self._lock:
            pool.users -= 1

    def take_idle(self, endpoints: tuple[str, ...]) -> list[T]:
        """What is to be closed, now that these are the endpoints."""
        if endpoints is self._seen and not self._departed:
            return []
        with self._lock:
            self._seen = endpoints
            present = set(endpoints)
            for key in [key for key in self._pools if key[0] not in present]:
                self._departed.append(self._pools.pop(key))
            idle = [pool.transport for pool in self._departed if not pool.users]
            self._departed = [pool for pool in self._departed if pool.users]
            return idle

    def take_all(self) -> list[T]:
        """Everything, to be closed."""
        with self._lock:
            every = [pool.transport for pool in (*self._pools.values(), *self._departed)]
            self._pools.clear()
            self._departed.clear()
            return every
