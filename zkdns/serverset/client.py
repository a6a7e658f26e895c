"""How zkdns talks to ZooKeeper: one kazoo client, set up so that it never gives up and never chatters."""

from __future__ import annotations

import logging
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.retry import KazooRetry

SESSION_TIMEOUT = 10.0
"""Seconds; Finagle's. Shorter ones turn a long garbage collection of a server into a reload."""

# A pause is up to 1.4 times as long as its nominal value (kazoo's jitter): 3.5 s keeps it below 5 s.
# It is about a third of the session's time at most: else a few failed tries in a row would cost the session.
_LONGEST_PAUSE = 3.5

_FIRST_PATIENCE = 1.0  # seconds; a server that is well answers within milliseconds


def make_client(hosts: str, *, session_timeout: float = SESSION_TIMEOUT) -> KazooClient:
    """A client that is not started yet; `hosts` is `host:port,host:port/chroot`.

    It tries to connect for ever, at most 5 s apart (kazoo's own default grows to an hour), and gives up a
    server that does not answer after 1 s, after 2 s the next time, and so on up to kazoo's own limit.
    """
    # kazoo tells each try as a warning; who uses the client tells each change of state instead.
    quiet = logging.getLogger("zkdns.kazoo")
    quiet.setLevel(logging.CRITICAL + 1)
    return KazooClient(
        hosts=hosts,
        timeout=session_timeout,
        handler=_Handler(),
        connection_retry=KazooRetry(
            max_tries=-1, delay=0.1, max_delay=min(_LONGEST_PAUSE, session_timeout / 4)
        ),
        logger=quiet,
    )


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's own handler, except that it does not wait a whole session timeout for a new connection.

    A server forgets some of the connections that come amid its start: they stay open and are never answered
    (2 of 100 restarts cost 10 s). The patience doubles with each time it was not enough, so that servers
    which are slow under load are connected to as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self._patience = _FIRST_PATIENCE
        self._is_connecting = False

    def create_connection(self, *args: Any, timeout: float, **options: Any) -> Any:  # noqa: ANN401 - kazoo's
        """Connect a socket; what follows on it is the handshake."""
        self._is_connecting = True
        try:
            return super().create_connection(*args, timeout=min(timeout, self._patience), **options)
        except TimeoutError:
            self._patience *= 2
            raise

    def select(self, readable: list[Any], writable: list[Any], others: list[Any], timeout: float) -> Any:  # noqa: ANN401 - kazoo's
        """Wait for sockets; kazoo waits for two of them (the other wakes it) as soon as it is connected."""
        if len(readable) > 1:
            self._is_connecting = False
            self._patience = _FIRST_PATIENCE
        if not self._is_connecting:
            return super().select(readable, writable, others, timeout)
        ready = super().select(readable, writable, others, min(timeout, self._patience))
        if not any(ready):
            self._patience *= 2
        return ready
