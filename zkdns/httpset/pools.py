"""The connection pools of a transport: one for each endpoint and TLS server name.

Endpoints have separate pools, so that the limits of one do not depend on their number, and a stalled endpoint
cannot use up the connections of the others. TLS server names have separate pools, so that a connection with a
certificate for one name is never used for another.

The pool of a departed endpoint is closed after its last response. The next request closes it, in its own
thread or event loop. A change of the set does not, since closing may block the thread of the source.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, TypeVar

from zkdns.serverset import forking

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
        close: closes a transport in a forked child without an effect on the parent. None: this is not known
            to be possible.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], object] | None = None) -> None:
        self._make = make
        self._close = close
        self._reset()
        forking.add(self)

    def after_fork(self) -> None:
        """Drop the pools of the parent in a forked child."""
        for pool in [*self._pools.values(), *self._departed]:
            forking.drop(pool, partial(self._close, pool.transport) if self._close is not None else None)
        self._reset()

    def _reset(self) -> None:
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
                else:  # the endpoint has left since it was picked, or is newer than the last `take_departed`
                    self._departed.append(pool)
            pool.users += 1
            return pool

    def leave(self, pool: Pool[T]) -> None:
        """End the use of a pool."""
        with self._lock:
            pool.users -= 1

    def take_departed(self, endpoints: tuple[str, ...]) -> Iterator[T]:
        """The transports to close, because their endpoints are not among the present ones.

        They are removed and returned one at a time. If closing one fails or is cancelled, the rest stays for
        the next call.
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
