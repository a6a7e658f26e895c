"""Waiting for what happens in another thread or process."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def eventually(condition: Callable[[], _T | None], timeout: float = 20.0, interval: float = 0.005) -> _T:
    """Call `condition` until it returns something true, and return that.

    An exception counts as "not yet". At the deadline an AssertionError tells the last value or exception.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: Exception | None = None
        try:
            value = condition()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
            failure = error
            last = f"raised {error!r}"
        else:
            if value:
                return value
            last = f"returned {value!r}"
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: the condition last {last}") from failure
        time.sleep(interval)
