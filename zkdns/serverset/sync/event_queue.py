"""The queue from kazoo's threads, which add calls, to the event loop, which runs them in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger("zkdns.sync")

MAX_CALLS = 200
"""Maximum number of calls in one round of the event loop: most are events, which take some 10 µs each."""


class ThreadsafeQueue:
    """Calls from any thread, run in the event loop in the order in which they were posted.

    A burst of calls wakes the loop once, and is run in batches of at most `MAX_CALLS`.

    Args:
        on_drained: called in the event loop after each batch of calls.
    """

    def __init__(self, on_drained: Callable[[], None]) -> None:
        self._on_drained = on_drained
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_woken = False

    def post(self, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the call's own
        """Run a call in the event loop soon. After the end of the loop this does nothing."""
        self._calls.append((call, arguments))
        # `_drain` clears the flag before it counts the calls. So a call is never left without a wake-up,
        # although the loop may be woken once too often.
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._is_woken = False
        # Run only some of the calls that are queued now, so that other tasks run in between. Later calls wake
        # the loop again.
        for _ in range(min(len(self._calls), MAX_CALLS)):
            call, arguments = self._calls.popleft()
            self._run(call, arguments)
        self._run(self._on_drained, ())
        if self._calls and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._drain)

    def _run(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except Exception:  # a bug in one handler must not lose the calls behind it
            log.exception("zookeeper_event_failed")
