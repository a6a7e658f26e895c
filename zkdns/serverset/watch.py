"""`EndpointSource`, the interface between sets of endpoints and balancers, and `Watch`, its implementation.

Both are thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol, Self

from zkdns.address import HostPort
from zkdns.serverset import forking
from zkdns.serverset.awaiting import Condition, run_in_thread
from zkdns.serverset.logs import Log
from zkdns.serverset.member import Member, Status

log = Log("zkdns.watch")


class EndpointSource(Protocol):
    """Any set of endpoints that changes. Balancers accept every object with these three attributes.

    They also use three optional ones if an object has them, as those of `Watch`: `members` for weights and
    for the spelling that `zkdns.mcset` hashes, `event_count` and `last_event`. A source that has `members`
    replaces them before `endpoints`.

        def follow(source: EndpointSource) -> None:
            source.subscribe(lambda: print(source.endpoints))

    `Watch` and its subclasses implement it.
    """

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted and without duplicates."""

    @property
    def is_closed(self) -> bool:
        """Whether the source is closed, so that the endpoints do not change any more."""

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` after every change and after closing. Returns a function that unsubscribes."""


class Watch:
    """The current members of a server set. Iterating returns the endpoints now and after each change.

        with ServerSet(PRODUCTION, "web", "zk01:2181").watch() as watch:
            for endpoints in watch:
                print(endpoints)  # ('10.0.0.1:8080', '10.0.0.2:8080')

    Subclasses publish members with `_publish`. Publishing equal members again is not a change.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._members: tuple[Member, ...] = ()
        self._endpoints: tuple[str, ...] = ()
        self._event_count = 0
        self._last_event: float | None = None
        self._is_closed = False
        self._subscribers: dict[object, Callable[[], object]] = {}
        forking.add(self)

    @property
    def members(self) -> tuple[Member, ...]:
        """The members with the status ALIVE, oldest first."""
        return self._members

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of each member's service endpoint, sorted and without duplicates; IPv6 in brackets."""
        return self._endpoints

    @property
    def event_count(self) -> int:
        """How often the members have changed, including the first set."""
        return self._event_count

    @property
    def last_event(self) -> float | None:
        """The time of the last change, in seconds since the epoch. None: no change yet."""
        return self._last_event

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called. The last members stay available."""
        return self._is_closed

    def subscribe(self, on_change: Callable[[], object]) -> Callable[[], None]:
        """Call `on_change` after every change and after closing. Returns a function that unsubscribes.

        The call comes in the thread that made the change, and should be quick. Its exceptions are logged.
        """
        key = object()  # one function may subscribe twice, and each subscription ends by itself
        with self._changed:
            self._subscribers[key] = on_change

        def unsubscribe() -> None:
            with self._changed:
                self._subscribers.pop(key, None)

        return unsubscribe

    def wait(self, timeout: float | None = None, *, after: int | None = None) -> bool:
        """Wait for a change. Returns False after `timeout` seconds without one, or when the watch is closed.

        Args:
            timeout: seconds. None: no limit.
            after: wait until `event_count` is greater than this. None: its present value.
        """
        with self._changed:
            seen = self._event_count if after is None else after
            self._changed.wait_for(lambda: self._is_closed or self._event_count > seen, timeout)
            return self._event_count > seen

    async def wait_async(self, timeout: float | None = None, *, after: int | None = None) -> bool:
        """As `wait`, for asyncio."""
        seen = self._event_count if after is None else after
        await self._changed.wait_for_async(lambda: self._is_closed or self._event_count > seen, timeout)
        return self._event_count > seen

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The endpoints now and after each change. Several quick changes may be combined."""
        seen = self._event_count
        yield self.endpoints
        while self.wait(after=seen):
            seen = self._event_count
            yield self.endpoints

    async def __aiter__(self) -> AsyncIterator[tuple[str, ...]]:
        """As `__iter__`, for `async for`."""
        seen = self._event_count
        yield self.endpoints
        while await self.wait_async(after=seen):
            seen = self._event_count
            yield self.endpoints

    def close(self) -> None:
        """Stop watching and wake all waiting threads. Closing twice is allowed."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def close_async(self) -> None:
        """As `close`, for asyncio. After a cancellation it closes in the background."""
        await run_in_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_async()

    def _publish(self, members: Iterable[Member]) -> None:
        """Replace the members. After `close` this does nothing."""
        alive = tuple(member for member in members if member.status is Status.ALIVE)
        # Outside the lock, for which an event loop may wait.
        endpoints = _endpoints_of(alive)
        with self._changed:
            if self._is_closed or (alive == self._members and self._event_count):
                return
            self._members = alive  # before the endpoints, whose change makes balancers read the members
            self._endpoints = endpoints
            self._event_count += 1
            self._last_event = time.time()
            self._changed.notify_all()
        self._notify()

    def after_fork(self) -> Callable[[], object] | None:
        """Prepare this object for a forked child. `zkdns.serverset.forking` calls it there."""
        self._changed = type(self._changed)()  # another thread may have held it
        self._endpoints = _endpoints_of(self._members)  # the fork may have come between the two assignments
        return None

    def _notify(self) -> None:
        with self._changed:
            subscribers = list(self._subscribers.values())
        for on_change in subscribers:
            try:
                on_change()
            except Exception:  # a faulty subscriber must not affect the others
                log.exception("subscriber_failed")


def _endpoints_of(members: Iterable[Member]) -> tuple[str, ...]:
    return tuple(sorted({endpoint_text(member) for member in members if member.service}))


def endpoint_text(member: Member) -> str:
    """`host:port` of a member's service endpoint. Empty if it has none."""
    return str(HostPort(member.service.host, member.service.port)) if member.service else ""
