"""`ObserverMoves`: moves a source from a voting server to an observer that is reachable again.

    on a voting server for a minute ────▶ a second client connects to an observer ─────────────┐
    on an observer without a quorum ────▶ a second client connects to a server with a quorum ──┤
                                                                                               ▼
                                                  the sync uses the second client, and the first one is closed

So ZooKeeper is never out of reach, and a move is no disturbance for the guard. Changes during the move are
found by the read over the new connection, and judged like those of events. A move begins only while
everything has been read and the guard is in no window. The watcher owns no ephemeral znodes, so a new session
costs nothing but its creation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

import structlog

from zkdns.address import HostPort
from zkdns.serverset.client import Client, dispose, is_read_only, server_of

log = structlog.get_logger("zkdns.watcher")

MOVE_SECONDS = 60.0
"""Seconds on a voting server before a move, or up to twice as many, so that hosts do not move together."""
_LEAVE_SECONDS = 10.0  # on an observer without a quorum
_CONNECT_SECONDS = 6.0  # for the second client
_random = random.SystemRandom()  # unlike the global generator, a program does not seed or copy it


class ObserverMoves:
    """Decides when to move, and connects the second client.

    Args:
        observers: the preferred servers. Empty: the source never moves.
        make_client: makes a client for the observers only (True) or for all servers. It accepts no server
            without a quorum.
        move_seconds: as `MOVE_SECONDS`.
    """

    def __init__(
        self,
        observers: Collection[HostPort],
        make_client: Callable[[bool], Client],
        *,
        move_seconds: float = MOVE_SECONDS,
    ) -> None:
        self._observers = observers
        self._make_client = make_client
        self._move_seconds = move_seconds
        self._due: float | None = None
        self._second: Client | None = None
        self._deadline = 0.0

    def next_client(self, client: Client, now: float, *, is_quiet: bool) -> Client | None:
        """The second client, if it is connected and the source should use it now.

        Args:
            client: the present client.
            now: seconds of any clock.
            is_quiet: whether a move may begin or end now.
        """
        if self._second is not None:
            return self._await_second(self._second, now, is_quiet=is_quiet)
        is_on_observer = server_of(client) in self._observers
        lacks_quorum = is_on_observer and is_read_only(client)
        if not self._observers or not client.connected or (is_on_observer and not lacks_quorum):
            self._due = None
            return None
        if self._due is None:
            seconds = _LEAVE_SECONDS if lacks_quorum else self._move_seconds
            self._due = now + seconds * _random.uniform(1, 2)
        if now >= self._due and (is_quiet or lacks_quorum):
            self._second = self._make_client(not lacks_quorum)
            self._deadline = now + _CONNECT_SECONDS
            self._second.start_async()
        return None

    def close(self) -> None:
        """Close the second client."""
        if self._second is not None:
            dispose(self._second)
            self._second = None

    def _await_second(self, second: Client, now: float, *, is_quiet: bool) -> Client | None:
        if second.connected and (is_quiet or now >= self._deadline):
            self._second = self._due = None
            log.info("zookeeper_moved", zookeeper=str(server_of(second)))
            return second
        if now >= self._deadline:
            self._due = None
            self.close()
        return None
