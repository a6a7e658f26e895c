"""What a service manager is told (sd_notify(3)): that the server is ready, what it does, that it is alive.

A line of text in a datagram to the socket that $NOTIFY_SOCKET names. Without one nobody is told; a manager
that cannot be reached costs nobody anything.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

_LONGEST_STATUS = 1000  # bytes; systemctl shows one line


class Notifier:
    """Tells the service manager.

    Attributes:
        watchdog_seconds: after which time without `alive` it holds the server for hung; None: it does not.

    Args:
        path: of its socket; with @ at the beginning in the abstract namespace (unix(7)). None: there is none.
        watchdog_seconds: see above.
    """

    def __init__(self, path: str | None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds if path else None
        self._at = "\0" + path[1:] if path and path.startswith("@") else path
        self._status = ""
        self._is_ready = False

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> Self:
        """As systemd asks for it (sd_notify(3), sd_watchdog_enabled(3)); the variables are gone afterwards.

        So no child tells anything in the server's name.
        """
        path = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        is_for_us = not pid or pid == str(os.getpid())
        watched = microseconds.isdecimal() and int(microseconds) > 0 and is_for_us
        return cls(path or None, int(microseconds) / 1_000_000 if watched else None)

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to tell."""
        return self._at is not None

    def ready(self) -> None:
        """The server has started."""
        self._is_ready = True
        self._tell("READY=1")

    def reloading(self) -> None:
        """It takes a new configuration; `reloaded` tells the end of that."""
        if self._is_ready:
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """It has taken it, or goes on with the old one; who has not started yet has not by that."""
        if self._is_ready:
            self._tell("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """It does what it is for."""
        self._tell("WATCHDOG=1")

    def status(self, sentence: str) -> None:
        """What it does, in a sentence, where that is another one than before."""
        if sentence != self._status:
            self._status = sentence
            self._tell(
                "STATUS=" + " ".join(sentence.encode()[:_LONGEST_STATUS].decode(errors="ignore").split())
            )

    def _tell(self, message: str) -> None:
        if self._at is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self._at)
