"""Wait for a condition that another thread or process fulfils, and check durations on a busy machine."""

import functools
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")

PATIENCE: Final = 60.0
"""Seconds to wait for something that a working program does at once; enough on a busy machine."""

_MIN_PAUSE, _MAX_PAUSE = 0.005, 0.1  # seconds
_PART = 0.05
_ATTEMPTS = 5


def eventually(
    condition: Callable[[], _T | None], timeout: float = 20.0, interval: float | None = None
) -> _T:
    """Call `condition` until it returns a true value, and return that value.

    An exception counts as false. After `timeout` seconds an AssertionError names the last value or exception.

    Args:
        condition: what to wait for.
        timeout: the maximum time in seconds.
        interval: seconds between the calls. By default 5 % of the time since the first call, so that a long
            wait does not load the machine, and the delay stays small.
    """
    started_at = time.monotonic()
    while True:
        failure: Exception | None = None
        try:
            value = condition()
        except Exception as error:  # noqa: BLE001 - the next call may succeed
            failure = error
            last = f"raised {error!r}"
        else:
            if value:
                return value
            last = f"returned {value!r}"
        waited = time.monotonic() - started_at
        if waited >= timeout:
            raise AssertionError(f"not within {timeout:g} s: the condition last {last}") from failure
        time.sleep(min(max(waited * _PART, _MIN_PAUSE), _MAX_PAUSE) if interval is None else interval)


class TooLateError(AssertionError):
    """Something took too long. A defect makes every attempt late, a busy machine only some."""


def in_time(started_at: float, seconds: float) -> None:
    """Check that less than this time has passed since `started_at`, a time of `time.monotonic`.

    Use it for a result, or to check that the test itself was not delayed, if that makes the next check
    invalid. The test needs `repeated_if_late`.
    """
    passed = time.monotonic() - started_at
    if passed >= seconds:
        raise TooLateError(f"it took {passed:.2f} s instead of less than {seconds:g} s")


def repeated_if_late(test: Callable[_P, None]) -> Callable[_P, None]:
    """Run a test again, with the same fixtures, if it was too late (see `in_time`); at most five times."""

    @functools.wraps(test)
    def repeated(*arguments: _P.args, **options: _P.kwargs) -> None:
        for _ in range(_ATTEMPTS - 1):
            try:
                return test(*arguments, **options)
            except TooLateError:
                continue
        return test(*arguments, **options)

    return repeated


def soon(condition: Callable[[], _T | None], seconds: float) -> _T:
    """Wait as `eventually`, and check that it took less than this time (see `in_time`)."""
    started_at = time.monotonic()
    value = eventually(condition, PATIENCE)
    in_time(started_at, seconds)
    return value
