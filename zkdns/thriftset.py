"""Connections to the servers of a set, pooled, each from where the least is going on.

Made for thrift, whose connections carry one call at a time, and good for whatever else is so: connecting and
closing are the caller's, so nothing here knows the protocol.

    def connect(host, port):
        return thriftpy2.rpc.make_client(geo_thrift.Geo, host, port)

    with ThriftSet(ServerSet(PRODUCTION, "geo", "zk01:2181").watch(), connect) as geo:
        with geo.connection() as client:
            client.locate(...)

The clients of Apache Thrift have no method close, so that they want one more argument:
`close=lambda client: client._iprot.trans.close()`.

Theory of operation: a request first gets a place at an endpoint, of which each has `max_active`, and then an
idle connection of that endpoint, or a new one. Whoever frees a place gives it to the first of those who wait
that can use it: who could not connect to an endpoint waits for a place at another one, and is passed over
meanwhile. Connecting and closing, which may take long, happen without the lock.
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
    """No place became free in time: all endpoints have as many active connections as they may."""


class NoConnectionError(ZkdnsError, ConnectionError):
    """None of the endpoints could be connected to; `failures` holds what `connect` raised for each."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        self.failures = dict(failures)
        told = ", ".join(f"{endpoint} ({error!r})" for endpoint, error in self.failures.items())
        super().__init__(f"no endpoint could be connected to; tried: {told}")


