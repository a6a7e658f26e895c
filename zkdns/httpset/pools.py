"""The connection pools of a transport: one for each endpoint and TLS server name.

One for each endpoint, so that its limits do not depend on how many endpoints there are, and one stalled
endpoint cannot take the connections of the others. One for each TLS server name, so that a connection whose
certificate was checked for one name is never used for another.

A pool whose endpoint has left is closed once its last response is; not by a change of the set but by the
next request, in that one's thread or loop, since closing may have to wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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
                pool = Pool(self._make())
                if endpoint in self._seen:
                    self._pools[endpoint, server_name] = pool
                else:  # it has left since it was picked, or is so new that nobody has told yet
                    self._departed.append(pool)
            pool.users += 1
            return pool

    def leave(self, pool: Pool[T]) -> None:
        """Use it no more."""
        with self._lock:
            pool.users -= 1

    def take_departed(self, endpoints: tuple[str, ...]) -> Iterator[T]:
        """What is to be closed, now that these are the endpoints.

        One at a time: what is not asked for, since closing the one before it failed or was cancelled, stays
        to be taken by the next request.
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
        """Everything, to be closed, one at a time."""
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
