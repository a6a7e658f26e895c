"""Calls the ping of a registration at intervals, with a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zkdns.errors import ZkdnsError

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
            self._stopped.wait(self._interval)

    def _watch_time(self) -> None:
        reported: float | None = None
        while not self._stopped.wait(min(self._timeout, 1.0) / 4):
            with self._reporting:
                began = self._call_began_at
                if began is not None and began != reported and time.monotonic() - began > self._timeout:
                    reported = began
                    self._on_result(ZkdnsError(f"the ping has not returned within {self._timeout:g} s"))
