"""Notices to the service manager by sd_notify(3): ready, reloading, stopping, watchdog and status.

Each notice is a text in one datagram to the socket in $NOTIFY_SOCKET. Without that variable, and if the
service manager cannot be reached, the methods do nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

_MAX_STATUS = 1000  # bytes; systemctl shows one line


class Notifier:
    """Sends notices to the service manager.

    Attributes:
        watchdog_seconds: the service manager considers the server hung after this time without `alive`.
            None: no watchdog.

    Args:
        path: of the manager's socket; a leading @ stands for the abstract namespace (unix(7)). None: no
            service manager.
        watchdog_seconds: see above.
    """

    def __init__(self, path: str | None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds if path else None
        self._at = "\0" + path[1:] if path and path.startswith("@") else path
        self._status = ""
        self._is_ready = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Create from systemd's variables (sd_notify(3), sd_watchdog_enabled(3)), and remove these.

        Without them, child processes cannot send notices in the server's name.
        """
        path = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        is_for_this_process = not pid or pid == str(os.getpid())
        watched = microseconds.isdecimal() and int(microseconds) > 0 and is_for_this_process
        return cls(path or None, int(microseconds) / 1_000_000 if watched else None)

    @property
    def is_connected(self) -> bool:
        """True if there is a service manager."""
        return self._at is not None

    def ready(self) -> None:
        """Report that the server has started."""
        self._is_ready = True
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that a reload begins; `reloaded` reports its end."""
        if self._is_ready:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Report that a reload has succeeded or failed. Does nothing before the first `ready`."""
        if self._is_ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """Report that the server is about to exit."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, sentence: str) -> None:
        """Report the server's state in a sentence, if it changed."""
        if sentence != self._status:
            self._status = sentence
            self._send("STATUS=" + " ".join(sentence.encode()[:_MAX_STATUS].decode(errors="ignore").split()))

    def _send(self, message: str) -> None:
        if self._at is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self._at)
