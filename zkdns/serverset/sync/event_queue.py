"""The queue from kazoo's threads, which add calls, to the event loop, which runs them in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger("zkdns.sync")

MAX_CALLS = 200
"""Maximum number of calls in one round of the event loop: most are events, which take some 10 µs each."""
DRAIN_SECONDS = 0.005
"""Time of the calls in one round of the event loop. Further ones are run in the next round."""


class ThreadsafeQueue:
    """Calls from any thread, run in the event loop in the order in which they were posted.

    A burst of calls wakes the loop once, and is run in batches: at most `MAX_CALLS`, in `DRAIN_SECONDS`.

    Args:
        on_drained: called in the event loop after each batch of calls.
        is_blocked: whether calls have to wait, for instance because the changes of the last batch are still
            being published. When they no longer have to, the caller calls `resume`. It may be replaced.
        drain_seconds: as `DRAIN_SECONDS`.
    """

    def __init__(
        self,
        on_drained: Callable[[], None],
        is_blocked: Callable[[], bool] = lambda: False,
        *,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._on_drained = on_drained
        self.is_blocked = is_blocked
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._drain_seconds = drain_seconds
        self._after_batch: list[Callable[[], None]] = []
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

    def post_after_batch(self, call: Callable[[], None]) -> None:
        """Run a call after all that were posted before, and after `on_drained` for their batch."""
        self.post(self._after_batch.append, call)

    @property
    def has_calls(self) -> bool:
        """Whether calls have not been run yet."""
        return bool(self._calls)

    def resume(self) -> None:
        """Run the calls that have waited, and `on_drained` also if there are none."""
        self._is_woken = True
        self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self.is_blocked():
            return  # `_is_woken` stays set until `resume`, so that calls do not wake the loop in vain
        self._is_woken = False
        # Run only some of the calls that are queued now, so that other tasks run in between. Later calls wake
        # the loop again.
        end = time.perf_counter() + self._drain_seconds
        for _ in range(min(len(self._calls), MAX_CALLS)):
            call, arguments = self._calls.popleft()
            self._run(call, arguments)
            if time.perf_counter() >= end:
                break
        after_batch, self._after_batch = self._after_batch, []
        for run in (self._on_drained, *after_batch):
            self._run(run, ())
        if self._calls and not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._drain)

    def _run(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except Exception:  # a bug in one handler must not lose the calls behind it
            log.exception("zookeeper_event_failed")
