"""A limit on executed lines of Python: a measure of work that is independent of the machine load."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def at_most_lines(limit: int) -> Iterator[None]:
    """Fail as soon as the functions that the block calls have executed more than `limit` lines of Python."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        del frame, argument
        count += event == "line"
        check()
        return trace

    def check() -> None:
        assert count <= limit, f"more than {limit} lines were run"

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    check()  # a called function may have caught the failure
