"""`Heartbeat`: notices that ZooKeeper has paused, although the connection and the session survive.

Members often have sessions of 4 or 5 s, the watcher one of 10 s. If ZooKeeper pauses for 5.6 s, the sessions
of members expire at its end, and the watcher sees no disconnect. kazoo's own pings are too rare (every 3 s)
and a follower responds to them while its leader is paused. So a `sync` request, which passes through the
leader, is sent each second, and a response that takes longer than `LATE_SECONDS` is a *delay*.

Measured with ZooKeeper 3.8: `sync` also succeeds on a path that does not exist or whose ACL denies reading.
An error response, as that of a read-only server, is a response too.

The order after a pause: ZooKeeper expires sessions at once, so the removals of members arrive some
milliseconds before the response. A pause that expires a session of 4 s lasts at least 2.7 s, because clients
send pings after a third of it. A request is sent within 1.1 s after the pause begins and is late 1 s after
that. So the delay begins before such a pause ends; if the timer has not run yet, `check` finds it.

On a follower, the requests of a connection wait behind its `sync`. So while a leader is paused, reads wait
as well, and kazoo drops the connection after two thirds of the session timeout.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    import asyncio

log = structlog.get_logger("zkdns.sync")

INTERVAL_SECONDS = 1.0
"""Seconds between two requests, more or less by a tenth."""
LATE_SECONDS = 1.0
"""Seconds after which a response is late. A healthy ensemble responds within milliseconds."""

_JITTER = 0.1
_MARGIN = 0.01  # seconds, since the event loop may run a timer a little early
_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it


class DelayDetector:
    """Decides when a delay begins and ends. Times are seconds of any one clock.

    Attributes:
        is_delayed: whether a delay has begun and not ended.
        delays: the number of delays since the start.
    """

    def __init__(self) -> None:
        self.is_delayed = False
        self.delays = 0
        self._sent_at: float | None = None

    def sent(self, now: float) -> None:
        """Record that a request is sent. The response to the previous one has arrived."""
        self._sent_at = now

    def waited(self, now: float) -> float:
        """Seconds since the outstanding request was sent. 0: there is none."""
        return now - self._sent_at if self._sent_at is not None else 0.0

    def begins(self, now: float) -> bool:
        """Whether a delay begins: the response has not arrived by `now` and is late."""
        if self.is_delayed or self.waited(now) < LATE_SECONDS:
            return False
        self.is_delayed = True
        self.delays += 1
        return True

    def ends(self) -> bool:
        """Record the response. Returns whether a delay ends with it."""
        was_delayed, self.is_delayed, self._sent_at = self.is_delayed, False, None
        return was_delayed

    def reset(self) -> None:
        """Forget the outstanding request and the delay, since the connection has ended."""
        self._sent_at = None
        self.is_delayed = False


class _Request:
    """One request. kazoo's thread writes the time of the response, once."""

    __slots__ = ("received_at",)

    def __init__(self) -> None:
        self.received_at: float | None = None


class Timers(Protocol):
    """The part of an event loop that a `Heartbeat` uses."""

    def time(self) -> float:
        """The time in seconds. Called in any thread."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle:
        """Call the callback after this many seconds."""


class Heartbeat:
    """Sends requests while connected, one at a time, and reports delays.

    Except the callback of `send`, everything runs in the event loop.

    Args:
        timers: the event loop's clock and timers.
        send: sends a request. Calls its argument in any thread when the response arrives, or never.
        post: runs a call in the event loop soon. Called in the thread of the response.
        on_delay: called with True when a delay begins, and with False when it ends with the response. Not
            called when it ends with the connection.
    """

    def __init__(
        self,
        timers: Timers,
        send: Callable[[Callable[[], None]], None],
        post: Callable[..., None],
        on_delay: Callable[[bool], None],
    ) -> None:
        self._send = send
        self._post = post
        self._on_delay = on_delay
        self._detector = DelayDetector()
        self._timers = timers
        self._request: _Request | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def delays(self) -> int:
        """The number of delays since the start."""
        return self._detector.delays

    def start(self) -> None:
        """Send the first request of a connection at once, and others until `stop`."""
        self.stop()
        self._send_request()

    def stop(self) -> None:
        """Send no more requests, and ignore the outstanding one."""
        self._set_timer(None)
        self._request = None
        self._detector.reset()

    def check(self) -> None:
        """Report a delay that has begun, before its consequences are published.

        The timer may not have run yet, for instance if the event loop was busy. A response that has arrived
        in time is no delay, even if the event loop has not handled it yet.
        """
        request = self._request
        if request is None:
            return
        received_at = request.received_at
        now = self._timers.time() if received_at is None else received_at
        if self._detector.begins(now):
            log.warning("zookeeper_reply_late", seconds=round(self._detector.waited(now), 3))
            self._on_delay(True)

    def _send_request(self) -> None:
        request = self._request = _Request()
        self._detector.sent(self._timers.time())
        self._set_timer(LATE_SECONDS + _MARGIN, self.check)
        self._send(lambda: self._on_received(request))

    def _on_received(self, request: _Request) -> None:
        """Note the time of a response. Called in another thread."""
        request.received_at = self._timers.time()
        self._post(self._on_reply, request)

    def _on_reply(self, request: _Request) -> None:
        if request is not self._request or request.received_at is None:
            return  # of an earlier connection
        self.check()
        seconds = self._detector.waited(request.received_at)
        self._request = None
        pause = INTERVAL_SECONDS * _random.uniform(1 - _JITTER, 1 + _JITTER)
        self._set_timer(max(0.0, pause - seconds), self._send_request)
        if self._detector.ends():
            log.info("zookeeper_reply_arrived", seconds=round(seconds, 3))
            self._on_delay(False)

    def _set_timer(self, seconds: float | None, call: Callable[[], None] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._timers.call_later(seconds, call)
