"""Intervals and time limits of the admin address."""

from __future__ import annotations

from typing import Final

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals and time limits in seconds."""

    idle: float = 5.0
    """Maximum time for a request to arrive, also for the first one of a connection."""
    write: float = 10.0
    """Time limit for a client to read a response, or a piece of an event stream."""
    health: float = 0.5
    """Time for which a result of the health check is reused."""
    check: float = 0.5
    """Time between two checks whether the status has changed, while an event stream is open."""
    status: float = 2.0
    """Maximum time between two events of the status."""
    changes: float = 1.0
    """Time between two requests to the watcher for new entries."""
    comment: float = 15.0
    """Time between two comments in an event stream: proxies close idle connections, some after 30 s."""
    restart: float = 2.0
    """Pause after an internal error in the task of the event streams."""
    stop: float = 0.5
    """Time for requests in progress, after the socket was closed."""


DEFAULT: Final = Timing()
