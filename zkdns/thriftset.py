"""Pooled connections to the endpoints of a set, chosen by the fewest active connections.

The caller provides the functions that connect and close. It is made for thrift, but works with any protocol
whose connections carry one call at a time.

    def connect(host, port):
        return thriftpy2.rpc.make_client(geo_thrift.Geo, host, port)

    with ThriftSet(ServerSet(PRODUCTION, "geo", "zk01:2181").watch(), connect) as geo:
        with geo.connection() as client:
            client.locate(...)

Clients of Apache Thrift have no method `close`, so they need one more argument:
`close=lambda client: client._iprot.trans.close()`.

Theory of operation: a request first gets a slot at an endpoint, each of which has `max_active`, and then an
idle connection of that endpoint or a new one. A freed slot goes to the first waiting request that can use it:
a request that failed to connect to an endpoint uses only slots of other endpoints. Connecting and closing may
block, so they happen without the lock.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import methodcaller
from typing import Generic, Self, TypeVar

from zkdns.address import parse_host_port
from zkdns.balance.least_request import LeastRequest
from zkdns.errors import BadValueError, ClosedError, NoEndpointsError, ZkdnsError
from zkdns.serverset.logs import Log
from zkdns.serverset.watch import EndpointSource

__all__ = ["BusyError", "NoConnectionError", "ThriftSet"]

log = Log("zkdns.thriftset")

_C = TypeVar("_C")


class BusyError(ZkdnsError, TimeoutError):
    """No slot became free in time: every endpoint has `max_active` active connections."""


class NoConnectionError(ZkdnsError, ConnectionError):
    """No endpoint accepted a connection. `failures` has the exception of `connect` by endpoint."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        self.failures = dict(failures)
        reasons = ", ".join(f"{endpoint} ({error!r})" for endpoint, error in self.failures.items())
        super().__init__(f"no endpoint could be connected to; tried: {reasons}")


