"""Asking a service whether it can serve, from inside its own program: again and again, and never too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zkdns.errors import ZkdnsError

Ping = Callable[[], object]
"""Whether the service can serve: False or an exception means that it cannot, anything else that it can."""


class Pinger:
    """Calls a ping again and again in a thread of its own, and tells how it went.

    A ping that takes longer than its time is a failing one, until it returns.
    """

    def __init__(
        self, heard: Callable[[ZkdnsError | None], None], ping: Ping, interval: float, timeout: float
    ) -> None:
        self._heard = heard
        self._ping = ping
        self._interval = interval
        self._timeout = timeout
        self._stopped = threading.Event()
        self._began: float | None = None
        self._telling = threading.Lock()  # so that a call is not told as late once it has returned
        self._caller = threading.Thread(target=self._call, name="zkdns ping", daemon=True)
        self._clock = threading.Thread(target=self._mind_the_time, name="zkdns ping time", daemon=True)

    def start(self) -> None:
        """Call it for the first time, and go on."""
        self._caller.start()
        self._clock.start()

    def stop(self) -> None:
        """Call it no more; one that hangs is left to itself."""
        self._stopped.set()

    def _call(self) -> None:
        while not self._stopped.is_set():
            self._began = time.monotonic()
            error: ZkdnsError | None = None
            try:
                if self._ping() is False:
                    error = ZkdnsError("the ping says that the service cannot serve")
            except BaseException as failure:  # noqa: BLE001 - whatever it raises, also sys.exit(), means no
                error = ZkdnsError(f"the ping failed: {failure!r}")
            with self._telling:
                self._began = None
                if not self._stopped.is_set():
                    self._heard(error)
            self._stopped.wait(self._interval)

    def _mind_the_time(self) -> None:
        told: float | None = None
        while not self._stopped.wait(min(self._timeout, 1.0) / 4):
            with self._telling:
                began = self._began
                if began is not None and began != told and time.monotonic() - began > self._timeout:
                    told = began
                    self._heard(ZkdnsError(f"the ping has not returned within {self._timeout:g} s"))
