"""Wait for a condition that another thread or process fulfils."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

_T = TypeVar("_T")

PATIENCE: Final = 60.0
"""Seconds to wait for something that a working program does at once; enough on a busy machine."""

_MIN_PAUSE, _MAX_PAUSE = 0.005, 0.1  # seconds
_PART = 0.05


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
