"""A set of endpoints that may change under whoever holds it: what balancers and programs follow.

Anything with `endpoints`, `subscribe` and `is_closed` can be balanced over (`EndpointSource`); `Watch` is
what all sources of this project are. It is safe to use from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol, Self

from zkdns.address import HostPort
from zkdns.serverset.logs import Log
from zkdns.serverset.member import Member, Status

log = Log("zkdns.watch")


class EndpointSource(Protocol):
    """What can be balanced over."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every endpoint, sorted, each once."""

    @property
    def is_closed(self) -> bool:
        """Whether no change will come any more."""

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called after every change, and after closing; returns what ends that."""


class Watch:
    """Members of one server set, as they are now; iterating gives the endpoints, again after each change.

    Sources publish by `_publish`. What is published and known already is no change.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._members: tuple[Member, ...] = ()
        self._endpoints: tuple[str, ...] = ()
        self._event_count = 0
        self._last_event: float | None = None
        self._is_closed = False
        self._subscribers: dict[object, Callable[[], object]] = {}

    @property
    def members(self) -> tuple[Member, ...]:
        """The members that are alive, oldest first."""
        return self._members

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`host:port` of every live member's service endpoint, sorted, each once; IPv6 in brackets."""
        return self._endpoints

    @property
    def event_count(self) -> int:
        """How often the members have changed; the first set counts."""
        return self._event_count

    @property
    def last_event(self) -> float | None:
        """When they last did, in seconds since the epoch; None: not yet."""
        return self._last_event

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; what was known stays readable."""
        return self._is_closed

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Have `changed` called after every change, and after closing; returns what ends that.

        It is called in whatever thread brought the change, and should be quick. What it raises is logged.
        """
        key = object()  # the same may subscribe twice, and ends once what it began once
        with self._changed:
            self._subscribers[key] = changed

        def unsubscribe() -> None:
            with self._changed:
                self._subscribers.pop(key, None)

        return unsubscribe

    def wait(self, timeout: float | None = None, *, after: int | None = None) -> bool:
        """Wait for a change; False where none came within `timeout` seconds, or the watch was closed.

        Args:
            timeout: seconds; None: for ever.
            after: the `event_count` that is already known; None: as it is now.
        """
        with self._changed:
            seen = self._event_count if after is None else after
            self._changed.wait_for(lambda: self._is_closed or self._event_count > seen, timeout)
            return self._event_count > seen

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The endpoints now, and after each change; changes that come at once may be given as one."""
        seen = self._event_count
        yield self.endpoints
        while self.wait(after=seen):
            seen = self._event_count
            yield self.endpoints

    async def __aiter__(self) -> AsyncIterator[tuple[str, ...]]:
        """The same, for `async for`."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(woken.set)

        unsubscribe = self.subscribe(wake)
        try:
            seen = self._event_count
            yield self.endpoints
            while True:
                woken.clear()
                if self._event_count > seen:
                    seen = self._event_count
                    yield self.endpoints
                elif self._is_closed:
                    return
                else:
                    await woken.wait()
        finally:
            unsubscribe()

    def close(self) -> None:
        """Follow no more, and wake everybody who waits; once more changes nothing."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(self, members: Iterable[Member]) -> None:
        """Take the members that there are now; nothing changes once closed."""
        alive = tuple(member for member in members if member.status is Status.ALIVE)
        with self._changed:
            if self._is_closed or (alive == self._members and self._event_count):
                return
            self._members = alive
            self._endpoints = tuple(sorted({endpoint_text(member) for member in alive if member.service}))
            self._event_count += 1
            self._last_event = time.time()
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            subscribers = list(self._subscribers.values())
        for changed in subscribers:
            try:
                changed()
            except Exception:  # somebody else's mistake must not stop the others from hearing
                log.exception("a subscriber of a watch failed")


def endpoint_text(member: Member) -> str:
    """`host:port` of a member's service endpoint; empty where it has none."""
    return str(HostPort(member.service.host, member.service.port)) if member.service else ""
