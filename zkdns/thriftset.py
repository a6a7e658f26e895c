"""Pooled connections to the endpoints of a set, chosen by the fewest active connections.

The caller provides the functions that connect and close. It is made for thrift, but works with any protocol
whose connections carry one call at a time.

    def connect(host, port):
        return thriftpy2.rpc.make_client(geo_thrift.Geo, host, port)

    with ThriftSet(ServerSet(PRODUCTION, "geo", "zk01:2181").watch(), connect) as geo:
        with geo.connection() as client:  # or geo.take() and geo.give_back(client)
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
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import methodcaller
from typing import Generic, Literal, Self, TypeAlias, TypeVar

from zkdns.address import parse_host_port
from zkdns.balance.least_request import LeastRequest
from zkdns.errors import BadValueError, ClosedError, NoEndpointsError, ZkdnsError
from zkdns.serverset import forking
from zkdns.serverset.logs import Log
from zkdns.serverset.watch import EndpointSource

__all__ = ["BusyError", "Event", "NoConnectionError", "ThriftSet"]

log = Log("zkdns.thriftset")

_C = TypeVar("_C")

Event: TypeAlias = Literal["requested", "created", "create_failed", "released", "closed"]
"""What a function `on_event` is called for, as the counters of go.serversets' thriftset.

