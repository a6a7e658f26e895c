"""The one queue between kazoo's threads, which only put there, and the event loop, which drains it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger("zkdns.sync")


class Inbox:
    """Calls made in the event loop, in the order in which they were posted from any thread.

    Many that come at once cost one round of the loop.

    Args:
        drained: called in the event loop when all that was there has been called.
    """

    def __init__(self, drained: Callable[[], None]) -> None:
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_woken = False

    def post(self, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - whatever it takes
        """Have it called soon; nobody listens after the event loop's end."""
        self._calls.append((call, arguments))
        # Between the two lines of `_drain` this may wake it once too often, never once too little.
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._is_woken = False
        # Not until it is empty: others want the loop too, and what comes meanwhile has woken it again.
        for _ in range(len(self._calls)):
            call, arguments = self._calls.popleft()
            self._attempt(call, arguments)
        self._attempt(self._drained, ())

    def _attempt(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except Exception:  # a mistake of ours must not take along what else has arrived
            log.exception("zookeeper_event_failed")
