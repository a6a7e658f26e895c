"""Wait for a condition that another thread or process fulfils."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def eventually(condition: Callable[[], _T | None], timeout: float = 20.0, interval: float = 0.005) -> _T:
    """Call `condition` until it returns a true value, and return that value.

    An exception counts as false. After `timeout` seconds an AssertionError names the last value or exception.
    """
    deadline = time.monotonic() + timeout
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
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: the condition last {last}") from failure
        time.sleep(interval)