`requested`: a connection is taken (the endpoint is not known yet, so it is empty). `created` and
`create_failed`: a connection was opened, or could not be. `released`: it was given back in order. `closed`:
it was closed, in use or idle.
"""


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

    A connection is closed instead of kept if its block raises any exception, if its endpoint has left or was
    drained since it was opened (even if the endpoint has returned), or if the set is closed. Exceptions that
    leave the connection usable, such as those that a thrift service declares, should be caught inside the
    block.

    `max_active`, `max_idle` and `idle_timeout` can be changed at any time.

    A forked child process opens connections of its own. It drops those of its parent without a call of
    `close`, also when they are given back there.

    Args:
        watch: any `EndpointSource` to follow. The caller closes it. None: only `set_endpoints` provides
            endpoints.
        connect: opens a connection to a host (IPv6 without brackets) and port. If it raises an Exception, the
            attempt has failed. It should have a timeout.
        max_active: the maximum number of connections in use at one endpoint. 0: no limit.
        max_idle: the maximum number of idle connections to one endpoint. 0: no limit.
        idle_timeout: seconds after which an idle connection is closed instead of used, when its endpoint is
            next chosen. 0 or None: no limit.
        close: closes a connection. None: its method `close`.
        is_usable: whether an idle connection can be used again. It is called before each use, and a
            connection for which it returns a false value or raises an Exception is closed. None: all can, so
            that a connection that the server has closed fails at its first use.
        on_event: called with each `Event` and the endpoint, in the thread that causes it. It should be quick.
            Its exceptions are logged.
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
        is_usable: Callable[[_C], object] | None = None,
        on_event: Callable[[Event, str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_active = _checked_limit("max_active", max_active)
        self._max_idle = _checked_limit("max_idle", max_idle)
        self._idle_timeout = _checked_timeout(idle_timeout)
        self._connect = connect
        self._close: Callable[[_C], object] = close or methodcaller("close")
        self._needs_method = close is None
        self._is_usable = is_usable
        self._on_event = on_event
        self._clock = clock
        self._balance = LeastRequest(watch)
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool[_C]] = {}
        self._in_use: dict[int, tuple[_C, _Pool[_C]]] = {}  # by the identity of the connection
        self._queue: deque[_Waiter[_C]] = deque()  # requests without a slot, in order of arrival
        self._to_close: list[tuple[_C, str]] = []  # to close when the lock is free, with their endpoints
        self._is_closed = False
        self._in_use_by_parent: set[int] = set()  # at the fork of this process; identities
        forking.add(self)
        self._unsubscribe = watch.subscribe(self._follow) if watch is not None else None

    @property
    def max_active(self) -> int:
        """The maximum number of connections in use at one endpoint. 0: no limit."""
        return self._max_active

    @max_active.setter
    def max_active(self, limit: int) -> None:
        self._max_active = _checked_limit("max_active", limit)
        self._apply()

    @property
    def max_idle(self) -> int:
        """The maximum number of idle connections to one endpoint. 0: no limit."""
        return self._max_idle

    @max_idle.setter
    def max_idle(self, limit: int) -> None:
        self._max_idle = _checked_limit("max_idle", limit)
        self._apply()

    @property
    def idle_timeout(self) -> float | None:
        """Seconds after which an idle connection is not used again. 0 or None: no limit."""
        return self._idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, seconds: float | None) -> None:
        self._idle_timeout = _checked_timeout(seconds)
        self._apply()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted and without duplicates; IPv6 in brackets."""
        return self._balance.endpoints

    @property
    def event_count(self) -> int | None:
        """How often the endpoints have changed, including the first set. None: the source does not count."""
        return self._balance.event_count

    @property
    def last_event(self) -> float | None:
        """The time of the last change, in seconds since the epoch. None: no change yet, or not recorded."""
        return self._balance.last_event

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @property
    def waiting_count(self) -> int:
        """The number of requests that wait for a slot."""
        return len(self._queue)

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Replace the endpoints, if there is no watch.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an invalid endpoint, or the endpoints come from a watch. Nothing has changed then.
            ClosedError: the set is closed.
        """
        if self._is_closed:
            raise ClosedError("the set of connections is closed; its endpoints cannot be replaced")
        self._balance.set_endpoints(endpoints)
        self._follow()

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[_C]:
        """A connection to the endpoint with the fewest active ones, for a `with` block.

        The arguments and exceptions are those of `take`.
        """
        connection = self.take(timeout)
        try:
            yield connection
        except BaseException:
            self.give_back(connection, is_broken=True)
            raise
        self.give_back(connection)

    def take(self, timeout: float | None = None) -> _C:
        """Take a connection to the endpoint with the fewest active ones, until `give_back`.

        While every endpoint has `max_active` connections this waits, first come, first served. If a
        connection cannot be opened, the next endpoint is tried, each at most once, after waiting for a slot
        there.

        Args:
            timeout: seconds to wait for a slot, not counting the time to connect. None: no limit.

        Raises:
            NoEndpointsError: the set is empty.
            NoConnectionError: no endpoint accepted a connection.
            BusyError: there was no slot within `timeout`.
            ClosedError: the set is closed, or was closed during the wait.
            BadValueError: the connection has no method `close`, and no function to close it was given; or
                `connect` returned a connection that is in use.
        """
        self._report("requested", "")
        deadline = None if timeout is None else time.monotonic() + timeout
        connection = self._open(deadline)
        try:
            self._close_marked()
        except BaseException:
            self.give_back(connection, is_broken=True)
            raise
        return connection

    def give_back(self, connection: _C, *, is_broken: bool = False) -> None:
        """Give back a connection.

        Args:
            connection: a result of `take`. Each result is given back once.
            is_broken: whether to close it. Pass True after any exception that may have left a part of a
                request or response on it.

        Raises:
            BadValueError: the connection is not in use.
        """
        with self._lock:
            if id(connection) in self._in_use_by_parent and id(connection) not in self._in_use:
                self._in_use_by_parent.remove(id(connection))
                return
            _, pool = self._in_use_entry(connection)
            del self._in_use[id(connection)]
        if is_broken:
            self._finish(pool, broken=[connection])
        else:
            self._report("released", pool.endpoint)
            self._finish(pool, idle=[connection])

    def endpoint_of(self, connection: _C) -> str:
        """The endpoint (`host:port`) of a connection that is in use.

        Raises:
            BadValueError: the connection is not in use.
        """
        with self._lock:
            return self._in_use_entry(connection)[1].endpoint

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

    def after_fork(self) -> None:
        """Drop all connections in a forked child. `zkdns.serverset.forking` calls it there."""
        self._lock = threading.Lock()
        self._in_use_by_parent |= self._in_use.keys()
        forking.drop((self._to_close, list(self._in_use.values())))
        for pool in self._pools.values():
            pool.has_left = True
            forking.drop(pool.idle)
            pool.idle = deque()
        self._pools, self._in_use, self._to_close = {}, {}, []
        self._queue.clear()  # these requests wait in the parent

    def _follow(self) -> None:
        """Handle a change of the endpoints, in the thread of the source."""
        with self._lock:
            # Drained endpoints too: their connections are not used again.
            self._drop(self._pools.keys() - self._balance.usable().keys())
            self._assign_slots()
        self._close_marked()

    def _apply(self) -> None:
        """Apply changed limits."""
        with self._lock:
            for pool in self._pools.values():
                self._expire(pool)
            self._assign_slots()
        self._close_marked()

    # -- slots and connections -----------------------------------------------------------------------------

    def _open(self, deadline: float | None) -> _C:
        failures: dict[str, Exception] = {}
        while True:
            with self._lock:
                pool = self._take_slot(failures, deadline)
            try:
                connection = self._idle_connection(pool)
                if connection is None:
                    connection = self._new_connection(pool, failures)
            except BaseException:
                self._finish(pool)
                raise
            if connection is not None:
                return connection
            self._finish(pool)

    def _idle_connection(self, pool: _Pool[_C]) -> _C | None:
        """Take an idle connection that can be used. None: there is none."""
        while True:
            with self._lock:
                self._expire(pool)
                if not pool.idle:
                    return None
                connection, _ = pool.idle.pop()  # the one used last, so that others reach their timeout
            is_usable = False
            try:
                is_usable = self._can_be_used(connection)
            finally:  # also after KeyboardInterrupt
                with self._lock:
                    if is_usable:
                        self._in_use[id(connection)] = connection, pool
                    else:
                        self._to_close.append((connection, pool.endpoint))
            if is_usable:
                return connection

    def _can_be_used(self, connection: _C) -> bool:
        if self._is_usable is None:
            return True
        try:
            return bool(self._is_usable(connection))
        except Exception:  # noqa: BLE001 - as documented
            return False

    def _new_connection(self, pool: _Pool[_C], failures: dict[str, Exception]) -> _C | None:
        """Open a connection. None: it failed, and `failures` has the exception."""
        try:
            connection = self._connect(pool.host, pool.port)
        except Exception as error:  # noqa: BLE001 - the next endpoint is tried
            failures[pool.endpoint] = error
            self._report("create_failed", pool.endpoint)
            return None
        if self._needs_method and not callable(getattr(connection, "close", None)):
            raise BadValueError(
                f"connect made a {type(connection).__name__}, which has no method close(); "
                "pass a function that closes it as close="
            )
        with self._lock:
            if id(connection) in self._in_use:
                raise BadValueError(f"connect returned {connection!r}, which is in use; it makes a new one")
            self._in_use[id(connection)] = connection, pool
        self._report("created", pool.endpoint)
        return connection

    def _in_use_entry(self, connection: _C) -> tuple[_C, _Pool[_C]]:
        try:
            return self._in_use[id(connection)]
        except KeyError:
            raise BadValueError(
                f"{connection!r} is not in use; give back each result of take() once"
            ) from None

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
            endpoint = self._balance.acquire_below(self._max_active or math.inf, failures)
        except NoEndpointsError:
            if failures:
                raise NoConnectionError(failures) from list(failures.values())[-1]
            raise
        if endpoint is None:
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
            self._to_close += ((connection, pool.endpoint) for connection in broken)
            if pool.has_left:
                self._to_close += ((connection, pool.endpoint) for connection in idle)
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
        most = self._max_idle or math.inf
        oldest = self._clock() - self._idle_timeout if self._idle_timeout else -math.inf
        while pool.idle and (len(pool.idle) > most or pool.idle[0][1] <= oldest):
            self._to_close.append((pool.idle.popleft()[0], pool.endpoint))

    def _drop(self, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            pool = self._pools.pop(endpoint)
            pool.has_left = True
            self._to_close += ((connection, endpoint) for connection, _ in pool.idle)
            pool.idle.clear()

    # -- without the lock ----------------------------------------------------------------------------------

    def _close_marked(self) -> None:
        """Close the connections that are marked for closing."""
        if not self._to_close:
            return
        with self._lock:
            connections, self._to_close = self._to_close, []
        for connection, endpoint in connections:
            try:
                self._close(connection)
            except Exception as error:  # noqa: BLE001 - the connection is given up anyway
                log.warning("connection_close_failed", reason=repr(error))
            self._report("closed", endpoint)

    def _report(self, event: Event, endpoint: str) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event, endpoint)
        except Exception:  # a faulty counter must not affect requests
            log.exception("connection_hook_failed", connection_event=event)


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


def _checked_limit(name: str, limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise BadValueError(f"{name} is {limit!r}; it is a number of connections, or 0 for no limit")
    return limit


def _checked_timeout(seconds: float | None) -> float | None:
    if seconds is not None and not seconds >= 0:
        raise BadValueError(f"idle_timeout is {seconds!r}; it is a number of seconds, or 0 for no limit")
    return seconds
