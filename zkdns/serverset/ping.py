"""Calls the ping of a registration at intervals, with a time limit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from zkdns.errors import BadValueError, ZkdnsError

Ping = Callable[[], object]
"""Returns False or raises if the service cannot serve requests. Any other result means that it can."""


class Pinger:
    """Calls a ping at intervals in a thread of its own, and reports each result.

    A ping that exceeds its time limit counts as failed until it returns.
    """

    def __init__(
        self, on_result: Callable[[ZkdnsError | None], None], ping: Ping, interval: float, timeout: float
    ) -> None:
        self._on_result = on_result
        self._ping = ping
        self._interval = interval
        self._interval_changed = threading.Condition()
        self._timeout = timeout
        self._stopped = threading.Event()
        self._call_began_at: float | None = None
        self._reporting = threading.Lock()  # so that a call that has just returned is not reported as late
        self._caller = threading.Thread(target=self._call, name="zkdns ping", daemon=True)
        self._timer = threading.Thread(target=self._watch_time, name="zkdns ping time", daemon=True)

    def start(self) -> None:
        """Start the two threads. The first call follows at once."""
        self._caller.start()
        self._timer.start()

    def stop(self) -> None:
        """Make no more calls. A call that hangs is abandoned."""
        self._stopped.set()
        with self._interval_changed:
            self._interval_changed.notify_all()

    @property
    def interval(self) -> float:
        """Seconds between the end of a call and the next one."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        """Change the interval. A pause that has already begun ends according to the new one."""
        with self._interval_changed:
            self._interval = seconds
            self._interval_changed.notify_all()

    def after_fork(self) -> None:
        """Make no calls in a forked child, which may be the thread of this ping."""
        self._reporting = threading.Lock()
        self._interval_changed = threading.Condition()
        self._stopped = threading.Event()
        self._stopped.set()

    def _call(self) -> None:
        while not self._stopped.is_set():
            self._call_began_at = time.monotonic()
            error: ZkdnsError | None = None
            try:
                if self._ping() is False:
                    error = ZkdnsError("the ping returned False: the service cannot serve")
            except BaseException as failure:  # noqa: BLE001 - any exception, even SystemExit, is a failed ping
                error = ZkdnsError(f"the ping failed: {failure!r}")
            with self._reporting:
                self._call_began_at = None
                if not self._stopped.is_set():
                    self._on_result(error)
            self._pause(time.monotonic())

    def _pause(self, since: float) -> None:
        """Wait for the interval, which may change meanwhile, or until the end."""
        with self._interval_changed:
            while not self._stopped.is_set():
                left = since + self._interval - time.monotonic()
                if left <= 0:
                    return
                self._interval_changed.wait(min(left, threading.TIMEOUT_MAX))

    def _watch_time(self) -> None:
        reported: float | None = None
        while not self._stopped.wait(min(self._timeout, 1.0) / 4):
            with self._reporting:
                began = self._call_began_at
                if began is not None and began != reported and time.monotonic() - began > self._timeout:
                    reported = began
                    self._on_result(ZkdnsError(f"the ping has not returned within {self._timeout:g} s"))


def check_seconds(name: str, seconds: float) -> None:
    """Check a time that a caller gives for something that repeats or waits.

    Raises:
        BadValueError: it is not above 0, or infinite.
    """
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise BadValueError(f"{name} is {seconds!r}; it is a time in seconds, greater than 0")
