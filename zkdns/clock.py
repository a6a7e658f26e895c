"""A clock for ages: it goes on while the machine is suspended, unlike `time.monotonic` on Linux."""

from __future__ import annotations

import time
from typing import Final

_ID: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_seconds() -> float:
    """Seconds since the machine was booted. All processes share this clock, and it never decreases."""
    return time.clock_gettime(_ID)