class ThriftSet(Generic[_C]):
    """Pools of connections to the endpoints of a watch; the defaults are those of go.serversets' thriftset.

    It is safe to use from any thread; a connection belongs to one `with` block at a time.

    A connection is closed rather than kept when its block has raised an error, whatever error (catch inside
    what leaves the connection usable, such as the exceptions that a thrift service declares), when its
    endpoint has left since it was opened, even if it has come back, and when the set is closed.

    Args:
        watch: what to follow, any `EndpointSource`; it stays the caller's to close. None: the endpoints come
            by `set_endpoints` alone.
        connect: makes a connection, open and ready, of a host (IPv6 without brackets) and a port; whatever
            Exception it raises means that it could not. It should have a time-out.
        max_active: how many connections of an endpoint may be in use at once.
        max_idle: how many unused ones of an endpoint are kept.
        idle_timeout: seconds after which an unused one is closed rather than used, when the turn comes to
            its endpoint again; None: never.
        close: closes a connection; None: its method `close` does.
        clock: tells the seconds that `idle_timeout` is about.

    Raises:
        BadValueError: a limit out of its range.
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
            raise BadValueError(f"idle_timeout is {idle_timeout!r}; it is more than 0 s, or None for never")
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
        self._queue: deque[_Waiter[_C]] = deque()  # those who have no place yet, in the order of asking
        self._doomed: list[_C] = []  # what is to be closed as soon as the lock is free
        self._is_closed = False
        self._unsubscribe = watch.subscribe(self._follow) if watch is not None else None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted, each once; IPv6 in brackets."""
        return self._balance.endpoints

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def set_endpoints(self, endpoints: Iterable[str]) -> None:
        """Use these from now on, whatever the watch says, if there was one.

        Args:
            endpoints: `host:port` each, IPv6 as `[address]:port`.

        Raises:
            BadValueError: an endpoint that is none; nothing has changed then.
        """
        self._balance.set_endpoints(endpoints)
        self._follow()

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[_C]:
        """A connection to the endpoint with the least active ones, for the time of a `with` block.

        While all endpoints have `max_active` it waits, first come, first served. Where a connection cannot be
        opened, the next endpoint is tried, each at most once; if that one is full, it is waited for.

        A connection that was idle may have been closed by its server meanwhile; that shows at its first use.

        Args:
            timeout: seconds to wait for a place; None: as long as it takes. Connecting is not counted.

        Raises:
            NoEndpointsError: the set is empty.
            NoConnectionError: no endpoint could be connected to.
            BusyError: there was no place within `timeout`.
            ClosedError: the set is closed, or was while this waited.
            BadValueError: what `connect` made has no method `close`, and no other way to close it was given.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pool, connection = self._open(deadline)
        try:
            self._bury()
            yield connection
        except BaseException:
            self._end(pool, doomed=[connection])
            raise
        self._end(pool, idle=[connection])

    def close(self) -> None:
        """Close idle connections now, and those in use when their blocks end; once more changes nothing."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        with self._lock:
            self._is_closed = True
            self._drop(list(self._pools))
            for waiter in self._queue:
                waiter.woken.notify()
        self._bury()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self) -> None:
        """The endpoints have changed; in whatever thread told it."""
        with self._lock:
            self._drop(self._pools.keys() - set(self.endpoints))
            self._serve()
        self._bury()

    # -- a place, and a connection -------------------------------------------------------------------------

    def _open(self, deadline: float | None) -> tuple[_Pool[_C], _C]:
        failures: dict[str, Exception] = {}
        while True:
            with self._lock:
                pool = self._place(failures, deadline)
                self._expire(pool)
                if pool.idle:
                    return pool, pool.idle.pop()[0]  # the one used last, so that the others can time out
            try:
                connection = self._connect(pool.host, pool.port)
            except BaseException as error:
                self._end(pool)
                if not isinstance(error, Exception):
                    raise
                failures[pool.endpoint] = error
            else:
                if self._needs_method and not callable(getattr(connection, "close", None)):
                    self._end(pool)
                    raise BadValueError(
                        f"connect made a {type(connection).__name__}, which has no method close(); "
                        "say by close= how it is closed"
                    )
                return pool, connection

    def _place(self, failures: Mapping[str, Exception], deadline: float | None) -> _Pool[_C]:
        """Wait for a place and take it, with the lock held."""
        waiter: _Waiter[_C] = _Waiter(self._lock, failures)
        self._queue.append(waiter)
        try:
            return self._wait(waiter, deadline)
        except BaseException:
            if waiter.pool is None:
                self._queue.remove(waiter)
            else:  # it was given while this was interrupted, or the set closed
                self._balance.release(waiter.pool.endpoint)
                self._serve()
            raise

    def _wait(self, waiter: _Waiter[_C], deadline: float | None) -> _Pool[_C]:
        while True:
            if self._is_closed:
                raise ClosedError("the set of connections is closed")
            self._serve()
            if waiter.pool is not None:
                return waiter.pool
            if waiter.error is not None:
                raise waiter.error
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise BusyError(self._busy(waiter.failures))
            waiter.woken.wait(left)

    def _choose(self, failures: Mapping[str, Exception]) -> _Pool[_C] | None:
        """A place at the endpoint with the least active connections; None: all have as many as they may."""
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

    def _busy(self, failures: Mapping[str, Exception]) -> str:
        text = f"no place became free in time: all endpoints have {self._max_active} active connections"
        return (
            f"{text}, except those that cannot be connected to: {', '.join(failures)}" if failures else text
        )

    def _end(self, pool: _Pool[_C], *, idle: Iterable[_C] = (), doomed: Iterable[_C] = ()) -> None:
        """Leave a place; what was used there is kept, or closed."""
        with self._lock:
            self._balance.release(pool.endpoint)
            self._doomed += doomed
            if pool.has_left:
                self._doomed += idle
            else:
                now = self._clock()
                pool.idle += ((connection, now) for connection in idle)
                self._expire(pool)
            self._serve()
        self._bury()

    # -- with the lock held --------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Give the places that there are to those who wait, in the order of asking."""
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
                    continue  # there may be a place where it could not connect
                return
            waiter.woken.notify()

    def _expire(self, pool: _Pool[_C]) -> None:
        """Doom what has been idle for too long, and the oldest of what is too much."""
        oldest = None if self._idle_timeout is None else self._clock() - self._idle_timeout
        while pool.idle and (
            len(pool.idle) > self._max_idle or (oldest is not None and pool.idle[0][1] <= oldest)
        ):
            self._doomed.append(pool.idle.popleft()[0])

    def _drop(self, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            pool = self._pools.pop(endpoint)
            pool.has_left = True
            self._doomed += (connection for connection, _ in pool.idle)
            pool.idle.clear()

    # -- without the lock ----------------------------------------------------------------------------------

    def _bury(self) -> None:
        """Close what is doomed."""
        if not self._doomed:
            return
        with self._lock:
            doomed, self._doomed = self._doomed, []
        for connection in doomed:
            try:
                self._close(connection)
            except Exception as error:  # noqa: BLE001 - nothing is left to be done with it
                log.warning("connection_close_failed", reason=repr(error))


class _Waiter(Generic[_C]):
    """Who waits for a place: where it could not connect, and what came of it."""

    def __init__(self, lock: threading.Lock, failures: Mapping[str, Exception]) -> None:
        self.failures = failures
        self.woken = threading.Condition(lock)
        self.pool: _Pool[_C] | None = None  # where its place is; it is out of the queue then
        self.error: ZkdnsError | None = None


class _Pool(Generic[_C]):
    """The idle connections of one endpoint, the one used last at the end, with when that was."""

    def __init__(self, endpoint: str) -> None:
        address = parse_host_port(endpoint)
        self.endpoint = endpoint
        self.host = address.host
        self.port = address.port
        self.idle: deque[tuple[_C, float]] = deque()
        self.has_left = False
