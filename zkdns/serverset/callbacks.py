"""`Subscriber`: calls a function of the program outside of the session's worker.

A function of the program may block or never return. The users of a session share its worker, so it would
delay all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from zkdns.serverset import forking
from zkdns.serverset.logs import Log

log = Log("zkdns.watch")

_RETRY_SECONDS = 1.0


class Subscriber:
    """Calls a function once for each `call`, in a thread that exists only while there is something to call.

    Its calls do not overlap. If one never returns, only the later ones of this function are not made. All
    exceptions are logged.

    Args:
        function: of the program.
        path: of the set, for the log.
        run_later: runs a function after some seconds, for the case that no thread can be started now.
    """

    def __init__(
        self,
        function: Callable[[], object],
        path: str,
        run_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._function = function
        self._path = path
        self._run_later = run_later
        self._lock = threading.Lock()
        self._pending = 0
        self._is_running = False
        forking.add(self)

    def after_fork(self) -> None:
        """Start with no calls in a forked child."""
        self._lock = threading.Lock()
        self._pending = 0
        self._is_running = False

    def call(self) -> None:
        """Call the function soon."""
        with self._lock:
            self._pending += 1
        self._start()

    def _start(self) -> None:
        """Start the thread if it is needed. If none can be started, try again later."""
        with self._lock:
            if self._is_running or not self._pending:
                return
            self._is_running = True
        try:
            threading.Thread(target=self._run, name="zkdns callbacks", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._is_running = False
            log.warning("subscriber_delayed", path=self._path, reason=str(error))
            self._run_later(_RETRY_SECONDS, self._start)

    def end(self) -> None:
        """Make no more calls."""
        with self._lock:
            self._pending = 0

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    self._is_running = False
                    return
                self._pending -= 1
            try:
                self._function()
            except BaseException:  # even SystemExit must not end the calls
                log.exception("subscriber_failed")
