"""Runs a command at each change of a set."""

from __future__ import annotations

import os
import subprocess
import threading

from zkdns.serverset.checks import describe_status, wait_for_command
from zkdns.serverset.logs import Log

log = Log("zkdns.watch")

_HOOK_GRACE = 5.0  # seconds that a change's command has to end in


class Hook:
    """Runs a shell command at each change: never two at once, once more for all that changed meanwhile.

    It finds `ZKDNS_ENDPOINTS` (sorted, separated by spaces), and what of them is new since it was last run,
    or gone, in `ZKDNS_ADDED` and `ZKDNS_REMOVED`. A failure is logged.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._waiting: tuple[str, ...] | None = None
        self._news = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="zkdns hook", daemon=True)
        self._thread.start()

    def changed(self, endpoints: tuple[str, ...]) -> None:
        """Run the command with these, sorted as they are."""
        with self._news:
            self._waiting = endpoints
            self._news.notify()

    def close(self) -> None:
        """End the command if it is running: SIGTERM, and SIGKILL after 5 s."""
        self._ended.set()
        with self._news:
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        known: tuple[str, ...] = ()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting is not None or self._ended.is_set())
                endpoints, self._waiting = self._waiting, None
            if endpoints is None or self._ended.is_set():
                return
            self._run(endpoints, known)
            known = endpoints

    def _run(self, endpoints: tuple[str, ...], known: tuple[str, ...]) -> None:
        environment = {
            **os.environ,
            "ZKDNS_ENDPOINTS": " ".join(endpoints),
            "ZKDNS_ADDED": " ".join(sorted(set(endpoints) - set(known))),
            "ZKDNS_REMOVED": " ".join(sorted(set(known) - set(endpoints))),
        }
        try:
            process = subprocess.Popen(  # noqa: S602 - the shell is what was asked for
                self._command, shell=True, stdin=subprocess.DEVNULL, env=environment, process_group=0
            )
        except OSError as error:  # for instance more endpoints than an environment may hold
            log.warning("command cannot be run", command=self._command, reason=error.strerror or str(error))
            return
        if wait_for_command(process, self._ended, grace=_HOOK_GRACE) and process.returncode:
            log.warning("command failed", command=self._command, how=describe_status(process.returncode))