class ThriftSet(Generic[_C]):
    """Pools of connections to the endpoints of a watch, with the defaults of go.serversets' thriftset.

        with geo.connection(timeout=1.0) as client:
            client.locate(...)

    Thread-safe. A connection belongs to one `with` block at a time.

    A connection is closed instead of kept if its block raises any exception, if its endpoint has left since
    it was opened (even if the endpoint has returned), or if the set is closed. Exceptions that leave the
    connection usable, such as those that a thrift service declares, should be caught inside the block.

    Args:
        watch: any `EndpointSource` to follow. The caller closes it. None: only `set_endpoints` provides
            endpoints.
        connect: opens a connection to a host (IPv6 without brackets) and port. If it raises an Exception, the
            attempt has failed. It should have a timeout.
        max_active: the maximum number of connections in use at one endpoint.
        max_idle: the maximum number of idle connections to one endpoint.
        idle_timeout: seconds after which an idle connection is closed instead of used, when its endpoint is
            next chosen. None: no limit.
        close: closes a connection. None: its method `close`.
        clock: returns the time in seconds, for `idle_timeout`.

    Raises:
        BadValueError: a limit out of range.
    """

    def __init__(
        self,
        watch: EndpointSource | None,
        connect: Callable[[str, int], _C],
        *,
        max_active: int = 10,
        max_idle: int = 10,
        idle_timeout: float | None = 300.0,
        close: Callable[[_C], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_active < 1:
            raise BadValueError(f"max_active is {max_active!r}; it is 1 or more")
        if max_idle < 0:
            raise BadValueError(f"max_idle is {max_idle!r}; it is 0 (keep none) or more")
        if idle_timeout is not None and not idle_timeout > 0:
            raise BadValueError(
                f"idle_timeout is {idle_timeout!r}; it is more than 0 s, or None for no limit"
            )
        self._connect = connect
        self._close: Callable[[_C], object] = close or methodcaller("close")
        self._needs_method = close is None
        self._max_active = max_active
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._balance = LeastRequest(watch)
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool[_C]] = {}
        self._queue: deque[_Waiter[_C]] = deque()  # requests without a slot, in order of arrival
        self._to_close: list[_C] = []  # connections to close when the lock is free
        self._is_closed = False
        self._unsubscribe = watch.subscribe(self._follow) if watch is not None else None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted and without duplicates; IPv6 in brackets."""
        return self._balance.endpoints

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @property
    def waiting_count(self) -> int:
        """The number of requests that wait for a slot."""
        return len(self._queue)

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the watch, if there was one, by these endpoints.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an invalid endpoint. Nothing has changed then.
        """
        self._balance.set_endpoints(endpoints)
        self._follow()

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[_C]:
        """A connection to the endpoint with the fewest active ones, for a `with` block.

        While every endpoint has `max_active` connections this waits, first come, first served. If a
        connection cannot be opened, the next endpoint is tried, each at most once, after waiting for a slot
        there.

        The server may have closed a connection while it was idle, which shows only at its first use.

        Args:
            timeout: seconds to wait for a slot, not counting the time to connect. None: no limit.

        Raises:
            NoEndpointsError: the set is empty.
            NoConnectionError: no endpoint accepted a connection.
            BusyError: there was no slot within `timeout`.
            ClosedError: the set is closed, or was closed during the wait.
            BadValueError: the connection has no method `close`, and no function to close it was given.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pool, connection = self._open(deadline)
        try:
            self._close_marked()
            yield connection
        except BaseException:
            self._finish(pool, broken=[connection])
            raise
        self._finish(pool, idle=[connection])

    def close(self) -> None:
        """Close idle connections now, and those in use when their blocks end. Closing twice is allowed."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        with self._lock:
            self._is_closed = True
            self._drop(list(self._pools))
            for waiter in self._queue:
                waiter.woken.notify()
        self._close_marked()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self) -> None:
        """Handle a change of the endpoints, in the thread of the source."""
        with self._lock:
            self._drop(self._pools.keys() - set(self.endpoints))
            self._assign_slots()
        self._close_marked()

    # -- slots and connections -----------------------------------------------------------------------------

    def _open(self, deadline: float | None) -> tuple[_Pool[_C], _C]:
        failures: dict[str, Exception] = {}
        while True:
            with self._lock:
                pool = self._take_slot(failures, deadline)
                self._expire(pool)
                if pool.idle:
                    return pool, pool.idle.pop()[
                        0
                    ]  # the one used last, so that the others reach their timeout
            try:
                connection = self._connect(pool.host, pool.port)
            except BaseException as error:
                self._finish(pool)
                if not isinstance(error, Exception):
                    raise
                failures[pool.endpoint] = error
            else:
                if self._needs_method and not callable(getattr(connection, "close", None)):
                    self._finish(pool)
                    raise BadValueError(
                        f"connect made a {type(connection).__name__}, which has no method close(); "
                        "pass a function that closes it as close="
                    )
                return pool, connection

    def _take_slot(self, failures: Mapping[str, Exception], deadline: float | None) -> _Pool[_C]:
        """Wait for a slot and take it. The caller holds the lock."""
        waiter: _Waiter[_C] = _Waiter(self._lock, failures)
        self._queue.append(waiter)
        try:
            return self._wait(waiter, deadline)
        except BaseException:
            if waiter.pool is None:
                self._queue.remove(waiter)
            else:  # the slot was assigned while this was interrupted or the set was closed
                self._balance.release(waiter.pool.endpoint)
                self._assign_slots()
            raise

    def _wait(self, waiter: _Waiter[_C], deadline: float | None) -> _Pool[_C]:
        while True:
            if self._is_closed:
                raise ClosedError("the set of connections is closed")
            self._assign_slots()
            if waiter.pool is not None:
                return waiter.pool
            if waiter.error is not None:
                raise waiter.error
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise BusyError(self._busy_message(waiter.failures))
            waiter.woken.wait(left)

    def _choose(self, failures: Mapping[str, Exception]) -> _Pool[_C] | None:
        """Take a slot at the endpoint with the fewest active connections. None: all slots are taken."""
        try:
            endpoint = self._balance.acquire(failures)
        except NoEndpointsError:
            if failures:
                raise NoConnectionError(failures) from list(failures.values())[-1]
            raise
        if self._balance.active(endpoint) > self._max_active:
            self._balance.release(endpoint)
            return None
        if endpoint not in self._pools:
            self._pools[endpoint] = _Pool(endpoint)
        return self._pools[endpoint]

    def _busy_message(self, failures: Mapping[str, Exception]) -> str:
        text = f"no slot became free in time: all endpoints have {self._max_active} active connections"
        return (
            f"{text}, except those that cannot be connected to: {', '.join(failures)}" if failures else text
        )

    def _finish(self, pool: _Pool[_C], *, idle: Iterable[_C] = (), broken: Iterable[_C] = ()) -> None:
        """Free a slot, and keep or close its connection."""
        with self._lock:
            self._balance.release(pool.endpoint)
            self._to_close += broken
            if pool.has_left:
                self._to_close += idle
            else:
                now = self._clock()
                pool.idle += ((connection, now) for connection in idle)
                self._expire(pool)
            self._assign_slots()
        self._close_marked()

    # -- with the lock held --------------------------------------------------------------------------------

    def _assign_slots(self) -> None:
        """Give free slots to waiting requests, in order of arrival."""
        for waiter in tuple(self._queue):
            waiter.error = None
            try:
                waiter.pool = self._choose(waiter.failures)
            except (NoEndpointsError, NoConnectionError) as error:
                waiter.error = error
            if waiter.pool is not None:
                self._queue.remove(waiter)
            elif waiter.error is None:
                if waiter.failures:
                    continue  # later requests may use a slot that this one cannot use
                return
            waiter.woken.notify()

    def _expire(self, pool: _Pool[_C]) -> None:
        """Mark the idle connections that are too old or exceed `max_idle` for closing."""
        oldest = None if self._idle_timeout is None else self._clock() - self._idle_timeout
        while pool.idle and (
            len(pool.idle) > self._max_idle or (oldest is not None and pool.idle[0][1] <= oldest)
        ):
            self._to_close.append(pool.idle.popleft()[0])

    def _drop(self, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            pool = self._pools.pop(endpoint)
            pool.has_left = True
            self._to_close += (connection for connection, _ in pool.idle)
            pool.idle.clear()

    # -- without the lock ----------------------------------------------------------------------------------

    def _close_marked(self) -> None:
        """Close the connections that are marked for closing."""
        if not self._to_close:
            return
        with self._lock:
            connections, self._to_close = self._to_close, []
        for connection in connections:
            try:
                self._close(connection)
            except Exception as error:  # noqa: BLE001 - the connection is given up anyway
                log.warning("connection_close_failed", reason=repr(error))


class _Waiter(Generic[_C]):
    """A request that waits for a slot. `failures` has the endpoints to which it failed to connect."""

    def __init__(self, lock: threading.Lock, failures: Mapping[str, Exception]) -> None:
        self.failures = failures
        self.woken = threading.Condition(lock)
        self.pool: _Pool[_C] | None = None  # the pool with its slot; the waiter has left the queue then
        self.error: ZkdnsError | None = None


class _Pool(Generic[_C]):
    """The idle connections of one endpoint with the time of their last use, the most recent last."""

    def __init__(self, endpoint: str) -> None:
        address = parse_host_port(endpoint)
        self.endpoint = endpoint
        self.host = address.host
        self.port = address.port
        self.idle: deque[tuple[_C, float]] = deque()
        self.has_left = False
