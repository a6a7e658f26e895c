"""Conditions that coroutines wait for: on any number of loops, running, stopped or closed."""

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.serverset.asyncio_helpers import expect_destruction, run
from tests.support.waiting import eventually
from zkdns.errors import BadValueError
from zkdns.serverset.awaiting import Condition, close_in_background, run_in_thread


def notify(condition: Condition) -> None:
    with condition:
        condition.notify_all()


def test_a_condition_that_holds_needs_no_wait() -> None:
    assert run(Condition().wait_for_async(lambda: True, 0))


def test_a_wait_ends_with_its_time() -> None:
    assert not run(Condition().wait_for_async(lambda: False, 0.01))


def test_the_predicate_is_called_again_at_the_end_of_the_time() -> None:
    results = iter([False, True])
    assert run(Condition().wait_for_async(lambda: next(results), 0.01))


def test_a_time_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(BadValueError, match="timeout is nan"):
        run(Condition().wait_for_async(lambda: False, math.nan))


def test_a_wait_may_have_no_limit() -> None:
    condition = Condition()

    async def program() -> bool:
        is_done = False
        waiting = asyncio.create_task(condition.wait_for_async(lambda: is_done, math.inf))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        is_done = True
        notify(condition)
        return await waiting

    assert run(program())


def test_threads_and_coroutines_are_woken_together() -> None:
    condition, has_happened = Condition(), threading.Event()

    def wait() -> None:
        with condition:
            assert condition.wait_for(has_happened.is_set, 20.0)

    async def program() -> bool:
        thread = threading.Thread(target=wait)
        thread.start()
        waiting = [asyncio.create_task(condition.wait_for_async(has_happened.is_set, 20.0)) for _ in range(3)]
        await asyncio.sleep(0)
        notify(condition)  # the predicate does not hold yet
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        has_happened.set()
        notify(condition)
        woken = all(await asyncio.gather(*waiting))
        thread.join(20.0)
        return woken and not thread.is_alive()

    assert run(program())


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the calls from other threads."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, **options: Any) -> Any:  # type: ignore[override]
        self.calls += 1
        return super().call_soon_threadsafe(callback, *args, **options)


def test_a_loop_that_does_not_run_is_woken_once() -> None:
    condition, loop = Condition(), CountingLoop()
    task = loop.create_task(condition.wait_for_async(lambda: loop.calls > 0))
    loop.run_until_complete(asyncio.sleep(0))
    for _ in range(1000):
        notify(condition)
    assert loop.calls == 1
    assert loop.run_until_complete(task)
    loop.close()


def test_waking_a_closed_loop_reports_the_orphan_once() -> None:
    condition, orphans = Condition(), []
    loop = asyncio.new_event_loop()
    task = loop.create_task(
        condition.wait_for_async(lambda: False, on_orphaned=lambda: orphans.append(threading.get_ident()))
    )
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    notify(condition)
    notify(condition)
    assert orphans == [threading.get_ident()]
    assert not task.done()
    expect_destruction(task)


def test_a_function_in_a_thread_returns_its_exception() -> None:
    def fail() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        run(run_in_thread(fail))


def test_a_cancelled_wait_for_a_thread_ends_at_once(caplog: pytest.LogCaptureFixture) -> None:
    goes_on = threading.Event()

    def work() -> None:
        goes_on.wait(20.0)
        raise ValueError("nobody awaits this")

    async def program() -> None:
        task = asyncio.create_task(run_in_thread(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not goes_on.is_set()

    run(program())
    goes_on.set()
    eventually(lambda: "background_close_failed" in caplog.text)


def test_without_a_thread_a_function_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    calls: list[int] = []

    async def program() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            await run_in_thread(lambda: calls.append(1))
            close_in_background(lambda: calls.append(2), lambda work: work())

    run(program())
    assert calls == [1, 2]


def test_a_failed_close_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    close_in_background(lambda: 1 / 0, lambda work: work())
    eventually(lambda: "background_close_failed" in caplog.text)
    assert "ZeroDivisionError" in caplog.text
