"""Coroutines that wait for threads: without a thread for each, and without the loop's default executor.

The default executor of an event loop has few threads, and the program's own name lookups need them. So a
thread that changes the state resumes the coroutines itself, and a call that blocks gets a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from zkdns.errors import BadValueError
from zkdns.serverset.logs import Log
from zkdns.serverset.reachability import DIAGNOSIS_SECONDS

if TYPE_CHECKING:
    from zkdns.errors import UnreachableError
    from zkdns.serverset.session import Session

log = Log("zkdns.asyncio")

_Coroutine: TypeAlias = "tuple[weakref.ref[asyncio.Future[None]], Callable[[], object] | None]"


class Condition(threading.Condition):
    """A condition variable for threads and for coroutines of any event loop."""

    def __init__(self) -> None:
        super().__init__()
        # By an object of its own for each waiting coroutine. The reference is weak, so that a coroutine of
        # a closed loop can be collected. Entries are removed without the lock, since the garbage collector
        # may do that at any line.
        self._coroutines: dict[object, _Coroutine] = {}

    def notify_all(self) -> None:
        """Wake all threads and all coroutines. The caller holds the lock."""
        super().notify_all()
        if self._coroutines:
            coroutines = list(self._coroutines.values())
            self._coroutines.clear()  # each is woken once; it adds itself again
            for reference, on_orphaned in coroutines:
                _wake(reference, on_orphaned)

    async def wait_for_async(
        self,
        predicate: Callable[[], bool],
        timeout: float | None = None,
        *,
        on_orphaned: Callable[[], object] | None = None,
    ) -> bool:
        """As `wait_for`, for coroutines. The caller does not hold the lock.

        Args:
            predicate: called in the loop's thread, with the lock.
            timeout: seconds. None: no limit.
            on_orphaned: called by a thread that wakes this coroutine after its loop was closed. It must
                neither block nor raise.

        Raises:
            BadValueError: the timeout is not a number.
        """
        loop = asyncio.get_running_loop()
        if timeout is not None and math.isnan(timeout):
            raise BadValueError(f"timeout is {timeout!r}; it is a time in seconds, or None")
        deadline = None if timeout in (None, math.inf) else loop.time() + timeout
        while True:
            key = object()
            with self:
                if predicate():
                    return True
                if deadline is not None and loop.time() >= deadline:
                    return False
                woken: asyncio.Future[None] = loop.create_future()
                self._coroutines[key] = (weakref.ref(woken), on_orphaned)
            timer = None if deadline is None else loop.call_at(deadline, _set, woken)
            try:
                await woken
            finally:
                self._coroutines.pop(key, None)
                if timer is not None:
                    timer.cancel()


def _wake(
    reference: weakref.ref[asyncio.Future[None]], on_orphaned: Callable[[], object] | None = None
) -> None:
    """Resume a coroutine from any thread. It may have been collected, and its loop may be closed."""
    woken = reference()
    if woken is None:
        return
    try:
        woken.get_loop().call_soon_threadsafe(_set, woken)
    except RuntimeError:  # the loop is closed
        if on_orphaned is not None:
            on_orphaned()


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


async def wait_for_outcome(
    state: Condition,
    has_outcome: Callable[[], bool],
    timeout: float,
    *,
    session: Session,
    check: Callable[[Callable[[str], UnreachableError]], None],
    abandon: Callable[[], object],
) -> None:
    """Wait for the outcome of a first attempt, and check it.

    Args:
        state: is notified of the outcome.
        has_outcome: whether there is one.
        timeout: seconds.
        session: begins to search why ZooKeeper cannot be reached, shortly before the end.
        check: raises an exception if the attempt has failed. It gets a function that makes the error for an
            action that ZooKeeper has not answered.
        abandon: as `on_orphaned` of `Condition.wait_for_async`; also called if `check` raises.

    Raises:
        BaseException: that of `check`, or of a cancellation.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    undisturbed = max(timeout - DIAGNOSIS_SECONDS, timeout / 3)  # so that the error is not late
    unreachable_error = session.unreachable_error
    try:
        if not await state.wait_for_async(has_outcome, undisturbed, on_orphaned=abandon):
            unreachable_error = session.diagnose().error
            await state.wait_for_async(has_outcome, deadline - loop.time(), on_orphaned=abandon)
        check(unreachable_error)
    except BaseException:  # also GeneratorExit: the loop was closed
        abandon()
        raise


async def run_in_thread(work: Callable[[], object]) -> None:
    """Run a function that may block in a thread of its own, and wait for its end.

    A cancellation ends the wait at once, while the function goes on.

    Raises:
        BaseException: any exception of the function. After a cancellation it is logged instead.
    """
    ended, has_ended, is_awaited = Condition(), False, True
    errors: list[BaseException] = []

    def run() -> None:
        nonlocal has_ended
        try:
            work()
        except BaseException as error:
            errors.append(error)
            if not is_awaited:
                log.exception("background_close_failed")
        with ended:
            has_ended = True
            ended.notify_all()

    try:
        threading.Thread(target=run, name="zkdns close", daemon=True).start()
    except RuntimeError:  # no more threads can be started: blocking the loop is better than not closing
        work()
        return
    try:
        await ended.wait_for_async(lambda: has_ended)
    finally:
        is_awaited = False
    if errors:
        raise errors.pop()


def close_in_background(
    close: Callable[[], object], run_soon: Callable[[Callable[[], None]], object]
) -> None:
    """Close something that is no longer needed, without waiting for it. Never blocks and never raises.

    Args:
        close: may block.
        run_soon: runs a function in another thread, for the case that no more threads can be started.
    """

    def run() -> None:
        try:
            close()
        except Exception:  # no caller awaits it
            log.exception("background_close_failed")

    try:
        threading.Thread(target=run, name="zkdns close", daemon=True).start()
    except RuntimeError:
        with contextlib.suppress(Exception):
            run_soon(run)
